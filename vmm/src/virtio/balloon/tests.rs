use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::request::MAX_PAGES;
use super::{Balloon, BalloonControl, Report};
use crate::memory::{GuestRam, guest_ram};
use crate::pausing::PauseRequests;
use crate::virtio::device::{ActivateError, Activation, Notify, VirtioDevice};
use crate::virtio::testing::{DATA, DriverQueue, EventThread, Part, Told, activation, wait};

struct Rig {
    balloon: Balloon,
    control: BalloonControl,
    ram: GuestRam,
    inflate: DriverQueue,
    deflate: DriverQueue,
    statistics: DriverQueue,
    report: DriverQueue,
    told: Arc<Told>,
    events: EventThread,
}

impl Rig {
    fn new() -> Self {
        // Holes need a memory file.
        let ram = guest_ram::create(8 << 20, None).unwrap();
        let (balloon, control) = Balloon::new();
        let queue = |n: u64| DriverQueue::new(&ram, 0x1000 + 0x4000 * n, 16);
        let (inflate, deflate, statistics, report) = (queue(0), queue(1), queue(2), queue(3));
        let (told, events) = (Arc::default(), EventThread::start());
        Self { balloon, control, ram, inflate, deflate, statistics, report, told, events }
    }

    fn start() -> Self {
        let mut rig = Self::new();
        let queues = [&rig.inflate, &rig.deflate, &rig.statistics, &rig.report];
        rig.balloon.activate(activation(&queues, 0x26, &rig.told, &rig.events.handle)).unwrap();
        rig
    }

    /// Makes every page of RAM from DATA on hold something.
    fn fill(&self) {
        for page in 64..2048 {
            self.ram.write_obj(0xAB_u8, GuestAddress(page * 4096)).unwrap();
        }
    }

    fn byte(&self, page: u64) -> u8 {
        self.ram.read_obj(GuestAddress(page * 4096)).unwrap()
    }

    /// Pages of RAM that the host has.
    fn resident(&self) -> u64 {
        let file = self.ram.iter().next().unwrap().file_offset().unwrap();
        std::os::unix::fs::MetadataExt::blocks(&file.file().metadata().unwrap()) / 8
    }

    fn inflate(&mut self, pages: &[u32]) {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        self.inflate.write(DATA, &bytes);
        self.inflate.add(&[Part::Out(DATA, u32::try_from(bytes.len()).unwrap())]);
        self.inflate.kick();
        self.inflate.wait_used();
    }

    fn ask(&self) -> Receiver<Report> {
        let (tx, rx) = channel();
        self.control.ask(move |report| tx.send(report).unwrap());
        rx
    }

    /// Gets the device to hold the driver's buffer, which comes unasked at first.
    fn settle(&mut self) {
        self.tell(5, 0);
        let answer = self.ask();
        wait(|| {
            if self.statistics.take_used().is_some() {
                self.tell(5, 0);
            }
            answer.try_recv().is_ok()
        });
    }

    fn tell(&mut self, tag: u16, value: u64) {
        let entry = [tag.to_le_bytes().as_slice(), &value.to_le_bytes()].concat();
        self.statistics.write(DATA, &entry);
        self.statistics.add(&[Part::Out(DATA, 10)]);
        self.statistics.kick();
    }
}

#[test]
fn pages_in_the_balloon_go_back_to_the_host() {
    let mut rig = Rig::start();
    rig.fill();
    let before = rig.resident();
    rig.inflate(&[300, 302, 301, 1000, 1000]);
    assert_eq!(before - rig.resident(), 4);
    assert_eq!([299, 300, 301, 302, 303, 1000].map(|page| rig.byte(page)), [0xAB, 0, 0, 0, 0xAB, 0]);
    rig.deflate.add(&[Part::Out(DATA, 4)]);
    rig.deflate.kick();
    rig.deflate.wait_used();
    rig.ram.write_obj(1_u8, GuestAddress(300 * 4096)).unwrap();
    assert_eq!(rig.byte(300), 1, "what came out is used as before");
}

#[test]
fn reported_pages_go_back_whole() {
    let mut rig = Rig::start();
    rig.fill();
    let before = rig.resident();
    rig.report.add(&[Part::In(0x20_0000, 0x10_0000), Part::In(0x40_0800, 0x1800)]);
    rig.report.kick();
    assert_eq!(rig.report.wait_used(), (0, 0));
    assert_eq!(before - rig.resident(), 257, "of a range, only whole pages");
    assert_eq!((rig.byte(0x400), rig.byte(0x401)), (0xAB, 0));
}

