//! A virtio device as a PCI function: configuration space, the BAR, and starting and stopping the device.
//!
//! vCPU threads change registers under one lock. A device that is to start or stop is handed to the machine's event
//! thread, which alone touches it then (under the device's own lock): a vCPU never waits for a thread to end.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::capability::{self, MAX_QUEUES, NOTIFY_MULTIPLIER, layout, window};
use super::common_config::{self, CommonConfig};
use super::signals::Signals;
use super::status::{Phase, Step};
use crate::bus::BusDevice;
use crate::pci::config_space::{ConfigSpace, Identity, touches};
use crate::pci::msix::{self, Msix};
use crate::pci::root::Host;
use crate::pci::{Error, PciFunction};
use crate::virtio::device::{ActivateError, Activation, ActiveQueue, DeviceId, Notify, VirtioDevice};

/// PCI vendor of all virtio devices (virtio 1.3 §4.1.2).
const VENDOR: u16 = 0x1AF4;
/// PCI device id of a modern device, less its virtio id.
const MODERN: u16 = 0x1040;
/// A subsystem id above 0x40, by which drivers know that the device isn't a transitional one.
const SUBSYSTEM: u16 = 0x1100;

/// The largest queue that virtio knows (virtio 1.3 §2.7).
const MAX_QUEUE_SIZE: u16 = 32768;

/// See the module.
pub struct VirtioPci {
    this: Weak<Self>,
    host: Arc<Host>,
    signals: Arc<Signals>,
    /// Written by KVM when the driver notifies a queue.
    kicks: Vec<EventFd>,
    /// Where the MSI-X capability and the window of VIRTIO_PCI_CAP_PCI_CFG are in configuration space.
    msix_capability: u8,
    window: u8,
    registers: Mutex<Registers>,
    device: Mutex<Box<dyn VirtioDevice>>,
}

struct Registers {
    config: ConfigSpace,
    common: CommonConfig,
    /// Where the BAR is decoded now.
    mapped: Option<u64>,
    /// The BAR's address that KVM signals kicks for, and the queues that it does so for.
    signalled: Option<(u64, Vec<u16>)>,
    running: Running,
    /// The machine is paused: nothing is activated.
    paused: bool,
}

/// What the event thread knows of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Running {
    /// Inactive.
    No,
    /// To be activated.
    Soon,
    /// Activated (or failed to be).
    Yes,
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci").field("signals", &self.signals).finish_non_exhaustive()
    }
}

