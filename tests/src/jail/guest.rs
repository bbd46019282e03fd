//! The smallest guest with a console: prompts, then does what it is told. For machines that run where no kernel is at hand.

use std::fs::File;
use std::io::Write;

use anyhow::Result;

/// Where the guest is loaded and entered, in 32-bit protected mode (PVH).
const LOAD: u32 = 0x10_0000;
/// Where the code stands in the file.
const CODE_OFFSET: u32 = 0x200;

/// Writes `>` to the first serial port and reads a byte; `r` resets the machine, anything else powers it off.
const PROMPT: &[u8] = &[
    0x66, 0xBA, 0xF8, 0x03, // mov dx, 0x3f8
    0xB0, b'>', // mov al, '>'
    0xEE, // out dx, al
    0x66, 0xBA, 0xFD, 0x03, // wait: mov dx, 0x3fd
    0xEC, // in al, dx
    0xA8, 0x01, // test al, 1
    0x74, 0xF7, // jz wait
    0x66, 0xBA, 0xF8, 0x03, // mov dx, 0x3f8
    0xEC, // in al, dx
    0x3C, b'r', // cmp al, 'r'
    0x75, 0x0A, // jne off
    0x66, 0xBA, 0xF9, 0x0C, // mov dx, 0xcf9
    0xB0, 0x06, // mov al, 6
    0xEE, // out dx, al
    0xF4, // stop: hlt
    0xEB, 0xFD, // jmp stop
    0x66, 0xBA, 0x04, 0x06, // off: mov dx, 0x604
    0x66, 0xB8, 0x00, 0x34, // mov ax, 0x3400
    0x66, 0xEF, // out dx, ax
    0xF4, // halt: hlt
    0xEB, 0xFD, // jmp halt
];

/// The guest as an ELF file with a PVH note, open for reading.
pub fn prompt() -> Result<File> {
    let mut image = vec![0; CODE_OFFSET as usize];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    // The ELF header: 64-bit, x86-64, two program headers of 56 bytes at 64.
    put(0, b"\x7FELF\x02\x01\x01");
    put(18, &62u16.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    // PT_LOAD and PT_NOTE: offset, physical address, size in the file, size in memory.
    let load = (64, 1u32, CODE_OFFSET, LOAD, PROMPT.len() as u64);
    let note = (120, 4u32, 0x100, 0, 20);
    for (at, kind, offset, address, size) in [load, note] {
        put(at, &kind.to_le_bytes());
        put(at + 8, &u64::from(offset).to_le_bytes());
        put(at + 24, &u64::from(address).to_le_bytes());
        put(at + 32, &size.to_le_bytes());
        put(at + 40, &size.to_le_bytes());
    }
    // XEN_ELFNOTE_PHYS32_ENTRY.
    put(0x100, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(0x10C, b"Xen\0");
    put(0x110, &LOAD.to_le_bytes());
    image.extend(PROMPT);
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&image)?;
    Ok(file.reopen()?)
}
