//! Drives a device as a driver does: configuration space, registers, queues, interrupts; on a real VM without vCPUs.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use kvm_ioctls::{Kvm, VmFd};
use proptest::prelude::*;

use super::capability::layout;
use super::status::bit;
use crate::bus::{Bus, BusDevice};
use crate::interrupts::Interrupts;
use crate::memory::GuestRam;
use crate::memory::layout::{ECAM_START, PCI_FIRST_BAR, PCI_MMIO32_SIZE, PCI_MMIO32_START};
use crate::pausing::PauseRequests;
use crate::pci::host_bridge::HostBridge;
use crate::pci::{PciContext, PciRoot};
use crate::virtio::device::{ActivateError, Activation, DeviceId, Notify, VirtioDevice};
use crate::virtio::testing::{DriverQueue, EventThread, Part, ram, wait};
use crate::virtio::virtqueue::Virtqueue;

const FEATURE: u64 = 1 << 3;
const ALL: u64 = FEATURE | 1 << 28 | 1 << 29 | 1 << 32;
const BAR: u64 = PCI_FIRST_BAR;
const QUEUE_SIZE: u16 = 16;

/// A device that answers every chain at once, and tells the test what is done to it.
#[derive(Debug)]
struct Echo {
    log: Arc<Log>,
    fail: bool,
    live: Option<crate::virtio::served::Served<(GuestRam, Virtqueue)>>,
}

#[derive(Debug, Default)]
struct Log {
    activations: AtomicU32,
    resets: AtomicU32,
    features: Mutex<u64>,
    notify: Mutex<Option<Arc<dyn Notify>>>,
    thread: Mutex<Option<std::thread::ThreadId>>,
}

impl VirtioDevice for Echo {
    fn id(&self) -> DeviceId {
        DeviceId::Rng
    }
    fn features(&self) -> u64 {
        FEATURE
    }
    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, 8]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(u8::try_from(offset).unwrap_or(0xEE));
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.log.activations.fetch_add(1, Ordering::SeqCst);
        *self.log.features.lock().unwrap() = activation.features;
        *self.log.notify.lock().unwrap() = Some(Arc::clone(&activation.notify));
        *self.log.thread.lock().unwrap() = Some(std::thread::current().id());
        if self.fail {
            return Err(ActivateError::MissingQueue(0));
        }
        let Activation { ram, mut queues, notify, events, .. } = activation;
        let queue = Virtqueue::new(queues.remove(0), notify);
        let kick = queue.kick().try_clone().unwrap();
        let serve = |(ram, queue): &mut (GuestRam, Virtqueue), _| {
            queue.drain(ram, |_| Ok(7)).unwrap();
        };
        self.live = Some(crate::virtio::served::Served::new(&events, (ram, queue), &[&kick], serve).unwrap());
        Ok(())
    }
    fn reset(&mut self) {
        self.log.resets.fetch_add(1, Ordering::SeqCst);
        self.live = None;
    }
    fn pause(&mut self) {
        self.live.iter().for_each(|live| live.set_paused(true));
    }
    fn resume(&mut self) {
        self.live.iter().for_each(|live| live.set_paused(false));
    }
}

struct Rig {
    log: Arc<Log>,
    mmio: Arc<Bus>,
    root: Arc<PciRoot>,
    vm: Arc<VmFd>,
    ram: GuestRam,
    events: EventThread,
}

impl Rig {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(fail: bool) -> Self {
        let vm = Arc::new(Kvm::new().expect("/dev/kvm is needed").create_vm().unwrap());
        vm.create_irq_chip().unwrap();
        let events = EventThread::start();
        let (mmio, ram) = (Arc::new(Bus::default()), ram());
        let context = PciContext {
            vm: Arc::clone(&vm),
            interrupts: Interrupts::new(Arc::clone(&vm)),
            mmio: Arc::clone(&mmio),
            events: events.handle.clone(),
            pauses: PauseRequests::default(),
            ram: Arc::clone(&ram),
            mmio32: PCI_MMIO32_START..PCI_MMIO32_START + PCI_MMIO32_SIZE,
            mmio64: 1 << 32..1 << 33,
        };
        let root = PciRoot::new(context, HostBridge::generic());
        let log = Arc::new(Log::default());
        root.add_virtio(Box::new(Echo { log: Arc::clone(&log), fail, live: None })).unwrap();
        Self { log, mmio, root, vm, ram, events }
    }

    /// With memory decoding on.
    fn decoded() -> Self {
        let rig = Self::new();
        rig.config_write(4, &6_u16.to_le_bytes());
        rig
    }

