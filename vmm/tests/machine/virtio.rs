//! virtio devices as a guest's driver meets them: found through ports 0xCF8 and 0xCFC, set up through their BAR, kicked by
//! ioeventfd, heard by MSI-X.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use vireo_vmm::config::{ConsoleKind, DiskPlan, ImageFormat};
use vireo_vmm::console::line::Line;
use vireo_vmm::disk::ring;
use vireo_vmm::ending::Outcome;
use vireo_vmm::jail::seccomp::{self, ThreadKind};
use vireo_vmm::machine::Machine;

use super::payload::{bzimage, file};
use super::puppet::{self, Puppet, VECTOR};
use super::rig::{Rig, Run, expect};

/// Where drivers keep their rings (4 KiB each) and their data.
const RINGS: u32 = 0x20_0000;
const DATA: u32 = 0x30_0000;
const QUEUE_SIZE: u32 = 16;
/// Common configuration registers (virtio 1.3 §4.1.4.3).
const DRIVER_FEATURE_SELECT: u32 = 8;
const DRIVER_FEATURE: u32 = 12;
const STATUS: u32 = 20;
const QUEUE_SELECT: u32 = 22;
const QUEUE_SIZE_REGISTER: u32 = 24;
const QUEUE_VECTOR: u32 = 26;
const QUEUE_ENABLE: u32 = 28;
const QUEUE_NOTIFY_OFF: u32 = 30;
const QUEUE_DESC: u32 = 32;
const QUEUE_DRIVER: u32 = 40;
const QUEUE_DEVICE: u32 = 48;

/// A driver that runs on a puppet vCPU, bound to one device.
struct Driver<'p> {
    cpu: &'p Puppet,
    slot: u32,
    common: u32,
    notify: u32,
    multiplier: u32,
    table: u32,
    message_control: u32,
}

fn config_address(slot: u32, register: u32) -> u32 {
    1 << 31 | slot << 11 | register & 0xFC
}

impl<'p> Driver<'p> {
    /// Looks for the device on the bus and at its capabilities.
    fn find(cpu: &'p Puppet, device: u32) -> Self {
        let id = |slot| {
            cpu.out32(0xCF8, config_address(slot, 0));
            cpu.in32(0xCFC)
        };
        let slot = (0..32).find(|slot| id(*slot) == device << 16 | 0x1AF4).expect("the device is on the bus");
        let mut driver = Self { cpu, slot, common: 0, notify: 0, multiplier: 0, table: 0, message_control: 0 };
        let bar = driver.config(0x10) & !0xF;
        driver.set_config(4, 0x6);
        let mut at = driver.config(0x34) & 0xFF;
        while at != 0 {
            let head = driver.config(at);
            match (head & 0xFF, head >> 24) {
                (0x11, _) => {
                    driver.message_control = at;
                    driver.table = bar + (driver.config(at + 4) & !7);
                }
                (9, 1) => driver.common = bar + driver.config(at + 8),
                (9, 2) => {
                    driver.notify = bar + driver.config(at + 8);
                    driver.multiplier = driver.config(at + 16);
                }
                _ => {}
            }
            at = head >> 8 & 0xFF;
        }
        driver
    }

    fn config(&self, register: u32) -> u32 {
        self.cpu.out32(0xCF8, config_address(self.slot, register));
        self.cpu.in32(0xCFC)
    }

    fn set_config(&self, register: u32, value: u32) {
        self.cpu.out32(0xCF8, config_address(self.slot, register));
        self.cpu.out32(0xCFC, value);
    }

    fn set(&self, register: u32, len: u32, value: u32) {
        self.cpu.write(self.common + register, len, value);
    }

    fn get(&self, register: u32, len: u32) -> u32 {
        self.cpu.read(self.common + register, len)
    }

    fn rings(queue: u32) -> [u32; 3] {
        [0, 0x1000, 0x2000].map(|offset| RINGS + queue * 0x4000 + offset)
    }

