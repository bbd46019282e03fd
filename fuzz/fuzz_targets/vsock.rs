//! Descriptor chains as vsock packets, and what they mean to a connection: its credit holds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vireo_fuzz::{each_chain, memory};
use vireo_vmm::memory::guest_buffers::GuestBuffers;
use vireo_vmm::virtio::vsock::connection::{Connection, Heard};
use vireo_vmm::virtio::vsock::packet::{self, HEADER, MAX_DATA, op};

const ALLOC: u32 = 64 << 10;

fuzz_target!(|input: &[u8]| {
    let ram = memory(input);
    let mut data = GuestBuffers::new(ram.clone());
    let mut connection = Connection::asked(ALLOC);
    let mut kept = 0;
    each_chain(&ram, |chain| {
        let Ok(Some(mut header)) = packet::read(&ram, chain, &mut data) else { return };
        assert!(data.len() <= MAX_DATA);
        // Most random operations are none.
        header.op %= op::CREDIT_REQUEST + 1;
        match connection.hear(&header) {
            Heard::Data => kept += header.len,
            Heard::Over { .. } => {
                connection = Connection::answering(ALLOC, &header);
                connection.accept();
                kept = 0;
            }
            _ => {}
        }
        assert!(kept <= ALLOC);
        let taken = kept.min(header.flags);
        connection.forwarded(taken);
        kept -= taken;
        connection.sent(connection.may_send());
        while connection.owes() {
            assert!(connection.take_owed().is_some());
        }
    });
    let mut places = Vec::new();
    each_chain(&ram, |chain| {
        packet::places(chain, &mut places);
        assert!(places.iter().map(|(_, len)| len).sum::<usize>() <= HEADER + MAX_DATA);
    });
});
