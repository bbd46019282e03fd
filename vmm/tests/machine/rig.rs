//! One machine under test: config → check → build → run, with its console and its outcome in reach.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vireo_vmm::bus::BusDevice;
use vireo_vmm::config::{
    self, BootConfig, ConsoleKind, CpuConfig, FdIndex, IdentityConfig, MachineConfig, MachinePlan, MemoryConfig,
};
use vireo_vmm::console::hub::Hub;
use vireo_vmm::ending::Outcome;
use vireo_vmm::event_loop::{self, EventLoop};
use vireo_vmm::machine::{Machine, Running};

/// No test waits longer than this.
pub const LIMIT: Duration = Duration::from_secs(20);
/// Where payloads report to: a test's own device.
pub const REPORT_PORT: u16 = 0x700;

pub fn kvm() -> File {
    OpenOptions::new().read(true).write(true).open("/dev/kvm").expect("/dev/kvm: these tests need it")
}

/// A machine with 16 MiB and the files it needs.
pub fn config(kernel: File, vcpus: u32) -> (MachineConfig, Vec<OwnedFd>) {
    let config = MachineConfig {
        name: "test".to_owned(),
        kvm: FdIndex(0),
        vcpus,
        cpu: CpuConfig::default(),
        memory: MemoryConfig { size: 16 << 20, hugepages: None },
        boot: BootConfig::Kernel { kernel: FdIndex(1), initrd: None, cmdline: "hello".to_owned() },
        disks: Vec::new(),
        nics: Vec::new(),
        rng: false,
        balloon: false,
        vsock: None,
        identity: IdentityConfig::default(),
        console: ConsoleKind::Serial,
    };
    (config, vec![kvm().into(), kernel.into()])
}

/// Keeps what payloads write to [`REPORT_PORT`] in order.
#[derive(Debug, Default)]
pub struct Reports(Mutex<Vec<u32>>);

impl BusDevice for Reports {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0x5A);
    }

    fn write(&self, _: u64, data: &[u8]) {
        let value = data.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        self.0.lock().unwrap().push(value);
    }
}

impl Reports {
    pub fn all(&self) -> Vec<u32> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for the first `count`.
    pub fn wait(&self, count: usize) -> Vec<u32> {
        wait_until(|| self.all().len() >= count);
        self.all()
    }
}

/// Waits for what another thread brings about.
pub fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited for {LIMIT:?}");
        std::thread::yield_now();
    }
}

pub struct Rig {
    pub plan: MachinePlan,
    pub hub: Arc<Hub>,
    pub events: event_loop::Handle,
    pub reports: Arc<Reports>,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    pub fn new(kernel: File, vcpus: u32) -> Self {
        Self::with(config(kernel, vcpus))
    }

    pub fn with((config, files): (MachineConfig, Vec<OwnedFd>)) -> Self {
        let plan = config::check(config, files).unwrap();
        let (events, thread) = event_thread();
        let hub = Hub::new(events.clone());
        Self { plan, hub, events, reports: Arc::default(), thread: Some(thread) }
    }

    /// Serves on a thread started now, which inherits what the caller is confined to.
    pub fn restart_events(&mut self) {
        self.events.stop();
        self.thread.take().unwrap().join().unwrap();
        let (events, thread) = event_thread();
        self.hub = Hub::new(events.clone());
        (self.events, self.thread) = (events, Some(thread));
    }

    /// A machine with the report port.
    pub fn build(&self) -> Machine {
        let machine = Machine::build(&self.plan, &self.hub, &self.events).unwrap();
        machine.ports().insert(REPORT_PORT.into(), 4, Arc::clone(&self.reports) as _).unwrap();
        machine
    }

    pub fn run(&self, machine: Machine) -> Run {
        assert!(!self.events_ended(), "devices need the event thread");
        let (tx, outcome) = channel();
        let running = machine.run(|_| {}, move |outcome| tx.send(outcome).unwrap(), |_| {}).unwrap();
        Run { running: Some(running), outcome }
    }

    fn events_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Builds, runs, and waits for the end.
    pub fn outcome(&self) -> Outcome {
        self.run(self.build()).outcome()
    }

    pub fn console(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        self.hub.attach(theirs);
        ours
    }
}

fn event_thread() -> (event_loop::Handle, JoinHandle<()>) {
    let mut events = EventLoop::new().unwrap();
    let handle = events.handle();
    (handle, std::thread::spawn(move || events.run().unwrap()))
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.events.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub struct Run {
    running: Option<Running>,
    outcome: Receiver<Outcome>,
}

impl Run {
    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// Waits for the end, then stops the machine.
    pub fn outcome(self) -> Outcome {
        self.outcome_within(LIMIT).expect("the machine ends")
    }

    /// The same, for what takes longer; none if it takes longer still.
    pub fn outcome_within(mut self, limit: Duration) -> Option<Outcome> {
        let outcome = self.outcome.recv_timeout(limit).ok();
        self.running.take().unwrap().stop();
        outcome
    }
}

/// Reads until `text` has come.
pub fn expect(console: &mut UnixStream, text: &str) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(text.as_bytes()) {
        console.read_exact(&mut byte).unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&seen)));
        seen.push(byte[0]);
    }
}

pub fn type_in(console: &mut UnixStream, text: &str) {
    console.write_all(text.as_bytes()).unwrap();
}