#[test]
fn ranges_outside_of_ram_are_left_alone() {
    let mut rig = Rig::start();
    rig.inflate(&[u32::MAX, 2047, 2048, 0xC_0000]);
    assert_eq!(rig.byte(2047), 0);
    for part in [Part::In(0x7F_F000, u32::MAX), Part::In(u64::MAX - 0xFFF, 0x1000), Part::In(0x1000_0000, 0x1000)] {
        rig.report.add(&[part]);
        rig.report.kick();
        rig.report.wait_used();
    }
    assert!(!rig.told.is_failed());
}

#[test]
fn too_long_a_request_breaks_the_device() {
    let mut rig = Rig::start();
    let len = u32::try_from(MAX_PAGES * 4).unwrap();
    rig.inflate.add(&[Part::Out(DATA, len), Part::Out(DATA, 4)]);
    rig.inflate.kick();
    wait(|| rig.told.is_failed());
}

#[test]
fn the_target_is_told_and_the_drivers_count_is_heard() {
    let mut rig = Rig::start();
    rig.control.set_target((3 << 20) + 1);
    assert_eq!(rig.told.configs.load(Ordering::SeqCst), 1);
    let mut config = [0; 8];
    rig.balloon.read_config(0, &mut config);
    assert_eq!(config, [0, 3, 0, 0, 0, 0, 0, 0]);
    rig.balloon.write_config(4, &256_u32.to_le_bytes());
    rig.balloon.write_config(0, &7_u32.to_le_bytes());
    rig.balloon.write_config(4, &[1]);
    rig.settle();
    let report = rig.ask();
    rig.statistics.wait_used();
    rig.tell(4, 5);
    let report = report.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!((report.target, report.actual), (3 << 20, 1 << 20));
}

#[test]
fn statistics_are_asked_for_one_at_a_time() {
    let mut rig = Rig::start();
    rig.settle();
    let first = rig.ask();
    rig.statistics.wait_used();
    let second = rig.ask();
    assert!(first.try_recv().is_err());
    rig.tell(5, 2 << 20);
    for answer in [first, second] {
        let report = answer.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(report.statistics.unwrap().total, Some(2 << 20));
    }
}

#[test]
fn a_driver_that_kicks_only_when_asked_to_is_asked() {
    let mut rig = Rig::new();
    let queue = DriverQueue::new(&rig.ram, 0x9000, 16);
    rig.statistics = queue.with_event_idx();
    let queues = [&rig.inflate, &rig.deflate, &rig.statistics, &rig.report];
    rig.balloon.activate(activation(&queues, 0x26, &rig.told, &rig.events.handle)).unwrap();
    rig.settle();
    let answer = rig.ask();
    rig.statistics.wait_used();
    rig.tell(5, 1);
    answer.recv_timeout(Duration::from_secs(10)).unwrap();
    // `avail_event` is the next one, so that the driver will kick for it.
    let (asked, offered) = (rig.statistics.used() + 4 + 8 * 16, rig.statistics.avail() + 2);
    let word = |at| rig.ram.read_obj::<u16>(GuestAddress(at)).unwrap();
    wait(|| word(asked) == word(offered));
}

#[test]
fn without_a_driver_there_are_no_statistics() {
    let mut rig = Rig::start();
    rig.balloon.reset();
    assert_eq!(rig.ask().recv().unwrap().statistics, None);
    // Few wait for a driver that doesn't answer, and none when it goes.
    let mut rig = Rig::start();
    let answers: Vec<_> = (0..1000).map(|_| rig.ask()).collect();
    for answer in &answers[16..] {
        answer.recv_timeout(Duration::from_secs(10)).unwrap();
    }
    assert!(answers[0].try_recv().is_err());
    rig.balloon.reset();
    assert!(answers[0].recv().unwrap().statistics.is_none());
}

#[test]
fn reporting_works_at_the_index_that_the_specification_gives_it() {
    let mut rig = Rig::new();
    rig.fill();
    let queues = [(0, &rig.inflate), (1, &rig.deflate), (4, &rig.report)];
    let activation = Activation {
        ram: Arc::clone(&rig.ram),
        features: 0x20,
        queues: queues.map(|(index, queue)| queue.active(index)).into(),
        notify: Arc::clone(&rig.told) as Arc<dyn Notify>,
        events: rig.events.handle.clone(),
        pauses: PauseRequests::default(),
    };
    rig.balloon.activate(activation).unwrap();
    rig.report.add(&[Part::In(0x20_0000, 0x1000)]);
    rig.report.kick();
    rig.report.wait_used();
    assert_eq!(rig.byte(0x200), 0);
}

#[test]
fn needs_inflate_and_deflate() {
    let mut rig = Rig::new();
    let activation = activation(&[&rig.inflate], 0, &rig.told, &rig.events.handle);
    assert!(matches!(rig.balloon.activate(activation), Err(ActivateError::MissingQueue(1))));
}
