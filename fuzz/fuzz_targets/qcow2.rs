//! qcow2 images whose every table the input may change: opened, read and written, or refused.
#![no_main]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vireo_vmm::config::ImageFormat;
use vireo_vmm::disk::{Access, Image, Options, open};
use vireo_vmm::memory::guest_buffers::GuestBuffers;
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// Bytes of a cluster, of the disk, and of what is read and written of it.
const CLUSTER: usize = 512;
const SIZE: u64 = 64 << 10;
const PART: usize = 8 << 10;

/// An image of ten clusters: header, level-1 table, two level-2 tables, refcount table and block, data.
fn sound() -> Vec<u8> {
    let mut image = vec![0; 10 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3_u32.to_be_bytes());
    put(20, &9_u32.to_be_bytes());
    put(24, &SIZE.to_be_bytes());
    put(36, &2_u32.to_be_bytes());
    put(40, &(CLUSTER as u64).to_be_bytes());
    put(48, &(4 * CLUSTER as u64).to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    let entry = |cluster: usize| (1 << 63 | (cluster * CLUSTER) as u64).to_be_bytes();
    for table in 0..2 {
        put(CLUSTER + 8 * table, &entry(2 + table));
        put((2 + table) * CLUSTER, &entry(6 + 2 * table));
        put((2 + table) * CLUSTER + 8, &entry(7 + 2 * table));
    }
    put(4 * CLUSTER, &(5 * CLUSTER as u64).to_be_bytes());
    (0..10).for_each(|cluster| put(5 * CLUSTER + 2 * cluster, &1_u16.to_be_bytes()));
    image
}

fn image(input: &[u8]) -> File {
    let mut image = sound();
    // Each ten bytes of input are a place and what stands there.
    for change in input.chunks_exact(10) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % (image.len() - 8);
        image[at..at + 8].copy_from_slice(&change[2..]);
    }
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&image).expect("room");
    file
}

fn exercise(image: &dyn Image, write: bool) {
    let ram = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), PART)]).expect("memory"));
    let mut buffers = GuestBuffers::new(ram);
    let len = PART.min(usize::try_from(image.size()).unwrap_or(PART));
    for offset in [0, 32 << 10, image.size() - len as u64] {
        if offset + len as u64 > image.size() {
            continue;
        }
        let list = |buffers: &mut GuestBuffers| {
            buffers.clear();
            buffers.push(GuestAddress(0), len).expect("inside of RAM");
        };
        list(&mut buffers);
        let hold = image.hold();
        let _ = image.in_place(&buffers, offset, Access::Write);
        let _ = image.read(&mut buffers, offset);
        if write {
            list(&mut buffers);
            let _ = image.write(&mut buffers, offset);
        }
        drop(hold);
        if write {
            let _ = image.write_zeroes(offset + 512, (len - 512) as u64, offset == 0);
            let _ = image.discard(offset, len as u64 / 2);
            let _ = image.flush();
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, input)) = input.split_first() else { return };
    let file = image(input);
    let length = file.metadata().expect("a size").len();
    let overlay = mode & 2 != 0;
    let readonly = mode & 1 != 0;
    let options = Options { format: ImageFormat::Qcow2, readonly, shareable: false, direct: false, block: 512 };
    let scratch = overlay.then(|| tempfile::tempfile().expect("a file"));
    if let Ok(image) = open(file.try_clone().expect("a descriptor"), scratch, options) {
        exercise(&*image, !readonly);
        drop(image);
    }
    if readonly || overlay {
        let mut after = vec![0; usize::try_from(length).expect("small")];
        file.read_exact_at(&mut after, 0).expect("as long as before");
        assert_eq!(file.metadata().expect("a size").len(), length, "nobody writes to it");
    }
});
