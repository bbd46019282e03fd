//! PVH: an ELF whose note names a 32-bit entry (Xen's `docs/misc/pvh.pandoc`), as Linux's vmlinux with `CONFIG_PVH`.

use std::fs::File;

use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Bytes, GuestAddress};

use super::{
    Entry, Error, Loaded, Source, copy_to_ram, first_tables, initrd, low_ram_end, ram_size, read_at, write_cmdline,
};
use crate::memory::GuestRam;
use crate::memory::layout::{guest_map, low};

const EHDR_SIZE: usize = 64;
const PHDR_SIZE: usize = 56;
/// A kernel has about five.
const MAX_PHDRS: usize = 64;
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Notes are a few hundred bytes; this bounds what a hostile image makes us read.
const MAX_NOTES: u64 = 64 << 10;
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const START_MAGIC: u32 = 0x336E_C578;
/// Version 1 has the memory map.
const START_VERSION: u32 = 1;
/// Linux's `COMMAND_LINE_SIZE` on x86, less the NUL: an ELF doesn't say.
const CMDLINE_MAX: u64 = 2047;

/// One program header.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

pub(super) fn load(source: Source<'_>, ram: &GuestRam, rsdp: u64) -> Result<Loaded, Error> {
    let segments = read_segments(source.kernel)?;
    let entry = find_entry(source.kernel, &segments)?;
    let ram_end = low_ram_end(ram);
    let mut kernel_end = 0;
    for segment in segments.iter().filter(|s| s.kind == PT_LOAD && s.memory_size > 0) {
        let end = segment.address.saturating_add(segment.memory_size);
        if segment.file_size > segment.memory_size {
            return Err(Error::Corrupt("a segment is larger in the file than in memory"));
        }
        if segment.address < low::HIGH {
            return Err(Error::Corrupt("a segment below 1 MiB"));
        }
        if end > ram_end {
            return Err(Error::KernelTooBig { end, ram: ram_end });
        }
        copy_to_ram(source.kernel, "kernel", (segment.offset, segment.file_size), ram, segment.address)?;
        kernel_end = kernel_end.max(end);
    }
    if !(low::HIGH..kernel_end).contains(&u64::from(entry)) {
        return Err(Error::Corrupt("its PVH entry lies outside its segments"));
    }
    write_cmdline(source.cmdline, CMDLINE_MAX, ram)?;
    let initrd = source.initrd.map(|file| initrd::load(file, ram, kernel_end, ram_end)).transpose()?;
    write_start_info(ram, rsdp, initrd)?;
    let soon = vec![first_tables(kernel_end, initrd.map_or(ram_end, |initrd| initrd.start))];
    Ok(Loaded { entry: Entry::Pvh { eip: entry }, soon })
}

fn read_segments(kernel: &File) -> Result<Vec<Segment>, Error> {
    let mut header = [0; EHDR_SIZE];
    read_at(kernel, "kernel", &mut header, 0)?;
    if header[4] != ELFCLASS64 || header[5] != ELFDATA2LSB || u16_at(&header, 18) != EM_X86_64 {
        return Err(Error::Unsupported("an ELF, but not for x86-64"));
    }
    let count = usize::from(u16_at(&header, 56));
    if usize::from(u16_at(&header, 54)) != PHDR_SIZE || count > MAX_PHDRS {
        return Err(Error::Corrupt("its program headers"));
    }
    let mut table = vec![0; count * PHDR_SIZE];
    read_at(kernel, "kernel", &mut table, u64_at(&header, 32))?;
    let segment = |p: &[u8]| Segment {
        kind: u32_at(p, 0),
        offset: u64_at(p, 8),
        address: u64_at(p, 24),
        file_size: u64_at(p, 32),
        memory_size: u64_at(p, 40),
    };
    Ok(table.chunks_exact(PHDR_SIZE).map(segment).collect())
}

/// The note's entry point. A note is { name size, descriptor size, type, name, descriptor }, each part padded to 4 bytes.
fn find_entry(kernel: &File, segments: &[Segment]) -> Result<u32, Error> {
    for segment in segments.iter().filter(|s| s.kind == PT_NOTE) {
        if segment.file_size > MAX_NOTES {
            return Err(Error::Corrupt("notes of more than 64 KiB"));
        }
        let mut notes = vec![0; usize::try_from(segment.file_size).unwrap_or(0)];
        read_at(kernel, "kernel", &mut notes, segment.offset)?;
        let mut rest = notes.as_slice();
        while let Some((note, following)) = next_note(rest) {
            if note.kind == XEN_ELFNOTE_PHYS32_ENTRY && note.name == b"Xen\0" && note.descriptor.len() >= 4 {
                return Ok(u32_at(note.descriptor, 0));
            }
            rest = following;
        }
    }
    Err(Error::Unsupported("an ELF without a PVH entry; a kernel built with CONFIG_PVH, or a bzImage, is needed"))
}

struct Note<'a> {
    kind: u32,
    name: &'a [u8],
    descriptor: &'a [u8],
}

fn next_note(bytes: &[u8]) -> Option<(Note<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(12)?;
    let (name, rest) = padded(rest, u32_at(head, 0))?;
    let (descriptor, rest) = padded(rest, u32_at(head, 4))?;
    Some((Note { kind: u32_at(head, 8), name, descriptor }, rest))
}

fn padded(bytes: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    let len = usize::try_from(len).ok()?;
    let part = bytes.get(..len)?;
    // The last part may lack its padding.
    Some((part, bytes.get(len.checked_next_multiple_of(4)?..).unwrap_or_default()))
}

fn write_start_info(ram: &GuestRam, rsdp: u64, initrd: Option<initrd::Initrd>) -> Result<(), Error> {
    let modules = low::PVH_START_INFO + size_of::<hvm_start_info>() as u64;
    let map_start = modules + size_of::<hvm_modlist_entry>() as u64;
    let map = guest_map(ram_size(ram));
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: START_VERSION,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: if initrd.is_some() { modules } else { 0 },
        cmdline_paddr: low::CMDLINE,
        rsdp_paddr: rsdp,
        memmap_paddr: map_start,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        ..Default::default()
    };
    ram.write_obj(info, GuestAddress(low::PVH_START_INFO)).map_err(Error::NoRam)?;
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry { paddr: initrd.start, size: initrd.size, ..Default::default() };
        ram.write_obj(module, GuestAddress(modules)).map_err(Error::NoRam)?;
    }
    let mut at = map_start;
    for entry in map {
        let entry =
            hvm_memmap_table_entry { addr: entry.start, size: entry.size, type_: entry.kind as u32, reserved: 0 };
        ram.write_obj(entry, GuestAddress(at)).map_err(Error::NoRam)?;
        at += size_of::<hvm_memmap_table_entry>() as u64;
    }
    Ok(())
}

// The offsets are constants inside fixed-size buffers.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
