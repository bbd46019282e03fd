//! How containerd says what it wants of `start`, and which answer it understands.
//!
//! | containerd | input | answer |
//! |---|---|---|
//! | 1.6, 1.7 | flags, environment | the bare address, which means Task version 2 |
//! | 2.0 to 2.2 | the same, `MAX_SHIM_VERSION` of 3 or more | JSON |
//! | 2.3 and later | `BootstrapParams` on stdin | `BootstrapResult` |

use containerd_shim::bootstrap::{BootstrapParams, BootstrapResult};
use containerd_shim::protos::protobuf::Message as _;
use containerd_shim::{Flags, StartOpts};

/// The Task version that a current containerd is told.
const VERSION: i32 = 3;
/// How the server speaks.
const PROTOCOL: &str = "ttrpc";

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The address alone.
    Bare,
    /// JSON with a version.
    Json,
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
    /// `MAX_SHIM_VERSION`.
    pub max_version: String,
}

impl Environment {
    /// This process's.
    pub fn read() -> Environment {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Environment {
            ttrpc_address: variable("TTRPC_ADDRESS"),
            grpc_address: variable("GRPC_ADDRESS"),
            max_version: variable("MAX_SHIM_VERSION"),
        }
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
    let form = match environment.max_version.parse::<i32>() {
        Ok(version) if version >= VERSION => Form::Json,
        _ => Form::Bare,
    };
    let opts = StartOpts {
        id: flags.id.clone(),
        namespace: flags.namespace.clone(),
        address,
        ttrpc_address: environment.ttrpc_address,
        debug: flags.debug,
        ..StartOpts::default()
    };
    (opts, form)
}

/// The answer with the server's `address`.
pub fn reply(form: Form, address: &str) -> anyhow::Result<Vec<u8>> {
    Ok(match form {
        Form::Bare => address.as_bytes().to_vec(),
        Form::Json => {
            serde_json::to_vec(&serde_json::json!({ "version": VERSION, "address": address, "protocol": PROTOCOL }))?
        }
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

    fn environment(max_version: &str) -> Environment {
        Environment { ttrpc_address: "/ttrpc".into(), grpc_address: "/grpc".into(), max_version: max_version.into() }
    }

    #[test]
    fn containerd_1_gets_a_bare_address() {
        for version in ["", "2"] {
            let (opts, form) = parse(&[], &flags(), environment(version));
            assert_eq!((form, opts.ttrpc_address.as_str()), (Form::Bare, "/ttrpc"));
            assert_eq!(opts.address, "/run/containerd/containerd.sock");
        }
        assert_eq!(reply(Form::Bare, "unix:///s").unwrap(), b"unix:///s");
    }

    #[test]
    fn containerd_2_gets_json() {
        let (_, form) = parse(&[], &flags(), environment("3"));
        assert_eq!(form, Form::Json);
        let json: serde_json::Value = serde_json::from_slice(&reply(form, "unix:///s").unwrap()).unwrap();
        assert_eq!(json["version"], 3);
        assert_eq!(json["address"], "unix:///s");
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
        let (opts, form) = parse(&params.write_to_bytes().unwrap(), &flags(), environment("3"));
        assert_eq!((form, opts.ttrpc_address.as_str()), (Form::Protobuf, "/from-params"));
        assert!(opts.socket_address("abc").starts_with("unix:///run/x/"));
        let result = BootstrapResult::parse_from_bytes(&reply(form, "unix:///s").unwrap()).unwrap();
        assert_eq!((result.version, result.address.as_str()), (3, "unix:///s"));
    }

    #[test]
    fn options_are_not_taken_for_params() {
        let options = Any { type_url: "containerd.runc.v1.Options".into(), ..Default::default() };
        let (_, form) = parse(&options.write_to_bytes().unwrap(), &flags(), environment("2"));
        assert_eq!(form, Form::Bare);
        let (_, form) = parse(&[0xff, 0xfe, 0x01], &flags(), environment("2"));
        assert_eq!(form, Form::Bare);
    }
}
