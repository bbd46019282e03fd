//! What a benched guest runs: load by command, each answered by what a unit of it took.
//!
//! Commands come as lines, `<number> <what> <arguments>`; each is answered by `LOAD <number> <nanoseconds>` or
//! `LOAD <number> failed: <why>`.
//!
//! | command | nanoseconds per |
//! | --- | --- |
//! | `disk <device> <read\|write> <seq\|rand> <block bytes> <depth> <ms>` | request |
//! | `tcp <address:port> <send\|receive> <ms>`, `vsock <port> …` | KiB |
//! | `tcp <address:port> echo <ms>`, `vsock <port> …` | round trip of one byte |

mod disk;
mod stream;

use std::io::{BufRead as _, Write as _};
use std::time::Duration;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    println!("LOAD ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let Some((number, command)) = line.trim().split_once(' ') else { continue };
        // A console wants whole lines.
        let mut output = std::io::stdout().lock();
        match run(command) {
            Ok(nanoseconds) => writeln!(output, "LOAD {number} {nanoseconds:.1}")?,
            Err(error) => writeln!(output, "LOAD {number} failed: {error:#}")?,
        }
        output.flush()?;
    }
    Ok(())
}

fn run(command: &str) -> Result<f64> {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words.as_slice() {
        ["disk", device, direction, order, block, depth, ms] => {
            let job = disk::Job {
                write: *direction == "write",
                random: *order == "rand",
                block: block.parse().context("block")?,
                depth: depth.parse().context("depth")?,
                time: milliseconds(ms)?,
            };
            disk::run(device, job)
        }
        ["tcp", address, what, ms] => stream::run(stream::tcp(address)?, what, milliseconds(ms)?),
        ["vsock", port, what, ms] => stream::run(stream::vsock(port.parse()?)?, what, milliseconds(ms)?),
        _ => bail!("{command:?}: no such command"),
    }
}

fn milliseconds(word: &str) -> Result<Duration> {
    Ok(Duration::from_millis(word.parse().context("milliseconds")?))
}