    /// Resets the device and brings it up with VERSION_1 and these low features. All queues share MSI-X vector 0.
    fn start(&self, features: u32, queues: u32) {
        self.set(STATUS, 1, 0);
        while self.get(STATUS, 1) != 0 {}
        for (register, value) in [(0, 0xFEE0_0000), (4, 0), (8, VECTOR), (12, 0)] {
            self.cpu.write(self.table + register, 4, value);
        }
        self.set_config(self.message_control, 0x8000_0000);
        self.set(STATUS, 1, 1);
        self.set(STATUS, 1, 3);
        for (half, bits) in [(0, features), (1, 1)] {
            self.set(DRIVER_FEATURE_SELECT, 4, half);
            self.set(DRIVER_FEATURE, 4, bits);
        }
        self.set(STATUS, 1, 11);
        assert_eq!(self.get(STATUS, 1), 11, "features are accepted");
        for queue in 0..queues {
            let [desc, avail, used] = Self::rings(queue);
            for ring in [avail, used] {
                self.cpu.write(ring, 4, 0);
            }
            self.set(QUEUE_SELECT, 2, queue);
            self.set(QUEUE_SIZE_REGISTER, 2, QUEUE_SIZE);
            self.set(QUEUE_VECTOR, 2, 0);
            for (register, ring) in [(QUEUE_DESC, desc), (QUEUE_DRIVER, avail), (QUEUE_DEVICE, used)] {
                self.set(register, 4, ring);
                self.set(register + 4, 4, 0);
            }
            self.set(QUEUE_ENABLE, 2, 1);
        }
        self.set(STATUS, 1, 15);
    }

    /// Makes a chain of `(address, length, written by the device)` the queue's `nth` request and kicks.
    fn offer(&self, queue: u32, nth: u32, parts: &[(u32, u32, bool)]) {
        let [desc, avail, _] = Self::rings(queue);
        for (i, (address, len, write)) in (0..).zip(parts) {
            let last = i + 1 == u32::try_from(parts.len()).unwrap();
            let flags = u32::from(*write) << 1 | u32::from(!last);
            for (offset, word) in [(0, *address), (4, 0), (8, *len), (12, (i + 1) << 16 | flags)] {
                self.cpu.write(desc + 16 * i + offset, 4, word);
            }
        }
        self.cpu.write(avail + 4 + 2 * (nth % QUEUE_SIZE), 2, 0);
        self.cpu.write(avail + 2, 2, nth + 1);
        self.set(QUEUE_SELECT, 2, queue);
        let place = self.notify + self.get(QUEUE_NOTIFY_OFF, 2) * self.multiplier;
        self.cpu.write(place, 2, queue);
    }

    /// Waits for the interrupt of the queue's `nth` request and returns the used length.
    fn wait(&self, queue: u32, nth: u32) -> u32 {
        let [_, _, used] = Self::rings(queue);
        self.cpu.wait_interrupt();
        assert_eq!(self.cpu.read(used + 2, 2), nth + 1, "the used index");
        self.cpu.read(used + 4 + 8 * (nth % QUEUE_SIZE) + 4, 4)
    }

    /// One request of a sector to a disk's first queue; its status.
    fn block(&self, nth: u32, kind: u32, sector: u32, write: bool) -> u32 {
        self.block_on(0, nth, kind, sector, write)
    }

    fn block_on(&self, queue: u32, nth: u32, kind: u32, sector: u32, write: bool) -> u32 {
        for (offset, word) in [(0, kind), (4, 0), (8, sector), (12, 0)] {
            self.cpu.write(DATA + offset, 4, word);
        }
        self.cpu.write(DATA + 0x20, 1, 0xEE);
        self.offer(queue, nth, &[(DATA, 16, false), (DATA + 0x1000, 512, write), (DATA + 0x20, 1, true)]);
        self.wait(queue, nth);
        self.cpu.read(DATA + 0x20, 1)
    }
}

struct Stage {
    rig: Rig,
    cpu: Puppet,
    run: Run,
}

/// A machine with a disk of 8 sectors, whose vCPU is a puppet.
fn stage(change: impl FnOnce(&mut Rig)) -> (Stage, File) {
    stage_with(change, |_, _| {})
}

/// The same, with something done to the machine before it runs.
fn stage_with(change: impl FnOnce(&mut Rig), prepare: impl FnOnce(&Rig, &Machine)) -> (Stage, File) {
    let content: Vec<u8> = (1..=8).flat_map(|sector| [sector; 512]).collect();
    let image = file(&content);
    let mut rig = Rig::new(bzimage(puppet::code()), 1);
    rig.plan.disks.push(DiskPlan::new("root", image.try_clone().unwrap()));
    rig.plan.rng = true;
    change(&mut rig);
    let machine = rig.build();
    let cpu = Puppet::attach(&machine);
    prepare(&rig, &machine);
    let run = rig.run(machine);
    (Stage { rig, cpu, run }, image)
}

impl Stage {
    fn end(self) {
        drop(self.cpu);
        assert_eq!(self.run.outcome(), Outcome::PowerOff);
    }
}

