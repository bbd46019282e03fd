//! One table of cases for every kind of image: the guest can't tell them apart.

use proptest::prelude::*;

use super::testing::{Fixture, SIZE, content, qemu_img};
use super::{Options, open};
use crate::config::ImageFormat;

/// Every kind of image that a guest writes to.
fn kinds() -> Vec<(&'static str, Fixture)> {
    vec![
        ("raw", Fixture::raw()),
        ("raw, overlaid", Fixture::raw().overlaid()),
        ("qcow2", Fixture::qcow2("", &[])),
        ("qcow2 of version 2", Fixture::qcow2("compat=0.10", &[])),
        ("qcow2 of small clusters", Fixture::qcow2("cluster_size=512,refcount_bits=1", &[])),
        ("qcow2 of large clusters", Fixture::qcow2("cluster_size=2M", &[])),
        ("qcow2, zlib", Fixture::qcow2("cluster_size=4096", &["-c"])),
        ("qcow2, zlib, overlaid", Fixture::qcow2("", &["-c"]).overlaid()),
        ("qcow2, zstd", Fixture::qcow2("compression_type=zstd", &["-c"])),
        ("qcow2, zstd of small clusters, alone", Fixture::qcow2("compression_type=zstd,cluster_size=4096", &["-c"])),
        ("qcow2, zstd, overlaid", Fixture::qcow2("compression_type=zstd", &["-c"]).overlaid()),
        (
            "qcow2, zstd of small clusters",
            Fixture::qcow2("compression_type=zstd,cluster_size=4096", &["-c"]).overlaid(),
        ),
        ("qcow2 with a snapshot", snapshotted()),
        ("qcow2, direct", Fixture::qcow2("", &[]).direct()),
        ("qcow2 of small clusters, direct", Fixture::qcow2("cluster_size=512,refcount_bits=1", &[]).direct()),
        ("qcow2, zlib, direct", Fixture::qcow2("cluster_size=4096", &["-c"]).direct()),
        ("qcow2, zstd, direct", Fixture::qcow2("cluster_size=4096,compression_type=zstd", &["-c"]).direct()),
        ("qcow2 with a snapshot, direct", snapshotted().direct()),
    ]
}

fn snapshotted() -> Fixture {
    let fixture = Fixture::qcow2("", &[]);
    qemu_img(&["snapshot", "-c", "before", fixture.path("disk").to_str().unwrap()]);
    fixture
}

#[test]
fn every_kind_reads_writes_and_zeroes() {
    for (kind, fixture) in kinds() {
        let mut model = content();
        let disk = fixture.open();
        assert_eq!(disk.image.size(), SIZE as u64, "{kind}");
        assert!(disk.read(0, SIZE).unwrap() == model, "{kind}: as it came");
        for (offset, len) in [(0, 512), (SIZE - 512, 512), (4096, 8192), (65024, 1024), (70_144, 200_192)] {
            let bytes: Vec<u8> = (0..len).map(|at| u8::try_from((at * 13 + offset) % 256).unwrap()).collect();
            disk.write(offset, &bytes).unwrap();
            model[offset..offset + len].copy_from_slice(&bytes);
        }
        assert!(disk.read(0, SIZE).unwrap() == model, "{kind}: written");
        for (offset, len, unmap) in
            [(512, 512, false), (0, 66_048, true), (131_072, 131_072, true), (SIZE - 512, 512, true)]
        {
            disk.image.write_zeroes(offset as u64, len as u64, unmap).unwrap();
            model[offset..offset + len].fill(0);
            assert!(disk.read(0, SIZE).unwrap() == model, "{kind}: zeroed {offset} {len} {unmap}");
        }
        disk.image.discard(262_144, 4096).unwrap();
        let discarded = disk.read(262_144, 4096).unwrap();
        model[262_144..266_240].copy_from_slice(&discarded);
        disk.write(1024, &[7; 1536]).unwrap();
        model[1024..2560].fill(7);
        disk.image.flush().unwrap();
        drop(disk);
        assert!(fixture.open().read(0, SIZE).unwrap() == model, "{kind}: opened again");
        fixture.verify(&model, kind);
    }
}

