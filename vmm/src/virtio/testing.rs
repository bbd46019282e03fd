//! The driver's side of a virtqueue, for tests: builds rings in guest memory and looks at what the device made of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, ActiveQueue, Notify};
use crate::event_loop;
use crate::memory::GuestRam;
use crate::pausing::PauseRequests;

/// RAM of test machines, bytes.
pub const RAM_SIZE: u64 = 1 << 20;
/// Where data buffers may go; rings lie below.
pub const DATA: u64 = 0x4_0000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// RAM without a VM.
pub fn ram() -> GuestRam {
    Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(RAM_SIZE).unwrap())]).unwrap())
}

/// One part of a request.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// The device reads `.1` bytes at `.0`.
    Out(u64, u32),
    /// The device writes `.1` bytes at `.0`.
    In(u64, u32),
}

/// The driver's side of a queue.
#[derive(Debug)]
pub struct DriverQueue {
    pub ram: GuestRam,
    pub size: u16,
    base: u64,
    next_desc: u16,
    available: u16,
    seen: u16,
    pub kick: EventFd,
    event_idx: bool,
}

impl DriverQueue {
    /// Empty rings at `base`, which take 16 KiB at most.
    pub fn new(ram: &GuestRam, base: u64, size: u16) -> Self {
        let kick = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        ram.write_slice(&[0; 0x4000], GuestAddress(base)).unwrap();
        Self { ram: Arc::clone(ram), size, base, next_desc: 0, available: 0, seen: 0, kick, event_idx: false }
    }

    pub fn with_event_idx(mut self) -> Self {
        self.event_idx = true;
        self
    }

    pub fn desc(&self) -> u64 {
        self.base
    }
    pub fn avail(&self) -> u64 {
        self.base + 0x2000
    }
    pub fn used(&self) -> u64 {
        self.base + 0x3000
    }

    /// The device's side of it.
    pub fn active(&self, index: u16) -> ActiveQueue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.try_set_desc_table_address(GuestAddress(self.desc())).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(self.avail())).unwrap();
        queue.try_set_used_ring_address(GuestAddress(self.used())).unwrap();
        queue.set_event_idx(self.event_idx);
        queue.set_ready(true);
        assert!(queue.is_valid(&*self.ram));
        ActiveQueue { index, queue, kick: self.kick.try_clone().unwrap() }
    }

    /// Writes descriptor `index`.
    pub fn describe(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        write_descriptor(&self.ram, self.desc() + 16 * u64::from(index), addr, len, flags, next);
    }

    /// Makes a request available, without a kick. Returns its head.
    pub fn add(&mut self, parts: &[Part]) -> u16 {
        let head = self.next_desc;
        for (i, part) in parts.iter().enumerate() {
            let last = i + 1 == parts.len();
            let index = self.next_desc;
            self.next_desc = (self.next_desc + 1) % self.size;
            let (addr, len, flags) = flags(*part, last);
            self.describe(index, addr, len, flags, self.next_desc);
        }
        self.offer(head);
        head
    }

    /// The same through an indirect table at `table`.
    pub fn add_indirect(&mut self, table: u64, parts: &[Part]) -> u16 {
        for (i, part) in (0_u16..).zip(parts) {
            let (addr, len, flags) = flags(*part, usize::from(i) + 1 == parts.len());
            write_descriptor(&self.ram, table + 16 * u64::from(i), addr, len, flags, i + 1);
        }
        let head = self.next_desc;
        self.next_desc = (self.next_desc + 1) % self.size;
        self.describe(head, table, u32::try_from(16 * parts.len()).unwrap(), INDIRECT, 0);
        self.offer(head);
        head
    }

    /// Makes descriptor `head` available.
    pub fn offer(&mut self, head: u16) {
        let slot = self.avail() + 4 + 2 * u64::from(self.available % self.size);
        self.ram.write_obj(head, GuestAddress(slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    /// Writes the available index.
    pub fn set_available(&self, index: u16) {
        self.ram.store(index, GuestAddress(self.avail() + 2), Ordering::Release).unwrap();
    }

    /// Writes the available ring's flags.
    pub fn set_avail_flags(&self, flags: u16) {
        self.ram.store(flags, GuestAddress(self.avail()), Ordering::Release).unwrap();
    }

    /// Writes `used_event`: interrupt after this used entry.
    pub fn set_used_event(&self, event: u16) {
        let at = self.avail() + 4 + 2 * u64::from(self.size);
        self.ram.store(event, GuestAddress(at), Ordering::Release).unwrap();
    }

    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// The next used entry: head and length.
    pub fn take_used(&mut self) -> Option<(u32, u32)> {
        let index: u16 = self.ram.load(GuestAddress(self.used() + 2), Ordering::Acquire).unwrap();
        if index == self.seen {
            return None;
        }
        let entry = self.used() + 4 + 8 * u64::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        Some((self.ram.read_obj(GuestAddress(entry)).unwrap(), self.ram.read_obj(GuestAddress(entry + 4)).unwrap()))
    }

    /// Waits for the next used entry.
    pub fn wait_used(&mut self) -> (u32, u32) {
        let mut entry = None;
        wait(|| {
            entry = self.take_used();
            entry.is_some()
        });
        entry.unwrap()
    }

    pub fn write(&self, addr: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(addr)).unwrap();
    }

    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }
}

