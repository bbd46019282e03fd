//! Runs the node's own programs.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use thiserror::Error;
use tokio::process::Command;
use tokio::time::timeout;

/// For a program to end: a slow node's containerd restarts within it.
const PATIENCE: Duration = Duration::from_mins(5);
/// So many of the last lines that a program said tell why it failed.
const LINES: usize = 5;

/// What kept a program of the node's from doing its work.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// It couldn't be started.
    #[error("{program} can't be run on the node")]
    Start { program: String, source: io::Error },
    /// It took too long, and was killed.
    #[error("{program} was not done within {} s", PATIENCE.as_secs())]
    Late { program: String },
    /// It failed, and said this last.
    #[error("{program} failed ({status}): {said}")]
    Failed { program: String, status: ExitStatus, said: String },
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    program: String,
    pub(crate) status: ExitStatus,
    pub(crate) said: String,
    pub(crate) errors: String,
}

impl Output {
    /// What it said, where it did its work.
    pub(crate) fn success(self) -> Result<String, Error> {
        if self.status.success() { Ok(self.said) } else { Err(self.failed()) }
    }

    /// It didn't do its work.
    pub(crate) fn failed(self) -> Error {
        let said = if self.errors.trim().is_empty() { &self.said } else { &self.errors };
        Error::Failed { said: last_lines(said), program: self.program, status: self.status }
    }
}

/// Runs one of the node's programs, which ends with us.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> Result<Output, Error> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["enter", "--", program]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let program = format!("{program} {}", arguments.join(" "));
    match timeout(PATIENCE, command.output()).await {
        Err(_) => Err(Error::Late { program }),
        Ok(Err(source)) => Err(Error::Start { program, source }),
        Ok(Ok(ended)) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Ok(Output { program, status: ended.status, said: text(&ended.stdout), errors: text(&ended.stderr) })
        }
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("; ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_failure_says_what_the_program_said_last() {
        let ended = |said: &str, errors: &str| Output {
            program: "sh install.sh".to_owned(),
            status: ExitStatus::from_raw(1 << 8),
            said: said.to_owned(),
            errors: errors.to_owned(),
        };
        assert_eq!(
            ended("fine\n", "install.sh: needs root\n").success().unwrap_err().to_string(),
            "sh install.sh failed (exit status: 1): install.sh: needs root"
        );
        assert!(ended("1\n2\n3\n\n4\n5\n6\n", "").failed().to_string().ends_with(": 2; 3; 4; 5; 6"));
    }
}
