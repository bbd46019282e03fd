//! What is to be run, from the OCI process that containerd sends: pure.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use containerd_shim::api::ExecProcessRequest;
use oci_spec::runtime::Process;

use vireo_runtimeclass::machine_service::{CHANNEL, PING};

use crate::guest_agent;
use crate::pod::PodError;

/// What an exec is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A command in the guest.
    Command(Command),
    /// The machine's service, over the exec's streams.
    Channel,
    /// A question whether the guest's agent answers.
    Ping,
}

/// A command line and its environment.
///
/// The agent knows neither users nor working folders: a command runs as the agent does, which is root's way, in the agent's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    program: String,
    arguments: Vec<String>,
    environment: Vec<String>,
}

impl Program {
    /// Reads what containerd wants run.
    pub fn read(request: &ExecProcessRequest) -> Result<Program, PodError> {
        let process: Process = serde_json::from_slice(&request.spec.value)
            .map_err(|error| PodError::Invalid(format!("exec: process: {error}")))?;
        let terminal = request.terminal || process.terminal() == Some(true);
        let mut arguments = process.args().clone().unwrap_or_default();
        if arguments.is_empty() {
            return Err(PodError::Invalid("exec: no command".into()));
        }
        let program = arguments.remove(0);
        if program == CHANNEL {
            let whole = !request.stdin.is_empty() && !request.stdout.is_empty();
            return match (terminal, whole, arguments.is_empty()) {
                (true, ..) => Err(PodError::Unsupported(
                    "exec of /.vireo/machine with a terminal: not supported by vireo: a terminal changes what passes; leave \
                     it out (kubectl exec without -t)",
                )),
                (_, false, _) => Err(PodError::Invalid(
                    "exec of /.vireo/machine: it speaks gRPC over stdin and stdout, and needs both (kubectl exec -i)"
                        .into(),
                )),
                (.., false) => Err(PodError::Invalid("exec of /.vireo/machine: it takes no arguments".into())),
                (false, true, true) => Ok(Program::Channel),
            };
        }
        if terminal {
            return Err(PodError::Unsupported(
                "exec with a terminal: not supported by vireo: the guest agent has none; leave the terminal out (kubectl \
                 exec without -t), or attach to the console",
            ));
        }
        if program == PING {
            return if arguments.is_empty() {
                Ok(Program::Ping)
            } else {
                Err(PodError::Invalid("exec of /.vireo/ping: it takes no arguments".into()))
            };
        }
        let environment = process.env().clone().unwrap_or_default();
        Ok(Program::Command(Command { program, arguments, environment }))
    }
}

impl Command {
    /// What the agent is asked for.
    pub fn with_input(&self, input: &[u8]) -> guest_agent::Exec {
        guest_agent::Exec {
            path: self.program.clone(),
            arg: self.arguments.clone(),
            env: self.environment.clone(),
            input_data: BASE64_STANDARD.encode(input),
            capture_output: true,
        }
    }
}

/// The command that sends a signal to a process of the guest's.
pub fn kill(pid: i64, signal: u32) -> guest_agent::Exec {
    guest_agent::Exec {
        path: "kill".into(),
        arg: vec![format!("-{signal}"), pid.to_string()],
        ..guest_agent::Exec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::exec_request;

    #[test]
    fn a_process_is_a_command() {
        let Ok(Program::Command(command)) = Program::read(&exec_request("a", "e", &["ls", "-l"])) else { panic!() };
        let exec = command.with_input(b"hi");
        assert_eq!((exec.path.as_str(), exec.arg, exec.env), ("ls", vec!["-l".into()], vec!["A=b".into()]));
        assert_eq!((exec.input_data.as_str(), exec.capture_output), ("aGk=", true));
    }

    #[test]
    fn what_an_agent_cant_do_is_refused() {
        let terminal = ExecProcessRequest { terminal: true, ..exec_request("a", "e", &["sh"]) };
        for (request, text) in [
            (terminal, "exec with a terminal: not supported by vireo"),
            (exec_request("a", "e", &[]), "exec: no command"),
            (ExecProcessRequest::new(), "exec: process: "),
        ] {
            let error = Program::read(&request).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }

    #[test]
    fn a_ping_takes_no_arguments() {
        assert_eq!(Program::read(&exec_request("a", "e", &["/.vireo/ping"])).unwrap(), Program::Ping);
        let error = Program::read(&exec_request("a", "e", &["/.vireo/ping", "-c", "3"])).unwrap_err().to_string();
        assert!(error.starts_with("exec of /.vireo/ping: it takes no arguments"), "{error}");
    }

    #[test]
    fn the_channel_needs_plain_streams() {
        let channel = |args: &[&str]| ExecProcessRequest {
            stdin: "/in".into(),
            stdout: "/out".into(),
            ..exec_request("a", "e", args)
        };
        assert_eq!(Program::read(&channel(&["/.vireo/machine"])).unwrap(), Program::Channel);
        let terminal = ExecProcessRequest { terminal: true, ..channel(&["/.vireo/machine"]) };
        for (request, text) in [
            (terminal, "with a terminal: not supported by vireo"),
            (exec_request("a", "e", &["/.vireo/machine"]), "needs both"),
            (channel(&["/.vireo/machine", "pause"]), "takes no arguments"),
        ] {
            let error = Program::read(&request).unwrap_err().to_string();
            assert!(error.starts_with("exec of /.vireo/machine") && error.contains(text), "{error}");
        }
    }
}
