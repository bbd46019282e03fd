//! What is refused before a guest starts, and what corruption is to a guest that runs.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::config::ImageFormat;
use crate::disk::testing::{Disk, Fixture, SIZE, content, qemu_img};
use crate::disk::{Access, Image, Options, QcowImage, open};
use crate::memory::guest_buffers::GuestBuffers;

/// Changes bytes of a fixture's image.
fn patch(fixture: &Fixture, offset: u64, bytes: &[u8]) {
    fixture.file(true).write_all_at(bytes, offset).unwrap();
}

fn be64(fixture: &Fixture, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    fixture.file(false).read_exact_at(&mut bytes, offset).unwrap();
    u64::from_be_bytes(bytes)
}

/// What an image is refused with, changed like that.
fn refusal(change: impl FnOnce(&Fixture)) -> String {
    let fixture = Fixture::qcow2("", &[]);
    change(&fixture);
    fixture.refusal()
}

/// Where the level-1 table and the first level-2 table are.
fn tables(fixture: &Fixture) -> (u64, u64) {
    let l1 = be64(fixture, 40);
    (l1, be64(fixture, l1) & !(1 << 63))
}

#[test]
fn no_image_names_a_file_of_the_host() {
    let fixture = Fixture::raw();
    let (base, top) = (fixture.path("base"), fixture.path("disk"));
    std::fs::rename(&top, &base).unwrap();
    let (base, top) = (base.to_str().unwrap(), top.to_str().unwrap());
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, top]);
    let fixture = fixture.of(ImageFormat::Qcow2);
    assert_eq!(
        fixture.refusal(),
        format!(
            "backing file {base:?} refused: images may not name host paths; qemu-img convert makes one that stands alone"
        )
    );
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-F", "raw", "-b", base, top]);
    assert!(fixture.refusal().starts_with("backing file \""));
    let data = fixture.path("data");
    let option = format!("data_file={}", data.to_str().unwrap());
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option, top, "1M"]);
    assert!(fixture.refusal().starts_with(&format!("data file {data:?} refused: images may not name host paths")));
}

#[test]
fn what_it_cannot_be_is_named() {
    assert_eq!(refusal(|f| patch(f, 0, b"QFJ")), "is no qcow2 image");
    assert_eq!(refusal(|f| patch(f, 7, &[4])), "qcow2 version 4 is not known; 2 and 3 are");
    assert_eq!(refusal(|f| patch(f, 7, &[1])), "qcow2 version 1 is not known; 2 and 3 are");
    assert!(refusal(|f| patch(f, 35, &[2])).starts_with("is encrypted"));
    assert!(refusal(|f| patch(f, 79, &[2])).starts_with("is marked as corrupt"));
    assert!(refusal(|f| patch(f, 79, &[16])).starts_with("needs extended L2 entries"));
    assert!(refusal(|f| patch(f, 72, &[0x80])).starts_with("needs incompatible feature 63"));
    assert!(refusal(|f| patch(f, 79, &[8])).starts_with("needs compression type 0"));
    assert!(refusal(|f| patch(f, 23, &[8])).starts_with("is no sound qcow2 image: cluster size 256"));
    assert!(refusal(|f| patch(f, 20, &[0xFF; 4])).starts_with("is no sound qcow2 image: cluster size 0"));
    assert!(refusal(|f| patch(f, 24, &[0; 8])).starts_with("is no sound qcow2 image: disk size 0"));
    assert!(refusal(|f| patch(f, 24, &[0x7F; 8])).starts_with("is no sound qcow2 image: disk size"));
    assert!(refusal(|f| patch(f, 28, &[0xFF; 3])).starts_with("is no sound qcow2 image: disk size"));
    assert!(refusal(|f| patch(f, 36, &[0xFF; 4])).starts_with("is no sound qcow2 image: number of level-1 entries"));
    assert!(refusal(|f| patch(f, 36, &[0; 4])).starts_with("is no sound qcow2 image: number of level-1 entries 0"));
    assert!(refusal(|f| patch(f, 56, &[0xFF; 4])).starts_with("is no sound qcow2 image: refcount table clusters"));
    assert!(refusal(|f| patch(f, 96, &[0, 0, 0, 7])).starts_with("is no sound qcow2 image: refcount order 7"));
    assert!(refusal(|f| patch(f, 100, &[0, 0, 0, 64])).starts_with("is no sound qcow2 image: header length 64"));
    assert!(refusal(|f| patch(f, 100, &[0xFF; 4])).starts_with("is no sound qcow2 image: header length"));
}