fn flags(part: Part, last: bool) -> (u64, u32, u16) {
    let next = if last { 0 } else { NEXT };
    match part {
        Part::Out(addr, len) => (addr, len, next),
        Part::In(addr, len) => (addr, len, next | WRITE),
    }
}

fn write_descriptor(ram: &GuestRam, at: u64, addr: u64, len: u32, flags: u16, next: u16) {
    ram.write_obj(addr, GuestAddress(at)).unwrap();
    ram.write_obj(len, GuestAddress(at + 8)).unwrap();
    ram.write_obj(flags, GuestAddress(at + 12)).unwrap();
    ram.write_obj(next, GuestAddress(at + 14)).unwrap();
}

/// Yields until `done`, for at most ten seconds.
pub fn wait(mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "nothing happened for ten seconds");
        std::thread::yield_now();
    }
}

/// Counts what a device tells its driver.
#[derive(Debug, Default)]
pub struct Told {
    pub queues: AtomicU32,
    pub configs: AtomicU32,
    pub failed: AtomicBool,
}

impl Notify for Told {
    fn queue(&self, _index: u16) {
        self.queues.fetch_add(1, Ordering::SeqCst);
    }
    fn config(&self) {
        self.configs.fetch_add(1, Ordering::SeqCst);
    }
    fn failed(&self) {
        self.failed.store(true, Ordering::SeqCst);
    }
}

impl Told {
    pub fn interrupts(&self) -> u32 {
        self.queues.load(Ordering::SeqCst)
    }
    pub fn is_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }
}

/// An event thread that ends with the test.
#[derive(Debug)]
pub struct EventThread {
    pub handle: event_loop::Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl EventThread {
    pub fn start() -> Self {
        let mut events = event_loop::EventLoop::new().unwrap();
        let handle = events.handle();
        Self { handle, thread: Some(std::thread::spawn(move || events.run().unwrap())) }
    }

    /// Waits for all that was asked of it so far.
    pub fn settle(&self) {
        let (tx, rx) = std::sync::mpsc::channel();
        self.handle.run(move |_| tx.send(()).unwrap());
        rx.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}

impl Drop for EventThread {
    fn drop(&mut self) {
        self.handle.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Activation with the given queues and features.
pub fn activation(queues: &[&DriverQueue], features: u64, told: &Arc<Told>, events: &event_loop::Handle) -> Activation {
    Activation {
        pauses: PauseRequests::default(),
        ram: Arc::clone(&queues[0].ram),
        features,
        queues: (0..).zip(queues).map(|(index, queue)| queue.active(index)).collect(),
        notify: Arc::clone(told) as Arc<dyn Notify>,
        events: events.clone(),
    }
}
