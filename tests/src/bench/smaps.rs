//! A monitor's memory beyond its guest's RAM, from `/proc/<pid>/smaps` (proc_pid_smaps(5)).
//!
//! PSS counts a page that others share by its part. Guest RAM is told by the size of its mapping: no monitor has another
//! one as large, and a mapping that only keeps addresses has no pages.

use std::fs;

use anyhow::{Context, Result, ensure};

/// A quarter of the benches' guest RAM: QEMU may split a mapping.
const GUEST_RAM_AT_LEAST: u64 = super::GUEST_MEMORY_BYTES / 4;

/// PSS in KiB of all mappings of a process but its guest's RAM.
pub fn pss_beyond_ram(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let (ram, rest) = split(&text, GUEST_RAM_AT_LEAST)?;
    ensure!(ram > 0, "{path}: no mapping of {} MiB or more: which is the guest's RAM?", GUEST_RAM_AT_LEAST >> 20);
    Ok(rest)
}

/// PSS in KiB of the mappings of at least `size` bytes, and of the others.
fn split(smaps: &str, size: u64) -> Result<(u64, u64)> {
    let (mut large, mut small, mut is_large) = (0, 0, false);
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if let Some(range) = range(first) {
            is_large = range >= size;
        } else if first == "Pss:" {
            let kib: u64 =
                line.split_whitespace().nth(1).context("no value")?.parse().with_context(|| line.to_owned())?;
            *(if is_large { &mut large } else { &mut small }) += kib;
        }
    }
    Ok((large, small))
}

/// The length of `<start>-<end>`.
fn range(word: &str) -> Option<u64> {
    let (start, end) = word.split_once('-')?;
    u64::from_str_radix(end, 16).ok()?.checked_sub(u64::from_str_radix(start, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::{pss_beyond_ram, split};

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
        assert_eq!(split(SMAPS, 64 << 20).unwrap(), (100_000, 216));
        assert_eq!(split("", 1).unwrap(), (0, 0));
        assert!(split("Pss: lots kB", 1).is_err());
    }

    #[test]
    fn a_process_without_guest_ram_is_refused() {
        let error = pss_beyond_ram(std::process::id().try_into().unwrap()).unwrap_err();
        assert!(error.to_string().contains("no mapping of 64 MiB"), "{error}");
    }
}
