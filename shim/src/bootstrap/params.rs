//! How containerd says what it wants of `start`, and which answer it understands.
//!
//! | containerd | input | answer |
//! |---|---|---|
//! | 1.6 to 2.2 | flags, environment | the bare address, which means Task version 2 |
//! | 2.3 and later | `BootstrapParams` on stdin | `BootstrapResult` |
//!
//! `MAX_SHIM_VERSION` is 2 with all of them. To a shim of version 3 containerd sends a pod's later containers without `start`, and it has nothing swept
//! for them when the shim dies: their cgroups would stay. So the answer is version 2 also where 3 would be taken; what that adds, streams
//! over the shim's own connection, is not used.

use containerd_shim::bootstrap::{BootstrapParams, BootstrapResult};
use containerd_shim::protos::protobuf::Message as _;
use containerd_shim::{Flags, StartOpts};

/// The Task version that containerd is told.
const VERSION: i32 = 2;
/// How the server speaks.
const PROTOCOL: &str = "ttrpc";

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The address alone.
    Bare,
    /// A protobuf message.
    Protobuf,
}

/// What the environment says.
#[derive(Debug, Default)]
pub struct Environment {
    /// `TTRPC_ADDRESS`.
    pub ttrpc_address: String,
    /// `GRPC_ADDRESS`.
    pub grpc_address: String,
}

impl Environment {
    /// This process's.
    pub fn read() -> Environment {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Environment { ttrpc_address: variable("TTRPC_ADDRESS"), grpc_address: variable("GRPC_ADDRESS") }
    }
}

/// Reads what containerd wants.
pub fn parse(input: &[u8], flags: &Flags, environment: Environment) -> (StartOpts, Form) {
    // Older containerds pipe an `Any` with options in, which parses as BootstrapParams, too: only the identity tells.
    if let Ok(params) = BootstrapParams::parse_from_bytes(input)
        && params.instance_id == flags.id
        && params.namespace == flags.namespace
    {
        let mut opts = StartOpts::from(params);
        opts.debug |= flags.debug;
        return (opts, Form::Protobuf);
    }
    let address = if flags.address.is_empty() { environment.grpc_address } else { flags.address.clone() };
    let opts = StartOpts {
        id: flags.id.clone(),
        namespace: flags.namespace.clone(),
        address,
        ttrpc_address: environment.ttrpc_address,
        debug: flags.debug,
        ..StartOpts::default()
    };
    (opts, Form::Bare)
}

/// The answer with the server's `address`.
pub fn reply(form: Form, address: &str) -> anyhow::Result<Vec<u8>> {
    Ok(match form {
        Form::Bare => address.as_bytes().to_vec(),
        Form::Protobuf => BootstrapResult {
            version: VERSION,
            address: address.into(),
            protocol: PROTOCOL.into(),
            ..Default::default()
        }
        .write_to_bytes()?,
    })
}

#[cfg(test)]
mod tests {
    use containerd_shim::protos::protobuf::well_known_types::any::Any;

    use super::*;

    fn flags() -> Flags {
        Flags {
            id: "abc".into(),
            namespace: "k8s.io".into(),
            address: "/run/containerd/containerd.sock".into(),
            ..Flags::default()
        }
    }

    fn environment() -> Environment {
        Environment { ttrpc_address: "/ttrpc".into(), grpc_address: "/grpc".into() }
    }

    #[test]
    fn without_params_the_answer_is_a_bare_address() {
        let (opts, form) = parse(&[], &flags(), environment());
        assert_eq!((form, opts.ttrpc_address.as_str()), (Form::Bare, "/ttrpc"));
        assert_eq!(opts.address, "/run/containerd/containerd.sock");
        assert_eq!(reply(Form::Bare, "unix:///s").unwrap(), b"unix:///s");
    }

    #[test]
    fn bootstrap_params_are_answered_in_kind() {
        let params = BootstrapParams {
            instance_id: "abc".into(),
            namespace: "k8s.io".into(),
            containerd_ttrpc_address: "/from-params".into(),
            socket_dir: Some("/run/x".into()),
            ..Default::default()
        };
        let (opts, form) = parse(&params.write_to_bytes().unwrap(), &flags(), environment());
        assert_eq!((form, opts.ttrpc_address.as_str()), (Form::Protobuf, "/from-params"));
        assert!(opts.socket_address("abc").starts_with("unix:///run/x/"));
        let result = BootstrapResult::parse_from_bytes(&reply(form, "unix:///s").unwrap()).unwrap();
        assert_eq!((result.version, result.address.as_str()), (2, "unix:///s"));
    }

    #[test]
    fn options_are_not_taken_for_params() {
        let options = Any { type_url: "containerd.runc.v1.Options".into(), ..Default::default() };
        let (_, form) = parse(&options.write_to_bytes().unwrap(), &flags(), environment());
        assert_eq!(form, Form::Bare);
        let (_, form) = parse(&[0xff, 0xfe, 0x01], &flags(), environment());
        assert_eq!(form, Form::Bare);
    }
}
