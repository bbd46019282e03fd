//! What a block request costs without a guest: the queue, the request's parsing, the image.
//!
//! `cargo bench -p vireo-vmm`. Images lie in the build folder's file system, and in its page cache after the first round.

use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vireo_vmm::config::ImageFormat;
use vireo_vmm::disk::{Image, Options, open};
use vireo_vmm::memory::GuestRam;
use vireo_vmm::memory::guest_buffers::GuestBuffers;
use vireo_vmm::virtio::block::request::{self, Limits};
use vireo_vmm::virtio::device::{ActiveQueue, Notify};
use vireo_vmm::virtio::virtqueue::Virtqueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Size of the images, bytes.
const SIZE: u64 = 64 << 20;
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
    Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).expect("memory"))
}

/// A queue with a read of 4 KiB in every three of its descriptors.
fn filled(ram: &GuestRam) -> (Virtqueue, u16) {
    let put = |at: u64, bytes: &[u8]| ram.write_slice(bytes, GuestAddress(at)).expect("inside of RAM");
    let describe = |index: u16, addr: u64, len: u32, flags: u16| {
        let at = DESC + 16 * u64::from(index);
        put(at, &addr.to_le_bytes());
        put(at + 8, &len.to_le_bytes());
        put(at + 12, &flags.to_le_bytes());
        put(at + 14, &(index + 1).to_le_bytes());
    };
    let requests = QUEUE / 3;
    for request in 0..requests {
        let (head, header) = (request * 3, HEADERS + 32 * u64::from(request));
        put(header, &[0; 8]);
        put(header + 8, &(u64::from(request) * 8).to_le_bytes());
        describe(head, header, 16, 1);
        describe(head + 1, DATA, 4096, 3);
        describe(head + 2, header + 16, 1, 2);
        put(AVAIL + 4 + 2 * u64::from(request), &head.to_le_bytes());
    }
    put(AVAIL + 2, &requests.to_le_bytes());
    let mut queue = Queue::new(QUEUE).expect("a power of two");
    queue.try_set_desc_table_address(GuestAddress(DESC)).expect("aligned");
    queue.try_set_avail_ring_address(GuestAddress(AVAIL)).expect("aligned");
    queue.try_set_used_ring_address(GuestAddress(USED)).expect("aligned");
    queue.set_ready(true);
    let kick = EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd");
    (Virtqueue::new(ActiveQueue { index: 0, queue, kick }, Arc::new(Silent)), requests)
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
fn image(folder: &std::path::Path, format: ImageFormat) -> Arc<dyn Image> {
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
    let options = Options { format, readonly: false, shareable: false, direct: false, block: 512 };
    open(file, None, options).expect("a sound image")
}

fn images(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let ram = ram();
    let mut buffers = GuestBuffers::new(Arc::clone(&ram));
    for (name, format) in [("raw", ImageFormat::Raw), ("qcow2", ImageFormat::Qcow2)] {
        let image = image(folder.path(), format);
        let mut group = criterion.benchmark_group(name);
        for size in [4096, 128 << 10] {
            group.throughput(Throughput::Bytes(size as u64));
            // A stride that comes by every block in an order without a pattern for the page cache.
            let mut offset = 0;
            let mut next = move || {
                offset = (offset + 7_919 * size as u64) % SIZE;
                offset
            };
            group.bench_function(BenchmarkId::new("read", size), |bencher| {
                bencher.iter(|| {
                    buffers.push(GuestAddress(DATA), size).expect("inside of RAM");
                    image.read(&mut buffers, next()).expect("a read");
                });
            });
            group.bench_function(BenchmarkId::new("write", size), |bencher| {
                bencher.iter(|| {
                    buffers.push(GuestAddress(DATA), size).expect("inside of RAM");
                    image.write(&mut buffers, next()).expect("a write");
                });
            });
        }
    }
}

criterion_group!(benches, queue, images);
criterion_main!(benches);
