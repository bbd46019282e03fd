//! A developer's launcher: runs one machine on this host, unjailed, its console on the terminal.
//!
//! ```text
//! run KERNEL [--initrd FILE] [--cmdline TEXT] [options]
//! run --bios FILE [options]
//! run --efi CODE --variables FILE [options]
//! options: [--cpus N] [--memory MIB] [--disk FILE]… [--hvc] [--vmm PATH]
//! ```
//! Firmware's messages come on stderr; EFI's variables are written to.
//!
//! Events of the VMM go to stderr with the time since the launch. On a line of input by itself, `!` presses the power
//! button, and `!pause`, `!resume`, `!reset` and `!nmi` do what they say.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command as Process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use vireo_vmm::config::{
    BootConfig, BootDevice, ConsoleKind, CpuConfig, DiskConfig, FdIndex, FirmwareConfig, IdentityConfig, MachineConfig,
    MemoryConfig,
};
use vireo_vmm::control::client::{Client, Received};
use vireo_vmm::control::message::{Command, Event, Request};

/// Building is a matter of milliseconds, but not on an emulated host.
const LIMIT: Duration = Duration::from_mins(1);

struct Options {
    machine: MachineConfig,
    files: Vec<OwnedFd>,
    vmm: OsString,
}

fn main() -> Result<()> {
    let Options { machine, files, vmm } = parse(std::env::args().skip(1))?;
    let start = Instant::now();
    let (client, theirs) = Client::pair()?;
    let client = Arc::new(client);
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let mut process =
        Process::new(&vmm).args(["--control-fd", &theirs.as_raw_fd().to_string()]).spawn().context("vireo-vmm")?;
    drop(theirs);
    let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    client.send(&Command::Launch { machine: Box::new(machine), jail: None }, &borrowed)?;
    ensure!(next(&client, start, LIMIT)? == Some(Event::Ready), "the machine was not built");

    let (console, theirs) = UnixStream::pair()?;
    client.send(&Command::AttachConsole, &[theirs.as_fd()])?;
    drop(theirs);
    bridge(console, Arc::clone(&client))?;
    client.send(&Command::Start { paused: false }, &[])?;
    while next(&client, start, Duration::from_secs(u64::MAX / 4))
        .is_ok_and(|event| !matches!(event, None | Some(Event::Ended(_))))
    {}
    let status = process.wait()?;
    eprintln!("[{:8.3}] {status}", start.elapsed().as_secs_f64());
    Ok(())
}

/// The next event, told; none when the VMM is gone.
fn next(client: &Client, start: Instant, limit: Duration) -> Result<Option<Event>> {
    match client.wait(limit)? {
        Received::Message(event) => {
            eprintln!("[{:8.3}] {event:?}", start.elapsed().as_secs_f64());
            Ok(Some(event))
        }
        Received::Empty => bail!("no answer within {limit:?}"),
        Received::Closed => Ok(None),
    }
}

fn bridge(console: UnixStream, client: Arc<Client>) -> Result<()> {
    let mut from = console.try_clone()?;
    std::thread::spawn(move || std::io::copy(&mut from, &mut std::io::stdout()));
    let mut to = console;
    std::thread::spawn(move || -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let count = std::io::stdin().read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let request = match &buffer[..count] {
                b"!\n" => Request::PowerButton,
                b"!pause\n" => Request::Pause,
                b"!resume\n" => Request::Resume,
                b"!reset\n" => Request::Reset,
                b"!nmi\n" => Request::Nmi,
                line => {
                    to.write_all(line)?;
                    continue;
                }
            };
            client.send(&Command::Request { id: 0, request }, &[])?;
        }
    });
    Ok(())
}

fn parse(args: impl Iterator<Item = String>) -> Result<Options> {
    let mut files: Vec<OwnedFd> = Vec::new();
    let mut open = |path: &str, write: bool| -> Result<FdIndex> {
        let file: File = OpenOptions::new().read(true).write(write).open(path).with_context(|| path.to_owned())?;
        files.push(file.into());
        Ok(FdIndex(u16::try_from(files.len() - 1)?))
    };
    let kvm = open("/dev/kvm", true)?;
    let mut args = args.peekable();
    let kernel = args.next_if(|first| !first.starts_with("--")).map(|path| open(&path, false)).transpose()?;
    let (mut initrd, mut cmdline, mut disks) = (None, "console=ttyS0".to_owned(), Vec::new());
    let (mut bios, mut code, mut variables) = (None, None, None);
    let (mut cpus, mut mib, mut console) = (1, 256, ConsoleKind::Serial);
    let mut vmm = std::env::current_exe()?.with_file_name("vireo-vmm").into_os_string();
    while let Some(option) = args.next() {
        if option == "--hvc" {
            console = ConsoleKind::Virtio;
            continue;
        }
        let value = args.next().with_context(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--initrd" => initrd = Some(open(&value, false)?),
            "--bios" => bios = Some(open(&value, false)?),
            "--efi" => code = Some(open(&value, false)?),
            "--variables" => variables = Some(open(&value, true)?),
            "--cmdline" => cmdline = value,
            "--cpus" => cpus = value.parse()?,
            "--memory" => mib = value.parse()?,
            "--disk" => {
                let (name, image) = (value.clone(), open(&value, true)?);
                let serial = Some(format!("disk{}", disks.len()));
                disks.push(DiskConfig { serial, ..DiskConfig::new(name, image) });
            }
            "--vmm" => vmm = value.into(),
            _ => bail!("{option}: unknown"),
        }
    }
    let firmware = |firmware| {
        let order = (0..disks.len()).map_while(|index| u16::try_from(index).ok().map(BootDevice::Disk)).collect();
        BootConfig::Firmware { firmware, order, log: true }
    };
    let boot = match (kernel, bios, code, variables) {
        (Some(kernel), None, None, None) => BootConfig::Kernel { kernel, initrd, cmdline },
        (None, Some(image), None, None) => firmware(FirmwareConfig::Bios { image, serial: false }),
        (None, None, Some(code), Some(variables)) => firmware(FirmwareConfig::Efi { code, variables }),
        _ => bail!("one of a kernel, --bios, or --efi with --variables is needed"),
    };
    let machine = MachineConfig {
        name: "run".to_owned(),
        kvm,
        vcpus: cpus,
        cpu: CpuConfig::default(),
        memory: MemoryConfig { size: mib << 20, hugepages: None },
        boot,
        disks,
        nics: Vec::new(),
        rng: true,
        balloon: false,
        vsock: None,
        identity: IdentityConfig::default(),
        console,
    };
    Ok(Options { machine, files, vmm })
}
