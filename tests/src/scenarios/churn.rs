//! Many pods, one after another, leave nothing.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, Scenario, leftovers::Leftovers, pod::PodSpec};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::each("twenty_pods_leave_nothing", twenty)];

fn twenty(bench: &mut Bench) -> Result<()> {
    let before = Leftovers::look()?;
    for round in 0..20 {
        let mut pod = bench.pod(PodSpec::guest())?;
        pod.create(bench)?;
        // Every way out: booted, just started, never started.
        match round % 4 {
            0 => {
                pod.start(bench)?;
                pod.wait_console(bench, "GUEST-INIT")?;
            }
            1 | 2 => pod.start(bench)?,
            _ => {}
        }
        pod.remove(bench)?;
    }
    let left = before.compare(Duration::from_secs(30))?;
    ensure!(left.is_empty(), "after 20 pods:\n{}", left.join("\n"));
    Ok(())
}
