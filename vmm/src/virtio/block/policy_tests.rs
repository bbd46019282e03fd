//! What the disk's traits change: queues, caching, and what becomes of requests that fail.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::{Block, Traits};
use crate::config::{BlockSize, ErrorPolicy, Rate, RateLimit};
use crate::disk::ring::{self, Ring};
use crate::disk::{Access, Image, Place};
use crate::memory::guest_buffers::GuestBuffers;
use crate::pausing::PauseReason;
use crate::virtio::device::VirtioDevice;
use crate::virtio::testing::{DATA, DriverQueue, EventThread, Part, Told, activation, ram, wait};

const FLUSH: u64 = 1 << 9;
const STATUS: u64 = DATA + 0x100;
const BUFFER: u64 = DATA + 0x1000;

/// An image that fails as it is told, and counts.
#[derive(Debug, Default)]
struct Scripted {
    /// The errno of writes; 0 for none.
    errno: AtomicU32,
    writes: AtomicU32,
    flushes: AtomicU32,
    /// What a ring would use: /dev/full, which takes no write, so that each is tried again in the ordinary way.
    full: Option<File>,
}

impl Image for Scripted {
    fn size(&self) -> u64 {
        1 << 20
    }
    fn readonly(&self) -> bool {
        false
    }
    fn has_places(&self) -> bool {
        self.full.is_some()
    }
    fn in_place(&self, _buffers: &GuestBuffers, offset: u64, _: Access) -> Option<Place<'_>> {
        self.full.as_ref().map(|full| Place { file: full.as_fd(), offset })
    }
    fn sync_in_place(&self) -> Option<BorrowedFd<'_>> {
        self.full.as_ref().map(AsFd::as_fd)
    }
    fn read(&self, buffers: &mut GuestBuffers, _offset: u64) -> io::Result<()> {
        buffers.clear();
        Ok(())
    }
    fn write(&self, buffers: &mut GuestBuffers, _offset: u64) -> io::Result<()> {
        buffers.clear();
        self.writes.fetch_add(1, Ordering::SeqCst);
        match self.errno.load(Ordering::SeqCst) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno.cast_signed())),
        }
    }
    fn flush(&self) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> io::Result<()> {
        Ok(())
    }
}

struct Stage {
    image: Arc<Scripted>,
    block: Block,
    queues: Vec<DriverQueue>,
    pauses: Receiver<PauseReason>,
    _events: EventThread,
}

impl Stage {
    fn new(traits: Traits, features: u64) -> Self {
        // The tests that prepare rings want them used.
        let full = Ring::take().map(|_| File::options().write(true).open("/dev/full").unwrap());
        let image = Arc::new(Scripted { full, ..Scripted::default() });
        let mut block = Block::new("root".into(), image.clone(), traits);
        let ram = ram();
        let queues: Vec<_> = (0..u64::from(traits.queues)).map(|i| DriverQueue::new(&ram, 0x4000 * i, 16)).collect();
        let (events, told) = (EventThread::start(), Arc::new(Told::default()));
        let activation = activation(&queues.iter().collect::<Vec<_>>(), features, &told, &events.handle);
        let (asked, pauses) = channel();
        activation.pauses.watch(move |reason| asked.send(reason).unwrap());
        block.activate(activation).unwrap();
        Self { image, block, queues, pauses, _events: events }
    }

    /// Queues a write of one sector.
    fn offer(&mut self, queue: usize) {
        let at = 0x2000 * u64::try_from(queue).unwrap();
        let queue = &mut self.queues[queue];
        queue.write(DATA + at, &[&1_u32.to_le_bytes()[..], &[0; 12]].concat());
        queue.write(STATUS + at, &[0xEE]);
        queue.add(&[Part::Out(DATA + at, 16), Part::Out(BUFFER, 512), Part::In(STATUS + at, 1)]);
        queue.kick();
    }

    fn status(&mut self, queue: usize) -> u8 {
        self.queues[queue].wait_used();
        self.queues[queue].read(STATUS + 0x2000 * u64::try_from(queue).unwrap(), 1)[0]
    }

