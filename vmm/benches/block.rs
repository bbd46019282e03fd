//! What a block request costs without a guest: the queue, the request's parsing, the image.
//!
//! `cargo bench -p vireo-vmm`. Images lie in the build folder's file system, and in its page cache after the first round.

use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vireo_vmm::config::{ErrorPolicy, ImageFormat};
use vireo_vmm::disk::{Image, Options, open, ring};
use vireo_vmm::event_loop::EventLoop;
use vireo_vmm::memory::GuestRam;
use vireo_vmm::memory::guest_buffers::GuestBuffers;
use vireo_vmm::pausing::PauseRequests;
use vireo_vmm::virtio::block::Serial;
use vireo_vmm::virtio::block::request::{self, Limits};
use vireo_vmm::virtio::block::worker::{Disk, QueueWorker};
use vireo_vmm::virtio::device::{ActiveQueue, Notify};
use vireo_vmm::virtio::throttle::Throttle;
use vireo_vmm::virtio::virtqueue::Virtqueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Size of the images, bytes.
const SIZE: u64 = 64 << 20;
const FORMATS: [(&str, ImageFormat); 2] = [("raw", ImageFormat::Raw), ("qcow2", ImageFormat::Qcow2)];
const QUEUE: u16 = 256;
const DESC: u64 = 0;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADERS: u64 = 0x4000;
const DATA: u64 = 0x1_0000;

#[derive(Debug)]
struct Silent;

impl Notify for Silent {
    fn queue(&self, _: u16) {}
    fn config(&self) {}
    fn failed(&self) {}
}

fn ram() -> GuestRam {
    Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).expect("memory"))
}

fn put(ram: &GuestRam, at: u64, bytes: &[u8]) {
    ram.write_slice(bytes, GuestAddress(at)).expect("inside of RAM");
}

/// Describes a request to read, or to write, `len` bytes in the descriptors from `3 * number` on.
fn describe(ram: &GuestRam, number: u16, write: bool, sector: u64, len: u32) {
    let (head, header) = (number * 3, HEADERS + 32 * u64::from(number));
    put(ram, header, &u64::from(write).to_le_bytes());
    put(ram, header + 8, &sector.to_le_bytes());
    let data = DATA + u64::from(number) * u64::from(len);
    let parts = [(header, 16, 1), (data, len, if write { 1 } else { 3 }), (header + 16, 1, 2_u16)];
    for (index, (addr, len, flags)) in (head..).zip(parts) {
        let at = DESC + 16 * u64::from(index);
        put(ram, at, &addr.to_le_bytes());
        put(ram, at + 8, &len.to_le_bytes());
        put(ram, at + 12, &flags.to_le_bytes());
        put(ram, at + 14, &(index + 1).to_le_bytes());
    }
}

/// A queue with a read of 4 KiB in every three of its descriptors.
fn filled(ram: &GuestRam) -> (Virtqueue, u16) {
    let requests = QUEUE / 3;
    for request in 0..requests {
        describe(ram, request, false, u64::from(request) * 8, 4096);
        put(ram, AVAIL + 4 + 2 * u64::from(request), &(request * 3).to_le_bytes());
    }
    put(ram, AVAIL + 2, &requests.to_le_bytes());
    (empty_queue(), requests)
}

fn empty_queue() -> Virtqueue {
    let mut queue = Queue::new(QUEUE).expect("a power of two");
    queue.try_set_desc_table_address(GuestAddress(DESC)).expect("aligned");
    queue.try_set_avail_ring_address(GuestAddress(AVAIL)).expect("aligned");
    queue.try_set_used_ring_address(GuestAddress(USED)).expect("aligned");
    queue.set_ready(true);
    let kick = EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd");
    Virtqueue::new(ActiveQueue { index: 0, queue, kick }, Arc::new(Silent))
}

fn queue(criterion: &mut Criterion) {
    let ram = ram();
    let mut buffers = GuestBuffers::new(Arc::clone(&ram));
    let limits = Limits { size: SIZE, readonly: false };
    let mut group = criterion.benchmark_group("queue");
    group.throughput(Throughput::Elements(u64::from(QUEUE / 3)));
    group.bench_function("drain", |bencher| {
        bencher.iter_batched_ref(
            || filled(&ram),
            |(queue, _)| queue.drain(&ram, |chain| Ok(u32::from(black_box(chain.head_index())))).expect("sound"),
            criterion::BatchSize::SmallInput,
        );
    });
    group.bench_function("drain and parse", |bencher| {
        bencher.iter_batched_ref(
            || filled(&ram),
            |(queue, _)| {
                let parse = |chain| request::parse(&ram, chain, &mut buffers, limits).map(|parsed| parsed.writable);
                queue.drain(&ram, parse).expect("sound");
            },
            criterion::BatchSize::SmallInput,
        );
    });
}