impl VirtioPci {
    /// Puts `device` behind a function whose BAR is at `address`.
    pub fn new(device: Box<dyn VirtioDevice>, host: Arc<Host>, address: u64) -> Result<Arc<Self>, Error> {
        let sizes = device.queue_sizes();
        let queues = u16::try_from(sizes.len()).ok().filter(|n| *n <= MAX_QUEUES);
        let queues = queues.ok_or(Error::TooManyQueues(sizes.len()))?;
        if let Some(size) = sizes.iter().find(|s| !s.is_power_of_two() || **s > MAX_QUEUE_SIZE) {
            return Err(Error::QueueSize(*size));
        }
        let msix = Msix::new(&host.interrupts, queues + 1)?;
        let signals = Arc::new(Signals::new(msix, sizes.len()));
        let kicks = (0..queues).map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)).collect::<Result<_, _>>();
        let common = CommonConfig::new(device.features(), sizes, host.ram.clone(), Arc::clone(&signals));
        let mut config = ConfigSpace::new(identity(device.id()));
        config.add_memory_bar(layout::BAR, layout::BAR_SIZE, address);
        let (body, writable) =
            signals.msix().capability(layout::BAR, part(layout::MSIX_TABLE), part(layout::MSIX_PENDING));
        let msix_capability = config.add_capability(msix::CAPABILITY, &body, &writable);
        let window = capability::add_all(&mut config);
        let registers =
            Registers { config, common, mapped: None, signalled: None, running: Running::No, paused: false };
        let registers = Mutex::new(registers);
        let kicks = kicks.map_err(Error::EventFd)?;
        let device = Mutex::new(device);
        Ok(Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            host,
            signals,
            kicks,
            msix_capability,
            window,
            registers,
            device,
        }))
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn device(&self) -> MutexGuard<'_, Box<dyn VirtioDevice>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // === Starting and stopping ===

    fn take_step(&self, registers: &mut Registers, step: Step) {
        let Some(this) = self.this.upgrade() else { return };
        match step {
            Step::None | Step::Clear => {}
            Step::Start => {
                registers.running = Running::Soon;
                self.host.events.run(move |_| this.start());
            }
            Step::Stop => self.host.events.run(move |_| this.finish_reset()),
        }
    }

    /// On the event thread: activates the device, unless the machine was stopped meanwhile.
    fn start(&self) {
        let activation = {
            let mut registers = self.registers();
            if registers.running != Running::Soon || registers.paused {
                return;
            }
            registers.running = Running::Yes;
            self.follow_kicks(&mut registers);
            self.activation(&registers.common)
        };
        let started = activation.and_then(|activation| self.device().activate(activation));
        if let Err(error) = started {
            // What a driver leaves out is its own affair; what the host refuses is worth a line.
            if let ActivateError::Host { what, source } = &error {
                eprintln!("virtio {:?}: {what}: {source}", self.device().id());
            }
            self.signals.failed();
        }
    }

    fn activation(&self, common: &CommonConfig) -> Result<Activation, ActivateError> {
        let mut queues = Vec::new();
        for (index, queue) in common.enabled_queues() {
            let kick = self.kicks[usize::from(index)].try_clone();
            let kick = kick.map_err(|source| ActivateError::Host { what: "queue's eventfd", source })?;
            queues.push(ActiveQueue { index, queue, kick });
        }
        Ok(Activation {
            ram: self.host.ram.clone(),
            features: common.features(),
            queues,
            notify: Arc::clone(&self.signals) as Arc<dyn Notify>,
            events: self.host.events.clone(),
            pauses: self.host.pauses.clone(),
        })
    }

    /// On the event thread: ends a reset that the driver has begun.
    fn finish_reset(&self) {
        self.device().reset();
        for kick in &self.kicks {
            // Empty already, most of the time.
            let _ = kick.read();
        }
        let mut registers = self.registers();
        if registers.common.phase() == Phase::Stopping {
            registers.common.reset();
            registers.running = Running::No;
            self.follow_kicks(&mut registers);
        }
    }

    /// Tells a running device of another way to its driver, on the event thread.
    fn vectors_changed(&self, registers: &Registers) {
        if let (Running::Yes, Some(this)) = (registers.running, self.this.upgrade()) {
            self.host.events.run(move |_| {
                if this.registers().running == Running::Yes {
                    this.device().rewire();
                }
            });
        }
    }

    fn kick_all(&self) {
        for kick in &self.kicks {
            // Fails only when the counter is full, and then the queue is awake anyway.
            let _ = kick.write(1);
        }
    }

    // === Configuration space ===

    /// Decodes the BAR where the guest wants it, or nowhere.
    fn follow_bar(&self, registers: &mut Registers) {
        let wanted = registers.config.decoded_bar(layout::BAR);
        let wanted = wanted.filter(|address| self.host.in_window(*address, layout::BAR_SIZE));
        if wanted == registers.mapped {
            return;
        }
        if let Some(mmio) = self.host.mmio() {
            if let Some(address) = registers.mapped.take() {
                mmio.remove(address);
            }
            if let (Some(address), Some(this)) = (wanted, self.this.upgrade())
                && mmio.insert(address, layout::BAR_SIZE, this).is_ok()
            {
                registers.mapped = Some(address);
            }
        }
        self.follow_kicks(registers);
    }

    /// Lets KVM signal kicks while the device runs and its BAR is decoded. Not earlier: a guest that looks for its BARs' sizes
    /// has them undecoded and decoded again each time, and KVM takes a millisecond to forget an eventfd.
    ///
    /// Until then, and where KVM has no room for another eventfd, a kick reaches us as an exit and does the same.
    fn follow_kicks(&self, registers: &mut Registers) {
        let wanted = registers.mapped.filter(|_| registers.running == Running::Yes);
        if wanted == registers.signalled.as_ref().map(|(bar, _)| *bar) {
            return;
        }
        let at = |bar, index: u16| (&self.kicks[usize::from(index)], notify_address(bar, index));
        if let Some((bar, queues)) = registers.signalled.take() {
            for (kick, address) in queues.into_iter().map(|index| at(bar, index)) {
                let _ = self.host.vm.unregister_ioevent(kick, &address, NoDatamatch);
            }
        }
        if let Some(bar) = wanted {
            let queues: Vec<_> = registers.common.enabled_queues().into_iter().map(|(index, _)| index).collect();
            for (kick, address) in queues.iter().map(|index| at(bar, *index)) {
                let _ = self.host.vm.register_ioevent(kick, &address, NoDatamatch);
            }
            registers.signalled = Some((bar, queues));
        }
    }

    /// The BAR access that a configuration access to the window stands for.
    fn window_target(&self, registers: &Registers, offset: u8, len: usize) -> Option<(u64, usize)> {
        let data = window::data(self.window);
        let hit = usize::from(offset) == data.start && touches(offset, len, &data);
        let (at, wanted) = hit.then(|| window::target(&registers.config, self.window))??;
        (wanted <= len).then_some((at, wanted))
    }
}

