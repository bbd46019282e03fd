//! Assembles a machine: VM, RAM, interrupt controllers, buses with their devices, ACPI tables, kernel, vCPUs.

use std::io;
use std::os::fd::IntoRawFd;
use std::sync::Arc;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::GuestMemoryError;

use super::capabilities;
use crate::boot;
use crate::bus::{Bus, BusDevice, Overlap};
use crate::config::{ConsoleKind, MachinePlan};
use crate::console::hub::{Hub, Input};
use crate::disk::raw::{self, RawImage};
use crate::ending::Ending;
use crate::event_loop;
use crate::interrupts::{self, Interrupts};
use crate::memory::layout::{self, gsi, port};
use crate::memory::{GuestRam, guest_ram};
use crate::pci::root::{PciContext, PciRoot};
use crate::platform::acpi_pm::AcpiPm;
use crate::platform::pvpanic::Pvpanic;
use crate::platform::reset::{I8042, ResetControl};
use crate::platform::rtc::Rtc;
use crate::platform::serial::Serial;
use crate::vcpu::run::Vcpu;
use crate::vcpu::{cpuid, state};
use crate::virtio::block::Block;
use crate::virtio::console::{Backend, Console, Port};
use crate::virtio::net::Net;
use crate::virtio::rng::Rng;
use crate::{acpi, memory, pci};

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The host's KVM is not enough.
    #[error(transparent)]
    Capability(#[from] capabilities::Error),
    /// KVM refused to make a part.
    #[error("{call}")]
    Kvm {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// No RAM.
    #[error(transparent)]
    Ram(#[from] memory::guest_ram::Error),
    /// No interrupts.
    #[error(transparent)]
    Interrupts(#[from] interrupts::Error),
    /// Nothing to boot.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// No CPUID.
    #[error(transparent)]
    Cpuid(#[from] cpuid::Error),
    /// No initial state.
    #[error("vCPU {index}")]
    State {
        /// Which vCPU.
        index: u8,
        /// Why.
        #[source]
        source: state::Error,
    },
    /// A disk's image is of no use.
    #[error("disk {name:?}")]
    Disk {
        /// The volume.
        name: String,
        /// Why.
        #[source]
        source: raw::OpenError,
    },
    /// A network card's tap is of no use.
    #[error("interface {name:?}: its tap can't be set up (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR is needed)")]
    Nic {
        /// The interface.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A device has no place.
    #[error(transparent)]
    Pci(#[from] pci::Error),
    /// The machine type contradicts itself.
    #[error(transparent)]
    Bus(#[from] Overlap),
    /// RAM too small for the ACPI tables.
    #[error("memory: too small for the ACPI tables")]
    Acpi(#[source] GuestMemoryError),
    /// The host refused a descriptor.
    #[error("{what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A machine that has not run yet.
#[derive(Debug)]
pub struct Machine {
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) devices: Devices,
    pub(super) ending: Arc<Ending>,
    interrupts: Interrupts,
    /// Unmapped after everything that KVM or a device could reach it with.
    pub(super) ram: GuestRam,
}

/// What answers the guest, and what the shim's commands reach.
#[derive(Debug)]
pub(super) struct Devices {
    pub ports: Arc<Bus>,
    pub mmio: Arc<Bus>,
    pub acpi_pm: Arc<AcpiPm>,
    pub pci: Arc<PciRoot>,
    pub console: Port,
}

impl Machine {
    /// Builds the machine that `plan` describes. Its console is `hub`; devices without a thread of their own are served on
    /// `events`.
    pub fn build(plan: &MachinePlan, hub: &Arc<Hub>, events: &event_loop::Handle) -> Result<Self, BuildError> {
        let kvm = open_kvm(plan)?;
        capabilities::check(&kvm, plan.vcpus)?;
        let vm = Arc::new(kvm.create_vm().map_err(kvm_call("KVM_CREATE_VM"))?);
        let ram = guest_ram::create(plan.memory.size, plan.memory.hugepages)?;
        guest_ram::attach(&vm, &ram)?;
        create_interrupt_controllers(&vm)?;
        let interrupts = Interrupts::new(Arc::clone(&vm));
        let ending = Arc::new(Ending::default());

        let mmio64 = layout::pci_mmio64_start(plan.memory.size);
        let rsdp = acpi::write(&ram, plan.vcpus, mmio64).map_err(BuildError::Acpi)?;
        let boot =
            boot::Source { kernel: &plan.boot.kernel, initrd: plan.boot.initrd.as_ref(), cmdline: &plan.boot.cmdline };
        let entry = boot::load(boot, &ram, rsdp)?;
        let (ports, mmio) = (Arc::new(Bus::default()), Arc::new(Bus::default()));
        let context = PciContext {
            vm: Arc::clone(&vm),
            interrupts: interrupts.clone(),
            mmio: Arc::clone(&mmio),
            events: events.clone(),
            ram: ram.clone(),
            mmio32: layout::PCI_MMIO32_START..layout::PCI_MMIO32_START + layout::PCI_MMIO32_SIZE,
            mmio64: mmio64..mmio64 + layout::PCI_MMIO64_SIZE,
        };
        let pci = PciRoot::new(context);
        let console = plug_devices(plan, hub, &pci)?;
        mmio.insert(layout::ECAM_START, layout::ECAM_SIZE, pci.ecam())?;
        let reset = pci.config_ports(Arc::new(ResetControl::new(Arc::clone(&ending))));
        ports.insert(port::PCI_CONFIG.into(), 8, reset)?;
        let acpi_pm = wire_board(plan, hub, &ports, &interrupts, &ending)?;
        let devices = Devices { ports, mmio, acpi_pm, pci, console };
        let vcpus = build_vcpus(plan, &kvm, &vm, &devices, &ending)?;
        let at = |source| BuildError::State { index: 0, source };
        state::set_entry(&vcpus[0].fd, entry, &ram).map_err(at)?;
        Ok(Self { vcpus, devices, ending, interrupts, ram })
    }

    /// Its ports, for more devices.
    pub fn ports(&self) -> &Arc<Bus> {
        &self.devices.ports
    }

    /// Its memory-mapped I/O, for more devices.
    pub fn mmio(&self) -> &Arc<Bus> {
        &self.devices.mmio
    }

    /// Its interrupt routes.
    pub fn interrupts(&self) -> &Interrupts {
        &self.interrupts
    }

    /// Its RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }
}

fn kvm_call(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> BuildError {
    move |source| BuildError::Kvm { call, source }
}

fn open_kvm(plan: &MachinePlan) -> Result<Kvm, BuildError> {
    let file = plan.kvm.try_clone().map_err(|source| BuildError::Host { what: "dup of /dev/kvm", source })?;
    // SAFETY: the descriptor is ours alone from here on, and the plan has checked that it is /dev/kvm.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(file.into_raw_fd()) })
}

/// Both 8259s, the I/O APIC, local APICs for the vCPUs to come, and the 8254 with its port 0x61.
fn create_interrupt_controllers(vm: &VmFd) -> Result<(), BuildError> {
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP).map_err(kvm_call("KVM_SET_IDENTITY_MAP_ADDR"))?;
    let tss = usize::try_from(layout::KVM_TSS).unwrap_or(usize::MAX);
    vm.set_tss_address(tss).map_err(kvm_call("KVM_SET_TSS_ADDR"))?;
    vm.create_irq_chip().map_err(kvm_call("KVM_CREATE_IRQCHIP"))?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(kvm_call("KVM_CREATE_PIT2"))
}

/// The virtio devices, each in the next PCI slot: disks, network cards, the entropy source, the console, whose port it
/// returns.
fn plug_devices(plan: &MachinePlan, hub: &Arc<Hub>, pci: &Arc<PciRoot>) -> Result<Port, BuildError> {
    for disk in &plan.disks {
        let refused = |source| BuildError::Disk { name: disk.name.clone(), source };
        let file = disk.image.try_clone().map_err(|source| BuildError::Host { what: "dup of a disk image", source })?;
        let image = RawImage::new(file, disk.readonly).map_err(refused)?;
        pci.add_virtio(Box::new(Block::new(disk.name.clone(), image, disk.serial)))?;
    }
    for nic in &plan.nics {
        let refused = |source| BuildError::Nic { name: nic.name.clone(), source };
        let tap = nic.tap.try_clone().map_err(|source| BuildError::Host { what: "dup of a tap", source })?;
        pci.add_virtio(Box::new(Net::new(nic.name.clone(), tap, nic.mac, nic.mtu).map_err(refused)?))?;
    }
    if plan.rng {
        pci.add_virtio(Box::new(Rng::new()))?;
    }
    let is_console = plan.console == ConsoleKind::Virtio;
    let (console, port) = Console::new(is_console.then(|| Arc::clone(hub) as Arc<dyn Backend>));
    if is_console {
        hub.bind_input(Arc::new(port.clone()));
    }
    pci.add_virtio(Box::new(console))?;
    Ok(port)
}

/// The board's own devices at their ports.
fn wire_board(
    plan: &MachinePlan,
    hub: &Arc<Hub>,
    ports: &Bus,
    interrupts: &Interrupts,
    ending: &Arc<Ending>,
) -> Result<Arc<AcpiPm>, BuildError> {
    let is_console = plan.console == ConsoleKind::Serial;
    let serial = Arc::new(Serial::new(interrupts.line(gsi::SERIAL)?, is_console.then(|| Arc::clone(hub))));
    if is_console {
        let input: Arc<dyn Input> = Arc::clone(&serial) as _;
        hub.bind_input(input);
    }
    let acpi_pm = Arc::new(AcpiPm::new(interrupts.level(gsi::SCI), Arc::clone(ending)));
    let board: [(u16, u64, Arc<dyn BusDevice>); 5] = [
        (port::SERIAL, Serial::PORTS, serial),
        (port::RTC, Rtc::PORTS, Arc::new(Rtc::default())),
        (port::I8042, I8042::PORTS, Arc::new(I8042::new(Arc::clone(ending)))),
        (port::PVPANIC, 1, Arc::new(Pvpanic::new(Arc::clone(ending)))),
        (port::ACPI_PM, AcpiPm::PORTS, Arc::clone(&acpi_pm) as _),
    ];
    for (start, size, device) in board {
        ports.insert(start.into(), size, device)?;
    }
    Ok(acpi_pm)
}

fn build_vcpus(
    plan: &MachinePlan,
    kvm: &Kvm,
    vm: &VmFd,
    devices: &Devices,
    ending: &Arc<Ending>,
) -> Result<Vec<Vcpu>, BuildError> {
    let template = cpuid::Template::new(kvm, plan.vcpus)?;
    let build = |index: u8| {
        let fd = vm.create_vcpu(index.into()).map_err(kvm_call("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(&template.for_vcpu(index)?).map_err(kvm_call("KVM_SET_CPUID2"))?;
        // After CPUID, which says what MSRs there are.
        state::set_common(&fd).map_err(|source| BuildError::State { index, source })?;
        let (ports, mmio) = (Arc::clone(&devices.ports), Arc::clone(&devices.mmio));
        Ok(Vcpu { index, fd, ports, mmio, ending: Arc::clone(ending) })
    };
    (0..plan.vcpus).map(build).collect()
}
