use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::client::{Client, Received as Heard};
use super::message::{Command, End, Event, MAX_FDS, MAX_PACKET};
use super::server::{Received, Server};
use super::socket::Error;
use crate::config::{
    BootConfig, ConsoleKind, CpuConfig, DiskConfig, FdIndex, IdentityConfig, JailConfig, MachineConfig, MemoryConfig,
};

/// Bytes, how many files with them, and the error they deserve.
type Case<'a> = (&'a [u8], usize, fn(&Error) -> bool);

fn pair() -> (Client, Server) {
    let (client, server) = Client::pair().unwrap();
    (client, Server::from_fd(server).unwrap())
}

/// A peer that may send anything.
fn raw_pair() -> (OwnedFd, OwnedFd) {
    let (client, server) = Client::pair().unwrap();
    (client.as_fd().try_clone_to_owned().unwrap(), server)
}

fn send_raw(socket: &OwnedFd, bytes: &[u8], files: &[BorrowedFd<'_>]) {
    let fds: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let iov = [std::io::IoSlice::new(bytes)];
    sendmsg::<()>(socket.as_raw_fd(), &iov, &rights[..usize::from(!fds.is_empty())], MsgFlags::empty(), None).unwrap();
}

fn machine(disks: usize) -> MachineConfig {
    let disk = |i| DiskConfig {
        serial: Some("s".repeat(20)),
        ..DiskConfig::new("d".repeat(40), FdIndex(u16::try_from(i).unwrap()))
    };
    MachineConfig {
        name: "vm".into(),
        kvm: FdIndex(0),
        vcpus: 1,
        cpu: CpuConfig::default(),
        memory: MemoryConfig { size: 1 << 30, hugepages: None },
        boot: BootConfig::Kernel { kernel: FdIndex(1), initrd: None, cmdline: "c".repeat(2047) },
        disks: (0..disks).map(disk).collect(),
        nics: Vec::new(),
        rng: true,
        balloon: false,
        vsock: None,
        identity: IdentityConfig::default(),
        console: ConsoleKind::Serial,
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_launch_carries_its_files() {
    let (client, server) = pair();
    assert!(matches!(server.receive(), Ok(Received::Empty)));
    let null = File::open("/dev/null").unwrap();
    let zero = File::open("/dev/zero").unwrap();
    let jail = Some(JailConfig { uid: 107, gid: 107 });
    let launch = Command::Launch { machine: Box::new(machine(255)), jail };
    client.send(&launch, &[null.as_fd(), zero.as_fd()]).unwrap();
    client.send(&Command::Start { paused: false }, &[]).unwrap();
    let Ok(Received::Message(command, files)) = server.receive() else { panic!("no launch") };
    assert_eq!(command, launch);
    let devices: Vec<_> = files.iter().map(|f| File::from(f.try_clone().unwrap()).metadata().unwrap().rdev()).collect();
    assert_eq!(devices, [null.metadata().unwrap().rdev(), zero.metadata().unwrap().rdev()]);
    for file in &files {
        let flags = FdFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
    }
    assert!(matches!(server.receive(), Ok(Received::Message(Command::Start { .. }, files)) if files.is_empty()));
}

#[test]
fn a_console_comes_through_open() {
    let (client, server) = pair();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    client.send(&Command::AttachConsole, &[theirs.as_fd()]).unwrap();
    drop(theirs);
    let Ok(Received::Message(Command::AttachConsole, files)) = server.receive() else { panic!("no console") };
    drop(files);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0, "the last copy was dropped");
}

#[test]
fn events_and_the_end_reach_the_client() {
    let (client, server) = pair();
    assert_eq!(client.receive().unwrap(), Heard::Empty);
    assert_eq!(client.wait(Duration::from_millis(1)).unwrap(), Heard::Empty);
    server.send(&Event::Ended(End::KvmError("entry".into()))).unwrap();
    drop(server);
    let limit = Duration::from_secs(5);
    assert_eq!(client.wait(limit).unwrap(), Heard::Message(Event::Ended(End::KvmError("entry".into()))));
    assert_eq!(client.wait(limit).unwrap(), Heard::Closed);
}

#[test]
fn a_client_that_left_closes_the_server() {
    let (client, server) = pair();
    server.send(&Event::Ready).unwrap();
    drop(client);
    assert!(matches!(server.receive(), Ok(Received::Closed)));
    assert!(server.send(&Event::Ready).is_err(), "and no SIGPIPE");
}

#[test]
fn only_a_seqpacket_socket_will_do() {
    let (stream, _peer) = UnixStream::pair().unwrap();
    assert!(matches!(Server::from_fd(stream.into()), Err(Error::NotSeqPacket)));
    assert!(matches!(Client::from_fd(File::open("/dev/null").unwrap().into()), Err(Error::NotSeqPacket)));
}

#[test]
fn oversized_messages_are_not_sent() {
    let (client, server) = pair();
    let text = "x".repeat(MAX_PACKET);
    assert!(matches!(server.send(&Event::Refused(text)), Err(Error::TooLarge(_))));
    let null = File::open("/dev/null").unwrap();
    let files = vec![null.as_fd(); MAX_FDS + 1];
    assert!(matches!(client.send(&Command::AttachConsole, &files), Err(Error::TooManyFiles(_))));
}

#[test]
fn a_peer_that_does_not_read_fills_the_socket() {
    let (client, server) = pair();
    let full = (0..100_000).map(|_| server.send(&Event::Rebooted)).find_map(Result::err);
    assert!(matches!(full, Some(Error::Full)));
    while client.receive().unwrap() != Heard::Empty {}
    server.send(&Event::Rebooted).unwrap();
}

#[test]
fn a_hostile_client_gets_errors() {
    let null = File::open("/dev/null").unwrap();
    let cases: [Case; 6] = [
        (&[0xFF; 64], 0, |e| matches!(e, Error::Malformed(_))),
        (&vec![0; MAX_PACKET + 1], 0, |e| matches!(e, Error::Truncated)),
        (&postcard::to_stdvec(&(Command::Start { paused: false }, 0u8)).unwrap(), 0, |e| {
            matches!(e, Error::Trailing(1))
        }),
        (&postcard::to_stdvec(&Command::Start { paused: false }).unwrap(), 1, |e| {
            matches!(e, Error::Files { expected: 0, got: 1, .. })
        }),
        (&postcard::to_stdvec(&Command::AttachConsole).unwrap(), 2, |e| matches!(e, Error::Files { expected: 1, .. })),
        // A string that claims 4 GiB.
        (&[0, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F], 0, |e| matches!(e, Error::Malformed(_))),
    ];
    for (i, (bytes, files, expected)) in cases.into_iter().enumerate() {
        let (peer, server) = raw_pair();
        let server = Server::from_fd(server).unwrap();
        let before = open_files();
        send_raw(&peer, bytes, &vec![null.as_fd(); files]);
        let error = server.receive().unwrap_err();
        assert!(expected(&error), "case {i}: {error}");
        assert_eq!(open_files(), before, "case {i} leaves a file open");
    }
}

#[test]
fn every_file_of_a_full_packet_arrives() {
    let (peer, server) = raw_pair();
    let server = Server::from_fd(server).unwrap();
    let null = File::open("/dev/null").unwrap();
    let launch = Command::Launch { machine: Box::new(machine(0)), jail: None };
    send_raw(&peer, &postcard::to_stdvec(&launch).unwrap(), &vec![null.as_fd(); MAX_FDS]);
    assert!(matches!(server.receive(), Ok(Received::Message(_, files)) if files.len() == MAX_FDS));
}

#[test]
fn a_hostile_vmm_gets_errors() {
    let null = File::open("/dev/null").unwrap();
    let cases: [Case; 4] = [
        (&[0x7F; 8], 0, |e| matches!(e, Error::Malformed(_))),
        (&vec![0; MAX_PACKET + 1], 0, |e| matches!(e, Error::Truncated)),
        (&postcard::to_stdvec(&Event::Ready).unwrap(), 1, |e| matches!(e, Error::FilesLost)),
        (&postcard::to_stdvec(&(Event::Ready, 7u8)).unwrap(), 0, |e| matches!(e, Error::Trailing(1))),
    ];
    for (i, (bytes, files, expected)) in cases.into_iter().enumerate() {
        let (peer, client) = raw_pair();
        let client = Client::from_fd(client).unwrap();
        let before = open_files();
        send_raw(&peer, bytes, &vec![null.as_fd(); files]);
        let error = client.receive().unwrap_err();
        assert!(expected(&error), "case {i}: {error}");
        assert_eq!(open_files(), before, "case {i} leaves a file open");
    }
}