#[test]
fn what_is_cut_off_is_named() {
    let cut = |len| refusal(|f| f.file(true).set_len(len).unwrap());
    assert_eq!(cut(50), "is truncated: the header reaches to byte 72, the file has 50");
    assert!(cut(105).starts_with("is truncated: the header reaches to byte 112"), "{}", cut(105));
    assert!(cut(112).starts_with("is truncated: the file ends within the header's extensions"), "{}", cut(112));
    assert!(cut(4096).starts_with("is truncated: the level-1 table reaches to byte"), "{}", cut(4096));
    let half = |f: &Fixture| f.file(true).set_len(std::fs::metadata(f.path("disk")).unwrap().len() / 2).unwrap();
    assert!(refusal(half).starts_with("is truncated: data reaches to byte"), "{}", refusal(half));
}

#[test]
fn tables_that_lead_astray_are_refused() {
    let l1 = |f: &Fixture, entry: u64| patch(f, tables(f).0, &entry.to_be_bytes());
    let l2 = |f: &Fixture, index: u64, entry: u64| patch(f, tables(f).1 + 8 * index, &entry.to_be_bytes());
    assert!(refusal(|f| l1(f, 1 << 63 | 1 << 40)).starts_with("is truncated: a level-2 table"));
    assert!(refusal(|f| l1(f, 1 << 63 | 512)).starts_with("is corrupt: a level-2 table at byte 512"));
    let overlap = |what: &str, text: String| {
        assert!(text.starts_with(&format!("is corrupt: {what} overlaps something else at byte ")), "{text}");
    };
    overlap("a level-2 table", refusal(|f| l1(f, 1 << 63 | tables(f).0)));
    overlap("the refcount table", refusal(|f| patch(f, 40, &be64(f, 48).to_be_bytes())));
    overlap("data", refusal(|f| l2(f, 0, 1 << 63 | tables(f).1)));
    overlap("data", refusal(|f| l2(f, 1, be64(f, tables(f).1))));
    overlap("compressed data", refusal(|f| l2(f, 0, 1 << 62 | tables(f).0)));
    assert!(refusal(|f| l2(f, 0, 1 << 63 | 1 << 44)).starts_with("is truncated: data reaches"));
    assert!(refusal(|f| l2(f, 0, 1 << 62 | 1 << 44)).starts_with("is truncated: compressed data reaches"));
}