    fn write(&mut self) -> u8 {
        self.offer(0);
        self.status(0)
    }

    fn fail(&self, errno: i32) {
        self.image.errno.store(errno.cast_unsigned(), Ordering::SeqCst);
    }
    fn flushes(&self) -> u32 {
        self.image.flushes.load(Ordering::SeqCst)
    }
    fn config(&self, offset: u64) -> u8 {
        let mut byte = [0];
        self.block.read_config(offset, &mut byte);
        byte[0]
    }
}

#[test]
fn each_queue_is_served() {
    let mut stage = Stage::new(Traits { queues: 4, ..Traits::default() }, FLUSH);
    assert_eq!((stage.config(34), stage.block.queue_sizes().len()), (4, 4));
    assert_ne!(stage.block.features() & 1 << 12, 0, "VIRTIO_BLK_F_MQ");
    for queue in 0..4 {
        stage.offer(queue);
    }
    for queue in [3, 1, 0, 2] {
        assert_eq!(stage.status(queue), 0);
    }
}

#[test]
fn a_write_is_as_durable_as_was_agreed() {
    // A driver that can't flush gets durable writes, whatever the mode.
    let mut stage = Stage::new(Traits::default(), 0);
    assert_eq!((stage.write(), stage.flushes()), (0, 1));
    let mut stage = Stage::new(Traits::default(), FLUSH);
    assert_eq!((stage.write(), stage.flushes(), stage.config(32)), (0, 0, 1));
    let mut stage = Stage::new(Traits { writeback: false, ..Traits::default() }, FLUSH);
    assert_eq!((stage.write(), stage.flushes(), stage.config(32)), (0, 1, 0));
    // The driver may change its mind, until a reset.
    stage.block.write_config(32, &[1]);
    assert_eq!((stage.write(), stage.flushes(), stage.config(32)), (0, 1, 1));
    for nonsense in [&[2][..], &[0, 0], &[]] {
        stage.block.write_config(32, nonsense);
    }
    stage.block.write_config(33, &[0]);
    assert_eq!(stage.config(32), 1);
    stage.block.reset();
    assert_eq!((stage.config(32), stage.flushes()), (0, 2), "what was written last is flushed");
}

#[test]
fn errors_are_reported_or_ignored() {
    let mut stage = Stage::new(Traits::default(), FLUSH);
    stage.fail(libc::EIO);
    assert_eq!(stage.write(), 1);
    let mut stage = Stage::new(Traits { on_error: ErrorPolicy::Ignore, ..Traits::default() }, FLUSH);
    stage.fail(libc::EIO);
    assert_eq!(stage.write(), 0);
    let mut stage = Stage::new(Traits { on_error: ErrorPolicy::StopOnNoSpace, ..Traits::default() }, FLUSH);
    stage.fail(libc::EIO);
    assert_eq!(stage.write(), 1);
    assert!(stage.pauses.try_recv().is_err());
}

#[test]
fn a_stopping_disk_tries_again_when_the_machine_is_resumed() {
    for (policy, errno, text) in [
        (ErrorPolicy::Stop, libc::EIO, "Input/output error (os error 5)"),
        (ErrorPolicy::StopOnNoSpace, libc::ENOSPC, "No space left on device (os error 28)"),
    ] {
        let mut stage = Stage::new(Traits { on_error: policy, queues: 2, ..Traits::default() }, FLUSH);
        stage.fail(errno);
        stage.offer(0);
        let reason = stage.pauses.recv().unwrap();
        assert_eq!(reason, PauseReason::IoError(format!("disk \"root\": {text}")));
        // The machine runs on for a moment: nothing is served, and nothing more is said.
        stage.offer(0);
        stage.offer(1);
        stage.block.pause();
        assert_eq!(stage.queues[0].take_used(), None);
        assert_eq!(stage.queues[1].take_used(), None);
        assert!(stage.pauses.try_recv().is_err());
        // Not mended yet.
        stage.block.resume();
        stage.pauses.recv().unwrap();
        stage.block.pause();
        assert_eq!(stage.queues[0].take_used(), None);
        stage.fail(0);
        stage.block.resume();
        assert_eq!((stage.status(0), stage.status(0), stage.status(1)), (0, 0, 0));
    }
}

