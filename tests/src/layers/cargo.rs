//! Layers that cargo runs: by nextest (a process per test) where it is installed, else by `cargo test`.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::Tally;
use crate::progress;

/// Runs the tests that cargo's arguments select.
pub fn run(selection: &[&str]) -> Result<Tally> {
    let nextest =
        Command::new("cargo").args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success());
    let mut command = Command::new("cargo");
    if nextest {
        command.args(["nextest", "run", "--no-fail-fast", "--no-tests=pass"]);
    } else {
        progress::note("cargo-nextest is not installed: cargo test runs the tests");
        command.args(["test", "--no-fail-fast"]);
    }
    // Both write to one pipe, so that lines keep their order.
    let (reader, writer) = std::io::pipe()?;
    command.args(selection).stdout(writer.try_clone()?).stderr(writer).stdin(Stdio::null());
    let mut child = command.spawn().context("run cargo")?;
    // The command holds the pipe's writing ends: without this, the reader would never see the end.
    drop(command);
    let mut tally = Tally::default();
    for line in BufReader::new(reader).lines() {
        let line = line?;
        println!("{line}");
        if let Some(found) = Tally::parse(&line) {
            tally += found;
        }
    }
    let status = child.wait()?;
    if tally.skipped > 0 {
        tally.why.push("ignored, each with its reason: what other tests run as a process of their own, and what needs a device that nodes have".to_owned());
    }
    if !status.success() && tally.failed == 0 {
        // It did not compile, say.
        tally.failed = 1;
        tally.why.push(format!("cargo ended with {status}"));
    }
    Ok(tally)
}