    fn config(&self, offset: u64) -> u32 {
        let mut data = [0xFF; 4];
        self.mmio.read(ECAM_START + (1 << 15 | offset), &mut data);
        u32::from_le_bytes(data)
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        self.mmio.write(ECAM_START + (1 << 15 | offset), data);
    }

    fn read(&self, offset: u64, len: usize) -> u64 {
        let mut data = [0; 8];
        self.mmio.read(BAR + offset, &mut data[..len]);
        u64::from_le_bytes(data)
    }

    fn write(&self, offset: u64, len: usize, value: u64) {
        self.mmio.write(BAR + offset, &value.to_le_bytes()[..len]);
    }

    fn status(&self) -> u8 {
        u8::try_from(self.read(20, 1)).unwrap()
    }

    fn set_status(&self, status: u8) {
        self.write(20, 1, status.into());
    }

    fn negotiate(&self, features: u64) {
        self.set_status(1);
        self.set_status(3);
        for half in 0..2 {
            self.write(8, 4, half);
            self.write(12, 4, features >> (32 * half) & 0xFFFF_FFFF);
        }
        self.set_status(11);
    }

    fn set_up(&self, index: u16, queue: &DriverQueue) {
        self.write(22, 2, index.into());
        self.write(24, 2, queue.size.into());
        self.write(32, 4, queue.desc());
        self.write(36, 4, 0);
        self.write(40, 8, queue.avail());
        self.write(48, 8, queue.used());
        self.write(28, 2, 1);
    }

    fn start(&self) -> DriverQueue {
        let queue = DriverQueue::new(&self.ram, 0x1000, QUEUE_SIZE);
        self.negotiate(ALL & !(1 << 29));
        self.set_up(0, &queue);
        assert_eq!(self.read(28, 2), 1);
        self.set_status(15);
        queue
    }

    /// Offset of the `nth` capability of this id, and vendor type.
    fn capability(&self, id: u32, kind: Option<u32>) -> u64 {
        let mut at = self.config(0x34) & 0xFF;
        while at != 0 {
            let word = self.config(at.into());
            if word & 0xFF == id && kind.is_none_or(|k| word >> 24 == k) {
                return at.into();
            }
            at = word >> 8 & 0xFF;
        }
        panic!("no capability {id:#x} {kind:?}");
    }
}

#[test]
fn the_driver_finds_its_way() {
    let rig = Rig::decoded();
    assert_eq!(rig.config(0), 0x1044_1AF4);
    for (kind, offset) in [(1, layout::COMMON), (2, layout::NOTIFY), (3, layout::ISR), (4, layout::DEVICE)] {
        let at = rig.capability(9, Some(kind));
        assert_eq!(u64::from(rig.config(at + 8)), offset, "type {kind}");
        assert_eq!(rig.config(at + 4) & 0xFF, 0, "BAR 0");
    }
    assert_eq!(rig.config(rig.capability(9, Some(2)) + 16), 4);
    let msix = rig.capability(0x11, None);
    assert_eq!(rig.config(msix) >> 16, 2, "a vector for each queue and one for the configuration");
    assert_eq!(rig.read(18, 2), 2);
    assert_eq!(rig.read(layout::DEVICE + 5, 1), 5);
}

#[test]
fn other_slots_and_functions_are_empty() {
    let rig = Rig::new();
    let mut data = [0xFF; 4];
    rig.mmio.read(ECAM_START + (2 << 15), &mut data);
    assert_eq!(data, [0xFF; 4]);
    rig.mmio.read(ECAM_START + (1 << 15 | 1 << 12), &mut data);
    assert_eq!(data, [0xFF; 4]);
    rig.mmio.read(ECAM_START, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x0008_1B36, "the host bridge");
    assert_eq!(rig.config(0x100), 0, "no extended capabilities");
}

#[test]
fn the_ports_reach_the_same_registers() {
    struct Reset(AtomicU32);
    impl BusDevice for Reset {
        fn read(&self, _: u64, data: &mut [u8]) {
            data[0] = 0x55;
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.store(u32::try_from(offset).unwrap() << 8 | u32::from(data[0]), Ordering::SeqCst);
        }
    }
    let rig = Rig::new();
    let reset = Arc::new(Reset(AtomicU32::new(0)));
    let ports = rig.root.config_ports(Arc::clone(&reset) as Arc<dyn BusDevice>);
    let mut data = [0xFF; 4];
    ports.read(4, &mut data);
    assert_eq!(data, [0xFF; 4], "not enabled");
    ports.write(0, &0x8000_0800_u32.to_le_bytes());
    ports.read(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x8000_0800);
    ports.read(4, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x1044_1AF4);
    ports.read(6, &mut data[..2]);
    assert_eq!(data[..2], [0x44, 0x10]);
    ports.write(1, &[6]);
    assert_eq!(reset.0.load(Ordering::SeqCst), 6);
    ports.read(1, &mut data[..1]);
    assert_eq!(data[0], 0x55);
    ports.write(0, &0x8001_0800_u32.to_le_bytes());
    let mut data = [0xFF; 4];
    ports.read(4, &mut data);
    assert_eq!(data, [0xFF; 4], "bus 1 isn't there");
}

