//! Descriptor chains as page numbers, free ranges and statistics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vireo_fuzz::{each_chain, memory};
use vireo_vmm::virtio::balloon::request::{self, MAX_PAGES, PAGE};

fuzz_target!(|input: &[u8]| {
    let ram = memory(input);
    each_chain(&ram, |chain| {
        let (mut pages, mut last) = (0, 0);
        let _ = request::pages(&ram, chain, |addr, len| {
            assert!(addr % PAGE == 0 && len % PAGE == 0 && len > 0);
            assert!(addr >= last, "ranges are in order and apart");
            last = addr + len;
            pages += len / PAGE;
        });
        assert!(pages <= MAX_PAGES as u64);
    });
    each_chain(&ram, |chain| request::free_ranges(chain, |_, len| assert!(len <= u32::MAX.into())));
    each_chain(&ram, |chain| {
        let _ = request::statistics(&ram, chain);
    });
});