#[test]
fn an_overlay_leaves_its_base_alone() {
    for fixture in [Fixture::raw().overlaid(), Fixture::qcow2("", &["-c"]).overlaid()] {
        let before = std::fs::read(fixture.path("disk")).unwrap();
        let disk = fixture.open();
        disk.write(0, &vec![9; SIZE]).unwrap();
        disk.image.discard(0, SIZE as u64).unwrap();
        disk.image.flush().unwrap();
        drop(disk);
        assert!(std::fs::read(fixture.path("disk")).unwrap() == before);
        std::fs::remove_file(fixture.path("overlay")).unwrap();
        assert!(fixture.open().read(0, SIZE).unwrap() == content(), "a new overlay knows nothing of the old one");
    }
}

#[test]
fn a_discard_gives_space_back() {
    use std::os::unix::fs::MetadataExt;
    for fixture in [Fixture::raw(), Fixture::qcow2("", &[])] {
        let blocks = || std::fs::metadata(fixture.path("disk")).unwrap().blocks();
        let disk = fixture.open();
        disk.write(0, &vec![9; SIZE]).unwrap();
        disk.image.flush().unwrap();
        let before = blocks();
        disk.image.discard(0, 256 << 10).unwrap();
        assert!(blocks() + 512 <= before, "{:?}: {before} blocks, then {}", fixture.format, blocks());
    }
}

#[test]
fn several_threads_may_write_at_once() {
    written_by_four(&Fixture::qcow2("cluster_size=4096", &["-c"]));
    written_by_four(&Fixture::qcow2("cluster_size=4096,compression_type=zstd", &["-c"]));
    written_by_four(&Fixture::qcow2("cluster_size=4096,compression_type=zstd", &["-c"]).direct());
}

fn written_by_four(fixture: &Fixture) {
    let disk = fixture.open();
    let mut model = content();
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let disk = super::testing::Disk::new(disk.image.clone());
            scope.spawn(move || {
                for at in (thread * 512..SIZE - 512).step_by(2048) {
                    disk.write(at, &[u8::try_from(thread).unwrap() + 100; 512]).unwrap();
                    assert_eq!(disk.read(at, 512).unwrap(), [u8::try_from(thread).unwrap() + 100; 512]);
                    if at % 16384 < 2048 {
                        disk.image.flush().unwrap();
                    }
                    if at % 65536 < 2048 {
                        disk.image.write_zeroes(at as u64, 512, true).unwrap();
                        disk.write(at, &[u8::try_from(thread).unwrap() + 100; 512]).unwrap();
                    }
                }
            });
        }
    });
    for thread in 0..4_usize {
        for at in (thread * 512..SIZE - 512).step_by(2048) {
            model[at..at + 512].fill(u8::try_from(thread).unwrap() + 100);
        }
    }
    assert!(disk.read(0, SIZE).unwrap() == model);
    disk.image.flush().unwrap();
    drop(disk);
    fixture.verify(&model, "written by four");
}

#[test]
fn an_image_that_somebody_writes_is_refused() {
    let fixture = Fixture::raw();
    let writer = fixture.open();
    assert!(fixture.refusal().starts_with("already locked by another VM or program, which writes to it"));
    let shareable = Options { shareable: true, ..fixture.options() };
    open(fixture.file(false), None, shareable).unwrap();
    drop(writer);
    let reader = open(fixture.file(false), None, fixture.options()).unwrap();
    let second = open(fixture.file(false), None, fixture.options()).unwrap();
    let second_writer = Options { readonly: false, ..fixture.options() };
    assert!(open(fixture.file(true), None, second_writer).unwrap_err().to_string().starts_with("already locked"));
    drop((reader, second));
}

#[test]
fn several_machines_may_write_to_a_raw_image_at_most() {
    let shared = |fixture: &Fixture| {
        let options = Options { readonly: false, shareable: true, ..fixture.options() };
        open(fixture.file(true), None, options).map(|_| ()).map_err(|error| error.to_string())
    };
    let raw = Fixture::raw();
    let _other = raw.open();
    shared(&raw).unwrap();
    assert!(shared(&Fixture::qcow2("", &[])).unwrap_err().starts_with("a qcow2 image can't be shareable"));
}

