use std::io::Write;

use super::*;
use crate::memory::guest_ram;
use crate::memory::layout::low;

const RAM: u64 = 64 << 20;

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn try_load(kernel: &[u8], initrd: Option<&[u8]>, cmdline: &str) -> Result<(Entry, GuestRam), Error> {
    let ram = guest_ram::create(RAM, None).unwrap();
    let (kernel, initrd) = (file(kernel), initrd.map(file));
    let loaded = load(Source { kernel: &kernel, initrd: initrd.as_ref(), cmdline }, &ram, low::ACPI)?;
    Ok((loaded.entry, ram))
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A bzImage whose protected-mode part is 4 KiB of 0xF4.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024];
    image.extend([0xF4; 4096]);
    put(&mut image, 0x1F1, &[1]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020Fu16.to_le_bytes());
    put(&mut image, 0x211, &[1]);
    put(&mut image, 0x214, &0x10_0000u32.to_le_bytes());
    put(&mut image, 0x22C, &0x7FFF_FFFFu32.to_le_bytes());
    put(&mut image, 0x234, &[1, 21]);
    put(&mut image, 0x236, &1u16.to_le_bytes());
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x258, &0x100_0000u64.to_le_bytes());
    put(&mut image, 0x260, &0x10_0000u32.to_le_bytes());
    image
}

/// An ELF of one segment at 1 MiB, with a PVH note.
fn elf() -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    put(&mut image, 0, b"\x7FELF\x02\x01\x01");
    put(&mut image, 18, &62u16.to_le_bytes());
    put(&mut image, 32, &64u64.to_le_bytes());
    put(&mut image, 54, &56u16.to_le_bytes());
    put(&mut image, 56, &2u16.to_le_bytes());
    for (at, kind, offset, address, size) in [(64, 1u32, 0x800u64, 0x10_0000u64, 0x100u64), (120, 4, 0x200, 0, 20)] {
        put(&mut image, at, &kind.to_le_bytes());
        put(&mut image, at + 8, &offset.to_le_bytes());
        put(&mut image, at + 24, &address.to_le_bytes());
        put(&mut image, at + 32, &size.to_le_bytes());
        put(&mut image, at + 40, &size.to_le_bytes());
    }
    put(&mut image, 0x200, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(&mut image, 0x20C, b"Xen\0");
    put(&mut image, 0x210, &0x10_0010u32.to_le_bytes());
    image
}

#[test]
fn a_bzimage_is_loaded_where_it_prefers() {
    let (entry, ram) = try_load(&bzimage(), Some(&[7; 5000]), "quiet").unwrap();
    assert_eq!(entry, Entry::Linux64 { rip: 0x100_0200 });
    assert_eq!(ram.read_obj::<u8>(GuestAddress(0x100_0000)).unwrap(), 0xF4);
    let field = |at| ram.read_obj::<u32>(GuestAddress(low::ZERO_PAGE + at)).unwrap();
    assert_eq!(u64::from(field(0x228)), low::CMDLINE);
    assert_eq!((u64::from(field(0x218)), field(0x21C)), (RAM - 8192, 5000), "the initrd lies in the last pages");
    assert_eq!(u64::from(field(0x70)), low::ACPI);
    let mut cmdline = [0; 6];
    ram.read_slice(&mut cmdline, GuestAddress(low::CMDLINE)).unwrap();
    assert_eq!(&cmdline, b"quiet\0");
    assert_eq!(ram.read_obj::<u8>(GuestAddress(RAM - 8192)).unwrap(), 7);
}

#[test]
fn an_elf_is_entered_where_its_note_says() {
    let (entry, ram) = try_load(&elf(), Some(&[7; 5000]), "quiet").unwrap();
    assert_eq!(entry, Entry::Pvh { eip: 0x10_0010 });
    let field = |at| ram.read_obj::<u64>(GuestAddress(low::PVH_START_INFO + at)).unwrap();
    assert_eq!(field(24), low::CMDLINE);
    assert_eq!(ram.read_obj::<u64>(GuestAddress(field(16))).unwrap(), RAM - 8192);
}

#[test]
fn wrong_images_are_named() {
    let wrong = |image: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        put(image, at, bytes);
        try_load(image, None, "").unwrap_err().to_string()
    };
    assert!(try_load(b"#!/bin/sh\n", None, "").unwrap_err().to_string().contains("neither a bzImage nor an ELF"));
    assert!(wrong(&mut bzimage(), 0x236, &[0, 0]).contains("64-bit entry"));
    assert!(wrong(&mut bzimage(), 0x211, &[0]).contains("zImage"));
    assert!(wrong(&mut bzimage(), 0x1F1, &[64]).contains("shorter than its setup code"));
    assert!(wrong(&mut bzimage(), 0x258, &[0; 8]).contains("outside 1 MiB"));
    assert!(wrong(&mut bzimage(), 0x260, &u32::MAX.to_le_bytes()).contains("more memory"));
    assert!(wrong(&mut elf(), 18, &183u16.to_le_bytes()).contains("not for x86-64"));
    assert!(wrong(&mut elf(), 0x208, &[1]).contains("without a PVH entry"));
    assert!(wrong(&mut elf(), 0x200, &[0xFF; 4]).contains("without a PVH entry"));
    assert!(wrong(&mut elf(), 56, &[0xFF, 0xFF]).contains("program headers"));
    assert!(wrong(&mut elf(), 64 + 24, &[0xFF; 8]).contains("more memory"));
    assert!(wrong(&mut elf(), 64 + 24, &[0; 8]).contains("below 1 MiB"));
    assert!(wrong(&mut elf(), 64 + 32, &[0xFF; 8]).contains("larger in the file"));
    assert!(wrong(&mut elf(), 64 + 8, &0xFFFFu64.to_le_bytes()).contains("reading 256 bytes"));
    assert!(wrong(&mut elf(), 0x210, &[0; 4]).contains("outside its segments"));
}

#[test]
fn what_does_not_fit_is_refused() {
    let huge = vec![0; 60 << 20];
    assert!(matches!(try_load(&bzimage(), Some(&huge), "").unwrap_err(), Error::InitrdTooBig { .. }));
    assert!(matches!(try_load(&bzimage(), Some(&[]), "").unwrap_err(), Error::InitrdEmpty));
    let long = "x".repeat(2048);
    assert!(matches!(try_load(&bzimage(), None, &long).unwrap_err(), Error::CmdlineTooLong { .. }));
    assert!(matches!(try_load(&elf(), None, &long).unwrap_err(), Error::CmdlineTooLong { .. }));
}

proptest::proptest! {
    #[test]
    fn hostile_images_never_panic(at in 0usize..0x300, bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..16)) {
        for mut image in [bzimage(), elf()] {
            put(&mut image, at, &bytes);
            let _ = try_load(&image, None, "");
        }
    }
}