/// Anonymous memory of the process, bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn tables_of_large_images_take_bounded_memory() {
    // How many tables are touched: more than fit, and few where each is made durable by itself.
    let cases = [("cluster_size=64K", 100_u64 << 30, 300, true), ("cluster_size=64K", 100 << 30, 100, false)];
    for (options, size, tables, overlay) in cases.into_iter().chain([("cluster_size=2M", 16 << 40, 20, false)]) {
        let fixture = Fixture::raw();
        let path = fixture.path("disk");
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, path.to_str().unwrap(), &size.to_string()]);
        let fixture = fixture.of(ImageFormat::Qcow2);
        let fixture = if overlay { fixture.overlaid() } else { fixture };
        let disk = fixture.open();
        let before = memory();
        let places = || (0..tables).map(|i| i * 7919 % tables * (size / tables / 512 * 512));
        for (i, at) in places().enumerate() {
            disk.write(usize::try_from(at).unwrap(), &[u8::try_from(i % 255 + 1).unwrap(); 1024]).unwrap();
        }
        for (i, at) in places().enumerate() {
            let read = disk.read(usize::try_from(at).unwrap(), 2048).unwrap();
            assert_eq!(read[..1024], [u8::try_from(i % 255 + 1).unwrap(); 1024], "{at}");
            assert_eq!(read[1024..], [0; 1024], "{at}");
        }
        let grown = memory().saturating_sub(before);
        // What the allocator keeps for itself comes on top.
        assert!(grown < 6 << 20, "{options}: {grown} bytes");
        disk.image.flush().unwrap();
        drop(disk);
        if !overlay {
            qemu_img(&["check", "-q", "-f", "qcow2", path.to_str().unwrap()]);
        }
    }
}

/// The library writes a header where its refcount table has to move; what it forgets it then finds in the new place, and
/// the disk keeps its size.
#[test]
fn tables_that_move_are_found_again() {
    for direct in [None, Some(512)] {
        tables_that_move(direct);
    }
}

fn tables_that_move(direct: Option<u32>) {
    const LEN: u64 = (20 << 20) + 512;
    let fixture = Fixture::raw();
    let path = fixture.path("disk");
    let path = path.to_str().unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=1024,refcount_bits=64", path, &LEN.to_string()]);
    let fixture = fixture.of(ImageFormat::Qcow2);
    let before = be64(&fixture, 48);
    let image = Arc::new(QcowImage::open(fixture.file(true), false, direct).unwrap());
    let disk = Disk::new(image.clone());
    let fill = |byte: u8| {
        for at in (0..LEN).step_by(64 << 10) {
            let len = usize::try_from((LEN - at).min(64 << 10)).unwrap();
            disk.write(usize::try_from(at).unwrap(), &vec![byte; len]).unwrap();
        }
    };
    fill(1);
    assert_ne!(be64(&fixture, 48), before, "it has moved");
    image.access.flush().unwrap();
    // SAFETY: everything is written, and nobody else uses the image.
    unsafe { image.access.invalidate_cache() }.unwrap();
    disk.image.write_zeroes(0, 1 << 20, true).unwrap();
    fill(2);
    assert!(disk.read(1 << 20, 4096).unwrap() == [2; 4096]);
    disk.image.flush().unwrap();
    assert_eq!(be64(&fixture, 24), LEN);
    fixture.check();
}

