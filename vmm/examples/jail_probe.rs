//! A VMM that is jailed like the real one and then does something else: what its machine's name says.
//!
//! The tests start it through the shim's launcher and watch from outside what becomes of it. `stay` ignores everything but
//! the kernel; other names are a thread kind (`main`, `vcpu`, `worker`), a colon and an act: `open`, `socket`, `exec`, `fork`, `work`, ...
//! After an act that it survived it exits with 0; a probe that can't even start exits with 1.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::Command as Process;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vireo_vmm::control::Server;
use vireo_vmm::control::message::{Command, Event};
use vireo_vmm::control::server::Received;
use vireo_vmm::event_loop::EventLoop;
use vireo_vmm::jail;
use vireo_vmm::jail::seccomp::{self, ThreadKind};
use vmm_sys_util::eventfd::EventFd;

const CONTROL_FD: i32 = 3;

fn main() -> Result<()> {
    // SAFETY: the launcher put the control socket there, and nothing else owns it.
    let control = unsafe { OwnedFd::from_raw_fd(CONTROL_FD) };
    // SAFETY: nothing but the control socket is open yet.
    unsafe { jail::close_inherited(control.as_fd()) }.context("close what was inherited")?;
    let control = Server::from_fd(control)?;
    poll(&mut [PollFd::new(control.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
    let Received::Message(Command::Launch { machine, jail: Some(jail) }, files) = control.receive()? else {
        bail!("the first message is not a jailed Launch");
    };
    jail::enter(jail)?;
    seccomp::install(ThreadKind::Main)?;
    control.send(&Event::Ready)?;
    if machine.name == "stay" {
        loop {
            std::thread::park();
        }
    }
    let (kind, act) = machine.name.split_once(':').context("the machine's name is no `kind:act`")?;
    let act = act.to_owned();
    match kind {
        "main" => perform(ThreadKind::Main, &act, &files)?,
        "vcpu" => in_thread(ThreadKind::Vcpu, act, files)?,
        "worker" => in_thread(ThreadKind::Worker, act, files)?,
        other => bail!("unknown thread kind {other}"),
    }
    Ok(())
}

fn in_thread(kind: ThreadKind, act: String, files: Vec<OwnedFd>) -> Result<()> {
    let thread = std::thread::Builder::new().name("probe".into()).spawn(move || {
        seccomp::install(kind)?;
        perform(kind, &act, &files)
    })?;
    thread.join().map_err(|_| anyhow::anyhow!("the probe's thread panicked"))?
}

fn perform(kind: ThreadKind, act: &str, files: &[OwnedFd]) -> Result<()> {
    match act {
        "open" => drop(File::open("/")),
        "create" => drop(File::create("/file")),
        "socket" => drop(UnixDatagram::unbound()),
        "inet" => drop(std::net::TcpStream::connect("127.0.0.1:1")),
        "exec" => drop(Process::new("/bin/true").exec()),
        "fork" => drop(Process::new("/bin/true").spawn()),
        "unshare" => drop(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)),
        "kill" => drop(nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), None)),
        "setuid" => drop(nix::unistd::setuid(nix::unistd::Uid::from_raw(0))),
        "code" => {
            // SAFETY: a new private mapping; nothing uses it.
            unsafe {
                let (length, protection) = (4096, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
                libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            }
        }
        "thread" => drop(std::thread::spawn(|| ()).join()),
        "work" => work(kind, files)?,
        other => bail!("unknown act {other}"),
    }
    Ok(())
}

/// What a thread of this kind does all day must be allowed.
fn work(kind: ThreadKind, files: &[OwnedFd]) -> Result<()> {
    eprintln!("{kind:?} at work");
    let mut table: HashMap<usize, Vec<u8>> = HashMap::new();
    for size in 0..200 {
        table.insert(size, vec![1; size * size * 64]);
    }
    drop(table);
    let event = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK)?;
    event.write(1)?;
    event.read()?;
    let _now = (std::time::Instant::now(), std::time::SystemTime::now());
    if kind == ThreadKind::Vcpu {
        return Ok(());
    }
    let disk = File::from(files.first().context("a disk image was to come")?.try_clone()?);
    disk.write_all_at(&[7; 512], 512)?;
    disk.read_exact_at(&mut [0; 512], 512)?;
    disk.sync_data()?;
    let mut events = EventLoop::new()?;
    events.handle().stop();
    events.run()?;
    if kind == ThreadKind::Main {
        anyhow::ensure!(disk.metadata()?.len() >= 1024);
        for _ in 0..3 {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    std::thread::Builder::new().name(format!("worker {n}")).spawn(|| -> Result<()> {
                        seccomp::install(ThreadKind::Worker)?;
                        drop(vec![vec![1u8; 100_000]; 20]);
                        Ok(())
                    })
                })
                .collect::<Result<_, _>>()?;
            for thread in threads {
                thread.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
            }
        }
    }
    Ok(())
}