#[test]
fn a_guest_reads_and_writes_its_disk() {
    let (stage, image) = stage(|_| {});
    let disk = Driver::find(&stage.cpu, 0x1042);
    disk.start(0, 1);
    assert_eq!(disk.block(0, 0, 3, true), 0);
    assert_eq!(stage.cpu.read(DATA + 0x1000, 4), 0x0404_0404);
    assert_eq!(stage.cpu.read(DATA + 0x11FC, 4), 0x0404_0404);
    stage.cpu.write(DATA + 0x1000, 4, 0xABCD_EF01);
    assert_eq!(disk.block(1, 1, 6, false), 0);
    let mut sector = [0; 512];
    image.read_exact_at(&mut sector, 6 * 512).unwrap();
    assert_eq!(sector[..5], [0x01, 0xEF, 0xCD, 0xAB, 4]);
    assert_eq!(disk.block(2, 0, 8, true), 1, "past the end");
    stage.end();
}

#[test]
fn each_queue_of_a_disk_is_served() {
    let (stage, image) = stage(|rig| rig.plan.disks[0].queues = 3);
    let disk = Driver::find(&stage.cpu, 0x1042);
    // VIRTIO_BLK_F_MQ
    disk.start(1 << 12, 3);
    for queue in [2, 0, 1] {
        stage.cpu.write(DATA + 0x1000, 4, 0x1111_1111 * queue);
        assert_eq!(disk.block_on(queue, 0, 1, queue, false), 0);
        assert_eq!(disk.block_on(queue, 1, 0, 5, true), 0);
        assert_eq!(stage.cpu.read(DATA + 0x1000, 4), 0x0606_0606);
    }
    let mut sectors = [0; 1536];
    image.read_exact_at(&mut sectors, 0).unwrap();
    assert_eq!([sectors[0], sectors[512], sectors[1024]], [0, 0x11, 0x22]);
    stage.end();
}

#[test]
fn an_overlay_outlives_a_reset_of_the_machine() {
    let (stage, image) = stage(|rig| {
        rig.plan.disks[0].overlay = Some(file(&[]));
        rig.plan.disks[0].format = ImageFormat::Detect;
    });
    let disk = Driver::find(&stage.cpu, 0x1042);
    disk.start(0, 1);
    stage.cpu.write(DATA + 0x1000, 4, 0xABCD_EF01);
    assert_eq!(disk.block(0, 1, 6, false), 0);
    let Stage { rig, cpu, run } = stage;
    drop(cpu);
    assert_eq!(run.outcome(), Outcome::PowerOff);
    // As a reset does: another machine by the same plan.
    let machine = rig.build();
    let cpu = Puppet::attach(&machine);
    let run = rig.run(machine);
    let disk = Driver::find(&cpu, 0x1042);
    disk.start(0, 1);
    assert_eq!(disk.block(0, 0, 6, true), 0);
    assert_eq!(cpu.read(DATA + 0x1000, 4), 0xABCD_EF01);
    assert_eq!(disk.block(1, 0, 7, true), 0);
    assert_eq!(cpu.read(DATA + 0x1000, 4), 0x0808_0808);
    Stage { rig, cpu, run }.end();
    let mut sector = [0; 512];
    image.read_exact_at(&mut sector, 6 * 512).unwrap();
    assert_eq!(sector, [7; 512], "the image is as it was");
}

/// A system call that is missing from a list kills this process, and so the test.
#[test]
fn a_disk_with_a_ring_lives_within_the_jails_lists() {
    let (stage, _image) = stage(|rig| {
        assert!(ring::prepare(1), "this host has io_uring");
        seccomp::install(ThreadKind::Main).unwrap();
        rig.restart_events();
    });
    let disk = Driver::find(&stage.cpu, 0x1042);
    disk.start(1 << 9, 1);
    for (nth, kind, write) in [(0, 1, false), (1, 0, true), (2, 4, false), (3, 0, true)] {
        assert_eq!(disk.block(nth, kind, 3, write), 0);
    }
    stage.end();
}

#[test]
fn a_reset_device_serves_the_next_driver() {
    let (stage, _image) = stage(|_| {});
    let disk = Driver::find(&stage.cpu, 0x1042);
    for _ in 0..3 {
        disk.start(0, 1);
        assert_eq!(disk.block(0, 0, 0, true), 0);
    }
    stage.end();
}

