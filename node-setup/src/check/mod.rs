//! `vireo check`: what a node needs to run VM pods. Each finding says what was looked at, what was found, and what to do.

mod containerd;
mod host;
mod running;

use std::process::ExitCode;

use anyhow::Result;
use vireo_node_setup::findings::{Finding, RUNNING_CONTAINERD, Verdict};

/// Checks everything and prints the findings, as JSON where a program asks; fails if something is missing.
pub(crate) fn check(json: bool) -> Result<ExitCode> {
    let findings = [
        Finding::new("kvm", host::kvm()),
        Finding::new("kernel", host::kernel()),
        Finding::new("cgroups", host::cgroups()),
        Finding::new("tun", host::tun()),
        Finding::new("vhost-net", Ok(host::vhost_net())),
        Finding::new("nft", host::nft()),
        Finding::new("binaries", host::binaries()),
        Finding::new("node config", host::node_config()),
        Finding::new("firmware", host::firmware()),
        Finding::new("containerd", containerd::version()),
        Finding::new("runtime", containerd::runtime()),
        Finding::new(RUNNING_CONTAINERD, running::runtime()),
    ];
    if json {
        println!("{}", serde_json::to_string(&findings)?);
    } else {
        findings.iter().for_each(show);
    }
    let all_good = findings.iter().all(Finding::is_good);
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(Finding { subject, verdict }: &Finding) {
    match verdict {
        Verdict::Good { found } => println!("ok       {subject}: {found}"),
        Verdict::Missing { found, remedy } => println!("MISSING  {subject}: {found}\n         {remedy}"),
    }
}
