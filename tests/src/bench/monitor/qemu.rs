//! QEMU, with the options that its documentation gives for speed.

use std::{
    fmt::Write as _,
    io::{PipeReader, Read as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use rustix::io::{FdFlags, fcntl_setfd};

use super::{Boot, Guest, Tap};
use crate::bench::GUEST_MEMORY_BYTES;

/// A QEMU process, killed when dropped.
#[derive(Debug)]
pub struct Qemu {
    pub child: Child,
    errors: PipeReader,
}

impl Qemu {
    /// Starts it; the socket is the guest's serial port.
    pub fn start(machine: &str, arguments: &[&str], guest: &Guest) -> Result<(Self, UnixStream)> {
        let (console, theirs) = UnixStream::pair()?;
        let (errors, their_errors) = std::io::pipe()?;
        for card in &guest.cards {
            if let Tap::Open(tap) = &card.tap {
                // It inherits them.
                fcntl_setfd(tap, FdFlags::empty())?;
            }
        }
        let mut command = Command::new("qemu-system-x86_64");
        command.args(self::arguments(machine, guest)).args(arguments);
        command.stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?))).stdout(Stdio::from(OwnedFd::from(theirs)));
        let child = command.stderr(their_errors).spawn().context("run qemu-system-x86_64")?;
        Ok((Self { child, errors }, console))
    }

    /// What it said, and how it ended; it is killed for it.
    pub fn last_words(&mut self) -> String {
        let _ = self.child.kill();
        let mut text = String::new();
        let _ = self.errors.read_to_string(&mut text);
        format!("QEMU said {:?} and ended with {:?}", text.trim(), self.child.wait().ok())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn arguments(machine: &str, guest: &Guest) -> Vec<String> {
    // What Vireo's machine always has, microvm has only if told: a PCI bus, and a clock, for which Linux else waits 9 s.
    let options = if machine == "microvm" { "microvm,rtc=on,pcie=on" } else { machine };
    let memory = (GUEST_MEMORY_BYTES >> 20).to_string();
    let mut arguments: Vec<String> =
        ["-M", options, "-accel", "kvm", "-smp", "1", "-m", &memory, "-nodefaults", "-no-user-config", "-no-reboot"]
            .into_iter()
            .chain(["-display", "none", "-serial", "stdio", "-device", "virtio-serial-pci"])
            .map(str::to_owned)
            .collect();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    match &guest.boot {
        Boot::Kernel { kernel, initrd, cmdline } => {
            add("-kernel", kernel.display().to_string());
            add("-append", cmdline.clone());
            if let Some(initrd) = initrd {
                add("-initrd", initrd.display().to_string());
            }
        }
        Boot::Bios(image) => add("-bios", image.display().to_string()),
        Boot::Efi { code, variables } => {
            for (unit, file, readonly) in [(0, code, "on"), (1, variables, "off")] {
                let file = file.display();
                add("-drive", format!("if=pflash,unit={unit},format=raw,readonly={readonly},file={file}"));
            }
        }
    }
    for (number, disk) in guest.disks.iter().enumerate() {
        let (path, format) = (disk.path.display(), disk.format);
        add("-object", format!("iothread,id=io{number}"));
        let cache = if disk.cached { "writeback" } else { "none" };
        add("-drive", format!("if=none,id=d{number},file={path},format={format},cache={cache},aio=io_uring"));
        // A kernel takes the first place itself.
        let order =
            if matches!(guest.boot, Boot::Kernel { .. }) { String::new() } else { format!(",bootindex={number}") };
        add("-device", format!("virtio-blk-pci,drive=d{number},iothread=io{number}{order}"));
    }
    for (number, card) in guest.cards.iter().enumerate() {
        let vhost = if card.vhost { "on" } else { "off" };
        let tap = match &card.tap {
            Tap::Named(name) => format!("ifname={name},script=no,downscript=no"),
            Tap::Open(tap) => format!("fd={}", tap.as_raw_fd()),
        };
        let mac = card.mac.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{}{byte:02x}", if text.is_empty() { "" } else { ":" });
            text
        });
        add("-netdev", format!("tap,id=n{number},{tap},vhost={vhost}"));
        add("-device", format!("virtio-net-pci,netdev=n{number},mac={mac},romfile="));
    }
    if let Some(cid) = guest.vsock {
        add("-device", format!("vhost-vsock-pci,guest-cid={cid}"));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Guest, arguments};
    use crate::bench::monitor::{Card, Disk, Tap};

    #[test]
    fn devices_have_their_fastest_options() {
        let mut guest = Guest::kernel(Path::new("/k"), None, "quiet");
        guest.disks.push(Disk { path: "/d".into(), format: "qcow2", cached: false });
        guest.cards.push(Card { tap: Tap::Named("t0".to_owned()), mac: [2, 0, 0, 0, 0, 0xa], vhost: true });
        guest.vsock = Some(7);
        let text = arguments("q35", &guest).join(" ");
        for part in [
            "file=/d,format=qcow2,cache=none,aio=io_uring -device virtio-blk-pci,drive=d0,iothread=io0",
            "ifname=t0,script=no,downscript=no,vhost=on -device virtio-net-pci,netdev=n0,mac=02:00:00:00:00:0a",
            "vhost-vsock-pci,guest-cid=7",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
