//! Descriptor chains as block requests: whatever parses keeps inside the disk.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vireo_fuzz::{each_chain, memory};
use vireo_vmm::memory::guest_buffers::GuestBuffers;
use vireo_vmm::virtio::block::request::{self, Limits, Request};

const SIZE: u64 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let ram = memory(input);
    let mut buffers = GuestBuffers::new(ram.clone());
    each_chain(&ram, |chain| {
        let limits = Limits { size: SIZE, readonly: false };
        let Ok(parsed) = request::parse(&ram, chain, &mut buffers, limits) else { return };
        match parsed.request {
            Ok(Request::Read(offset) | Request::Write(offset)) => {
                assert!(!buffers.is_empty() && buffers.len().is_multiple_of(512));
                assert!(offset + buffers.len() as u64 <= SIZE);
            }
            Ok(Request::Discard(ranges) | Request::WriteZeroes(ranges)) => {
                assert!(ranges.iter().all(|r| r.offset + r.len <= SIZE));
            }
            Ok(Request::GetId) => assert!(buffers.len() >= request::ID_BYTES),
            Ok(Request::Flush) | Err(_) => {}
        }
    });
});
