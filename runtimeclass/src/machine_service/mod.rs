//! `vireo.v1.Machine`: what each shim answers for its machine (`proto/vireo/v1/machine.proto` says what the calls mean), and where.
//!
//! - On a Unix socket of the machine's own, which only root can reach: `<FOLDER>/<containerd's namespace>.<container><SUFFIX>`.
//! - Over the streams of an exec of [`CHANNEL`] in the pod, so that Kubernetes says who may. The right to exec isn't the right to
//!   control: calls that change the machine ([`needs_token`]) carry a [`token`] there, as the binary metadata [`TOKEN`].

#[cfg(feature = "client")]
pub mod client;
pub mod token;
#[expect(missing_docs, clippy::pedantic, reason = "generated; proto/vireo/v1/machine.proto says what it is")]
pub mod v1 {
    tonic::include_proto!("vireo.v1");
}

/// Holds the sockets of all machines of a node.
pub const FOLDER: &str = "/run/vireo";
/// How a socket's name ends.
pub const SUFFIX: &str = ".sock";
/// The program that an exec names to speak to the shim instead of the guest.
pub const CHANNEL: &str = "/.vireo/machine";
/// The program that an exec names to ask only whether the guest's agent answers: it ends with 0 if it does, else with 1.
pub const PING: &str = "/.vireo/ping";
/// Name of a token in a call's metadata.
pub const TOKEN: &str = "vireo-token-bin";

/// The calls that whoever may exec may make: they look at the machine, or type at its console as `attach` does.
const FREE: [&str; 7] = ["Info", "Usage", "Console", "Events", "GuestInfo", "GuestUsers", "GuestFileSystems"];

/// Whether the call `method` (as in `Pause`) needs a token over an exec. All do but those that are known to be harmless.
pub fn needs_token(method: &str) -> bool {
    !FREE.contains(&method)
}

/// The name of the socket of the machine that is containerd's container `id` in `namespace`.
pub fn socket(namespace: &str, id: &str) -> String {
    format!("{namespace}.{id}{SUFFIX}")
}
