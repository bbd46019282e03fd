//! The node layer: one node, every scenario under each containerd.

use std::io::Write as _;

use anyhow::Result;

use super::Tally;
use crate::guest;
use crate::node::{Node, Options, Request, Stream, share::Build};

/// The versions of containerd in a node.
const CONTAINERDS: [&str; 2] = ["1.6", "1.7"];
/// A test of the host's side.
const FULL_DEBIAN: &str = "full_debian_guest_is_whole";

/// Boots a node and runs the scenarios.
pub fn run(only: Option<&str>) -> Result<Tally> {
    let node = Node::boot(&Options::prepare("suite", Build::Release, false)?)?;
    let mut tally = Tally::default();
    for (index, version) in CONTAINERDS.into_iter().enumerate() {
        println!("\nscenarios under containerd {version}");
        let mut arguments = vec!["/vireo/bin/vireo-scenarios", "run", "--containerd", version];
        if index > 0 {
            // Scenarios that have nothing to do with containerd ran before.
            arguments.push("--containerd-only");
        }
        if let Some(only) = only {
            arguments.extend(["--only", only]);
        }
        let mut lines = Lines::default();
        let code = node.agent().run(Request::new(arguments), |stream, bytes| match stream {
            Stream::Output => lines.push(bytes),
            Stream::Error => drop(std::io::stderr().write_all(bytes)),
        })?;
        if let Some(summary) = lines.summary {
            tally += summary;
        } else {
            tally.failed += 1;
            tally.why.push(format!("the scenarios under containerd {version} ended with {code} half-way"));
        }
    }
    if only.is_none_or(|only| only.split(',').any(|part| FULL_DEBIAN.contains(part))) {
        tally += full_debian();
    }
    if tally.failed > 0 {
        println!("the node's own logs: {}", node.folder().display());
    }
    Ok(tally)
}

/// The full Debian guest: nothing boots it yet.
fn full_debian() -> Tally {
    match guest::debian::debian().and_then(|disk| guest::debian::inspect(&disk)) {
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

/// Shows output by lines and keeps the summary.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    summary: Option<Tally>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            print!("{line}");
            if line.starts_with("scenarios: ") {
                self.summary = Tally::parse(&line);
            }
        }
    }
}
