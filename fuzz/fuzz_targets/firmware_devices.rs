//! What firmware talks to, driven by anything: accesses to fw_cfg with any descriptor in memory, writes to the flash.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vireo_fuzz::memory;
use vireo_vmm::bus::BusDevice;
use vireo_vmm::config::Topology;
use vireo_vmm::platform::fw_cfg::{FwCfg, Items};
use vireo_vmm::platform::pflash::chip::{BLOCK, Chip, Effect};

fuzz_target!(|input: &[u8]| {
    // The input is also what lies in memory, descriptors among it.
    let ram = memory(input);
    let mut items = Items::new(Topology::cores(2), 1 << 20);
    items.add_file("etc/fixed", vec![1; 1000]).expect("a new name");
    items.add_made_file("etc/made", || vec![2; 5000]).expect("a new name");
    let fw_cfg = FwCfg::new(items, ram);
    let mut chip = Chip::default();
    for access in input.chunks_exact(10) {
        let (head, value) = access.split_at(2);
        let len = 1 << (head[0] >> 4 & 3);
        let offset = u64::from(head[0] & 0xF);
        if head[1] & 1 == 0 && offset + len as u64 <= FwCfg::PORTS {
            fw_cfg.write(offset, &value[..len]);
            fw_cfg.read(offset, &mut vec![0; len]);
        }
        let at = u64::from(head[1]) << 8;
        if let Effect::Erase { start } = chip.write(at, value[0]) {
            assert!(start % BLOCK as u64 == 0 && (start..start + BLOCK as u64).contains(&at));
        }
    }
});
