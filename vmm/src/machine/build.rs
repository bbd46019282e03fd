//! Assembles a machine: VM, RAM, interrupt controllers, ACPI tables, kernel, devices, vCPUs.

use std::io;
use std::ops::Range;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::thread::{self, Builder};

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::GuestMemoryError;

use super::capabilities;
use super::devices::{DeviceError, Devices};
use super::firmware::{self, FirmwareError};
use crate::boot;
use crate::bus::Bus;
use crate::config::{BootPlan, KernelPlan, MachinePlan};
use crate::console::hub::Hub;
use crate::console::line::{Channel, Line};
use crate::ending::Ending;
use crate::event_loop;
use crate::interrupts::Interrupts;
use crate::memory::layout;
use crate::memory::rom::RomSlot;
use crate::memory::{GuestRam, guest_ram};
use crate::pausing::PauseRequests;
use crate::pci::PciContext;
use crate::platform::generation_id::{self, GenerationId};
use crate::vcpu::gate::Gate;
use crate::vcpu::run::Vcpu;
use crate::vcpu::{cpuid, state};
use crate::virtio::vsock::Ask;
use crate::worker::STACK_SIZE;
use crate::{acpi, memory, smbios};

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
    /// Firmware has no place.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// A device could not be made.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// RAM too small for the ACPI tables.
    #[error("memory: too small for the ACPI tables")]
    Acpi(#[source] GuestMemoryError),
    /// No generation id.
    #[error(transparent)]
    Generation(#[from] generation_id::Error),
    /// RAM too small for the SMBIOS tables.
    #[error("memory: too small for the SMBIOS tables")]
    Smbios(#[source] GuestMemoryError),
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
    pub(super) gate: Arc<Gate>,
    pub(super) pauses: PauseRequests,
    pub(super) vm: Arc<VmFd>,
    interrupts: Interrupts,
    /// Firmware's code.
    pub(super) rom: Option<RomSlot>,
    /// Unmapped after everything that KVM or a device could reach it with.
    pub(super) ram: GuestRam,
    pub(super) generation: GenerationId,
    /// RAM that its kernel will touch at once.
    pub(super) soon: Vec<Range<u64>>,
}

impl Machine {
    /// Builds the machine that `plan` describes. Its console is `hub`; devices without a thread of their own are served on
    /// `events`.
    pub fn build(plan: &MachinePlan, hub: &Arc<Hub>, events: &event_loop::Handle) -> Result<Self, BuildError> {
        let kvm = open_kvm(plan)?;
        capabilities::check(&kvm, plan.vcpus)?;
        let template = cpuid::Template::new(&kvm, &plan.cpu)?;
        let mmio64 = layout::pci_mmio64(plan.memory.size, template.address_bits());
        let board = acpi::Board { cpus: plan.cpu.topology, ecam: layout::ECAM_START, mmio64 };
        let ram = guest_ram::create(plan.memory.size, plan.memory.hugepages)?;
        let BootPlan::Kernel(kernel) = &plan.boot else {
            return Self::assemble(plan, (&kvm, &template), ram, board, hub, events);
        };
        // KVM takes about as long to make a VM as a kernel takes to be copied: side by side.
        let (mut machine, loaded) = thread::scope(|scope| {
            let load = || load_kernel(plan, kernel, &board, &ram);
            let loader = Builder::new().name("loader".to_owned()).stack_size(STACK_SIZE).spawn_scoped(scope, load);
            let loader = loader.map_err(|source| BuildError::Host { what: "loader thread", source })?;
            let machine = Self::assemble(plan, (&kvm, &template), ram.clone(), board.clone(), hub, events);
            let kernel = loader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok::<_, BuildError>((machine?, kernel?))
        })?;
        machine.enter_at(loaded.entry)?;
        machine.soon = loaded.soon;
        Ok(machine)
    }

    /// All but what a kernel needs of RAM.
    fn assemble(
        plan: &MachinePlan,
        (kvm, template): (&Kvm, &cpuid::Template),
        ram: GuestRam,
        board: acpi::Board,
        hub: &Arc<Hub>,
        events: &event_loop::Handle,
    ) -> Result<Self, BuildError> {
        let vm = Arc::new(kvm.create_vm().map_err(kvm_call("KVM_CREATE_VM"))?);
        guest_ram::attach(&vm, &ram)?;
        let generation = GenerationId::attach(&vm)?;
        create_interrupt_controllers(&vm)?;
        let interrupts = Interrupts::new(Arc::clone(&vm));
        let (ending, gate, pauses) = (Arc::new(Ending::default()), Arc::new(Gate::default()), PauseRequests::default());
        let context = PciContext {
            vm: Arc::clone(&vm),
            interrupts: interrupts.clone(),
            mmio: Arc::new(Bus::default()),
            events: events.clone(),
            pauses: pauses.clone(),
            ram: ram.clone(),
            mmio32: layout::PCI_MMIO32_START..layout::PCI_MMIO32_START + layout::PCI_MMIO32_SIZE,
            mmio64: board.mmio64.clone(),
        };
        let devices = Devices::new(plan, hub, context, &ending)?;
        let vcpus = build_vcpus(plan, template, &vm, &devices, (&ending, &gate))?;
        let rom = match &plan.boot {
            BootPlan::Kernel(_) => None,
            BootPlan::Firmware(plan_of) => {
                capabilities::check_firmware(kvm)?;
                Some(firmware::install(plan, plan_of, board, (&vm, &ram), &devices, &ending)?)
            }
        };
        let machine =
            Self { vcpus, devices, ending, gate, pauses, vm, interrupts, rom, ram, generation, soon: Vec::new() };
        if machine.rom.is_some() {
            machine.enter_at(boot::Entry::Reset)?;
        }
        Ok(machine)
    }

    /// Where the boot vCPU starts.
    fn enter_at(&self, entry: boot::Entry) -> Result<(), BuildError> {
        state::set_entry(&self.vcpus[0].fd, entry, &self.ram).map_err(|source| BuildError::State { index: 0, source })
    }

    /// Presses the ACPI power button of a machine that doesn't run yet.
    pub fn power_button(&self) {
        self.devices.acpi_pm.power_button();
    }

    /// Plugs the cable of network card `nic` in, or pulls it; a card that isn't there has none.
    pub fn set_link(&self, nic: usize, up: bool) {
        self.devices.set_link(nic, up);
    }

    /// Puts `line` behind the guest agent's port.
    pub fn connect_agent(&self, line: &Arc<Line>) {
        let port = &self.devices.hosts.console.agent;
        port.bind(Arc::clone(line) as _);
        let channel: Arc<dyn Channel> = Arc::new(port.clone());
        line.bind(&channel);
    }

    /// Has `handler` called for each connection that the guest wants over vsock. It runs on the device's thread and must not
    /// wait for anything.
    pub fn watch_vsock(&self, handler: impl Fn(Ask) + Send + 'static) {
        if let Some(vsock) = &self.devices.hosts.vsock {
            vsock.watch(handler);
        }
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

/// A kernel, and the tables that it is told of.
fn load_kernel(
    plan: &MachinePlan,
    kernel: &KernelPlan,
    board: &acpi::Board,
    ram: &GuestRam,
) -> Result<boot::Loaded, BuildError> {
    let rsdp = acpi::write(ram, board).map_err(BuildError::Acpi)?;
    let facts =
        smbios::Facts { identity: &plan.identity, topology: plan.cpu.topology, memory: plan.memory.size, uefi: false };
    smbios::write(ram, facts).map_err(BuildError::Smbios)?;
    let source = boot::Source { kernel: &kernel.kernel, initrd: kernel.initrd.as_ref(), cmdline: &kernel.cmdline };
    Ok(boot::load(source, ram, rsdp)?)
}

fn build_vcpus(
    plan: &MachinePlan,
    template: &cpuid::Template,
    vm: &VmFd,
    devices: &Devices,
    (ending, gate): (&Arc<Ending>, &Arc<Gate>),
) -> Result<Vec<Vcpu>, BuildError> {
    let has_firmware = matches!(plan.boot, BootPlan::Firmware(_));
    let topology = plan.cpu.topology;
    let build = |index: u8| {
        let fd = vm.create_vcpu(topology.apic_id(index).into()).map_err(kvm_call("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(&template.for_vcpu(index)?).map_err(kvm_call("KVM_SET_CPUID2"))?;
        // After CPUID, which says what MSRs there are.
        let set_state = || {
            if !has_firmware {
                state::set_common(&fd)?;
            }
            template.xsave_features().map_or(Ok(()), |features| state::set_xcr0(&fd, features))
        };
        set_state().map_err(|source| BuildError::State { index, source })?;
        let (ports, mmio) = (Arc::clone(&devices.ports), Arc::clone(&devices.mmio));
        let host_cpu = plan.cpu.pins.get(usize::from(index)).copied();
        Ok(Vcpu { index, host_cpu, fd, ports, mmio, ending: Arc::clone(ending), pass: gate.admit() })
    };
    (0..plan.vcpus).map(build).collect()
}
