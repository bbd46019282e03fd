//! This program's own terminal, raw for as long as a shell in a node has it.

use std::{io::IsTerminal as _, process::Command};

use anyhow::Result;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// A raw terminal; dropping it restores what it was.
#[derive(Debug)]
pub struct Raw(Termios);

impl Raw {
    /// Makes standard input raw, if it is a terminal.
    pub fn enter() -> Result<Option<Self>> {
        if !std::io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Some(Self(before)))
    }

    /// A shell command that gives another terminal this one's size.
    pub fn size_command() -> String {
        let output = Command::new("stty").arg("size").stdin(std::process::Stdio::inherit()).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        match text.split_whitespace().collect::<Vec<_>>()[..] {
            [rows, columns] => format!("stty rows {rows} cols {columns}; "),
            _ => String::new(),
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
