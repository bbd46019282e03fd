//! CPUID as the guest sees it: what KVM supports on this host ([`table`]), as much of it as the machine's model and features say
//! ([`select`], by the names in [`features`] and [`models`]), with the machine's own [`topology`].
//!
//! The PMU is never offered, nested virtualization only if asked for by name.

mod features;
mod models;
mod select;
mod table;
mod topology;

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};

pub use select::SelectError;

use crate::config::{CpuFeature, CpuModel, CpuPlan, Topology};
use table::Table;

/// Why the table could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM didn't say what it supports.
    #[error("KVM_GET_SUPPORTED_CPUID")]
    Supported(#[source] kvm_ioctls::Error),
    /// A model or a feature that this host doesn't have.
    #[error("cpu.{0}")]
    Select(SelectError),
    /// `/dev/kvm` can't be used.
    #[error("/dev/kvm")]
    Host(#[source] io::Error),
    /// More leaves than KVM takes.
    #[error("CPUID of more than {KVM_MAX_CPUID_ENTRIES} leaves")]
    TooMany,
}

/// What all vCPUs of one machine share; [`Template::for_vcpu`] adds what tells them apart.
#[derive(Debug)]
pub struct Template {
    table: Table,
    topology: Topology,
}

impl Template {
    /// Asks KVM what it supports, and takes of it what `cpu` says.
    pub fn new(kvm: &Kvm, cpu: &CpuPlan) -> Result<Self, Error> {
        Self::from_host(&offered(kvm)?, cpu).map_err(Error::Select)
    }

    /// The same, from what KVM has told.
    fn from_host(host: &Table, cpu: &CpuPlan) -> Result<Self, SelectError> {
        let mut table = select::select(host, cpu)?;
        topology::describe(&mut table, cpu.topology);
        Ok(Self { table, topology: cpu.topology })
    }

    /// The state components that XSAVE can save (leaf 0xD.0, EDX:EAX); `None` on a CPU without it.
    pub fn xsave_features(&self) -> Option<u64> {
        let leaf = self.table.entry(0xD, 0)?;
        Some(u64::from(leaf.edx) << 32 | u64::from(leaf.eax)).filter(|features| *features != 0)
    }

    /// Physical address bits (leaf 0x8000_0008); 36 on a CPU that doesn't say.
    pub fn address_bits(&self) -> u8 {
        self.table.entry(0x8000_0008, 0).map_or(36, |entry| entry.eax.to_le_bytes()[0])
    }

    /// The table of one vCPU.
    pub fn for_vcpu(&self, index: u8) -> Result<CpuId, Error> {
        let entries = topology::of_vcpu(&self.table, self.topology, index);
        CpuId::from_entries(&entries).map_err(|_| Error::TooMany)
    }
}

/// All that a guest could get here, less what Vireo never offers.
fn offered(kvm: &Kvm) -> Result<Table, Error> {
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::Supported)?;
    let mut host = Table(supported.as_slice().to_vec());
    // KVM has its timer's deadline mode apart.
    complete(&mut host, kvm.check_extension(Cap::TscDeadlineTimer));
    Ok(host)
}

/// Whether the KVM behind `kvm`, an open `/dev/kvm`, has a model and features: what a machine would be refused for.
pub fn check(kvm: &File, model: &CpuModel, features: &[CpuFeature]) -> Result<(), Error> {
    let owned = kvm.try_clone().map_err(Error::Host)?;
    // SAFETY: the descriptor is a new one, and nobody else's. One that isn't KVM's answers the first ioctl with an error.
    let kvm = unsafe { Kvm::from_raw_fd(owned.into_raw_fd()) };
    let (model, features) = (model.clone(), features.to_vec());
    let cpu = CpuPlan { topology: Topology::cores(1), model, features, hide_kvm: false, pins: Vec::new() };
    Template::new(&kvm, &cpu).map(|_| ())
}

fn complete(host: &mut Table, deadline_timer: bool) {
    for (name, on) in [
        ("tsc-deadline", deadline_timer),
        ("hypervisor", true),
        // AMD's performance counters, and Intel's in leaf 0xA.
        ("perfctr_core", false),
        ("perfctr_nb", false),
        ("pdcm", false),
    ] {
        if let Some(feature) = features::by_name(name) {
            host.set(feature, on);
        }
    }
    for entry in host.0.iter_mut().filter(|entry| entry.function == 0xA) {
        (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
    }
}

#[cfg(test)]
mod tests;
