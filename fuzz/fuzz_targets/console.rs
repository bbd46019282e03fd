//! Descriptor chains as console output and as room for console input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vireo_fuzz::{each_chain, memory};
use vireo_vmm::virtio::console::request::{self, MAX_WRITE};

fuzz_target!(|input: &[u8]| {
    let ram = memory(input);
    each_chain(&ram, |chain| {
        let mut total = 0;
        let _ = request::transmit(&ram, chain, |bytes| total += bytes.len());
        assert!(total <= MAX_WRITE);
    });
    each_chain(&ram, |chain| {
        if let Ok(taken) = request::receive(&ram, chain, &[b'x'; 100]) {
            assert!(taken <= 100);
        }
    });
});
