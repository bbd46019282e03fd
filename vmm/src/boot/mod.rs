//! What runs first: a kernel or [`firmware`].
//!
//! Direct boot: a kernel is put into RAM with its command line, initial RAM disk and memory map, without firmware.
//!
//! The image says what it is: [`bzimage`] (Linux's x86 boot protocol, 64-bit entry) or [`pvh`] (an ELF with Xen's PVH note).
//! Images are hostile: every number of theirs is checked against the file and against RAM before it is used.

mod bzimage;
pub mod firmware;
mod initrd;
mod pvh;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::GuestRam;
use crate::memory::layout::low;

/// Where the boot vCPU starts, and in which mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// As after a reset: real mode, 16 bytes below 4 GiB.
    Reset,
    /// 64-bit mode with the first 4 GiB mapped one to one, RSI = the zero page.
    Linux64 {
        /// First instruction.
        rip: u64,
    },
    /// 32-bit protected mode without paging, EBX = `hvm_start_info`.
    Pvh {
        /// First instruction.
        eip: u32,
    },
}

/// A kernel in RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Where it is entered.
    pub entry: Entry,
    /// RAM that it will touch at once, GPAs, in this order: what its image says it needs, and where it takes its first tables
    /// from.
    pub soon: Vec<Range<u64>>,
}

/// Linux takes its first tables (of page tables, page structs, the per-CPU areas) from the top of low RAM down, below the
/// initial RAM disk: about 5 MiB for each 256 MiB of RAM.
const FIRST_TABLES: u64 = 8 << 20;

/// What boots.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// A bzImage or an ELF with a PVH note.
    pub kernel: &'a File,
    /// The initial RAM disk.
    pub initrd: Option<&'a File>,
    /// The command line, without NUL.
    pub cmdline: &'a str,
}

/// Why a machine can't boot what it was given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image could not be read.
    #[error("{what}: reading {len} bytes at {offset:#x}")]
    Read {
        /// `kernel` or `initrd`.
        what: &'static str,
        /// Where in the file.
        offset: u64,
        /// How much.
        len: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Neither of the two formats.
    #[error("kernel: neither a bzImage nor an ELF file; an x86-64 Linux kernel (vmlinuz or vmlinux) is needed")]
    NotAKernel,
    /// Of a format, but not one that can boot here.
    #[error("kernel: {0}")]
    Unsupported(&'static str),
    /// The image's own numbers make no sense.
    #[error("kernel: corrupt image: {0}")]
    Corrupt(&'static str),
    /// The kernel needs more RAM.
    #[error("kernel: needs RAM up to {end:#x}, the machine has it up to {ram:#x}; give it more memory")]
    KernelTooBig {
        /// End of what it needs.
        end: u64,
        /// End of RAM below 4 GiB.
        ram: u64,
    },
    /// The initial RAM disk has no place beside the kernel.
    #[error(
        "initrd: {size} bytes don't fit between the kernel's end {kernel_end:#x} and {limit:#x}; give the machine more memory"
    )]
    InitrdTooBig {
        /// Its size.
        size: u64,
        /// End of the kernel.
        kernel_end: u64,
        /// Where it has to end.
        limit: u64,
    },
    /// The initial RAM disk is empty.
    #[error("initrd: the file is empty")]
    InitrdEmpty,
    /// The command line is too long for this kernel.
    #[error("cmdline: {len} bytes, this kernel takes at most {max}")]
    CmdlineTooLong {
        /// Its length.
        len: u64,
        /// The kernel's bound.
        max: u64,
    },
    /// Firmware could not be shown to the guest.
    #[error(transparent)]
    Rom(#[from] crate::memory::rom::Error),
    /// The machine has less RAM than a boot needs at all.
    #[error("memory: too small for any kernel")]
    NoRam(#[source] vm_memory::GuestMemoryError),
}

/// Loads everything; `rsdp` is the GPA of the ACPI root pointer.
pub fn load(source: Source<'_>, ram: &GuestRam, rsdp: u64) -> Result<Loaded, Error> {
    let mut magic = [0; 4];
    read_at(source.kernel, "kernel", &mut magic, 0)?;
    if magic == *b"\x7FELF" { pvh::load(source, ram, rsdp) } else { bzimage::load(source, ram, rsdp) }
}

/// The last RAM below `top`, above `kernel_end`, that Linux takes first.
fn first_tables(kernel_end: u64, top: u64) -> Range<u64> {
    top.saturating_sub(FIRST_TABLES).max(kernel_end)..top
}

/// End of the RAM that starts at 0.
fn low_ram_end(ram: &GuestRam) -> u64 {
    ram.find_region(GuestAddress(0)).map_or(0, GuestMemoryRegion::len)
}

/// RAM in all, bytes.
fn ram_size(ram: &GuestRam) -> u64 {
    ram.iter().map(GuestMemoryRegion::len).sum()
}

/// Reads from a file by place, so that its offset (shared with whoever opened it) doesn't matter.
fn read_at(file: &File, what: &'static str, buf: &mut [u8], offset: u64) -> Result<(), Error> {
    file.read_exact_at(buf, offset).map_err(|source| Error::Read { what, offset, len: buf.len() as u64, source })
}

/// Copies part of a file into RAM. The caller has checked that `to .. to + len` is RAM.
fn copy_to_ram(
    file: &File,
    what: &'static str,
    (offset, len): (u64, u64),
    ram: &GuestRam,
    to: u64,
) -> Result<(), Error> {
    let fail = |source| Error::Read { what, offset, len, source };
    let count = usize::try_from(len).map_err(|_| Error::Corrupt("a size beyond the address space"))?;
    let mut done = 0;
    while done < count {
        let rest = ram.get_slice(GuestAddress(to + done as u64), count - done).map_err(Error::NoRam)?;
        let guard = rest.ptr_guard_mut();
        let position = i64::try_from(offset + done as u64).map_err(|_| Error::Corrupt("an offset beyond any file"))?;
        // SAFETY: the guard spans `rest.len()` bytes of guest memory, which Rust sees only through raw pointers.
        let read =
            unsafe { libc::pread(std::os::fd::AsRawFd::as_raw_fd(file), guard.as_ptr().cast(), rest.len(), position) };
        match usize::try_from(read) {
            Ok(0) => return Err(fail(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => done += read,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(fail(error));
                }
            }
        }
    }
    Ok(())
}

/// Writes the command line; `max` is the kernel's own bound without the NUL.
fn write_cmdline(cmdline: &str, max: u64, ram: &GuestRam) -> Result<(), Error> {
    let max = max.min(low::CMDLINE_SIZE - 1);
    let len = cmdline.len() as u64;
    if len > max {
        return Err(Error::CmdlineTooLong { len, max });
    }
    ram.write_slice(cmdline.as_bytes(), GuestAddress(low::CMDLINE)).map_err(Error::NoRam)?;
    ram.write_obj(0u8, GuestAddress(low::CMDLINE + len)).map_err(Error::NoRam)
}
