//! The benches inside a node: an unmodified Debian kernel and a busybox initramfs.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{
    entries::Entries,
    figure::Figure,
    monitor::{Guest, Monitor},
    samples::{Sample, Samples},
};
use crate::smaps::pss;

/// A nested guest on an emulated node needs four seconds, on a machine at its limit sixty.
const LIMIT: Duration = Duration::from_mins(5);

const FIRST_INSTRUCTION: &str = "boot/first_instruction";
const INIT: &str = "boot/init";
const PSS: &str = "memory/vmm_pss_beyond_ram";
/// Aims beside microvm.
const BOUNDS: [(&str, f64); 3] = [(FIRST_INSTRUCTION, 0.25), (INIT, 0.8), (PSS, 0.08)];
/// The VMM's own memory, KiB.
const PSS_BOUND: f64 = 4096.0;

/// Runs them on the guest's files in a folder (`vmlinuz`, `initrd`).
pub fn run(vmm: &Path, guest: &Path, runs: usize) -> Result<Vec<Figure>> {
    let guest = Guest::kernel(&guest.join("vmlinuz"), Some(&guest.join("initrd")), "console=ttyS0 quiet");
    let monitors = monitors(vmm.to_owned());
    let bound = |name: &str, peer: &str| {
        let aim = BOUNDS.iter().find(|(bounded, _)| *bounded == name && peer == "QEMU microvm");
        aim.map(|(_, bound)| *bound)
    };
    // Apart from the boots, which are hundreds of times as long.
    let starts = Samples::interleave(&monitors, runs, |monitor| {
        Ok(vec![Sample { name: FIRST_INSTRUCTION.to_owned(), unit: "ms", value: first_instruction(monitor, &guest)? }])
    })?;
    let boots = Samples::interleave(&monitors, runs, |monitor| Ok(boot(monitor, &guest)?.to_vec()))?;
    let mut figures = starts.figures(bound);
    figures.extend(boots.figures(bound));
    figures.extend(boots.alone(PSS, "KiB", Some(PSS_BOUND)));
    Ok(figures)
}

fn monitors(vmm: PathBuf) -> [Monitor; 3] {
    let arguments: &[&str] = &["-cpu", "host"];
    [Monitor::Vireo(vmm), Monitor::Qemu { machine: "microvm", arguments }, Monitor::Qemu { machine: "q35", arguments }]
}

/// From the monitor's start to the first entry into its guest, ms.
fn first_instruction(monitor: &Monitor, guest: &Guest) -> Result<f64> {
    let mut entries = Entries::trace()?;
    let mut running = monitor.start(guest)?;
    match entries.first(LIMIT) {
        Ok(at) => Ok(milliseconds(at.saturating_sub(running.begun))),
        Err(error) => Err(error.context(running.last_words())),
    }
}

/// From the monitor's start to its guest's `/init`, and its memory with the guest at its prompt.
fn boot(monitor: &Monitor, guest: &Guest) -> Result<[Sample; 2]> {
    let mut running = monitor.start(guest)?;
    let init = running.wait_for(b"GUEST-INIT", LIMIT)?;
    running.wait_for(b"vireo-guest# ", LIMIT)?;
    let pss = pss(running.pid()?)?;
    ensure!(pss.ram > 0, "{}: which mapping is the guest's RAM?", monitor.name());
    let beyond = f64::from(u32::try_from(pss.beyond)?);
    Ok([
        Sample { name: INIT.to_owned(), unit: "ms", value: milliseconds(init) },
        Sample { name: PSS.to_owned(), unit: "KiB", value: beyond },
    ])
}

/// Of a duration.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
