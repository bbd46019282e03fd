//! The terminal under a guest's console: every key goes to the guest, and the terminal is as before once the guest ends.

use std::io::{IsTerminal as _, stdin, stdout};

use anyhow::{Context, Result};
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};

/// Ctrl-]: what leaves a console.
pub(crate) const LEAVE: u8 = 0x1d;

/// Standard input and output, in raw mode if input is a terminal. Dropping it restores the mode.
#[derive(Debug)]
pub(crate) struct Terminal {
    before: Option<Termios>,
}

impl Terminal {
    /// Takes over standard input, if it is a terminal.
    pub(crate) fn take() -> Result<Self> {
        if !stdin().is_terminal() {
            return Ok(Self { before: None });
        }
        let before = tcgetattr(stdin()).context("terminal")?;
        let mut raw = before.clone();
        // As cfmakeraw(3), but output stays processed: this program's own lines are to look right too.
        raw.input_flags.remove(
            InputFlags::IGNBRK
                | InputFlags::BRKINT
                | InputFlags::PARMRK
                | InputFlags::ISTRIP
                | InputFlags::INLCR
                | InputFlags::IGNCR
                | InputFlags::ICRNL
                | InputFlags::IXON,
        );
        raw.local_flags
            .remove(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG | LocalFlags::IEXTEN);
        raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(stdin(), SetArg::TCSANOW, &raw).context("terminal")?;
        Ok(Self { before: Some(before) })
    }

    /// Whether keys come one by one.
    pub(crate) fn is_raw(&self) -> bool {
        self.before.is_some()
    }

    /// Its size: columns and rows.
    pub(crate) fn size() -> Option<(u16, u16)> {
        let size = rustix::termios::tcgetwinsize(stdout()).ok()?;
        (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, before);
        }
    }
}