impl PciFunction for VirtioPci {
    fn read_config(&self, offset: u8, data: &mut [u8]) {
        let target = {
            let registers = self.registers();
            registers.config.read(offset, data);
            self.window_target(&registers, offset, data.len())
        };
        if let Some((at, len)) = target {
            BusDevice::read(self, at, &mut data[..len]);
        }
    }

    fn write_config(&self, offset: u8, data: &[u8]) {
        let mut registers = self.registers();
        registers.config.write(offset, data);
        self.follow_bar(&mut registers);
        let control = registers.config.u16(usize::from(self.msix_capability) + 2);
        let was_enabled = self.signals.msix().is_enabled();
        if self.signals.msix().set_control(control).is_err() {
            self.signals.failed();
        }
        if self.signals.msix().is_enabled() != was_enabled {
            self.vectors_changed(&registers);
        }
        let target = self.window_target(&registers, offset, data.len());
        drop(registers);
        if let Some((at, len)) = target {
            BusDevice::write(self, at, &data[..len]);
        }
    }

    fn stop(&self) {
        let mut registers = self.registers();
        // A start that still waits finds that it isn't wanted.
        registers.running = Running::No;
        registers.common.reset();
        if let (Some(address), Some(mmio)) = (registers.mapped.take(), self.host.mmio()) {
            mmio.remove(address);
        }
        self.follow_kicks(&mut registers);
        drop(registers);
        self.device().reset();
    }

    fn pause(&self) {
        self.registers().paused = true;
        self.device().pause();
    }

    fn resume(&self) {
        self.device().resume();
        let running = {
            let mut registers = self.registers();
            registers.paused = false;
            registers.running
        };
        match running {
            Running::No => {}
            // Its turn came during the pause.
            Running::Soon => self.start(),
            Running::Yes => self.kick_all(),
        }
    }
}

impl BusDevice for VirtioPci {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let at = offset % layout::PART;
        match offset - at {
            layout::COMMON => self.registers().common.read(at, data),
            layout::ISR => {
                data.fill(0);
                if at == 0 {
                    data[0] = self.signals.take_isr();
                }
            }
            layout::DEVICE => self.device().read_config(at, data),
            layout::MSIX_TABLE => self.signals.msix().read_table(at, data),
            layout::MSIX_PENDING => self.signals.msix().read_pending(at, data),
            _ => data.fill(0),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let at = offset % layout::PART;
        match offset - at {
            layout::COMMON => {
                let mut registers = self.registers();
                let step = registers.common.write(at, data);
                self.take_step(&mut registers, step);
                if at == common_config::QUEUE_VECTOR {
                    self.vectors_changed(&registers);
                }
            }
            layout::DEVICE => self.device().write_config(at, data),
            layout::NOTIFY => {
                let queue = usize::try_from(at / u64::from(NOTIFY_MULTIPLIER)).unwrap_or(usize::MAX);
                if let Some(kick) = self.kicks.get(queue) {
                    let _ = kick.write(1);
                }
            }
            layout::MSIX_TABLE => {
                let written = self.signals.msix().write_table(at, data);
                // A vector that KVM can't route would leave its driver waiting.
                written.unwrap_or_else(|_| self.signals.failed());
            }
            _ => {}
        }
    }
}

fn notify_address(bar: u64, index: u16) -> IoEventAddress {
    IoEventAddress::Mmio(bar + layout::NOTIFY + u64::from(index) * u64::from(NOTIFY_MULTIPLIER))
}

/// An offset in the BAR as a capability states it.
fn part(offset: u64) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

fn identity(id: DeviceId) -> Identity {
    let class = match id {
        DeviceId::Net => 0x02_00_00,
        DeviceId::Block => 0x01_80_00,
        DeviceId::Console | DeviceId::Vsock => 0x07_80_00,
        DeviceId::Rng | DeviceId::Balloon => 0xFF_00_00,
    };
    Identity {
        vendor: VENDOR,
        device: MODERN + id as u16,
        revision: 1,
        class,
        subsystem_vendor: VENDOR,
        subsystem: SUBSYSTEM,
    }
}
