//! The smallest guest: an ELF with a PVH entry whose first act is to write one byte to the serial port.
//!
//! It runs where no kernel can (a KVM that emulates ring 0), and its byte arrives the same way from every monitor.

/// What it writes.
pub const WORD: &[u8] = b"!";

/// Where it is loaded and entered: 1 MiB, in RAM on every PC.
const ENTRY: u32 = 0x10_0000;
/// File offset and alignment of the code.
const PAGE: u32 = 0x1000;
/// Sizes of the ELF64 file and program headers.
const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen, xen/include/public/elfnote.h): the address of the 32-bit PVH entry.
const PHYS32_ENTRY: u32 = 18;

/// 32-bit code.
const CODE: [u8; 10] = [
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, WORD[0], // mov al, '!'
    0xee,    // out dx, al
    0xf4,    // hlt
    0xeb, 0xfd, // jmp to the hlt
];

/// The file.
pub fn elf() -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4u32, 8, PHYS32_ENTRY] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(u64::from(ENTRY).to_le_bytes());

    // e_ident: 64-bit, little-endian, version 1.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // e_type EXEC, e_machine x86-64, e_version.
    file.extend([2u8, 0, 62, 0, 1, 0, 0, 0]);
    // e_entry, e_phoff, e_shoff.
    for word in [u64::from(ENTRY), u64::from(HEADER), 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    // e_ehsize, e_phentsize, e_phnum, and no sections.
    for word in [HEADER, PROGRAM_HEADER, 2, 0, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    let note_offset = u64::from(HEADER + 2 * PROGRAM_HEADER);
    // PT_LOAD, readable and executable; PT_NOTE, readable. A file of some bytes: its lengths fit.
    program_header(&mut file, 1, 5, u64::from(PAGE), u64::from(ENTRY), CODE.len() as u64, u64::from(PAGE));
    program_header(&mut file, 4, 4, note_offset, 0, note.len() as u64, 4);
    file.extend(note);
    file.resize(PAGE as usize, 0);
    file.extend(CODE);
    file
}

fn program_header(file: &mut Vec<u8>, kind: u32, flags: u32, offset: u64, address: u64, length: u64, align: u64) {
    file.extend(kind.to_le_bytes());
    file.extend(flags.to_le_bytes());
    // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align.
    for word in [offset, address, address, length, length, align] {
        file.extend(word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::{CODE, ENTRY, elf};

    fn u64_at(file: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(file[offset..offset + 8].try_into().unwrap())
    }

    #[test]
    fn headers_lead_to_the_code_and_to_the_note() {
        let file = elf();
        let load = usize::try_from(u64_at(&file, 32)).unwrap();
        let code = usize::try_from(u64_at(&file, load + 8)).unwrap();
        assert_eq!(&file[code..], CODE);
        assert_eq!(u64_at(&file, load + 24), u64::from(ENTRY));
        let note = usize::try_from(u64_at(&file, load + 56 + 8)).unwrap();
        assert_eq!(&file[note + 12..note + 16], b"Xen\0");
        assert_eq!(u64_at(&file, note + 16), u64::from(ENTRY));
    }
}
