//! Memory, and swap beside it.

use std::fs;
use std::path::PathBuf;

use cgroups_rs::fs::memory::{MemController, SetMemory};
use oci_spec::runtime::LinuxMemory;

use super::{CgroupError, Limits, max};

/// v1's limit of memory and swap together.
const BOTH: &str = "memory.memsw.limit_in_bytes";

impl Limits<'_> {
    pub(super) fn memory(&self, memory: &LinuxMemory) -> Result<(), CgroupError> {
        let (path, v2) = self.place();
        let control = MemController::new(path, PathBuf::new(), v2);
        let limit = memory.limit().filter(|&limit| limit != 0);
        let low = memory.reservation().filter(|&low| low != 0);
        if !v2 {
            self.memory_v1(&control, limit, memory.swap().filter(|&swap| swap != 0))?;
            return low
                .map_or(Ok(()), |low| self.told("memory.soft_limit_in_bytes", &low, control.set_soft_limit(low)));
        }
        if let Some(most) = limit.map(max) {
            self.told("memory.max", &most, control.set_mem(SetMemory { max: Some(most), ..Default::default() }))?;
        }
        if let Some(low) = low.map(max) {
            self.told("memory.low", &low, control.set_mem(SetMemory { low: Some(low), ..Default::default() }))?;
        }
        // The spec's limit is v1's, of memory and swap together.
        let swap = match (memory.swap(), limit) {
            (Some(both), Some(limit)) if both >= limit && limit > 0 => both - limit,
            (Some(both), _) if both < 0 => -1,
            _ => return Ok(()),
        };
        self.told("memory.swap.max", &max(swap), control.set_memswap_limit(swap))
    }

    /// v1 has a limit of memory, and one of memory and swap together that must never be the lower one.
    fn memory_v1(&self, control: &MemController, limit: Option<i64>, both: Option<i64>) -> Result<(), CgroupError> {
        let now = fs::read_to_string(self.0.path.join(BOTH)).ok().and_then(|text| text.trim().parse::<i64>().ok());
        // No limit of memory is none of both, where swap is counted.
        let both = both.or(limit.filter(|&limit| limit < 0 && now.is_some()));
        let set_limit =
            || limit.map_or(Ok(()), |most| self.told("memory.limit_in_bytes", &most, control.set_limit(most)));
        let set_both = || both.map_or(Ok(()), |most| self.told(BOTH, &most, control.set_memswap_limit(most)));
        if both.is_some_and(|both| both < 0 || now.is_some_and(|now| both > now)) {
            set_both().and_then(|()| set_limit())
        } else {
            set_limit().and_then(|()| set_both())
        }
    }
}
