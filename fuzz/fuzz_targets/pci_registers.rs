//! Any accesses to configuration space and to a virtio device's BAR, with the device started and reset where they say so.
//! Needs `/dev/kvm`; the VM has no vCPU.
#![no_main]

use std::sync::{Arc, OnceLock};

use kvm_ioctls::{Kvm, VmFd};
use libfuzzer_sys::fuzz_target;
use vireo_fuzz::memory;
use vireo_vmm::bus::Bus;
use vireo_vmm::event_loop::EventLoop;
use vireo_vmm::interrupts::Interrupts;
use vireo_vmm::memory::layout::{ECAM_START, PCI_FIRST_BAR, PCI_MMIO32_SIZE, PCI_MMIO32_START};
use vireo_vmm::pausing::PauseRequests;
use vireo_vmm::pci::host_bridge::HostBridge;
use vireo_vmm::pci::{PciContext, PciRoot};
use vireo_vmm::virtio::rng::Rng;

/// Making a VM takes longer than everything else.
fn vm() -> Arc<VmFd> {
    static VM: OnceLock<Arc<VmFd>> = OnceLock::new();
    let vm = VM.get_or_init(|| {
        let vm = Kvm::new().and_then(|kvm| kvm.create_vm()).expect("/dev/kvm");
        vm.create_irq_chip().expect("interrupt controllers");
        Arc::new(vm)
    });
    Arc::clone(vm)
}

fuzz_target!(|input: &[u8]| {
    let (vm, mmio) = (vm(), Arc::new(Bus::default()));
    let mut events = EventLoop::new().expect("epoll");
    let context = PciContext {
        vm: Arc::clone(&vm),
        interrupts: Interrupts::new(vm),
        mmio: Arc::clone(&mmio),
        events: events.handle(),
        pauses: PauseRequests::default(),
        ram: memory(&[]),
        mmio32: PCI_MMIO32_START..PCI_MMIO32_START + PCI_MMIO32_SIZE,
        mmio64: 1 << 32..1 << 33,
    };
    let root = PciRoot::new(context, HostBridge::generic());
    root.add_virtio(Box::new(Rng::new())).expect("an empty bus");
    let config = |offset| ECAM_START + (1 << 15 | offset);
    // Memory decoding is on to begin with: few inputs would get there.
    mmio.write(config(4), &[6, 0]);
    for access in input.chunks_exact(12) {
        let (head, value) = access.split_at(4);
        let len = 1 << (head[0] >> 4 & 3);
        let at = u64::from(u16::from_le_bytes([head[1], head[2]])) & !(len as u64 - 1);
        let mut data = [0; 8];
        data.copy_from_slice(value);
        match head[0] & 3 {
            0 => mmio.write(PCI_FIRST_BAR + at, &data[..len]),
            1 => mmio.read(PCI_FIRST_BAR + at, &mut data[..len]),
            2 => mmio.write(config(at & 0xFFF), &data[..len]),
            _ => mmio.read(config(at & 0xFFF), &mut data[..len]),
        }
        if head[3] & 1 != 0 {
            // Runs what the accesses have asked of the event thread.
            events.handle().stop();
            events.run().expect("epoll");
        }
    }
    root.reset();
});
