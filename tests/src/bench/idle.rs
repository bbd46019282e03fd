//! The memory of a shim whose pod runs and which has nothing to do.

use anyhow::Result;

use super::figure::Figure;
use crate::{
    progress,
    scenarios::{Bench, measure, pod::PodSpec},
};

/// The newest in a node, which it needs.
pub const CONTAINERD: &str = "1.7";
/// They hardly differ.
const PODS: u32 = 3;
/// KiB.
const BOUND: f64 = 8192.0;

/// Runs pods through a containerd that is up, one after another, and looks at each one's shim with the guest at its prompt.
pub fn figure() -> Result<Option<Figure>> {
    let mut bench = Bench::new(CONTAINERD)?;
    let mut samples = Vec::new();
    for number in 1..=PODS {
        progress::step(&format!("pod {number} of {PODS}, for its shim"), || {
            let pod = bench.boot(PodSpec::guest())?;
            samples.push(f64::from(u32::try_from(measure::resident(pod.shim()?)?)?));
            pod.remove(&mut bench)
        })?;
    }
    Ok(Figure::alone("memory/idle_shim_rss", "KiB", &samples, Some(BOUND)))
}
