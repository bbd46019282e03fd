//! The node's side: disks on a file system in RAM, taps, and a guest per monitor.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use super::{
    host::{self, Listener},
    networks::{Network, networks},
    rows::{Row, TIME, What},
};
use crate::{
    archive::cpio::Cpio,
    bench::{
        idle::CONTAINERD,
        monitor::{Disk, Guest, Monitor, Running},
        qcow2,
        samples::Sample,
    },
    progress,
    scenarios::{Bench, shell},
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

/// Where guests connect to, over TCP and vsock.
const PORT: u16 = 5001;

/// Guests at work.
#[derive(Debug)]
pub struct Rig {
    guests: Vec<Seat>,
    /// Commands given.
    asked: u32,
    /// Rows in which a guest had to be started anew, and whose.
    pub restarted: Vec<(String, Subject)>,
    tcp: Listener,
    vsock: Listener,
}

/// A guest, and what another one in its place would be.
#[derive(Debug)]
struct Seat {
    subject: Subject,
    monitor: Monitor,
    guest: Guest,
    running: Running,
    networks: Vec<Network>,
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
        let (tcp, vsock) = (Listener::tcp(PORT)?, Listener::vsock(PORT.into()).context("the node's vsock")?);
        let mut rig = Self { guests: Vec::new(), asked: 0, restarted: Vec::new(), tcp, vsock };
        let vireo = Monitor::Vireo(share.join("bin/vireo-vmm"));
        let qemu = Monitor::Qemu { machine: "q35", arguments: &["-cpu", "host"] };
        let mut bench = Bench::new(CONTAINERD)?;
        for (subject, monitor) in [(Subject::Vireo, vireo), (Subject::Qemu, qemu)] {
            let networks = networks(&mut bench, subject)?;
            let guest = guest(share, &initrd, subject, &networks)?;
            let running = boot(&monitor, &guest)?;
            rig.guests.push(Seat { subject, monitor, guest, running, networks });
        }
        Ok(rig)
    }

    /// Lets a guest do a row. On an emulated node a guest may end by a fault of the emulator: another one takes its place once.
    pub fn measure(&mut self, subject: Subject, row: &Row) -> Result<Sample> {
        match self.try_to(subject, row) {
            Err(error) => {
                progress::note(&format!("once more in a fresh guest: {}: {error:#}", subject.name()));
                self.restarted.push((row.name.clone(), subject));
                let seat = seat(&mut self.guests, subject)?;
                // The one before must be gone: its taps and disks are the next one's.
                seat.running.end();
                seat.running = boot(&seat.monitor, &seat.guest)?;
                self.try_to(subject, row)
            }
            measured => measured,
        }
    }

    fn try_to(&mut self, subject: Subject, row: &Row) -> Result<Sample> {
        self.asked += 1;
        let asked = self.asked;
        let Seat { running, networks, .. } = seat(&mut self.guests, subject)?;
        let connection = match &row.what {
            What::Disk { disk, load } => {
                running.type_line(&format!(
                    "{asked} disk /dev/vd{} {load} {TIME}",
                    char::from(b'a' + u8::try_from(*disk)?)
                ))?;
                None
            }
            What::Tcp { load, way } => {
                let network = networks.iter().find(|network| network.way == *way).context("it has no network")?;
                running.type_line(&format!("{asked} tcp {}:{PORT} {load} {TIME}", network.host))?;
                Some(self.tcp.accept()?)
            }
            What::Vsock(load) => {
                running.type_line(&format!("{asked} vsock {PORT} {load} {TIME}"))?;
                Some(match running.accept_vsock(PORT.into())? {
                    Some(theirs) => theirs.into(),
                    None => self.vsock.accept()?,
                })
            }
        };
        let served = connection.map(host::serve);
        let line = running.line_after(&format!("LOAD {asked} "), LIMIT)?;
        let value: f64 = line.parse().with_context(|| format!("the guest says {line:?}"))?;
        if let Some(served) = served {
            served.join().map_err(|_| anyhow!("the host's end panicked"))?.context("the host's end")?;
        }
        Ok(Sample { name: row.name.clone(), unit: row.unit, value: value * row.scale })
    }
}

/// A subject's guest.
fn seat(seats: &mut [Seat], subject: Subject) -> Result<&mut Seat> {
    seats.iter_mut().find(|seat| seat.subject == subject).context("it has no guest")
}

fn boot(monitor: &Monitor, guest: &Guest) -> Result<Running> {
    let mut running = monitor.start(guest)?;
    running.wait_for(b"LOAD ready", LIMIT).with_context(|| monitor.name())?;
    Ok(running)
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

fn guest(share: &Path, initrd: &Path, subject: Subject, networks: &[Network]) -> Result<Guest> {
    let addresses: Vec<_> = networks.iter().map(|network| network.guest.as_str()).collect();
    let routes: Vec<_> = networks.iter().filter_map(|network| network.route.as_deref()).collect();
    let cmdline = format!(
        "console=ttyS0 quiet rdinit=/load/init load.ips={} load.routes={}",
        addresses.join(","),
        routes.join(",")
    );
    let mut guest = Guest::kernel(&share.join("guest/vmlinuz"), Some(initrd), &cmdline);
    guest.vsock = Some(if subject == Subject::Vireo { 3 } else { 4 });
    guest.cards = networks.iter().map(|network| network.card.clone()).collect();
    for format in ["raw", "qcow2"] {
        let path = Path::new(FOLDER).join(format!("{subject:?}.{format}"));
        let file = File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        if format == "qcow2" {
            qcow2::write(&file, b"vireo")?;
        } else {
            raw(&file)?;
        }
        file.sync_all()?;
        guest.disks.push(Disk { path, format, cached: false });
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
