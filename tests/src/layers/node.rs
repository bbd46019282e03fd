//! The node layer: one node, every scenario under each containerd.

use std::io::Write as _;

use anyhow::Result;

use super::Tally;
use crate::guest;
use crate::node::{Node, Options, Request, Stream, share::Build};

/// The versions of containerd in a node.
const CONTAINERDS: [&str; 2] = ["1.6", "1.7"];

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
    tally += full_debian()?;
    if tally.failed > 0 {
        println!("the node's own logs: {}", node.folder().display());
    }
    Ok(tally)
}

/// The full Debian guest, where it has been built: nothing boots it yet.
fn full_debian() -> Result<Tally> {
    const NAME: &str = "full_debian_guest_is_whole";
    let Some(disk) = guest::debian::cached()? else {
        let why = vec!["the full Debian guest is not built; make images builds it".to_owned()];
        return Ok(Tally { skipped: 1, why, ..Tally::default() });
    };
    match guest::debian::inspect(&disk) {
        Ok(()) => {
            println!("    PASS {NAME}");
            Ok(Tally { passed: 1, ..Tally::default() })
        }
        Err(error) => {
            println!("    FAIL {NAME}\n        {error:#}");
            Ok(Tally { failed: 1, ..Tally::default() })
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
