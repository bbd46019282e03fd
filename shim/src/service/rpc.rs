//! The pod's errors as containerd hears them.

use ttrpc::Code;
use ttrpc::error::get_rpc_status;

use crate::guest_agent::AgentError;
use crate::pod::PodError;
use crate::pod::machine::CommandError;

/// What a client is told.
pub(super) fn rpc(error: PodError) -> ttrpc::Error {
    let code = match &error {
        PodError::NotFound(_) | PodError::AlreadyStopped(_) | PodError::NoExec { .. } => Code::NOT_FOUND,
        PodError::Exists(_) | PodError::ExecExists(_) => Code::ALREADY_EXISTS,
        PodError::SecondMachine { .. }
        | PodError::Illegal { .. }
        | PodError::IllegalExec { .. }
        | PodError::Exec(AgentError::NotConnected)
        | PodError::Command(CommandError::Refused(_) | CommandError::Ended(_)) => Code::FAILED_PRECONDITION,
        PodError::Signal(_) | PodError::Invalid(_) => Code::INVALID_ARGUMENT,
        PodError::Sandbox(..) | PodError::Unsupported(_) | PodError::Sidecar(_) => Code::UNIMPLEMENTED,
        PodError::Cancelled(_) => Code::CANCELLED,
        _ => Code::UNKNOWN,
    };
    get_rpc_status(code, format!("{:#}", anyhow::Error::from(error)))
}

/// Likewise; the shim's log has it too.
pub(super) fn logged(call: &str, id: &str, error: PodError) -> ttrpc::Error {
    let error = rpc(error);
    if let ttrpc::Error::RpcStatus(status) = &error {
        log::error!("{call} {id}: {}", status.message);
    }
    error
}