#[test]
fn the_bar_follows_the_guest() {
    let rig = Rig::new();
    assert_eq!(rig.read(18, 2), 0xFFFF, "decoding is off");
    rig.config_write(4, &2_u16.to_le_bytes());
    assert_eq!(rig.read(18, 2), 2);
    rig.config_write(0x10, &(0xC800_0000_u32).to_le_bytes());
    assert_eq!(rig.read(18, 2), 0xFFFF);
    let mut data = [0; 2];
    rig.mmio.read(0xC800_0000 + 18, &mut data);
    assert_eq!(data, [2, 0]);
    rig.config_write(0x10, &0_u32.to_le_bytes());
    rig.config_write(0x14, &1_u32.to_le_bytes());
    rig.mmio.read((1 << 32) + 18, &mut data);
    assert_eq!(data, [2, 0], "the 64-bit window");
    rig.config_write(0x14, &0_u32.to_le_bytes());
    rig.mmio.read(18, &mut data);
    assert_eq!(data, [0xFF; 2], "never outside of the windows");
}

#[test]
fn features_are_negotiated() {
    let rig = Rig::decoded();
    rig.write(0, 4, 0);
    let low = rig.read(4, 4);
    rig.write(0, 4, 1);
    assert_eq!(low | rig.read(4, 4) << 32, ALL);
    rig.write(0, 4, 2);
    assert_eq!(rig.read(4, 4), 0);
    for bad in [FEATURE, ALL | 1, ALL | 1 << 63] {
        rig.negotiate(bad);
        assert_eq!(rig.status(), 3, "{bad:#x}");
        rig.set_status(0);
    }
    rig.negotiate(1 << 32);
    assert_eq!(rig.status(), 11);
    rig.write(8, 4, 0);
    rig.write(12, 4, FEATURE);
    rig.write(8, 4, 0);
    assert_eq!(rig.read(12, 4), 0, "fixed once they are agreed on");
}

#[test]
fn a_paused_device_does_nothing_and_loses_nothing() {
    let rig = Rig::decoded();
    let mut queue = rig.start();
    wait(|| rig.log.activations.load(Ordering::SeqCst) == 1);
    rig.events.settle();
    for _ in 0..2 {
        rig.root.pause();
        queue.add(&[Part::In(0x8_0000, 16)]);
        rig.write(layout::NOTIFY, 2, 0);
        rig.events.settle();
        rig.events.settle();
        assert_eq!(queue.take_used(), None);
        rig.root.resume();
        assert_eq!(queue.wait_used().1, 7);
    }
    // It can be reset in a pause.
    rig.root.pause();
    rig.set_status(0);
    wait(|| rig.status() == 0);
    rig.root.resume();
}

#[test]
fn a_device_started_just_before_a_pause_starts_after_it() {
    let rig = Rig::decoded();
    rig.root.pause();
    let mut queue = rig.start();
    rig.events.settle();
    assert_eq!(rig.log.activations.load(Ordering::SeqCst), 0);
    queue.add(&[Part::In(0x8_0000, 16)]);
    rig.write(layout::NOTIFY, 2, 0);
    rig.root.resume();
    assert_eq!(queue.wait_used(), (0, 7));
    assert_eq!(rig.log.activations.load(Ordering::SeqCst), 1);
}