/// Only what is the image's alone is written in place, and only past the page cache; a flush then knows of it.
#[test]
fn writes_go_in_place_where_a_cluster_is_there_already() {
    let folder = std::env::var_os("CARGO_TARGET_TMPDIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    // Where the file system has direct I/O, which the one of temporary files may not.
    let image = |fixture: &Fixture, direct| {
        let mut file = tempfile::tempfile_in(&folder).unwrap();
        std::io::copy(&mut fixture.file(false), &mut file).unwrap();
        Arc::new(QcowImage::open(file, false, direct).unwrap())
    };
    let ram = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
    let finds = |image: &QcowImage, offset, address, len, access| {
        let mut buffers = GuestBuffers::new(Arc::clone(&ram));
        buffers.push(GuestAddress(address), len).unwrap();
        let _hold = image.hold();
        image.in_place(&buffers, offset, access).is_some()
    };
    let plain = Fixture::qcow2("cluster_size=4096", &[]);
    let cached = image(&plain, None);
    assert!(!cached.is_direct() && !finds(&cached, 0, 0, 4096, Access::Write));
    assert!(finds(&cached, 0, 16, 4096, Access::Read));
    let direct = image(&plain, Some(4096));
    assert!(direct.is_direct(), "the file system of this folder has direct I/O");
    assert!(finds(&direct, 0, 0, 4096, Access::Write) && finds(&direct, 0, 0, 4096, Access::Read));
    assert!(!finds(&direct, 0, 16, 4096, Access::Write) && !finds(&direct, 0, 16, 4096, Access::Read), "not aligned");
    direct.flush().unwrap();
    let dirty = || direct.direct.as_ref().unwrap().dirty.load(Ordering::Acquire);
    assert!(!dirty());
    Disk::new(direct.clone()).write_as_may_be(4096, &[9; 4096]).unwrap();
    assert!(dirty(), "a flush has to sync it");
    direct.flush().unwrap();
    assert!(!dirty());
    direct.discard(8192, 4096).unwrap();
    assert!(!finds(&direct, 8192, 0, 4096, Access::Write), "it has no place");
    assert!(!finds(&direct, 4096, 0, 8192, Access::Write), "nor has all of it");
    // Clusters that are smaller than blocks would share them.
    assert!(!image(&Fixture::qcow2("cluster_size=512", &[]), Some(256)).is_direct());
    qemu_img(&["snapshot", "-c", "before", plain.path("disk").to_str().unwrap()]);
    let shared = image(&plain, Some(4096));
    assert!(!finds(&shared, 0, 0, 4096, Access::Write), "the snapshot has it, too");
    assert!(finds(&shared, 0, 0, 4096, Access::Read));
    let packed = image(&Fixture::qcow2("cluster_size=4096", &["-c"]), Some(4096));
    assert!(!finds(&packed, 0, 0, 4096, Access::Write) && !finds(&packed, 0, 0, 4096, Access::Read));
}

#[test]
fn refcounts_that_lead_astray_are_refused_to_writers() {
    let fixture = Fixture::qcow2("", &[]);
    let table = be64(&fixture, 48);
    let block = be64(&fixture, table);
    let writer = |fixture: &Fixture| {
        let options = Options { readonly: false, ..fixture.options() };
        open(fixture.file(true), None, options).map(|_| ()).map_err(|error| error.to_string())
    };
    writer(&fixture).unwrap();
    patch(&fixture, table + 8, &block.to_be_bytes());
    assert!(writer(&fixture).unwrap_err().starts_with("is corrupt: a refcount block overlaps something else"));
    patch(&fixture, table + 8, &[0; 8]);
    patch(&fixture, table + 800, &(1_u64 << 20).to_be_bytes());
    assert!(writer(&fixture).unwrap_err().starts_with("is corrupt: a refcount block past the file's end"));
    open(fixture.file(false), None, fixture.options()).expect("readers don't look at them");
    patch(&fixture, 79, &[1]);
    assert!(writer(&fixture).unwrap_err().starts_with("is marked as dirty"));
}

#[test]
fn zstd_clusters_are_read_and_not_written_beside_snapshots() {
    let fixture = Fixture::qcow2("compression_type=zstd", &["-c"]);
    let disk = Disk::new(open(fixture.file(false), None, fixture.options()).unwrap());
    assert!(disk.read(0, SIZE).unwrap() == content());
    assert!(disk.read(65_024, 1024).unwrap() == content()[65_024..66_048]);
    drop(disk);
    let options = Options { readonly: false, ..fixture.options() };
    qemu_img(&["snapshot", "-c", "before", fixture.path("disk").to_str().unwrap()]);
    let refusal = open(fixture.file(true), None, options).unwrap_err().to_string();
    assert!(refusal.starts_with("has zstd clusters and internal snapshots"), "{refusal}");
}

/// Tables can't all be looked at beforehand, and data not at all.
#[test]
fn corruption_met_later_is_an_io_error() {
    for options in ["cluster_size=4096", "cluster_size=4096,compression_type=zstd"] {
        let fixture = Fixture::qcow2(options, &["-c"]);
        let disk = Disk::new(open(fixture.file(false), None, fixture.options()).unwrap());
        let entry = be64(&fixture, tables(&fixture).1);
        let offset = entry & ((1 << 58) - 1);
        patch(&fixture, offset, &[0xFF; 64]);
        disk.read(0, 512).expect_err("garbage is not unpacked");
        assert!(disk.read(8192, 4096).unwrap() == content()[8192..12288], "the rest stays readable");
    }
    let fixture = Fixture::qcow2("", &[]);
    let disk = Disk::new(open(fixture.file(false), None, fixture.options()).unwrap());
    fixture.file(true).set_len(tables(&fixture).1 + (64 << 10)).unwrap();
    disk.read(0, SIZE).expect_err("data that is gone");
    let disk = {
        let fixture = Fixture::qcow2("", &[]);
        let disk = Disk::new(open(fixture.file(false), None, fixture.options()).unwrap());
        patch(&fixture, tables(&fixture).1, &[0x7F; 8]);
        disk
    };
    disk.read(0, 512).expect_err("a table with reserved bits set");
}

#[test]
fn features_that_a_writer_must_clear_are_cleared() {
    let fixture = Fixture::qcow2("", &[]);
    patch(&fixture, 95, &[1]);
    fixture.open().write(0, &[1; 512]).unwrap();
    assert_eq!(be64(&fixture, 88), 0);
}

/// Some places of the image with other bytes in them.
fn changes() -> impl Strategy<Value = Vec<(usize, u64)>> {
    let value = prop_oneof![
        any::<u64>(),
        0..32_u64,
        (0..40_u64).prop_map(|n| (1 << 63) | (n * 512)),
        (0..64_u32).prop_map(|n| 1 << n)
    ];
    // Most of what matters is in the header and at the start of the tables.
    let at =
        prop_oneof![3 => 0..14_usize, 3 => (1..8_usize, 0..4_usize).prop_map(|(c, i)| c * 64 + i), 1 => 0..512_usize];
    prop::collection::vec((at, value), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever an image says, it is refused, or an I/O error at worst: no panic, no hang, no write to a base.
    #[test]
    fn any_image_is_an_error_at_worst(changes in changes(), mode in 0..3, zstd in 0..2_usize) {
        let fixture = SMALL.with(|small| {
            let fixture = Fixture::raw().of(ImageFormat::Qcow2);
            std::fs::write(fixture.path("disk"), &small[zstd]).unwrap();
            fixture
        });
        for (at, value) in changes {
            patch(&fixture, at as u64 * 8, &value.to_be_bytes());
        }
        let before = std::fs::read(fixture.path("disk")).unwrap();
        let options = Options { readonly: mode == 0, ..fixture.options() };
        let scratch = (mode == 1).then(|| tempfile::tempfile().unwrap());
        if let Ok(image) = open(fixture.file(mode == 2), scratch, options) {
            let disk = Disk::new(image);
            let size = usize::try_from(disk.image.size()).unwrap_or(usize::MAX);
            for offset in [0, 100_352, size.saturating_sub(65_536)] {
                let len = 65_536.min(size.saturating_sub(offset));
                let _ = disk.read(offset, len);
                if mode > 0 && len > 0 {
                    let _ = disk.write(offset, &vec![9; len]);
                    let _ = disk.image.write_zeroes(offset as u64, len as u64, offset == 0);
                    let _ = disk.image.discard(offset as u64, len as u64);
                    let _ = disk.image.flush();
                }
            }
        }
        if mode < 2 {
            prop_assert!(std::fs::read(fixture.path("disk")).unwrap() == before);
        }
    }
}

thread_local! {
    /// Images of small clusters, some of them compressed, in both ways.
    static SMALL: [Vec<u8>; 2] = ["zlib", "zstd"].map(|kind| {
        let fixture = Fixture::qcow2(&format!("cluster_size=512,compression_type={kind}"), &["-c"]);
        fixture.open().write(1024, &[1; 8192]).unwrap();
        std::fs::read(fixture.path("disk")).unwrap()
    });
}
