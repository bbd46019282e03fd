//! Descriptor chains as packets to send and as room for packets to come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vireo_fuzz::{each_chain, memory};
use vireo_vmm::memory::guest_buffers::{GuestBuffers, MAX_SEGMENTS};
use vireo_vmm::virtio::net::{HEADER, MAX_PACKET, request};

fuzz_target!(|input: &[u8]| {
    let ram = memory(input);
    let mut buffers = GuestBuffers::new(ram.clone());
    each_chain(&ram, |chain| {
        if request::transmit(chain, &mut buffers).is_ok() {
            assert!((HEADER..=MAX_PACKET).contains(&buffers.len()));
        }
    });
    buffers.clear();
    each_chain(&ram, |chain| {
        let before = (buffers.len(), buffers.segments());
        if let Ok((len, segments)) = request::receive(chain, &mut buffers) {
            assert_eq!((before.0 + len, before.1 + segments), (buffers.len(), buffers.segments()));
        } else {
            buffers.clear();
        }
        assert!(buffers.segments() <= MAX_SEGMENTS);
    });
});
