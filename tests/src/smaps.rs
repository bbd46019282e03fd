//! Memory of a process that has a guest's RAM among its mappings, from `/proc/<pid>/smaps` (proc_pid_smaps(5)).
//!
//! PSS counts a page that others share by its part. Guest RAM is told by the size of its mapping: no monitor has another
//! one as large with pages in it.

use std::fs;

use anyhow::{Context, Result};

/// QEMU has blobs of 50 MiB (a kernel); the smallest guest here has more.
const GUEST_RAM_AT_LEAST: u64 = 64 << 20;

/// Proportional set size, KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pss {
    /// In guest RAM; 0 if there is none.
    pub ram: u64,
    /// In everything else.
    pub beyond: u64,
}

/// Of a process.
pub fn pss(pid: u32) -> Result<Pss> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    split(&text).with_context(|| format!("read {path}"))
}

fn split(smaps: &str) -> Result<Pss> {
    let mut pss = Pss { ram: 0, beyond: 0 };
    let mut is_ram = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(length) = length(first) {
            is_ram = length >= GUEST_RAM_AT_LEAST;
        } else if first == "Pss:" {
            let kib: u64 = words.next().context("Pss: has no value")?.parse().with_context(|| line.to_owned())?;
            *(if is_ram { &mut pss.ram } else { &mut pss.beyond }) += kib;
        }
    }
    Ok(pss)
}

/// The length of `<start>-<end>`.
fn length(word: &str) -> Option<u64> {
    let (start, end) = word.split_once('-')?;
    u64::from_str_radix(end, 16).ok()?.checked_sub(u64::from_str_radix(start, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::{Pss, split};

    const SMAPS: &str = "\
55d4c2a00000-55d4c2a8a000 r-xp 00000000 fe:00 1234    /usr/bin/a-b.c
Size:                552 kB
Rss:                 400 kB
Pss:                 200 kB
Pss_Dirty:             8 kB
VmFlags: rd ex mr mw me
7f2b40000000-7f2b50000000 rw-s 00000000 00:01 2065    /memfd:guest-ram (deleted)
Size:             262144 kB
Rss:              100000 kB
Pss:              100000 kB
7f2b50000000-7f2b54000000 ---p 00000000 00:00 0
Size:              65536 kB
Pss:                   0 kB
7ffc1f1f1000-7ffc1f212000 rw-p 00000000 00:00 0       [stack]
Pss:                  16 kB
";

    #[test]
    fn guest_ram_is_told_by_its_size() {
        assert_eq!(split(SMAPS).unwrap(), Pss { ram: 100_000, beyond: 216 });
        assert_eq!(split("").unwrap(), Pss { ram: 0, beyond: 0 });
        assert!(split("Pss: lots kB").is_err());
    }
}
