//! `vireo-vmm`, launched and jailed as the shim does it.

use std::{
    fs::File,
    io::Read as _,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use vireo_shim::launch::{Launch, Vmm, launch};
use vireo_vmm::{
    config::{
        BootConfig, BootDevice, CacheMode, ConsoleKind, CpuConfig, DiskConfig, FdIndex, FirmwareConfig, IdentityConfig,
        ImageFormat, JailConfig, MachineConfig, MemoryConfig, NicConfig, VsockConfig,
    },
    control::{
        client::Received,
        message::{Command as Order, Event},
    },
    tap::open_tap,
};

use super::{Boot, Guest, Tap};
use crate::bench::GUEST_MEMORY_BYTES;

/// Who the jailed VMM is: the pod's user if the pod names none.
const JAIL: JailConfig = JailConfig { uid: 107, gid: 107 };
/// How long building a machine, or an answer of it, may take on an emulated node.
const READY: Duration = Duration::from_secs(30);

/// Starts it; the socket is the guest's serial port.
pub fn start(binary: &Path, guest: &Guest) -> Result<(Vmm, UnixStream)> {
    let mut files = Vec::new();
    let machine = machine(guest, &mut files)?;
    let binary = open(binary, false)?;
    let vmm =
        launch(Launch { vmm: &binary, cgroup: None, oom_score_adj: None, machine, fds: files, jail: Some(JAIL) })?;
    let (console, theirs) = UnixStream::pair()?;
    match vmm.control.wait(READY)? {
        Received::Message(Event::Ready) => {}
        Received::Message(Event::Refused(reason)) => bail!("vireo-vmm refuses: {reason}"),
        other => bail!("vireo-vmm answers {other:?} to its launch; {}", last_words(&vmm)),
    }
    vmm.control.send(&Order::AttachConsole, &[theirs.as_fd()])?;
    vmm.control.send(&Order::Start { paused: false }, &[])?;
    ensure!(vmm.reap().is_none(), "vireo-vmm ended at its start; {}", last_words(&vmm));
    Ok((vmm, console))
}

fn machine(guest: &Guest, files: &mut Vec<OwnedFd>) -> Result<MachineConfig> {
    let mut give = |file: File| -> Result<FdIndex> {
        files.push(file.into());
        Ok(FdIndex(u16::try_from(files.len() - 1)?))
    };
    let kvm = give(open(Path::new("/dev/kvm"), true)?)?;
    let boot = match &guest.boot {
        Boot::Kernel { kernel, initrd, cmdline } => {
            let kernel = give(open(kernel, false)?)?;
            let initrd = initrd.as_ref().map(|initrd| give(open(initrd, false)?)).transpose()?;
            BootConfig::Kernel { kernel, initrd, cmdline: cmdline.clone() }
        }
        Boot::Bios(image) => by_firmware(FirmwareConfig::Bios { image: give(open(image, false)?)?, serial: false }),
        Boot::Efi { code, variables } => {
            let code = give(open(code, false)?)?;
            by_firmware(FirmwareConfig::Efi { code, variables: give(open(variables, true)?)? })
        }
    };
    let mut disks = Vec::new();
    for disk in &guest.disks {
        let image = give(open(&disk.path, true)?)?;
        let format = if disk.format == "qcow2" { ImageFormat::Qcow2 } else { ImageFormat::Raw };
        disks.push(DiskConfig {
            format,
            cache: CacheMode::None,
            ..DiskConfig::new(format!("d{}", disks.len()), image)
        });
    }
    let mut nics = Vec::new();
    for card in &guest.cards {
        let (name, taps) = match &card.tap {
            Tap::Named(name) => (name.clone(), open_tap(name, 1).with_context(|| format!("open tap {name}"))?),
            Tap::Open(tap) => ("open".to_owned(), vec![tap.try_clone()?]),
        };
        let taps = taps.into_iter().map(&mut give).collect::<Result<_>>()?;
        let mut vhosts = Vec::new();
        if card.vhost {
            vhosts.push(give(open(Path::new("/dev/vhost-net"), true)?)?);
        }
        nics.push(NicConfig { vhosts, ..NicConfig::new(name, taps, card.mac) });
    }
    Ok(MachineConfig {
        name: "bench".to_owned(),
        kvm,
        vcpus: 1,
        cpu: CpuConfig::default(),
        memory: MemoryConfig { size: GUEST_MEMORY_BYTES, hugepages: None },
        boot,
        disks,
        nics,
        rng: false,
        balloon: false,
        vsock: guest.vsock.map(|cid| VsockConfig { cid: cid.into() }),
        identity: IdentityConfig::default(),
        console: ConsoleKind::Serial,
    })
}

fn by_firmware(firmware: FirmwareConfig) -> BootConfig {
    BootConfig::Firmware { firmware, order: vec![BootDevice::Disk(0)], log: false }
}

fn open(path: &Path, write: bool) -> Result<File> {
    File::options().read(true).write(write).open(path).with_context(|| format!("open {}", path.display()))
}

/// The host's end of the connection that the guest opens to a port.
pub fn accept_vsock(vmm: &Vmm, port: u32) -> Result<OwnedFd> {
    loop {
        match vmm.control.wait(READY)? {
            Received::Message(Event::VsockAsk { id, port: asked }) if asked == port => {
                let (ours, theirs) = UnixStream::pair()?;
                vmm.control.send(&Order::AcceptVsock { id }, &[theirs.as_fd()])?;
                return Ok(ours.into());
            }
            Received::Message(Event::Started { .. }) => {}
            other => bail!("vireo-vmm says {other:?} instead of asking for vsock port {port}; {}", last_words(vmm)),
        }
    }
}

/// What it said, and how it ended; it is killed for it. A VMM that was refused for its jail has said nothing: the signal tells.
pub fn last_words(vmm: &Vmm) -> String {
    let mut text = Vec::new();
    vmm.kill();
    let status = vmm.wait(READY);
    if let Ok(stderr) = vmm.stderr.try_clone() {
        let _ = File::from(stderr).read_to_end(&mut text);
    }
    // Its last event has the reason of an end.
    let told: Vec<Event> = std::iter::from_fn(|| match vmm.control.receive() {
        Ok(Received::Message(event)) => Some(event),
        _ => None,
    })
    .collect();
    format!("vireo-vmm said {:?}, told {told:?} and ended with {status:?}", String::from_utf8_lossy(&text).trim())
}
