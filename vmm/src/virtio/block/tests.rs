use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proptest::prelude::*;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use vm_memory::{Bytes, GuestAddress};

use super::request::{self, DiskRange, Limits, Request, Status};
use super::{Block, Traits};
use crate::disk::testing::{Fixture, content};
use crate::disk::{Image, QcowImage, RawImage};
use crate::memory::guest_buffers::GuestBuffers;
use crate::virtio::device::{ActivateError, VirtioDevice};
use crate::virtio::testing::{DATA, DriverQueue, EventThread, Part, Told, activation, ram, wait};
use crate::virtio::virtqueue::Virtqueue;

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const BUFFER: u64 = DATA + 0x1000;
/// VIRTIO_BLK_F_FLUSH.
const FLUSH: u64 = 1 << 9;
const SECTORS: u64 = 128;

struct Rig {
    block: Block,
    file: File,
    queue: DriverQueue,
    told: Arc<Told>,
    _events: EventThread,
}

fn traits() -> Traits {
    Traits { serial: *b"serial-0123456789xyz", ..Traits::default() }
}

impl Rig {
    fn start(readonly: bool) -> Self {
        Self::with_queue(readonly, |queue| queue)
    }

    fn with_queue(readonly: bool, change: impl FnOnce(DriverQueue) -> DriverQueue) -> Self {
        Self::with(|file| Arc::new(RawImage::new(file, readonly, None).unwrap()), change)
    }

    /// An image over a file whose sectors hold their numbers.
    fn with(image: impl FnOnce(File) -> Arc<dyn Image>, change: impl FnOnce(DriverQueue) -> DriverQueue) -> Self {
        let events = EventThread::start();
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..SECTORS).flat_map(|s| [u8::try_from(s).unwrap(); 512]).collect();
        file.write_all_at(&content, 0).unwrap();
        let mut block = Block::new("test".into(), image(file.try_clone().unwrap()), traits());
        let queue = change(DriverQueue::new(&ram(), 0x1000, 64));
        let told = Arc::new(Told::default());
        block.activate(activation(&[&queue], FLUSH, &told, &events.handle)).unwrap();
        Self { block, file, queue, told, _events: events }
    }

    fn header(&self, at: u64, kind: u32, sector: u64) {
        self.queue.write(at, &[kind.to_le_bytes(), [0; 4]].concat());
        self.queue.write(at + 8, &sector.to_le_bytes());
    }

    /// Does one request with `data` between header and status; returns used length and status.
    fn request(&mut self, kind: u32, sector: u64, data: &[Part]) -> (u32, u8) {
        self.header(HEADER, kind, sector);
        self.queue.write(STATUS, &[0xEE]);
        let parts = [&[Part::Out(HEADER, 16)], data, &[Part::In(STATUS, 1)]].concat();
        self.queue.add(&parts);
        self.queue.kick();
        let (_, len) = self.queue.wait_used();
        (len, self.queue.read(STATUS, 1)[0])
    }

    fn sector(&self, sector: u64) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        self.file.read_exact_at(&mut bytes, sector * 512).unwrap();
        bytes
    }
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn reads_into_scattered_buffers() {
    let mut rig = Rig::start(false);
    let parts = [Part::In(BUFFER, 512), Part::In(BUFFER + 0x2000, 512)];
    assert_eq!(rig.request(0, 5, &parts), (1025, 0));
    assert_eq!(rig.queue.read(BUFFER, 512), [5; 512]);
    assert_eq!(rig.queue.read(BUFFER + 0x2000, 512), [6; 512]);
    wait(|| rig.told.interrupts() == 1);
}

#[test]
fn writes_and_flushes() {
    let mut rig = Rig::start(false);
    rig.queue.write(BUFFER, &[0xAB; 1024]);
    assert_eq!(rig.request(1, 9, &[Part::Out(BUFFER, 1024)]), (1, 0));
    assert_eq!(rig.request(4, 0, &[]), (1, 0));
    assert_eq!((rig.sector(9), rig.sector(10), rig.sector(11)), (vec![0xAB; 512], vec![0xAB; 512], vec![11; 512]));
}

#[test]
fn a_paused_disk_keeps_its_requests() {
    let mut rig = Rig::start(false);
    rig.block.pause();
    rig.header(HEADER, 0, 7);
    rig.queue.add(&[Part::Out(HEADER, 16), Part::In(BUFFER, 513)]);
    rig.queue.kick();
    assert_eq!(rig.queue.take_used(), None);
    rig.block.resume();
    assert_eq!(rig.queue.wait_used().1, 513);
    rig.block.pause();
    rig.block.reset();
}

