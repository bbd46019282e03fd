//! The bench on this machine's own KVM: a bare payload, which runs where a kernel may not.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};

use super::{
    figure::Figure,
    monitor::{Guest, Monitor},
    rounds::milliseconds,
    samples::{Sample, Samples},
};
use crate::guest::payload;

const NAME: &str = "boot/payload_on_host";
const LIMIT: Duration = Duration::from_mins(1);

/// From each monitor's start to the payload's first byte. `folder` takes the payload.
pub fn run(vmm: &Path, folder: &Path, runs: usize) -> Result<Vec<Figure>> {
    let kernel = folder.join("payload.elf");
    fs::write(&kernel, payload::elf()).with_context(|| format!("write {}", kernel.display()))?;
    let guest = Guest::kernel(&kernel, None, "");
    let monitors = [
        Monitor::Vireo(vmm.to_owned()),
        Monitor::Qemu { machine: "microvm", arguments: &[] },
        // SeaBIOS takes ten seconds on a KVM that emulates ring 0: microvm's small firmware is to QEMU's favour.
        Monitor::Qemu { machine: "q35", arguments: &["-bios", "bios-microvm.bin"] },
    ];
    let samples = Samples::interleave(&monitors, runs, |monitor| {
        let first = monitor.start(&guest)?.wait_for(payload::WORD, LIMIT)?;
        Ok(vec![Sample { name: NAME.to_owned(), unit: "ms", value: milliseconds(first) }])
    })?;
    Ok(samples.figures(|_, peer| (peer == "QEMU microvm").then_some(0.25)))
}