#[test]
fn with_a_ring_it_is_the_same() {
    assert!(ring::prepare(2), "this host has io_uring");
    errors_are_reported_or_ignored();
    a_stopping_disk_tries_again_when_the_machine_is_resumed();
    a_reset_forgets_what_was_held();
}

#[test]
fn a_reset_forgets_what_was_held() {
    let mut stage = Stage::new(Traits { on_error: ErrorPolicy::Stop, ..Traits::default() }, FLUSH);
    stage.fail(libc::EIO);
    stage.offer(0);
    stage.pauses.recv().unwrap();
    stage.block.reset();
    wait(|| stage.image.writes.load(Ordering::SeqCst) == 1);
    assert_eq!(stage.queues[0].take_used(), None);
}

#[test]
fn configuration_tells_the_blocks() {
    let block_size = BlockSize { logical: 4096, physical: 16384 };
    let stage = Stage::new(Traits { block_size, ..Traits::default() }, FLUSH);
    let mut data = [0; 12];
    stage.block.read_config(20, &mut data);
    // blk_size, physical_block_exp, alignment_offset, min_io_size, opt_io_size.
    assert_eq!(data, [0, 0x10, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0]);
    assert_ne!(stage.block.features() & 1 << 10, 0, "VIRTIO_BLK_F_TOPOLOGY");
}

/// Puts four writes into each of two queues and returns how long they took.
fn eight_writes(limit: RateLimit) -> Duration {
    let start = Instant::now();
    let mut stage = Stage::new(Traits { queues: 2, limit, ..Traits::default() }, FLUSH);
    for queue in [0, 1] {
        (0..4).for_each(|_| stage.offer(queue));
    }
    for queue in [0, 1].into_iter().cycle().take(8) {
        stage.queues[queue].wait_used();
    }
    assert_eq!(stage.image.writes.load(Ordering::SeqCst), 8);
    start.elapsed()
}

#[test]
fn over_its_limit_a_disk_is_slow_and_loses_nothing() {
    let operations = Some(Rate { per_second: 50, burst: 1 });
    let bytes = Some(Rate { per_second: 50 * 512, burst: 52 });
    for prepared in [false, true] {
        assert!(!prepared || ring::prepare(2), "this host has io_uring");
        // Seven wait 20 ms each, whichever queue they are in, less what the first finds in the bucket; and where both queues
        // look into it at the same moment, the last two pass together.
        assert!(eight_writes(RateLimit { operations, bytes: None }) >= Duration::from_millis(118));
        assert!(eight_writes(RateLimit { operations: None, bytes }) >= Duration::from_millis(118));
    }
}

#[test]
fn a_throttled_disk_pauses_and_resets_at_once() {
    for prepared in [false, true] {
        assert!(!prepared || ring::prepare(1), "this host has io_uring");
        // The first write is larger than the burst, and pays for eight minutes.
        let limit = RateLimit { bytes: Some(Rate { per_second: 1, burst: 1 }), operations: None };
        let mut stage = Stage::new(Traits { limit, ..Traits::default() }, FLUSH);
        (0..3).for_each(|_| stage.offer(0));
        stage.queues[0].wait_used();
        stage.block.pause();
        stage.block.resume();
        stage.offer(0);
        stage.block.pause();
        stage.block.reset();
        assert_eq!(stage.queues[0].take_used(), None);
        assert_eq!(stage.image.writes.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_disk_that_wants_no_ring_leaves_it_to_others() {
    assert!(ring::prepare(1), "this host has io_uring");
    for ring in [true, false] {
        let mut stage = Stage::new(Traits { ring, ..Traits::default() }, FLUSH);
        assert_eq!(Ring::take().is_some(), !ring);
        stage.offer(0);
        stage.queues[0].wait_used();
        assert_eq!(stage.image.writes.load(Ordering::SeqCst), 1);
        stage.block.reset();
    }
}
