//! Messages of a driver over the console's control queues: what waits for it stays bounded, and is whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vireo_vmm::virtio::console::control::{HEADER, PortKind, Protocol};

fuzz_target!(|input: &[u8]| {
    let mut protocol = Protocol::new(&[PortKind::Console, PortKind::Named("org.example.0")]);
    let (messages, _) = input.as_chunks::<HEADER>();
    for message in messages {
        // The host's side changes meanwhile.
        match message[7] {
            1 => protocol.set_host_open(1, message[0] % 2 == 0),
            2 => protocol.set_size(message[0].into(), message[1].into()),
            3 => assert!(protocol.take().is_none_or(|told| told.len() >= HEADER)),
            _ if protocol.full() => break,
            _ => {
                protocol.hear(*message);
            }
        }
    }
    let waiting = std::iter::from_fn(|| protocol.take()).count();
    assert!(waiting < 48, "{waiting} messages wait");
});
