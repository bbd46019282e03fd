//! What KVM must be able to do for machine type `vireo-1`.

use kvm_ioctls::{Cap, Kvm};

/// The one API version there has been since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// A KVM that can't run this machine.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Another API altogether.
    #[error("KVM: API version {0}, {API_VERSION} is needed")]
    Version(i32),
    /// A capability is missing.
    #[error("KVM: {0} is missing; a newer host kernel or another KVM is needed")]
    Missing(&'static str),
    /// Fewer vCPUs than asked for.
    #[error("KVM: at most {max} vCPUs on this host, the machine has {vcpus}")]
    Vcpus {
        /// The host's bound.
        max: usize,
        /// What was asked for.
        vcpus: u8,
    },
}

const NEEDED: [(Cap, &str); 12] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Checks everything that a machine with `vcpus` vCPUs will use.
pub fn check(kvm: &Kvm, vcpus: u8) -> Result<(), Error> {
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(Error::Version(version));
    }
    first_missing(|cap| kvm.check_extension(cap))?;
    let max = kvm.get_max_vcpus();
    if usize::from(vcpus) > max {
        return Err(Error::Vcpus { max, vcpus });
    }
    Ok(())
}

/// Checks what firmware in read-only memory needs beside that.
pub fn check_firmware(kvm: &Kvm) -> Result<(), Error> {
    if kvm.check_extension(Cap::ReadonlyMem) { Ok(()) } else { Err(Error::Missing("KVM_CAP_READONLY_MEM")) }
}

fn first_missing(has: impl Fn(Cap) -> bool) -> Result<(), Error> {
    match NEEDED.into_iter().find(|(cap, _)| !has(*cap)) {
        Some((_, name)) => Err(Error::Missing(name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_all_of_them() {
        check(&Kvm::new().expect("/dev/kvm"), 2).unwrap();
    }

    #[test]
    fn a_missing_one_is_named() {
        let error = first_missing(|cap| cap as u32 != Cap::Irqfd as u32).unwrap_err();
        assert_eq!(error.to_string(), "KVM: KVM_CAP_IRQFD is missing; a newer host kernel or another KVM is needed");
    }

    #[test]
    fn too_many_vcpus_are_refused() {
        let kvm = Kvm::new().expect("/dev/kvm");
        if kvm.get_max_vcpus() < 255 {
            assert!(matches!(check(&kvm, 255), Err(Error::Vcpus { .. })));
        }
    }
}