#[test]
fn a_device_starts_on_the_event_thread_works_and_resets() {
    let rig = Rig::decoded();
    let mut queue = rig.start();
    wait(|| rig.log.activations.load(Ordering::SeqCst) == 1);
    rig.events.settle();
    assert_ne!(*rig.log.thread.lock().unwrap(), Some(std::thread::current().id()));
    assert_eq!(*rig.log.features.lock().unwrap(), ALL & !(1 << 29));
    queue.add(&[Part::In(0x8_0000, 16)]);
    rig.write(layout::NOTIFY, 2, 0);
    assert_eq!(queue.wait_used(), (0, 7));
    wait(|| rig.read(layout::ISR, 1) == 1);
    assert_eq!(rig.read(layout::ISR, 1), 0, "reading clears it");
    rig.set_status(0);
    wait(|| rig.status() == 0);
    assert_eq!(rig.log.resets.load(Ordering::SeqCst), 1);
    assert_eq!(rig.read(28, 2), 0, "queues are disabled");
    queue.add(&[Part::In(0x8_0000, 16)]);
    rig.write(layout::NOTIFY, 2, 0);
    rig.events.settle();
    assert_eq!(queue.take_used(), None);
    let mut queue = rig.start();
    queue.add(&[Part::In(0x8_0000, 16)]);
    rig.write(layout::NOTIFY, 2, 0);
    queue.wait_used();
    assert_eq!(rig.log.activations.load(Ordering::SeqCst), 2);
}

#[test]
fn a_queue_is_fixed_once_enabled_and_checked_before() {
    let rig = Rig::decoded();
    let queue = DriverQueue::new(&rig.ram, 0x1000, QUEUE_SIZE);
    rig.set_up(0, &queue);
    assert_eq!(rig.read(28, 2), 0, "not before FEATURES_OK");
    rig.negotiate(ALL);
    rig.write(22, 2, 0);
    for size in [0, 3, 32] {
        rig.write(24, 2, size);
        assert_eq!(rig.read(24, 2), u64::from(QUEUE_SIZE), "{size}");
    }
    rig.set_up(0, &queue);
    rig.write(32, 8, 0x5000);
    rig.write(28, 2, 0);
    assert_eq!((rig.read(32, 8), rig.read(28, 2)), (queue.desc(), 1));
    rig.write(22, 2, 9);
    assert_eq!((rig.read(24, 2), rig.read(26, 2)), (0, 0xFFFF), "a queue that isn't there");
}

#[test]
fn rings_outside_of_ram_need_a_reset() {
    for (register, value) in [(32, 1 << 40), (40, 0xF_FFF0), (48, !3), (32, 0x1008), (40, 0x3001)] {
        let rig = Rig::decoded();
        let queue = DriverQueue::new(&rig.ram, 0x1000, QUEUE_SIZE);
        rig.negotiate(ALL);
        rig.write(22, 2, 0);
        rig.write(32, 8, queue.desc());
        rig.write(40, 8, queue.avail());
        rig.write(48, 8, queue.used());
        rig.write(register, 8, value);
        rig.write(28, 2, 1);
        assert_eq!(rig.read(28, 2), 0, "{register} {value:#x}");
        assert_ne!(rig.status() & bit::NEEDS_RESET, 0, "{register} {value:#x}");
        rig.set_status(0);
        assert_eq!(rig.status(), 0);
    }
}

#[test]
fn a_device_that_cannot_start_says_so() {
    let rig = Rig::with(true);
    rig.config_write(4, &2_u16.to_le_bytes());
    rig.start();
    wait(|| rig.status() & bit::NEEDS_RESET != 0);
    rig.set_status(0);
    wait(|| rig.status() == 0);
}

#[test]
fn stopping_the_machine_outruns_a_start() {
    let rig = Rig::decoded();
    let (tx, rx) = std::sync::mpsc::channel::<()>();
    rig.events.handle.run(move |_| rx.recv().unwrap());
    rig.start();
    rig.root.reset();
    tx.send(()).unwrap();
    rig.events.settle();
    assert_eq!(rig.log.activations.load(Ordering::SeqCst), 0);
    assert_eq!(rig.read(18, 2), 0xFFFF, "nothing is decoded any more");
}

#[test]
fn a_configuration_change_bumps_the_generation() {
    let rig = Rig::decoded();
    rig.start();
    rig.events.settle();
    let before = rig.read(21, 1);
    rig.log.notify.lock().unwrap().as_ref().unwrap().config();
    assert_ne!(rig.read(21, 1), before);
    assert_eq!(rig.read(layout::ISR, 1), 2);
}

/// Whether the local APIC of vCPU 0 has this vector requested (Intel SDM vol. 3, figure 11-20: IRR at 0x200).
fn requested(vcpu: &kvm_ioctls::VcpuFd, vector: u8) -> bool {
    let lapic = vcpu.get_lapic().unwrap();
    let byte = 0x200 + usize::from(vector / 32) * 16 + usize::from(vector % 32 / 8);
    lapic.regs[byte].cast_unsigned() & 1 << (vector % 8) != 0
}

