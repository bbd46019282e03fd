//! `vireo.v1.Machine`: what each shim answers for its machine (`proto/vireo/v1/machine.proto` says what the calls mean), and where.
//!
//! A machine's service is on a Unix socket of its own, which only root can reach: `<FOLDER>/<containerd's namespace>.<container><SUFFIX>`.

#[expect(missing_docs, clippy::pedantic, reason = "generated; proto/vireo/v1/machine.proto says what it is")]
pub mod v1 {
    tonic::include_proto!("vireo.v1");
}

/// Holds the sockets of all machines of a node.
pub const FOLDER: &str = "/run/vireo";
/// How a socket's name ends.
pub const SUFFIX: &str = ".sock";

/// The name of the socket of the machine that is containerd's container `id` in `namespace`.
pub fn socket(namespace: &str, id: &str) -> String {
    format!("{namespace}.{id}{SUFFIX}")
}