#[test]
fn a_disk_is_made_of_whole_blocks() {
    let fixture = Fixture::raw();
    let options = Options { block: 4096, ..fixture.options() };
    let error = open(fixture.file(false), None, options).unwrap_err().to_string();
    assert_eq!(error, format!("disk of {SIZE} bytes is not a multiple of its block size, 4096"));
}

#[test]
fn only_an_image_that_nobody_wrote_is_judged_by_its_content() {
    let fixture = Fixture::qcow2("", &[]);
    let raw = open(fixture.file(false), None, Options { format: ImageFormat::Raw, ..fixture.options() }).unwrap();
    assert_eq!(
        raw.size(),
        std::fs::metadata(fixture.path("disk")).unwrap().len(),
        "raw is raw, whatever it looks like"
    );
    drop(raw);
    let detect = |fixture: &Fixture| Options { format: ImageFormat::Detect, ..fixture.options() };
    assert_eq!(open(fixture.file(false), None, detect(&fixture)).unwrap().size(), SIZE as u64);
    let raw = Fixture::raw();
    assert_eq!(open(raw.file(false), None, detect(&raw)).unwrap().size(), SIZE as u64);
    std::fs::write(raw.path("disk"), [&b"KDMV"[..], &[0; 1020]].concat()).unwrap();
    let error = open(raw.file(false), None, detect(&raw)).unwrap_err().to_string();
    assert_eq!(error, "is a VMDK image; raw and qcow2 are supported (qemu-img convert -O qcow2 makes one)");
}

/// Something that a guest does to a disk, in sectors.
#[derive(Debug, Clone)]
enum Step {
    Write(usize, usize, u8),
    Zero(usize, usize, bool),
    Discard(usize, usize),
    Flush,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (0..SIZE / 512, 1..300_usize).prop_map(|(at, len)| (at, len.min(SIZE / 512 - at)));
    let step = prop_oneof![
        6 => (range(), any::<u8>()).prop_map(|((at, len), byte)| Step::Write(at, len, byte)),
        2 => (range(), any::<bool>()).prop_map(|((at, len), unmap)| Step::Zero(at, len, unmap)),
        2 => range().prop_map(|(at, len)| Step::Discard(at, len)),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// Whatever a guest does, each kind of image is an array of bytes, and qemu-img finds it sound.
    #[test]
    fn every_kind_is_an_array_of_bytes(steps in steps()) {
        for (kind, fixture) in kinds() {
            let mut model = content();
            let mut disk = fixture.open();
            for step in &steps {
                match *step {
                    Step::Write(at, len, byte) => {
                        let bytes: Vec<u8> = (0..len * 512).map(|i| byte.wrapping_add(u8::try_from(i % 253).unwrap())).collect();
                        disk.write(at * 512, &bytes).unwrap();
                        model[at * 512..][..bytes.len()].copy_from_slice(&bytes);
                    }
                    Step::Zero(at, len, unmap) => {
                        disk.image.write_zeroes(at as u64 * 512, len as u64 * 512, unmap).unwrap();
                        model[at * 512..][..len * 512].fill(0);
                    }
                    Step::Discard(at, len) => {
                        disk.image.discard(at as u64 * 512, len as u64 * 512).unwrap();
                        model[at * 512..][..len * 512].copy_from_slice(&disk.read(at * 512, len * 512).unwrap());
                    }
                    Step::Flush => disk.image.flush().unwrap(),
                    Step::Reopen => {
                        disk.image.flush().unwrap();
                        drop(disk);
                        disk = fixture.open();
                    }
                }
                prop_assert!(disk.read(0, SIZE).unwrap() == model, "{}: {:?}", kind, step);
            }
            disk.image.flush().unwrap();
            drop(disk);
            fixture.verify(&model, kind);
        }
    }
}
