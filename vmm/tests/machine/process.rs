//! The binary, driven over its control socket as the shim drives it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command as Process, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use vireo_vmm::config::{MachineConfig, VsockConfig};
use vireo_vmm::control::client::{Client, Received};
use vireo_vmm::control::message::{Answer, Command, End, Event, MemoryReport, PauseReason, Request};

use super::payload::{elf, file, payload};
use super::rig::{LIMIT, config, expect, type_in, wait_until};

struct Vmm {
    child: Child,
    client: Option<Client>,
}

impl Vmm {
    fn spawn() -> Self {
        let (client, theirs) = Client::pair().unwrap();
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let child = Process::new(env!("CARGO_BIN_EXE_vireo-vmm"))
            .args(["--control-fd", &theirs.as_raw_fd().to_string()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, client: Some(client) }
    }

    fn client(&self) -> &Client {
        self.client.as_ref().unwrap()
    }

    fn launch(&self, (machine, files): (MachineConfig, Vec<OwnedFd>)) {
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        self.client().send(&Command::Launch { machine: Box::new(machine), jail: None }, &files).unwrap();
    }

    fn event(&self) -> Event {
        match self.client().wait(LIMIT).unwrap() {
            Received::Message(event) => event,
            other => panic!("{other:?}"),
        }
    }

    fn ask(&self, id: u32, request: Request) {
        self.client().send(&Command::Request { id, request }, &[]).unwrap();
    }

    /// Asks and expects to be refused.
    fn refused(&self, request: Request) -> String {
        self.ask(7, request);
        match self.event() {
            Event::Answer { id: 7, answer: Answer::Refused(why) } => why,
            other => panic!("{other:?}"),
        }
    }

    /// Asks and expects these events, then that it is done.
    fn done(&self, request: Request, before: &[Event]) {
        self.ask(9, request);
        for event in before {
            assert_eq!(self.event(), *event);
        }
        assert_eq!(self.event(), Event::Answer { id: 9, answer: Answer::Done });
    }

    fn exit_code(mut self) -> i32 {
        let mut code = None;
        wait_until(|| {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code().unwrap()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// Prompts; `r` resets, anything else powers off.
payload!(
    prompt,
    "32",
    "mov dx, 0x3f8",
    "mov al, 0x3e",
    "out dx, al",
    "2: mov dx, 0x3fd",
    "in al, dx",
    "test al, 1",
    "jz 2b",
    "mov dx, 0x3f8",
    "in al, dx",
    "cmp al, 0x72",
    "jne 3f",
    "mov dx, 0xcf9",
    "mov al, 6",
    "out dx, al",
    "3: mov dx, 0x604",
    "mov ax, 0x3400",
    "out dx, ax",
);

#[test]
fn a_machine_lives_from_launch_through_a_reset_to_its_end() {
    let vmm = Vmm::spawn();
    vmm.launch(config(elf(prompt()), 2));
    assert_eq!(vmm.event(), Event::Ready);
    let (mut console, theirs) = UnixStream::pair().unwrap();
    console.set_read_timeout(Some(LIMIT)).unwrap();
    vmm.client().send(&Command::AttachConsole, &[theirs.as_fd()]).unwrap();
    drop(theirs);
    vmm.client().send(&Command::Start { paused: false }, &[]).unwrap();
    assert!(matches!(vmm.event(), Event::Started { at } if at > 0));
    for _ in 0..3 {
        expect(&mut console, ">");
        type_in(&mut console, "r");
        assert_eq!(vmm.event(), Event::Rebooted);
    }
    expect(&mut console, ">");
    type_in(&mut console, "x");
    assert_eq!(vmm.event(), Event::Ended(End::PowerOff));
    assert_eq!(vmm.exit_code(), 0);
}

#[test]
fn what_cannot_boot_is_refused_by_name() {
    let text: File = file(b"#!/bin/sh\necho this is no kernel; exit 1\n");
    let vmm = Vmm::spawn();
    vmm.launch(config(text, 1));
    let Event::Refused(reason) = vmm.event() else { panic!("refused") };
    assert!(reason.starts_with("kernel: neither a bzImage nor an ELF"), "{reason}");
    assert_eq!(vmm.exit_code(), 1);
}

#[test]
fn a_wrong_value_is_refused_by_its_path() {
    let vmm = Vmm::spawn();
    let (mut machine, files) = config(elf(prompt()), 1);
    machine.vcpus = 0;
    vmm.launch((machine, files));
    let Event::Refused(reason) = vmm.event() else { panic!("refused") };
    assert!(reason.starts_with("vcpus: "), "{reason}");
    assert_eq!(vmm.exit_code(), 1);
}

#[test]
fn the_vmm_dies_with_its_shim() {
    let mut vmm = Vmm::spawn();
    vmm.launch(config(elf(prompt()), 1));
    assert_eq!(vmm.event(), Event::Ready);
    vmm.client().send(&Command::Start { paused: false }, &[]).unwrap();
    assert!(matches!(vmm.event(), Event::Started { .. }));
    vmm.client = None;
    assert_eq!(vmm.exit_code(), 1);
}

/// A machine that prompts, its console, and nothing started yet.
fn prompting() -> (Vmm, UnixStream) {
    let vmm = Vmm::spawn();
    vmm.launch(config(elf(prompt()), 2));
    assert_eq!(vmm.event(), Event::Ready);
    let (console, theirs) = UnixStream::pair().unwrap();
    console.set_read_timeout(Some(LIMIT)).unwrap();
    vmm.client().send(&Command::AttachConsole, &[theirs.as_fd()]).unwrap();
    (vmm, console)
}

#[test]
fn what_is_asked_of_a_machine_is_done_or_refused_by_name() {
    let (vmm, mut console) = prompting();
    assert_eq!(vmm.refused(Request::Pause), "pause: the machine has not been started");
    vmm.client().send(&Command::Start { paused: false }, &[]).unwrap();
    assert!(matches!(vmm.event(), Event::Started { .. }));
    expect(&mut console, ">");
    assert_eq!(vmm.refused(Request::Resume), "resume: the machine is not paused");
    let paused = [Event::Paused(PauseReason::User)];
    for _ in 0..2 {
        vmm.done(Request::Pause, &paused);
        assert_eq!(vmm.refused(Request::Pause), "pause: the machine is already paused");
        assert_eq!(vmm.refused(Request::Nmi), "NMI: the machine is paused; resume it first");
        vmm.done(Request::PowerButton, &[]);
        vmm.done(Request::Resume, &[Event::Resumed]);
    }
    assert_eq!(vmm.refused(Request::SetLink { nic: 0, up: false }), "link: the machine has no nics[0]");
    vmm.done(Request::Reset, &[]);
    assert_eq!(vmm.event(), Event::Rebooted);
    expect(&mut console, ">");
    // What is typed during a pause is read after it.
    vmm.done(Request::Pause, &paused);
    type_in(&mut console, "x");
    vmm.done(Request::Resume, &[Event::Resumed]);
    assert_eq!(vmm.event(), Event::Ended(End::PowerOff));
    assert_eq!(vmm.exit_code(), 0);
}

#[test]
fn a_reset_of_a_paused_machine_leaves_it_paused() {
    let (vmm, mut console) = prompting();
    vmm.client().send(&Command::Start { paused: true }, &[]).unwrap();
    assert_eq!(vmm.event(), Event::Paused(PauseReason::User));
    vmm.done(Request::Reset, &[]);
    vmm.done(Request::PowerButton, &[]);
    vmm.done(Request::Resume, &[Event::Resumed]);
    assert_eq!(vmm.event(), Event::Rebooted);
    expect(&mut console, ">");
    vmm.done(Request::Pause, &[Event::Paused(PauseReason::User)]);
    vmm.done(Request::Reset, &[]);
    assert_eq!(vmm.refused(Request::Pause), "pause: the machine is already paused");
    vmm.done(Request::Resume, &[Event::Resumed]);
    assert_eq!(vmm.event(), Event::Rebooted);
    expect(&mut console, ">");
}

#[test]
fn a_guest_that_powers_off_for_a_reboot_begins_anew() {
    let (vmm, mut console) = prompting();
    assert_eq!(vmm.refused(Request::Reboot), "reboot: the machine has not been started");
    vmm.client().send(&Command::Start { paused: false }, &[]).unwrap();
    assert!(matches!(vmm.event(), Event::Started { .. }));
    expect(&mut console, ">");
    vmm.done(Request::Pause, &[Event::Paused(PauseReason::User)]);
    assert_eq!(vmm.refused(Request::Reboot), "reboot: the machine is paused; resume it first");
    vmm.done(Request::Resume, &[Event::Resumed]);
    for _ in 0..2 {
        vmm.done(Request::Reboot, &[]);
        type_in(&mut console, "x");
        assert_eq!(vmm.event(), Event::Rebooted);
        expect(&mut console, ">");
    }
    // Whoever presses the button afterwards wants it off.
    vmm.done(Request::Reboot, &[]);
    vmm.done(Request::PowerButton, &[]);
    type_in(&mut console, "x");
    assert_eq!(vmm.event(), Event::Ended(End::PowerOff));
    assert_eq!(vmm.exit_code(), 0);
}

#[test]
fn a_machine_started_paused_starts_when_resumed() {
    let (vmm, mut console) = prompting();
    vmm.client().send(&Command::Start { paused: true }, &[]).unwrap();
    assert_eq!(vmm.event(), Event::Paused(PauseReason::User));
    vmm.done(Request::Resume, &[Event::Resumed]);
    assert!(matches!(vmm.event(), Event::Started { .. }));
    expect(&mut console, ">");
}

#[test]
fn memory_is_told_when_asked_for() {
    let vmm = Vmm::spawn();
    let (mut machine, files) = config(elf(prompt()), 1);
    machine.balloon = true;
    vmm.launch((machine, files));
    assert_eq!(vmm.event(), Event::Ready);
    vmm.client().send(&Command::SetBalloon { bytes: 1 << 20 }, &[]).unwrap();
    vmm.client().send(&Command::Start { paused: false }, &[]).unwrap();
    assert!(matches!(vmm.event(), Event::Started { .. }));
    vmm.client().send(&Command::AskMemory, &[]).unwrap();
    let report = MemoryReport { target: 1 << 20, actual: 0, statistics: None };
    assert_eq!(vmm.event(), Event::Memory(report), "this guest has no driver");
}

#[test]
fn a_vsock_port_that_no_guest_listens_on_closes_its_socket() {
    let vmm = Vmm::spawn();
    let (mut machine, files) = config(elf(prompt()), 1);
    machine.vsock = Some(VsockConfig { cid: 3 });
    vmm.launch((machine, files));
    assert_eq!(vmm.event(), Event::Ready);
    vmm.client().send(&Command::Start { paused: false }, &[]).unwrap();
    assert!(matches!(vmm.event(), Event::Started { .. }));
    let (mut client, theirs) = UnixStream::pair().unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    vmm.client().send(&Command::ConnectVsock { port: 22 }, &[theirs.as_fd()]).unwrap();
    drop(theirs);
    assert_eq!(std::io::Read::read(&mut client, &mut [0]).unwrap(), 0);
    // Answers to what was never asked harm nobody.
    vmm.client().send(&Command::RefuseVsock { id: 7 }, &[]).unwrap();
    vmm.client().send(&Command::AskMemory, &[]).unwrap();
    assert_eq!(vmm.event(), Event::Memory(MemoryReport::default()));
}
