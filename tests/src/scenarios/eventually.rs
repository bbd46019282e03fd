//! Waiting for what the system does in its own time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long an emulated, busy node may take for anything that should take a second. A guest whose emulator has lost it never does.
pub const LIMIT: Duration = Duration::from_secs(100);

/// Asks until there is an answer. What is waited for (`/proc`, cgroups, containerd's view) gives no events.
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > end {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    eventually(what, LIMIT, || Ok(holds()?.then_some(())))
}
