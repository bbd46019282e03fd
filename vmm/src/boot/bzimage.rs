//! bzImage: Linux's x86 boot protocol (Documentation/arch/x86/boot.rst), entered in 64-bit mode.

use std::fs::File;
use std::io;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::{
    Entry, Error, Loaded, Source, copy_to_ram, first_tables, initrd, low_ram_end, ram_size, read_at, write_cmdline,
};
use crate::memory::GuestRam;
use crate::memory::layout::{guest_map, low};

const SETUP_HEADER: u64 = 0x1F1;
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// 2.12: `xloadflags` says whether there is a 64-bit entry.
const MIN_VERSION: u16 = 0x020C;
const SECTOR: u64 = 512;
/// `loadflags`: the protected-mode code goes to 1 MiB and above.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry, 512 bytes into the kernel.
const KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// `type_of_loader`: one without a number of its own.
const LOADER_UNDEFINED: u8 = 0xFF;

pub(super) fn load(source: Source<'_>, ram: &GuestRam, rsdp: u64) -> Result<Loaded, Error> {
    let mut header = read_header(source.kernel)?;
    let size = super::initrd::file_size(source.kernel, "kernel")?;
    let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
    let setup = (sectors + 1) * SECTOR;
    let payload =
        size.checked_sub(setup).filter(|p| *p > ENTRY_64).ok_or(Error::Corrupt("shorter than its setup code"))?;

    let start = load_address(&header)?;
    let ram_end = low_ram_end(ram);
    let end = start.saturating_add(payload.max(u64::from(header.init_size)));
    if end > ram_end {
        return Err(Error::KernelTooBig { end, ram: ram_end });
    }
    copy_to_ram(source.kernel, "kernel", (setup, payload), ram, start)?;
    write_cmdline(source.cmdline, u64::from(header.cmdline_size), ram)?;

    header.type_of_loader = LOADER_UNDEFINED;
    header.cmd_line_ptr = low32(low::CMDLINE);
    header.code32_start = low32(start);
    let mut top = ram_end;
    if let Some(file) = source.initrd {
        let initrd = initrd::load(file, ram, end, ram_end.min(u64::from(header.initrd_addr_max) + 1))?;
        header.ramdisk_image = low32(initrd.start);
        header.ramdisk_size = low32(initrd.size);
        top = initrd.start;
    }
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: rsdp, ..Default::default() };
    for (slot, entry) in params.e820_table.iter_mut().zip(guest_map(ram_size(ram))) {
        *slot = boot_e820_entry { addr: entry.start, size: entry.size, r#type: entry.kind as u32 };
        params.e820_entries += 1;
    }
    ram.write_obj(params, GuestAddress(low::ZERO_PAGE)).map_err(Error::NoRam)?;
    // It moves itself to the end of what it needs, unpacks from there, and uses all of that memory.
    let soon = vec![start + payload..end, first_tables(end, top)];
    Ok(Loaded { entry: Entry::Linux64 { rip: start + ENTRY_64 }, soon })
}

fn read_header(kernel: &File) -> Result<setup_header, Error> {
    let mut header = setup_header::default();
    read_at(kernel, "kernel", header.as_mut_slice(), SETUP_HEADER).map_err(|e| match e {
        // Too short for a header: a text file, an empty one.
        Error::Read { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => Error::NotAKernel,
        other => other,
    })?;
    if header.header != MAGIC {
        return Err(Error::NotAKernel);
    }
    if header.version < MIN_VERSION || header.xloadflags & KERNEL_64 == 0 {
        return Err(Error::Unsupported(
            "a bzImage without a 64-bit entry (boot protocol 2.12); an x86-64 kernel is needed",
        ));
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(Error::Unsupported("a zImage; a bzImage is needed"));
    }
    Ok(header)
}

/// Where it prefers to be; a kernel may not lie below 1 MiB or above 4 GiB.
fn load_address(header: &setup_header) -> Result<u64, Error> {
    let start = if header.relocatable_kernel != 0 { header.pref_address } else { u64::from(header.code32_start) };
    if start < low::HIGH || start > u64::from(u32::MAX) {
        return Err(Error::Corrupt("a load address outside 1 MiB .. 4 GiB"));
    }
    Ok(start)
}

/// All callers stay below 4 GiB: RAM that boots ends at 3 GiB.
fn low32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
