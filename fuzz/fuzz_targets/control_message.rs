//! Packets from either peer of the control socket, as the other reads them.
#![no_main]

use std::os::fd::AsRawFd;

use libfuzzer_sys::fuzz_target;
use nix::sys::socket::{MsgFlags, send};
use vireo_vmm::control::client::Client;
use vireo_vmm::control::message::MAX_PACKET;
use vireo_vmm::control::{client, server, server::Server};

fuzz_target!(|input: &[u8]| {
    if input.is_empty() {
        return;
    }
    let (shim, vmm) = Client::pair().expect("a socket pair");
    let server = Server::from_fd(vmm.try_clone().expect("a descriptor")).expect("a packet socket");
    send(shim.as_raw_fd(), input, MsgFlags::empty()).expect("room for a packet");
    if let Ok(server::Received::Message(command, files)) = server.receive() {
        assert!(files.is_empty() && input.len() <= MAX_PACKET);
        // What was understood can be said again, and means the same.
        if shim.send(&command, &[]).is_ok() {
            let Ok(server::Received::Message(again, _)) = server.receive() else { panic!("{command:?} was lost") };
            assert_eq!(command, again);
        }
    }
    send(vmm.as_raw_fd(), input, MsgFlags::empty()).expect("room for a packet");
    if let Ok(client::Received::Message(event)) = shim.receive()
        && server.send(&event).is_ok()
    {
        assert_eq!(shim.receive().expect("whole"), client::Received::Message(event));
    }
});