#[test]
fn a_guest_moves_the_bar_and_goes_on() {
    let (stage, _image) = stage(|_| {});
    let disk = Driver::find(&stage.cpu, 0x1042);
    disk.start(0, 1);
    assert_eq!(disk.block(0, 0, 0, true), 0);
    disk.set_config(0x10, 0xD000_0000);
    let moved = Driver::find(&stage.cpu, 0x1042);
    assert_eq!(moved.common & !0xFFFF, 0xD000_0000);
    assert_eq!(moved.block(1, 0, 1, true), 0);
    assert_eq!(stage.cpu.read(DATA + 0x1000, 4), 0x0202_0202);
    stage.end();
}

#[test]
fn a_guest_gets_entropy() {
    let (stage, _image) = stage(|_| {});
    let rng = Driver::find(&stage.cpu, 0x1044);
    rng.start(0, 1);
    rng.offer(0, 0, &[(DATA, 64, true)]);
    assert_eq!(rng.wait(0, 0), 64);
    assert!((0..16).any(|i| stage.cpu.read(DATA + 4 * i, 4) != 0));
    stage.end();
}

#[test]
fn a_virtio_console_reaches_the_hub_and_follows_its_size() {
    let (stage, _image) = stage(|rig| rig.plan.console = ConsoleKind::Virtio);
    let mut client = stage.rig.console();
    let console = Driver::find(&stage.cpu, 0x1043);
    console.start(1, 2);
    stage.cpu.write(DATA, 4, u32::from_le_bytes(*b"hvc0"));
    console.offer(1, 0, &[(DATA, 4, false)]);
    console.wait(1, 0);
    expect(&mut client, "hvc0");
    console.offer(0, 0, &[(DATA + 0x100, 16, true)]);
    super::rig::type_in(&mut client, "ls\n");
    assert_eq!(console.wait(0, 0), 3);
    assert_eq!(stage.cpu.read(DATA + 0x100, 4), u32::from_le_bytes(*b"ls\n\0"));
    // The configuration's vector is the one that all share here.
    console.set(16, 2, 0);
    stage.run.running().resize_console(100, 40);
    stage.cpu.wait_interrupt();
    assert_eq!(stage.cpu.read(console.common + 0x2000, 4), 0x28_0064);
    stage.end();
}

#[test]
fn the_guest_agents_port_carries_bytes_between_guest_and_host() {
    let line = std::cell::OnceCell::new();
    let (stage, _image) = stage_with(
        |_| {},
        |rig, machine| {
            let agent = line.get_or_init(|| Line::new(rig.events.clone()));
            machine.connect_agent(agent);
        },
    );
    let (mut client, theirs) = UnixStream::pair().unwrap();
    client.set_read_timeout(Some(super::rig::LIMIT)).unwrap();
    line.get().unwrap().attach(theirs);
    let console = Driver::find(&stage.cpu, 0x1043);
    console.start(3, 6);
    let (mut said, mut heard) = (0, 0);
    let mut say = |port: u32, event: u32, value: u32| {
        stage.cpu.write(DATA, 4, port);
        stage.cpu.write(DATA + 4, 4, value << 16 | event);
        console.offer(3, said, &[(DATA, 8, false)]);
        console.wait(3, said);
        said += 1;
    };
    let mut hear = || {
        console.offer(2, heard, &[(DATA + 0x100, 64, true)]);
        let len = console.wait(2, heard);
        heard += 1;
        let word = |at| stage.cpu.read(DATA + 0x100 + at, 4);
        (len, word(0), word(4), word(8))
    };
    say(u32::MAX, 0, 1);
    assert_eq!((hear().2, hear().2), (1, 1), "PORT_ADD");
    say(1, 3, 1);
    assert_eq!(hear(), (30, 1, 1 << 16 | 7, u32::from_le_bytes(*b"org.")), "PORT_NAME");
    assert_eq!(hear().2, 1 << 16 | 6, "PORT_OPEN: the host's side is there");
    say(1, 6, 1);
    client.write_all(b"ping").unwrap();
    console.offer(4, 0, &[(DATA + 0x200, 16, true)]);
    assert_eq!(console.wait(4, 0), 4);
    assert_eq!(stage.cpu.read(DATA + 0x200, 4), u32::from_le_bytes(*b"ping"));
    console.offer(5, 0, &[(DATA + 0x200, 4, false)]);
    console.wait(5, 0);
    expect(&mut client, "ping");
    stage.end();
}

