//! Devices under rate limits.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    Bench, Scenario,
    eventually::LIMIT,
    pod::{PROMPT, PodSpec},
};

pub(super) const SCENARIOS: &[Scenario] =
    &[Scenario::once("a_disk_and_a_card_keep_to_their_limits", keeps_to_its_limits)];

fn keeps_to_its_limits(bench: &mut Bench) -> Result<()> {
    let mut spec = PodSpec::guest();
    let limits = json!({
        "disks": {"root": {"bytesPerSecond": "512Ki", "burstBytes": "64Ki"}},
        "interfaces": {"default": {"transmit": {"operationsPerSecond": 2, "burstOperations": 1}}},
    });
    spec.annotations.insert("vireo.dev/rate-limits".to_owned(), limits.to_string());
    let mut pod = bench.pod(spec)?;
    pod.create(bench)?;
    pod.start(bench)?;
    let mut console = pod.attach(bench)?;
    console.wait_for(PROMPT, LIMIT)?;
    let start = Instant::now();
    console.send("dd if=/dev/vda of=/dev/null bs=64k count=16; echo status $?\n")?;
    console.wait_for("status 0", LIMIT)?;
    let read = start.elapsed();
    ensure!(read > Duration::from_millis(1500), "1 MiB at 512 KiB/s took {read:?}");
    // An answer takes three packets at least: of the connection, of the text, of the end.
    let start = Instant::now();
    ensure!(pod.http("/")?.starts_with("hello from"), "something else answers on {}", pod.ip);
    let answered = start.elapsed();
    ensure!(answered > Duration::from_millis(900), "three packets at 2 a second took {answered:?}");
    pod.remove(bench)
}
