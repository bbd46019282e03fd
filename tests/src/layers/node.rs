//! The node layer: one node, every scenario under each containerd.

use std::io::Write as _;

use anyhow::Result;

use super::Tally;
use crate::node::{Node, Options, Request, Stream, share::Build};
use crate::{guest, scenarios};

/// The versions of containerd in a node.
const CONTAINERDS: [&str; 2] = ["1.6", "1.7"];
/// A test of the host's side.
const FULL_DEBIAN: &str = "full_debian_guest_is_whole";

/// How many nodes may be lost: an emulated one is as good as its emulator.
const LOSSES: u32 = 3;

/// Boots a node and runs the scenarios. When a node is lost, a fresh one goes on with those that have not ended, and the
/// tally says so.
pub fn run(only: Option<&str>) -> Result<Tally> {
    let named = |name: &str| only.is_none_or(|only| only.split(',').any(|part| name.contains(part)));
    let debian: Vec<_> = scenarios::names().filter(|name| name.starts_with("full_debian")).collect();
    let options = Options::prepare("suite", Build::Release, false)?;
    let mut node = Node::boot(&options)?;
    let mut tally = Tally::default();
    let mut lost = 0;
    for (index, version) in CONTAINERDS.into_iter().enumerate() {
        println!("\nscenarios under containerd {version}");
        let mut lines = Lines::default();
        loop {
            let mut arguments = vec!["/vireo/bin/vireo-scenarios", "run", "--containerd", version];
            if index > 0 {
                // Scenarios that have nothing to do with containerd ran before.
                arguments.push("--containerd-only");
            }
            if let Some(only) = only {
                arguments.extend(["--only", only]);
            }
            let without =
                debian.iter().copied().chain(lines.ended.iter().map(String::as_str)).collect::<Vec<_>>().join(",");
            arguments.extend(["--without", &without]);
            let result = node.agent().run(Request::new(arguments), |stream, bytes| match stream {
                Stream::Output => lines.push(bytes),
                Stream::Error => drop(std::io::stderr().write_all(bytes)),
            });
            match result {
                Ok(_) if lines.complete => break,
                Ok(code) => {
                    lines.tally.failed += 1;
                    lines
                        .tally
                        .why
                        .push(format!("the scenarios under containerd {version} ended with {code} half-way"));
                    break;
                }
                Err(error) if lost == LOSSES => return Err(error),
                Err(error) => {
                    lost += 1;
                    println!("    node lost: {error:#}\n{}", node.last_words());
                    let after = lines.ended.last().map_or("the start", String::as_str);
                    tally.why.push(format!("a node was lost after {after} under containerd {version}"));
                    drop(node);
                    node = Node::boot(&options)?;
                }
            }
        }
        tally += lines.tally;
    }
    drop(node);
    if named(FULL_DEBIAN) {
        tally += full_debian();
    }
    for name in debian.into_iter().filter(|name| named(name)) {
        tally += boot_debian(&options, name)?;
    }
    if tally.failed > 0 {
        println!("the node's own logs: {}", options.folder.display());
    }
    Ok(tally)
}

/// A scenario with the full Debian guest, in a node of its own that has its disk.
///
/// QEMU may end itself under OVMF (an assertion in `tcg_handle_interrupt`, `tests/README.md`). That says nothing of the guest: it is tried
/// anew. Not to have seen it at all is a failure.
fn boot_debian(options: &Options, name: &'static str) -> Result<Tally> {
    let options = Options { guest: Some(guest::debian::debian()?), ..options.clone() };
    for _ in 0..=LOSSES {
        let node = Node::boot(&options)?;
        let mut lines = Lines::default();
        let arguments = ["/vireo/bin/vireo-scenarios", "run", "--only", name];
        let result = node.agent().run(Request::new(arguments), |stream, bytes| match stream {
            Stream::Output => lines.push(bytes),
            Stream::Error => drop(std::io::stderr().write_all(bytes)),
        });
        match result {
            Ok(_) => return Ok(lines.tally),
            Err(error) if !node.last_words().contains("tcg_handle_interrupt: assertion failed") => return Err(error),
            Err(_) => println!("    node lost under {name} by an assertion of its emulator"),
        }
    }
    let why = vec![format!("{name} was not seen: the emulator ended itself each time")];
    Ok(Tally { failed: 1, why, ..Tally::default() })
}

/// What is in the full Debian guest's disk.
fn full_debian() -> Tally {
    match guest::debian::debian().and_then(|guest| guest::debian::inspect(&guest.disk)) {
        Ok(()) => {
            println!("    PASS {FULL_DEBIAN}");
            Tally { passed: 1, ..Tally::default() }
        }
        Err(error) => {
            println!("    FAIL {FULL_DEBIAN}\n        {error:#}");
            Tally { failed: 1, ..Tally::default() }
        }
    }
}

/// Shows output by lines and counts the scenarios in it.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    /// Names of those that have ended.
    ended: Vec<String>,
    tally: Tally,
    /// All have.
    complete: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            print!("{line}");
            self.take(&line);
        }
    }

    fn take(&mut self, line: &str) {
        self.complete |= line.starts_with("scenarios: ");
        // `    PASS [  12.3s] name`
        let Some((verdict, rest)) = line.strip_prefix("    ").and_then(|line| line.split_once(" [")) else { return };
        let Some((_, name)) = rest.trim_end().split_once("s] ") else { return };
        match verdict {
            "PASS" => self.tally.passed += 1,
            "FAIL" => self.tally.failed += 1,
            "SLIP" => return self.tally.why.push(format!("{name} was tried twice")),
            _ => return,
        }
        self.ended.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn scenarios_are_counted_by_their_lines() {
        let mut lines = Lines::default();
        lines.push(b"    SLIP [   9.0s] one\n    PASS [  12.5s] one\n");
        lines.push(b"    FAIL [   0.1s] two\n        PASS [1.0s] said by two\n    PASS [ 100.0s] th");
        lines.push(b"ree\n");
        assert_eq!((lines.tally.passed, lines.tally.failed, lines.complete), (2, 1, false));
        assert_eq!(lines.ended, ["one", "two", "three"]);
        assert_eq!(lines.tally.why, ["one was tried twice"]);
        lines.push(b"scenarios: 2 passed, 1 failed\n");
        assert!(lines.complete);
    }
}