#[test]
fn msix_reaches_the_local_apic() {
    let rig = Rig::decoded();
    let vcpu = rig.vm.create_vcpu(0).unwrap();
    // The guest would have enabled its local APIC (spurious vector register, bit 8).
    let mut lapic = vcpu.get_lapic().unwrap();
    lapic.regs[0xF1] = 1;
    vcpu.set_lapic(&lapic).unwrap();
    let msix = rig.capability(0x11, None);
    let table = layout::MSIX_TABLE;
    for (entry, vector) in [(0, 0x41), (1, 0x42)] {
        rig.write(table + 16 * entry, 4, 0xFEE0_0000);
        rig.write(table + 16 * entry + 4, 4, 0);
        rig.write(table + 16 * entry + 8, 4, vector);
        rig.write(table + 16 * entry + 12, 4, 0);
    }
    rig.config_write(msix + 2, &0x8000_u16.to_le_bytes());
    rig.negotiate(ALL);
    rig.write(16, 2, 0);
    rig.write(22, 2, 0);
    rig.write(26, 2, 1);
    assert_eq!((rig.read(16, 2), rig.read(26, 2)), (0, 1));
    rig.write(26, 2, 3);
    assert_eq!(rig.read(26, 2), 0xFFFF, "there is no such vector");
    rig.write(26, 2, 1);
    let mut queue = DriverQueue::new(&rig.ram, 0x1000, QUEUE_SIZE);
    rig.set_up(0, &queue);
    rig.set_status(15);
    queue.add(&[Part::In(0x8_0000, 16)]);
    rig.write(layout::NOTIFY, 2, 0);
    wait(|| requested(&vcpu, 0x42));
    assert!(!requested(&vcpu, 0x41));
    // Masked, it stays pending; unmasked, it comes.
    rig.write(table + 12, 4, 1);
    rig.log.notify.lock().unwrap().as_ref().unwrap().config();
    assert_eq!(rig.read(layout::MSIX_PENDING, 8), 1);
    assert!(!requested(&vcpu, 0x41));
    rig.write(table + 12, 4, 0);
    wait(|| requested(&vcpu, 0x41));
    assert_eq!(rig.read(layout::MSIX_PENDING, 8), 0);
    assert_eq!(rig.read(layout::ISR, 1), 0, "MSI-X leaves the status alone");
}

#[test]
fn the_window_in_configuration_space_reaches_the_bar() {
    let rig = Rig::new();
    let at = rig.capability(9, Some(5));
    let window = |offset: u32, len: u32| {
        rig.config_write(at + 4, &[0]);
        rig.config_write(at + 8, &offset.to_le_bytes());
        rig.config_write(at + 12, &len.to_le_bytes());
    };
    window(18, 2);
    assert_eq!(rig.config(at + 16) & 0xFFFF, 2);
    window(20, 1);
    rig.config_write(at + 16, &[1]);
    assert_eq!(rig.config(at + 16) & 0xFF, 1, "works with decoding off");
    for (offset, len) in [(0x8000, 4), (0x7FFE, 4), (u32::MAX, 1), (0, 3), (1, 4), (0, 0), (0, u32::MAX)] {
        window(offset, len);
        rig.config_write(at + 16, &[0; 4]);
        rig.config(at + 16);
    }
    window(20, 1);
    assert_eq!(rig.config(at + 16) & 0xFF, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any accesses, in any order, leave a device that can be reset and then works.
    #[test]
    fn any_accesses_leave_a_working_device(
        accesses in prop::collection::vec((any::<bool>(), any::<bool>(), 0..0x8000_u64, 0..4_u32, prop_oneof![0..20_u64, any::<u64>()]), 0..200)
    ) {
        let rig = Rig::decoded();
        for (config, write, offset, width, value) in accesses {
            let (len, offset) = (1 << width, if config { offset % 256 } else if value % 2 == 0 { offset % 64 } else { offset });
            let offset = offset & !(len as u64 - 1);
            match (config, write) {
                (true, true) if len <= 4 => rig.config_write(offset, &value.to_le_bytes()[..len]),
                (true, _) => { rig.config(offset); }
                (false, true) => rig.write(offset, len, value),
                (false, false) => { rig.read(offset, len); }
            }
        }
        rig.config_write(4, &2_u16.to_le_bytes());
        rig.config_write(0x10, &(u32::try_from(BAR).unwrap()).to_le_bytes());
        rig.config_write(0x14, &[0; 4]);
        rig.set_status(0);
        wait(|| rig.status() == 0);
        let mut queue = rig.start();
        queue.add(&[Part::In(0x8_0000, 16)]);
        rig.write(layout::NOTIFY, 2, 0);
        prop_assert_eq!(queue.wait_used(), (0, 7));
    }
}
