//! How many vCPUs, how much RAM.
//!
//! The spec decides, else the container's limits, else [`DEFAULT_MEMORY`] and one vCPU. The VMM lives in the container's
//! cgroup, so that the container's memory limit has to hold the guest and [`memory_reserve`].

use vireo_runtimeclass::kubevirt::v1::{DomainSpec, VirtualMachineInstanceSpec};
use vireo_runtimeclass::pod::{DEFAULT_MEMORY, RESERVE_FIXED, RESERVE_SHARE, memory_reserve};
use vireo_runtimeclass::validate::{MAX_VCPUS, huge_page_size};
use vireo_vmm::config::{HugePageSize, MemoryConfig};

use super::Place;

const MIB: u64 = 1 << 20;
/// A guest made of a container's limit gets at least this, bytes.
const MIN_MEMORY: u64 = 32 * MIB;
/// The period of a CPU quota that names none, microseconds (the kernel's default).
const DEFAULT_PERIOD: u64 = 100_000;

/// A machine's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) vcpus: u32,
    pub(super) memory: MemoryConfig,
}

/// Why a machine can't have its size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// The container's memory limit holds no guest.
    #[error(
        "container memory limit {} MiB: too small for a guest; at least {} MiB are needed", .0 / MIB,
        (MIN_MEMORY + memory_reserve(MIN_MEMORY)).div_ceil(MIB)
    )]
    LimitTooSmall(u64),
    /// The guest doesn't fit the container's memory limit.
    #[error(
        "guest memory {} MiB does not fit the container's memory limit of {} MiB, which has to hold {} MiB for the machine \
         as well", guest / MIB, limit / MIB, memory_reserve(*guest).div_ceil(MIB)
    )]
    DoesNotFit {
        /// The guest's RAM, bytes.
        guest: u64,
        /// The container's limit, bytes.
        limit: u64,
    },
    /// Less RAM than one page of its kind.
    #[error("guest memory of {0} bytes is less than one page of the asked size")]
    BelowPage(u64),
    /// The container may not use that many huge pages.
    #[error(
        "spec.domain.memory.hugepages: the guest's {} MiB do not fit the container's limit of {} MiB for {kind}; set \
         resources.limits[{kind}] to the guest's memory", guest / MIB, limit / MIB
    )]
    HugePages {
        /// The guest's RAM, bytes.
        guest: u64,
        /// The container's limit, bytes.
        limit: u64,
        /// Kubernetes' name of the resource.
        kind: &'static str,
    },
    /// More vCPUs than a machine has.
    #[error("container cpu limit of {0} CPUs: a machine has at most {MAX_VCPUS} vCPUs; lower it, or set domain.cpu")]
    ManyCpus(u64),
}

/// The largest guest that a limit holds, bytes.
fn largest_guest(limit: u64) -> u64 {
    let left = limit.saturating_sub(RESERVE_FIXED);
    left - left.div_ceil(RESERVE_SHARE + 1)
}

pub(super) fn size(spec: Option<&VirtualMachineInstanceSpec>, place: &Place<'_>) -> Result<Size, SizeError> {
    let limits = Limits::of(place);
    let domain = spec.map(|spec| &spec.domain);
    // One of the container's CPUs may be for the other threads.
    let isolated = domain.and_then(|domain| domain.cpu.as_ref()?.isolate_emulator_thread) == Some(true);
    let of_limit = || limits.cpus.map_or(1, |cpus| cpus.saturating_sub(isolated.into()).max(1));
    let cpus = domain.and_then(DomainSpec::vcpus).unwrap_or_else(of_limit);
    let vcpus = u32::try_from(cpus).ok().filter(|n| u64::from(*n) <= MAX_VCPUS).ok_or(SizeError::ManyCpus(cpus))?;

    let hugepages = domain.and_then(|domain| domain.memory.as_ref()?.hugepages.as_ref());
    let hugepages = hugepages.and_then(|pages| huge_page_size(&pages.page_size)).map(|size| match size {
        0x20_0000 => HugePageSize::Size2M,
        _ => HugePageSize::Size1G,
    });
    // Huge pages are counted apart and not against the memory limit.
    let limit = limits.memory.filter(|_| hugepages.is_none());
    let wanted = match (domain.and_then(DomainSpec::guest_memory), limit) {
        (Some(guest), Some(limit)) if guest.saturating_add(memory_reserve(guest)) > limit => {
            return Err(SizeError::DoesNotFit { guest, limit });
        }
        (Some(guest), _) => guest,
        (None, Some(limit)) => match largest_guest(limit) {
            guest if guest < MIN_MEMORY => return Err(SizeError::LimitTooSmall(limit)),
            guest => guest,
        },
        (None, None) => DEFAULT_MEMORY,
    };
    let unit = match hugepages {
        None => MIB,
        Some(HugePageSize::Size2M) => 2 * MIB,
        Some(HugePageSize::Size1G) => 1024 * MIB,
    };
    // Down, so that what fitted still fits.
    let size = wanted - wanted % unit;
    if size == 0 {
        return Err(SizeError::BelowPage(wanted));
    }
    Ok(Size { vcpus, memory: MemoryConfig { size, hugepages } })
}

/// Refuses a guest of more huge pages than its container may use: it would be killed when it touches them. `limit` tells how many
/// bytes that are, of pages of a size as cgroups name it.
pub fn check_huge_pages(memory: MemoryConfig, limit: impl FnOnce(&str) -> u64) -> Result<(), SizeError> {
    let (kind, name) = match memory.hugepages {
        None => return Ok(()),
        Some(HugePageSize::Size2M) => ("hugepages-2Mi", "2MB"),
        Some(HugePageSize::Size1G) => ("hugepages-1Gi", "1GB"),
    };
    let (guest, limit) = (memory.size, limit(name));
    if limit < guest { Err(SizeError::HugePages { guest, limit, kind }) } else { Ok(()) }
}

/// What the container may use.
#[derive(Debug, Default)]
struct Limits {
    /// Whole CPUs, rounded up.
    cpus: Option<u64>,
    /// Bytes.
    memory: Option<u64>,
}

impl Limits {
    fn of(place: &Place<'_>) -> Self {
        let Place::Pod { oci, .. } = place else { return Self::default() };
        let Some(resources) = oci.linux().as_ref().and_then(|linux| linux.resources().as_ref()) else {
            return Self::default();
        };
        let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
        let cpus = resources.cpu().as_ref().and_then(|cpu| {
            let quota = cpu.quota().and_then(positive)?;
            Some(quota.div_ceil(cpu.period().filter(|period| *period > 0).unwrap_or(DEFAULT_PERIOD)))
        });
        let memory = resources.memory().as_ref().and_then(|memory| memory.limit().and_then(positive));
        Self { cpus, memory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_guest_fits_its_limit() {
        for limit in [48 * MIB, 64 * MIB + 1, 512 * MIB, 1 << 30, (1 << 40) + 12345, u64::MAX / 2] {
            let guest = largest_guest(limit);
            assert!(guest + memory_reserve(guest) <= limit, "{limit}");
            let more = guest + RESERVE_SHARE;
            assert!(more + memory_reserve(more) > limit, "{limit}");
        }
        assert_eq!(largest_guest(0), 0);
    }
}
