//! Boots by stock firmware: the full Debian guest with its own boot loader, up to the first line of its initramfs.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};

use super::{
    figure::Figure,
    monitor::{Boot, Disk, Guest, Monitor},
    rounds::milliseconds,
    samples::{Sample, Samples},
};

/// The node's, with the full Debian guest.
const DISK: &str = "/dev/disk/guest";
const BIOS: &str = "/usr/share/seabios/bios-256k.bin";
const EFI_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const EFI_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// What Debian's initramfs says first.
const FIRST_LINE: &[u8] = b"Loading, please wait...";
const LIMIT: Duration = Duration::from_mins(4);
/// 1.3 times as fast.
const BOUND: f64 = 0.77;

/// Which firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Efi,
}

impl Firmware {
    fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Efi => "efi",
        }
    }
}

/// Boots the guest of the node's disk.
pub fn run(vmm: &Path, firmware: Firmware, runs: usize) -> Result<Vec<Figure>> {
    // The name of a disk may be no symbolic link.
    let path = fs::canonicalize(DISK).context("the node has no disk for the full Debian guest")?;
    let monitors = [Monitor::Vireo(vmm.to_owned()), Monitor::Qemu { machine: "q35", arguments: &["-cpu", "host"] }];
    let samples = Samples::interleave(&monitors, runs, |monitor| {
        let guest = Guest {
            boot: boot(firmware)?,
            disks: vec![Disk { path: path.clone(), format: "raw", cached: true }],
            cards: Vec::new(),
            vsock: None,
        };
        let first_line = monitor.start(&guest)?.wait_for(FIRST_LINE, LIMIT)?;
        Ok(vec![Sample {
            name: format!("boot/debian_by_{}", firmware.name()),
            unit: "ms",
            value: milliseconds(first_line),
        }])
    })?;
    Ok(samples.figures(|_, _| Some(BOUND)))
}

/// With fresh variables.
fn boot(firmware: Firmware) -> Result<Boot> {
    Ok(match firmware {
        Firmware::Bios => Boot::Bios(BIOS.into()),
        Firmware::Efi => {
            let variables = Path::new("/run/vireo-bench-variables.fd");
            fs::copy(EFI_VARIABLES, variables).with_context(|| format!("copy {EFI_VARIABLES}"))?;
            Boot::Efi { code: EFI_CODE.into(), variables: variables.to_owned() }
        }
    })
}