#[test]
fn a_guest_gives_pages_back_and_finds_them_empty() {
    let (stage, _image) = stage(|rig| rig.plan.balloon = true);
    let balloon = Driver::find(&stage.cpu, 0x1045);
    balloon.start(0x26, 4);
    for page in 0x380..0x383 {
        stage.cpu.write(page << 12, 4, page);
    }
    stage.cpu.write(DATA, 4, 0x381);
    balloon.offer(0, 0, &[(DATA, 4, false)]);
    balloon.wait(0, 0);
    let pages = [0x380_000, 0x381_000, 0x382_000].map(|at| stage.cpu.read(at, 4));
    assert_eq!(pages, [0x380, 0, 0x382]);
    balloon.offer(3, 0, &[(0x380_000, 0x1000, true)]);
    balloon.wait(3, 0);
    assert_eq!(stage.cpu.read(0x380_000, 4), 0);
    stage.cpu.write(0x381_000, 4, 7);
    assert_eq!(stage.cpu.read(0x381_000, 4), 7, "touched again, it is a page as before");
    stage.end();
}

// What is missing from a thread's list of system calls kills this process, and so the test.
#[test]
fn a_guest_talks_to_the_host_over_vsock_within_the_lists() {
    let (mut host, theirs) = UnixStream::pair().unwrap();
    host.set_read_timeout(Some(super::rig::LIMIT)).unwrap();
    let (stage, _image) = stage_with(
        |rig| {
            rig.plan.vsock = Some(3);
            seccomp::install(ThreadKind::Main).unwrap();
            rig.restart_events();
        },
        |rig, machine| {
            let (events, theirs) = (rig.events.clone(), Mutex::new(Some(theirs)));
            machine.watch_vsock(move |ask| {
                assert_eq!(ask.port(), 77);
                if let Some(theirs) = theirs.lock().unwrap().take() {
                    events.run(move |_| ask.accept(theirs));
                }
            });
        },
    );
    let vsock = Driver::find(&stage.cpu, 0x1053);
    vsock.start(0, 2);
    let (mut said, mut heard) = (0, 0);
    let mut say = |op: u32, flags: u32, data: &[u8]| {
        let len = u32::try_from(data.len()).unwrap();
        // Context ids and ports of both sides, length, kind and operation, flags, credit.
        for (at, word) in (0..).zip([3, 0, 2, 0, 1000, 77, len, op << 16 | 1, flags, 4096, 0]) {
            stage.cpu.write(DATA + 4 * at, 4, word);
        }
        for (at, byte) in (0..).zip(data) {
            stage.cpu.write(DATA + 44 + at, 1, (*byte).into());
        }
        vsock.offer(1, said, &[(DATA, 44 + len, false)]);
        vsock.wait(1, said);
        said += 1;
    };
    let mut hear = || {
        vsock.offer(0, heard, &[(DATA + 0x100, 44, true), (DATA + 0x200, 64, true)]);
        let len = vsock.wait(0, heard);
        heard += 1;
        (stage.cpu.read(DATA + 0x100 + 30, 2), len - 44)
    };
    say(1, 0, b"");
    assert_eq!(hear(), (2, 0), "RESPONSE");
    say(5, 0, b"ping");
    expect(&mut host, "ping");
    host.write_all(b"pong").unwrap();
    assert_eq!(hear(), (5, 4), "RW");
    assert_eq!(stage.cpu.read(DATA + 0x200, 4), u32::from_le_bytes(*b"pong"));
    // The guest sends no more.
    say(4, 2, b"");
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    stage.end();
}

#[test]
fn rings_outside_of_ram_make_the_device_need_a_reset() {
    let (stage, _image) = stage(|_| {});
    let disk = Driver::find(&stage.cpu, 0x1042);
    disk.start(0, 1);
    disk.set(STATUS, 1, 0);
    while disk.get(STATUS, 1) != 0 {}
    for status in [1, 3] {
        disk.set(STATUS, 1, status);
    }
    disk.set(DRIVER_FEATURE_SELECT, 4, 1);
    disk.set(DRIVER_FEATURE, 4, 1);
    disk.set(STATUS, 1, 11);
    for register in [QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE] {
        disk.set(register, 4, 0x7000_0000);
    }
    disk.set(QUEUE_ENABLE, 2, 1);
    assert_eq!(disk.get(QUEUE_ENABLE, 2), 0);
    assert_eq!(disk.get(STATUS, 1), 0x4B);
    disk.start(0, 1);
    assert_eq!(disk.block(0, 0, 0, true), 0);
    stage.end();
}
