//! What a pod costs, as the kernel counts it.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};

/// Memory of a pod's processes, KiB of PSS.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// The VMM's, without the guest's RAM.
    pub vmm: u64,
    /// The shim's.
    pub shim: u64,
    /// The guest's RAM, as far as the guest has touched it.
    pub guest: u64,
}

impl Memory {
    /// What the pod needs beyond the guest's own.
    pub fn overhead(self) -> u64 {
        self.vmm + self.shim
    }
}

/// Guest RAM is a shared mapping of a memfd at least this large, KiB.
const SMALLEST_RAM_KIB: u64 = 16 << 10;

/// Looks at a VMM and its shim.
pub fn memory(vmm: u32, shim: u32) -> Result<Memory> {
    let ((vmm, guest), (shim, _)) = (pss(vmm)?, pss(shim)?);
    Ok(Memory { vmm, shim, guest })
}

/// PSS outside and inside guest RAM, KiB.
fn pss(pid: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).with_context(|| format!("read smaps of {pid}"))?;
    Ok(split_pss(&text))
}

fn split_pss(smaps: &str) -> (u64, u64) {
    let (mut own, mut guest) = (0, 0);
    let mut memfd = false;
    let mut ram = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        let kib = || line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        match first {
            "Size:" => ram = memfd && kib() >= SMALLEST_RAM_KIB,
            "Pss:" if ram => guest += kib(),
            "Pss:" => own += kib(),
            // 7f…-7f… rw-s 00000000 00:01 1 /memfd:name (deleted)
            range if range.contains('-') && !range.ends_with(':') => memfd = line.contains("/memfd:"),
            _ => {}
        }
    }
    (own, guest)
}

/// `CLOCK_MONOTONIC`, which every process of the node shares.
pub fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

#[cfg(test)]
mod tests {
    use super::split_pss;

    #[test]
    fn guest_ram_is_told_apart() {
        let text = "\
7f0000000000-7f0010000000 rw-s 00000000 00:01 1 /memfd:ram (deleted)
Size:             262144 kB
Pss:               70000 kB
Pss_Dirty:         70000 kB
7f0020000000-7f0020010000 rw-s 00000000 00:01 2 /memfd:small (deleted)
Size:                 64 kB
Pss:                   8 kB
00400000-00500000 r-xp 00000000 fe:00 12 /usr/local/bin/vireo-vmm
Size:               1024 kB
Pss:                 900 kB
";
        assert_eq!(split_pss(text), (908, 70000));
    }
}
