//! Runs `nft` in the calling thread's network namespace.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::NetworkError;

/// Applies `rules`, all or none of them.
pub(super) fn apply(rules: &str) -> Result<(), NetworkError> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(NetworkError::NoNft)?;
    // nft reads all of it before it says anything.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(rules.as_bytes()));
    let output = child.wait_with_output().map_err(|error| NetworkError::Io("nft", error))?;
    match (output.status.success(), written) {
        (true, Ok(())) => Ok(()),
        (true, Err(error)) => Err(NetworkError::Io("nft", error)),
        (false, _) => Err(NetworkError::Nft(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "))),
    }
}
