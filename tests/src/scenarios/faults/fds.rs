//! The open files of a process that lives long.

use std::{collections::BTreeMap, fmt::Write as _, fs, time::Duration};

use anyhow::{Result, ensure};

use super::super::eventually::eventually;

/// How many there are of each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fds {
    pid: u32,
    kinds: BTreeMap<String, usize>,
}

impl Fds {
    /// Those of a process.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let mut kinds = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
            // One that is closed just now is none.
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy();
            // `socket:[4711]` is a socket, whichever.
            let kind = target.split_once(":[").map_or(&*target, |(kind, rest)| {
                if rest.starts_with(|first: char| first.is_ascii_digit()) { kind } else { &target }
            });
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
        Ok(Self { pid, kinds })
    }

    /// Waits until there are no more of any kind than there were.
    pub(super) fn no_more(&self, of: &str, limit: Duration) -> Result<()> {
        let mut more = String::new();
        let waited = eventually("its files to be closed", limit, || {
            more.clear();
            for (kind, count) in Self::of(self.pid)?.kinds {
                let before = self.kinds.get(&kind).copied().unwrap_or_default();
                if count > before {
                    let _ = write!(more, " {kind}: {count}, {before} before;");
                }
            }
            Ok(more.is_empty().then_some(()))
        });
        ensure!(!more.is_empty() || waited.is_ok(), "{of}: {waited:?}");
        ensure!(more.is_empty(), "open files of {of}:{more}");
        Ok(())
    }
}