#[test]
fn framing_is_free() {
    let mut rig = Rig::start(false);
    rig.header(HEADER, 0, 7);
    // The header in two pieces, one with no bytes; data and status in one.
    rig.queue.add(&[Part::Out(HEADER, 5), Part::Out(0, 0), Part::Out(HEADER + 5, 11), Part::In(BUFFER, 513)]);
    rig.header(HEADER + 0x40, 1, 8);
    rig.queue.write(HEADER + 0x50, &[0xCD; 512]);
    rig.queue.add_indirect(DATA + 0x8000, &[Part::Out(HEADER + 0x40, 528), Part::In(STATUS, 1)]);
    rig.queue.kick();
    // In any order.
    let mut written = [rig.queue.wait_used().1, rig.queue.wait_used().1];
    written.sort_unstable();
    assert_eq!(written, [1, 513]);
    assert_eq!(rig.queue.read(BUFFER, 513), [vec![7; 512], vec![0]].concat());
    assert_eq!(rig.sector(8), [0xCD; 512]);
}

#[test]
fn refuses_what_leaves_the_disk() {
    let mut rig = Rig::start(false);
    for (kind, sector, len) in [
        (0, SECTORS, 512),
        (0, SECTORS - 1, 1024),
        (0, u64::MAX, 512),
        (0, u64::MAX / 512, 512),
        (0, 0, 511),
        (0, 0, 513),
    ] {
        assert_eq!(rig.request(kind, sector, &[Part::In(BUFFER, len)]), (1, 1), "sector {sector} len {len}");
    }
    assert_eq!(rig.request(1, SECTORS, &[Part::Out(BUFFER, 512)]), (1, 1));
    assert_eq!(rig.request(0, 0, &[]), (1, 1), "no data at all");
    assert_eq!(rig.request(0, 0, &[Part::Out(BUFFER, 512)]), (1, 1), "the wrong way round");
    assert_eq!(rig.request(1, 0, &[Part::In(BUFFER, 512)]), (1, 1), "the wrong way round");
    assert_eq!(rig.request(0, 0, &[Part::In(1 << 40, 512)]), (1, 1), "not RAM");
    assert_eq!(rig.request(77, 0, &[]), (1, 2), "unknown request");
    assert!(!rig.told.is_failed());
    assert_eq!(rig.request(0, 0, &[Part::In(BUFFER, 512)]), (513, 0), "and goes on");
}

#[test]
fn tells_its_serial() {
    let mut rig = Rig::start(false);
    assert_eq!(rig.request(8, 0, &[Part::In(BUFFER, 20)]), (21, 0));
    assert_eq!(rig.queue.read(BUFFER, 20), b"serial-0123456789xyz");
    assert_eq!(rig.request(8, 0, &[Part::In(BUFFER, 19)]), (1, 1));
}

