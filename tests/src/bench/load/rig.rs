//! The node's side: disks on a file system in RAM, taps, and a guest per monitor.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use super::rows::{Row, What};
use crate::{
    archive::cpio::Cpio,
    bench::{
        monitor::{Disk, Guest, Monitor, Running},
        qcow2,
        samples::Sample,
    },
    scenarios::shell,
};

const INIT: &str = include_str!("../../../guest/load-init");
/// Where the disks are: a block device in RAM, so that what is measured is the monitors and not the node's own disk, and
/// ext4 on it, since no file of a tmpfs can be opened past the page cache.
const FOLDER: &str = "/run/vireo-bench";
const RAM_DISK: &str = "/dev/ram0";
/// Of the RAM disk, KiB: two disks of [`qcow2::SIZE`] for each monitor. It takes what is written.
const RAM_DISK_KIB: &str = "rd_size=700000";
/// A guest's boot, or its load, on an emulated node at its limit.
const LIMIT: Duration = Duration::from_mins(5);

/// Guests at work.
#[derive(Debug)]
pub struct Rig {
    guests: Vec<(Subject, Running)>,
    /// Commands given.
    asked: u32,
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// `vireo-vmm`.
    Vireo,
    /// QEMU's q35.
    Qemu,
}

impl Subject {
    /// As it stands in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vireo => "Vireo",
            Self::Qemu => "QEMU q35",
        }
    }
}

impl Rig {
    /// Makes disks and boots the guests. `share` is the node's `/vireo`.
    pub fn start(share: &Path) -> Result<Self> {
        ram_disk()?;
        let initrd = initrd(share)?;
        let vireo = Monitor::Vireo(share.join("bin/vireo-vmm"));
        let qemu = Monitor::Qemu { machine: "q35", arguments: &["-cpu", "host"] };
        let mut guests = Vec::new();
        for (subject, monitor) in [(Subject::Vireo, vireo), (Subject::Qemu, qemu)] {
            let guest = guest(share, &initrd, subject)?;
            let mut running = monitor.start(&guest)?;
            running.wait_for(b"LOAD ready", LIMIT).with_context(|| subject.name())?;
            guests.push((subject, running));
        }
        Ok(Self { guests, asked: 0 })
    }

    /// In the order of their turns.
    pub fn subjects(&self) -> Vec<Subject> {
        self.guests.iter().map(|(subject, _)| *subject).collect()
    }

    /// Lets a guest do a row; `None` if it isn't for it.
    pub fn measure(&mut self, subject: Subject, row: &Row) -> Result<Option<Sample>> {
        self.asked += 1;
        let found = self.guests.iter_mut().find(|(other, _)| *other == subject);
        let (_, running) = found.context("it has no guest")?;
        let command = match &row.what {
            What::Disk { disk, load } => format!("disk /dev/vd{} {load}", char::from(b'a' + u8::try_from(*disk)?)),
        };
        let line = running.ask(&format!("{} {command}", self.asked), &format!("LOAD {} ", self.asked), LIMIT)?;
        let value: f64 = line.parse().with_context(|| format!("the guest says {line:?} to {command:?}"))?;
        Ok(Some(Sample { name: row.name.clone(), unit: row.unit, value: value * row.scale }))
    }
}

fn ram_disk() -> Result<()> {
    shell::output(["modprobe", "brd", "rd_nr=1", RAM_DISK_KIB])?;
    shell::output(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", RAM_DISK])?;
    fs::create_dir_all(FOLDER)?;
    shell::output(["mount", RAM_DISK, FOLDER]).map(drop)
}

/// The fast guest's initramfs, and another over it with the load and vsock's modules, of the node's own kernel.
fn initrd(share: &Path) -> Result<PathBuf> {
    let load = share.join("bin/vireo-load");
    let load = fs::read(&load).with_context(|| format!("{}: make bench builds it", load.display()))?;
    let mut cpio = Cpio::default();
    cpio.directory("load");
    cpio.directory("load/modules");
    cpio.file("load/init", 0o755, INIT.as_bytes());
    cpio.file("load/vireo-load", 0o755, &load);
    let dependencies = shell::output(["modprobe", "--show-depends", "vmw_vsock_virtio_transport"])?;
    let files = dependencies.lines().filter_map(|line| line.strip_prefix("insmod "));
    for (number, file) in (10..).zip(files) {
        let path = Path::new(file.trim());
        let name = path.file_name().context("a module has a name")?.to_string_lossy();
        cpio.file(&format!("load/modules/{number}-{name}"), 0o644, &fs::read(path)?);
    }
    let mut initrd = fs::read(share.join("guest/initrd"))?;
    // Archives follow each other, each from a multiple of four bytes on.
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend(cpio.finish());
    let path = Path::new(FOLDER).join("initrd");
    fs::write(&path, initrd)?;
    Ok(path)
}

fn guest(share: &Path, initrd: &Path, subject: Subject) -> Result<Guest> {
    let mut guest = Guest::kernel(&share.join("guest/vmlinuz"), Some(initrd), "console=ttyS0 quiet rdinit=/load/init");
    for format in ["raw", "qcow2"] {
        let path = Path::new(FOLDER).join(format!("{subject:?}.{format}"));
        let file = File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        if format == "qcow2" {
            qcow2::write(&file, b"vireo")?;
        } else {
            raw(&file)?;
        }
        file.sync_all()?;
        guest.disks.push(Disk { path, format });
    }
    Ok(guest)
}

/// Every block is there.
fn raw(file: &File) -> Result<()> {
    let chunk = vec![0x5A; 1 << 20];
    for offset in (0..qcow2::SIZE).step_by(1 << 20) {
        file.write_all_at(&chunk, offset)?;
    }
    Ok(())
}
