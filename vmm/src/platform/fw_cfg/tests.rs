use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::Topology;
use crate::memory::guest_ram;

const RAM: u64 = 16 << 20;
const DESCRIPTOR: u64 = 0x1000;

fn device() -> (FwCfg, GuestRam) {
    let ram = guest_ram::create(RAM, None).unwrap();
    let mut items = Items::new(Topology::cores(2), RAM);
    items.add_file("etc/one", vec![1, 2, 3]).unwrap();
    items.add_made_file("etc/a", || vec![9; 5000]).unwrap();
    (FwCfg::new(items, ram.clone()), ram)
}

fn select(device: &FwCfg, item: u16) {
    device.write(0, &item.to_le_bytes());
}

fn bytes(device: &FwCfg, count: usize) -> Vec<u8> {
    let mut data = vec![0xFF; count];
    for byte in &mut data {
        device.read(1, std::slice::from_mut(byte));
    }
    data
}

/// Starts a transfer and returns the control field afterwards.
fn transfer(device: &FwCfg, ram: &GuestRam, control: u32, length: u32, address: u64) -> u32 {
    let descriptor = [control.to_be_bytes().as_slice(), &length.to_be_bytes(), &address.to_be_bytes()].concat();
    ram.write_slice(&descriptor, GuestAddress(DESCRIPTOR)).unwrap();
    start(device, DESCRIPTOR);
    let mut control = [0; 4];
    ram.read_slice(&mut control, GuestAddress(DESCRIPTOR)).unwrap();
    u32::from_be_bytes(control)
}

fn start(device: &FwCfg, descriptor: u64) {
    let descriptor = descriptor.to_be_bytes();
    device.write(4, &descriptor[..4]);
    device.write(8, &descriptor[4..]);
}

fn memory(ram: &GuestRam, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

#[test]
fn says_what_it_is() {
    let (device, _) = device();
    select(&device, 0);
    assert_eq!(bytes(&device, 5), b"QEMU\0");
    select(&device, 1);
    assert_eq!(bytes(&device, 4), [3, 0, 0, 0]);
    select(&device, 5);
    assert_eq!(bytes(&device, 2), [2, 0]);
    let mut signature = [0; 4];
    device.read(4, &mut signature);
    assert_eq!(&signature, b"QEMU");
    select(&device, 0x4000);
    assert_eq!(bytes(&device, 2), [0, 0], "an unknown item is empty");
}

#[test]
fn the_directory_names_files_in_order() {
    let (device, _) = device();
    select(&device, 0x19);
    let directory = bytes(&device, 4 + 2 * 64);
    assert_eq!(directory[..4], [0, 0, 0, 2]);
    let entry = |at: usize| {
        let entry = &directory[4 + 64 * at..][..64];
        let name = entry[8..].split(|byte| *byte == 0).next().unwrap();
        let size = u32::from_be_bytes(entry[..4].try_into().unwrap());
        (String::from_utf8_lossy(name).into_owned(), size, u16::from_be_bytes([entry[4], entry[5]]))
    };
    assert_eq!(entry(0), ("etc/a".to_owned(), 5000, 0x21));
    assert_eq!(entry(1), ("etc/one".to_owned(), 3, 0x20));
    select(&device, 0x20);
    assert_eq!(bytes(&device, 4), [1, 2, 3, 0]);
}

#[test]
fn names_must_fit_and_be_new() {
    let mut items = Items::new(Topology::cores(1), RAM);
    items.add_file("a", vec![]).unwrap();
    for name in ["", "a", &"x".repeat(56)] {
        assert_eq!(items.add_file(name, vec![]), Err(items::FileError(name.to_owned())));
    }
    (0..63).for_each(|n| items.add_file(&format!("f{n}"), vec![]).unwrap());
    items.add_file("one too many", vec![]).unwrap_err();
}

#[test]
fn dma_reads_in_parts_and_fills_up_with_zeroes() {
    let (device, ram) = device();
    ram.write_slice(&[0xEE; 8], GuestAddress(0x2000)).unwrap();
    assert_eq!(transfer(&device, &ram, 0x20 << 16 | 8 | 2, 2, 0x2000), 0);
    assert_eq!(memory(&ram, 0x2000, 3), [1, 2, 0xEE]);
    assert_eq!(transfer(&device, &ram, 2, 3, 0x2000), 0);
    assert_eq!(memory(&ram, 0x2000, 4), [3, 0, 0, 0xEE]);
    assert_eq!(transfer(&device, &ram, 0x20 << 16 | 8 | 4, 2, 0), 0, "skips");
    assert_eq!(bytes(&device, 1), [3], "port and DMA share their place");
    assert_eq!(transfer(&device, &ram, 0x21 << 16 | 8 | 2, 10_000, 0x3000), 0);
    let read = memory(&ram, 0x3000, 10_000);
    assert!(read[..5000].iter().all(|b| *b == 9) && read[5000..].iter().all(|b| *b == 0));
}

#[test]
fn hostile_transfers_fail_and_move_nothing() {
    let (device, ram) = device();
    let read = 0x21 << 16 | 8 | 2;
    ram.write_slice(&[0xEE; 4], GuestAddress(RAM - 4)).unwrap();
    for (control, length, address) in [
        (read, 5000, RAM),
        (read, 5000, RAM - 4),
        (read, 5000, u64::MAX - 10),
        (read, u32::MAX, 0x2000),
        (read, dma::MAX_LENGTH + 1, 0),
        (0x20 << 16 | 8 | 16, 3, 0x2000),
    ] {
        assert_eq!(transfer(&device, &ram, control, length, address), 1, "{control:#x} {length} {address:#x}");
    }
    assert_eq!(memory(&ram, RAM - 4, 4), [0xEE; 4]);
    for descriptor in [RAM, RAM - 8, u64::MAX, u64::MAX - 7] {
        start(&device, descriptor);
    }
    // Onto its own descriptor: told as done, whatever else lies there.
    assert_eq!(transfer(&device, &ram, read, 16, DESCRIPTOR), 0);
    assert_eq!(transfer(&device, &ram, 4, u32::MAX, 0), 0);
    assert_eq!(bytes(&device, 1), [0], "past the end");
}

proptest! {
    #[test]
    fn any_accesses_are_survived(accesses in prop::collection::vec((0u64..12, 0usize..4, any::<[u8; 8]>()), 0..64)) {
        let (device, ram) = device();
        for (offset, size, data) in accesses {
            let len = 1 << size;
            if offset + len as u64 <= FwCfg::PORTS {
                ram.write_slice(&data, GuestAddress(u64::from(data[0]) << 4)).unwrap();
                device.write(offset, &data[..len]);
                device.read(offset, &mut vec![0; len]);
            }
        }
    }
}
