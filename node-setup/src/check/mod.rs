//! `vireo check`: what a node needs to run VM pods. Each finding says what was looked at, what was found, and what to do.

mod containerd;
mod host;

use std::process::ExitCode;

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// It is as it should be.
    Good(String),
    /// VMs run without it, but not all of them, or not by containerd.
    Missing {
        /// What was found.
        found: String,
        /// What to do about it.
        remedy: &'static str,
    },
}

/// One check and what came of it.
#[derive(Debug)]
struct Finding {
    subject: &'static str,
    verdict: Verdict,
}

impl Finding {
    fn new(subject: &'static str, result: Result<String, (String, &'static str)>) -> Self {
        let verdict = match result {
            Ok(found) => Verdict::Good(found),
            Err((found, remedy)) => Verdict::Missing { found, remedy },
        };
        Self { subject, verdict }
    }
}

/// Checks everything and prints the findings; fails if something is missing.
pub(crate) fn check() -> ExitCode {
    let findings = [
        Finding::new("kvm", host::kvm()),
        Finding::new("kernel", host::kernel()),
        Finding::new("cgroup v2", host::cgroup()),
        Finding::new("tun", host::tun()),
        Finding::new("vhost-net", Ok(host::vhost_net())),
        Finding::new("nft", host::nft()),
        Finding::new("binaries", host::binaries()),
        Finding::new("node config", host::node_config()),
        Finding::new("firmware", host::firmware()),
        Finding::new("containerd", containerd::version()),
        Finding::new("runtime", containerd::runtime()),
    ];
    let mut all_good = true;
    for Finding { subject, verdict } in &findings {
        match verdict {
            Verdict::Good(found) => println!("ok       {subject}: {found}"),
            Verdict::Missing { found, remedy } => {
                all_good = false;
                println!("MISSING  {subject}: {found}\n         {remedy}");
            }
        }
    }
    if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