#[test]
fn discards_and_zeroes() {
    let mut rig = Rig::start(false);
    rig.queue.write(BUFFER, &[range(8, 8, 0), range(24, 8, 0)].concat());
    assert_eq!(rig.request(11, 0, &[Part::Out(BUFFER, 32)]), (1, 0));
    assert_eq!((rig.sector(8), rig.sector(31), rig.sector(16)), (vec![0; 512], vec![0; 512], vec![16; 512]));
    rig.queue.write(BUFFER, &range(40, 3, 1));
    assert_eq!(rig.request(13, 0, &[Part::Out(BUFFER, 16)]), (1, 0));
    assert_eq!((rig.sector(40), rig.sector(42), rig.sector(43)), (vec![0; 512], vec![0; 512], vec![43; 512]));
    for (kind, bytes, status) in [
        (11, range(0, 8, 1), 2),
        (13, range(0, 8, 2), 2),
        (11, range(SECTORS - 1, 2, 0), 1),
        (13, range(u64::MAX, 1, 0), 1),
        (13, range(0, u32::MAX, 0), 1),
        (13, range(0, 8, 0)[..15].to_vec(), 1),
        (13, vec![0; 17 * 16], 1),
    ] {
        rig.queue.write(BUFFER, &bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        assert_eq!(rig.request(kind, 0, &[Part::Out(BUFFER, len)]), (1, status), "{kind} {bytes:?}");
    }
    assert_eq!(rig.sector(0), [0; 512]);
    assert_eq!(rig.sector(1), [1; 512]);
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let mut rig = Rig::start(true);
    assert_ne!(rig.block.features() & 1 << 5, 0);
    rig.queue.write(BUFFER, &range(0, 1, 0));
    assert_eq!(rig.request(1, 0, &[Part::Out(BUFFER, 512)]), (1, 1));
    assert_eq!(rig.request(11, 0, &[Part::Out(BUFFER, 16)]), (1, 1));
    assert_eq!(rig.request(13, 0, &[Part::Out(BUFFER, 16)]), (1, 1));
    assert_eq!(rig.request(0, 3, &[Part::In(BUFFER, 512)]), (513, 0));
    assert_eq!(rig.sector(1), [1; 512]);
}

#[test]
fn configuration_tells_the_capacity() {
    let rig = Rig::start(false);
    let mut data = [0xFF; 8];
    rig.block.read_config(0, &mut data);
    assert_eq!(u64::from_le_bytes(data), SECTORS);
    for offset in [57, 60, 1 << 40, u64::MAX] {
        rig.block.read_config(offset, &mut data);
        assert_eq!(data, [0; 8], "{offset}");
    }
}

#[test]
fn an_unanswerable_request_breaks_the_device_until_reset() {
    for parts in [
        &[Part::Out(HEADER, 16)][..],
        &[Part::Out(HEADER, 16), Part::In(1 << 40, 1)],
        &[Part::In(STATUS, 1), Part::Out(HEADER, 16)],
        &[Part::Out(1 << 40, 16), Part::In(STATUS, 1)],
    ] {
        let mut rig = Rig::start(false);
        rig.queue.add(parts);
        rig.queue.kick();
        wait(|| rig.told.is_failed());
        rig.queue.add(&[Part::Out(HEADER, 16), Part::In(BUFFER, 512), Part::In(STATUS, 1)]);
        rig.queue.kick();
        rig.block.reset();
        assert_eq!(rig.queue.take_used(), None, "{parts:?}");
    }
}

#[test]
fn a_loop_of_descriptors_ends() {
    let mut rig = Rig::start(false);
    rig.header(HEADER, 0, 0);
    rig.queue.describe(0, HEADER, 16, 1, 1);
    rig.queue.describe(1, BUFFER, 512, 3, 1);
    rig.queue.offer(0);
    rig.queue.kick();
    // The chain is cut at the queue's size: the last byte of it serves as the status.
    assert_eq!(rig.queue.wait_used(), (0, 1));
    assert!(!rig.told.is_failed());
}

#[test]
fn an_available_index_that_jumps_breaks_the_device() {
    let rig = Rig::start(false);
    rig.queue.set_available(1000);
    rig.queue.kick();
    wait(|| rig.told.is_failed());
}

#[test]
fn interrupts_are_suppressed_by_flag() {
    let mut rig = Rig::start(false);
    rig.queue.set_avail_flags(1);
    rig.request(4, 0, &[]);
    rig.block.reset();
    assert_eq!(rig.told.interrupts(), 0);
}

#[test]
fn interrupts_come_where_the_driver_wants_them() {
    let mut rig = Rig::with_queue(false, DriverQueue::with_event_idx);
    rig.queue.set_used_event(2);
    for _ in 0..2 {
        rig.request(4, 0, &[]);
    }
    assert_eq!(rig.told.interrupts(), 0);
    rig.request(4, 0, &[]);
    wait(|| rig.told.interrupts() == 1);
    rig.request(4, 0, &[]);
    rig.block.reset();
    assert_eq!(rig.told.interrupts(), 1);
}

/// Every test above once more, with many requests under way at once where there are many.
#[test]
fn a_ring_does_the_same() {
    assert!(crate::disk::ring::prepare(1), "this host has io_uring");
    reads_into_scattered_buffers();
    writes_and_flushes();
    framing_is_free();
    refuses_what_leaves_the_disk();
    tells_its_serial();
    discards_and_zeroes();
    a_read_only_disk_stays_as_it_is();
    an_unanswerable_request_breaks_the_device_until_reset();
    a_loop_of_descriptors_ends();
    an_available_index_that_jumps_breaks_the_device();
    interrupts_are_suppressed_by_flag();
    interrupts_come_where_the_driver_wants_them();
}

#[test]
fn many_requests_are_under_way_at_once() {
    assert!(crate::disk::ring::prepare(1), "this host has io_uring");
    let mut rig = Rig::start(false);
    // Reads, writes, a flush and an unknown request, all of them before the first kick; the queue wraps twice.
    for round in 0..6_u8 {
        for i in 0..16_u8 {
            let at = HEADER + 0x40 * u64::from(i);
            let (kind, data) = match i {
                0..8 => (1, Some(Part::Out(BUFFER + 512 * u64::from(i), 512))),
                8..14 => (0, Some(Part::In(BUFFER + 512 * u64::from(i), 512))),
                14 => (4, None),
                _ => (77, None),
            };
            rig.queue.write(BUFFER + 512 * u64::from(i), &[round * 16 + i; 512]);
            rig.header(at, kind, u64::from(i));
            rig.queue.write(at + 16, &[0xEE]);
            let parts: Vec<_> =
                [Some(Part::Out(at, 16)), data, Some(Part::In(at + 16, 1))].into_iter().flatten().collect();
            rig.queue.add(&parts);
        }
        rig.queue.kick();
        for _ in 0..16 {
            rig.queue.wait_used();
        }
        for i in 0..16_u8 {
            let status = rig.queue.read(HEADER + 0x40 * u64::from(i) + 16, 1)[0];
            assert_eq!(status, if i == 15 { 2 } else { 0 }, "round {round} request {i}");
        }
        for i in 0..8_u8 {
            assert_eq!(rig.sector(i.into()), [round * 16 + i; 512]);
        }
        for i in 8..14_u8 {
            assert_eq!(rig.queue.read(BUFFER + 512 * u64::from(i), 512), [i; 512]);
        }
    }
    assert!(!rig.told.is_failed());
}

/// Reads of what lies below and of what lies on top, and between them what takes places away.
#[test]
fn many_requests_to_an_overlay_are_under_way_at_once() {
    assert!(crate::disk::ring::prepare(1), "this host has io_uring");
    let overlay =
        |base| -> Arc<dyn Image> { Arc::new(QcowImage::overlay(tempfile::tempfile().unwrap(), base, false).unwrap()) };
    let mut rig = Rig::with(overlay, |queue| queue);
    for round in 0..6_u8 {
        for i in 0..16_u8 {
            let (at, buffer) = (HEADER + 0x40 * u64::from(i), BUFFER + 512 * u64::from(i));
            let (kind, data) = match i {
                7 => (1, Part::Out(buffer, 512)),
                15 => (13, Part::Out(buffer, 16)),
                _ => (0, Part::In(buffer, 512)),
            };
            rig.queue.write(buffer, &[round + 100; 512]);
            if i == 15 {
                // Sectors past those that are read, of a cluster that they share.
                rig.queue.write(buffer, &range(64, 8, u32::from(round % 2)));
            }
            rig.header(at, kind, if i == 7 { 32 } else { i.into() });
            rig.queue.write(at + 16, &[0xEE]);
            rig.queue.add(&[Part::Out(at, 16), data, Part::In(at + 16, 1)]);
        }
        rig.queue.kick();
        for _ in 0..16 {
            rig.queue.wait_used();
        }
        for i in 0..16_u8 {
            assert_eq!(rig.queue.read(HEADER + 0x40 * u64::from(i) + 16, 1)[0], 0, "round {round} request {i}");
            if i != 7 && i != 15 {
                assert_eq!(rig.queue.read(BUFFER + 512 * u64::from(i), 512), [i; 512], "round {round} request {i}");
            }
        }
    }
    for (sector, expected) in [(32, 105), (64, 0), (71, 0), (72, 72)] {
        assert_eq!(rig.request(0, sector, &[Part::In(BUFFER, 512)]), (513, 0));
        assert_eq!(rig.queue.read(BUFFER, 512), [expected; 512], "{sector}");
    }
    assert_eq!(rig.sector(32), [32; 512], "the base stays as it is");
}

/// Writes to clusters that are there and to such as aren't, reads and flushes, for a driver that flushes and one that can't.
#[test]
fn many_requests_to_a_direct_qcow2_are_under_way_at_once() {
    for features in [FLUSH, 0] {
        assert!(crate::disk::ring::prepare(1), "this host has io_uring");
        let fixture = Fixture::qcow2("cluster_size=4096", &[]).direct();
        let mut model = content();
        {
            let image = fixture.open().image;
            image.discard(16 << 10, 16 << 10).unwrap();
            model[16 << 10..][..16 << 10].fill(0);
            let mut block = Block::new("test".into(), image, traits());
            let mut queue = DriverQueue::new(&ram(), 0x1000, 64);
            let (told, events) = (Arc::new(Told::default()), EventThread::start());
            block.activate(activation(&[&queue], features, &told, &events.handle)).unwrap();
            for round in 0..4_u8 {
                for i in 0..16_u8 {
                    let (at, buffer) = (HEADER + 0x40 * u64::from(i), BUFFER + 4096 * u64::from(i));
                    let (kind, data) = match i {
                        15 => (4, None),
                        // Guests read what they don't write meanwhile.
                        14 => (0, Some(Part::In(buffer, 4096))),
                        _ => (1, Some(Part::Out(buffer, 4096))),
                    };
                    queue.write(buffer, &[round * 16 + i; 4096]);
                    queue.write(at, &[u32::to_le_bytes(kind), [0; 4]].concat());
                    queue.write(at + 8, &(u64::from(i) * 8).to_le_bytes());
                    queue.write(at + 16, &[0xEE]);
                    let status = Some(Part::In(at + 16, 1));
                    queue.add(&[Some(Part::Out(at, 16)), data, status].into_iter().flatten().collect::<Vec<_>>());
                    if kind == 1 {
                        model[usize::from(i) * 4096..][..4096].fill(round * 16 + i);
                    }
                }
                queue.kick();
                for _ in 0..16 {
                    queue.wait_used();
                }
                for i in 0..16_u8 {
                    assert_eq!(queue.read(HEADER + 0x40 * u64::from(i) + 16, 1), [0], "round {round} request {i}");
                }
                assert!(queue.read(BUFFER + 14 * 4096, 4096) == model[14 * 4096..][..4096]);
            }
            block.reset();
        }
        fixture.verify(&model, "written through a queue");
    }
}

#[test]
fn needs_its_queue() {
    let events = EventThread::start();
    let mut rig = Rig::start(false);
    rig.block.reset();
    let mut activation = activation(&[&rig.queue], 0, &rig.told, &events.handle);
    activation.queues.clear();
    assert!(matches!(rig.block.activate(activation), Err(ActivateError::MissingQueue(0))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the descriptors say, what parses keeps inside the disk and its buffers inside of RAM.
    #[test]
    fn parsing_any_chain_is_safe(
        kind in prop_oneof![0..16_u32, any::<u32>()],
        sector in prop_oneof![0..SECTORS + 2, any::<u64>()],
        parts in prop::collection::vec((prop_oneof![0..0x2_0000_u64, any::<u64>()], prop_oneof![0..2048_u32, any::<u32>()], 0..8_u16, 0..10_u16), 1..8),
        payload in prop::collection::vec(any::<u8>(), 64),
    ) {
        let ram = ram();
        let mut driver = DriverQueue::new(&ram, 0x2_0000, 8);
        for (i, (addr, len, flags, next)) in (0..).zip(&parts) {
            let raw = RawDescriptor::from(Descriptor::new(*addr, *len, *flags, *next));
            ram.write_obj(raw, GuestAddress(driver.desc() + 16 * i)).unwrap();
        }
        // Half of the time the first descriptor is a good header.
        if sector % 2 == 0 {
            driver.describe(0, HEADER, 16, 1, 1);
        }
        driver.write(HEADER, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat());
        driver.write(0, &payload);
        driver.offer(0);
        let mut queue = Virtqueue::new(driver.active(0), Arc::new(Told::default()));
        let chain = queue.pop(&ram).unwrap().unwrap();
        let mut buffers = GuestBuffers::new(Arc::clone(&ram));
        let limits = Limits { size: SECTORS * 512, readonly: false };
        if let Ok(parsed) = request::parse(&ram, chain, &mut buffers, limits) {
            let end = |offset: u64, len: u64| offset.checked_add(len).unwrap();
            match parsed.request {
                Ok(Request::Read(offset) | Request::Write(offset)) => {
                    prop_assert!(!buffers.is_empty() && buffers.len().is_multiple_of(512));
                    prop_assert!(end(offset, buffers.len() as u64) <= limits.size);
                }
                Ok(Request::Discard(ranges) | Request::WriteZeroes(ranges)) => {
                    for DiskRange { offset, len, .. } in &ranges {
                        prop_assert!(end(*offset, *len) <= limits.size);
                    }
                }
                Ok(Request::GetId) => prop_assert!(buffers.len() >= 20),
                Ok(Request::Flush) => {}
                Err(status) => prop_assert_ne!(status, Status::Ok),
            }
        }
    }
}