/// An image full of data, open for writing.
fn image(folder: &std::path::Path, format: ImageFormat, direct: bool) -> Arc<dyn Image> {
    let raw = folder.join("raw");
    let content: Vec<u8> = (0..SIZE).map(|at| u8::try_from(at / 512 % 251).expect("small")).collect();
    std::fs::write(&raw, content).expect("an image");
    let path = if format == ImageFormat::Qcow2 {
        let path = folder.join("qcow2");
        let convert = ["convert", "-f", "raw", "-O", "qcow2"];
        let status = Command::new("qemu-img").args(convert).args([&raw, &path]).status();
        assert!(status.expect("qemu-img (package qemu-utils)").success());
        path
    } else {
        raw
    };
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("the image");
    // What makes it isn't to be measured.
    file.sync_all().expect("on the disk");
    let options = Options { format, readonly: false, shareable: false, direct, block: 4096 };
    open(file, None, options).expect("a sound image")
}

/// A stride that comes by every block in an order without a pattern.
fn blocks(size: u64) -> impl FnMut() -> u64 {
    let mut offset = 0;
    move || {
        offset = (offset + 7_919 * size) % SIZE;
        offset
    }
}

fn images(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let ram = ram();
    let mut buffers = GuestBuffers::new(Arc::clone(&ram));
    for (name, format) in FORMATS {
        let image = image(folder.path(), format, false);
        let mut group = criterion.benchmark_group(name);
        for size in [4096, 128 << 10] {
            group.throughput(Throughput::Bytes(size as u64));
            let mut next = blocks(size as u64);
            group.bench_function(BenchmarkId::new("read", size), |bencher| {
                bencher.iter(|| {
                    buffers.push(GuestAddress(DATA), size).expect("inside of RAM");
                    let _hold = image.hold();
                    image.read(&mut buffers, next()).expect("a read");
                });
            });
            group.bench_function(BenchmarkId::new("write", size), |bencher| {
                bencher.iter(|| {
                    buffers.push(GuestAddress(DATA), size).expect("inside of RAM");
                    let _hold = image.hold();
                    image.write(&mut buffers, next()).expect("a write");
                });
            });
        }
    }
}

/// Requests that the driver queues at once.
const DEPTH: u16 = 32;

/// Whole batches of requests through a queue's own worker, in the page cache and around it.
fn depth(criterion: &mut Criterion) {
    ring::prepare(1);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    for (name, format) in FORMATS {
        for (direct, cache) in [(false, "cached"), (true, "direct")] {
            if direct && format == ImageFormat::Qcow2 {
                continue;
            }
            let mut group = criterion.benchmark_group(format!("{name} {cache}, depth {DEPTH}"));
            for (write, kind) in [(false, "read"), (true, "write")] {
                for size in [4096, 128 << 10] {
                    let ram = ram();
                    let disk = Disk {
                        name: name.into(),
                        image: image(folder.path(), format, direct),
                        serial: Serial::default(),
                        on_error: ErrorPolicy::Report,
                        ring: true,
                        writeback: AtomicBool::new(true),
                        held: AtomicBool::new(false),
                    };
                    let (queue, pauses) = (empty_queue(), PauseRequests::default());
                    let throttle = Throttle::new(None, queue.kick()).expect("no limit");
                    let mut worker = QueueWorker::new(Arc::clone(&ram), queue, Arc::new(disk), true, throttle, pauses);
                    let mut events = EventLoop::new().expect("an epoll");
                    let (mut next, mut index) = (blocks(size.into()), 0_u16);
                    group.throughput(Throughput::Elements(DEPTH.into()));
                    group.bench_function(BenchmarkId::new(kind, size), |bencher| {
                        bencher.iter(|| {
                            for number in 0..DEPTH {
                                describe(&ram, number, write, next() / 512, size);
                                put(&ram, AVAIL + 4 + 2 * u64::from(index % QUEUE), &(number * 3).to_le_bytes());
                                index = index.wrapping_add(1);
                            }
                            put(&ram, AVAIL + 2, &index.to_le_bytes());
                            worker.kicked(&mut events);
                        });
                    });
                    assert_eq!(ram.read_obj::<u16>(GuestAddress(USED + 2)).expect("inside of RAM"), index);
                }
            }
        }
    }
}

criterion_group!(benches, queue, images, depth);
criterion_main!(benches);
