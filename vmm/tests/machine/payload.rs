//! What the guests of these tests run: a few hundred instructions of x86, assembled with the tests and copied out as bytes.
//!
//! A payload starts in 32-bit protected mode at [`LOAD`], as PVH enters it, or in 64-bit mode where a test says so. It
//! addresses nothing of its own by absolute address but through [`LOAD`].

use std::fs::File;
use std::io::Write;

/// Where payloads are loaded and entered.
pub const LOAD: u32 = 0x10_0000;

/// Assembles a payload: `payload!(name, "instructions")` defines `fn name() -> &'static [u8]`.
macro_rules! payload {
    ($name:ident, $bits:literal, $($code:expr),+ $(,)?) => {
        std::arch::global_asm!(
            ".pushsection .rodata.payload, \"a\"",
            concat!(".globl payload_", stringify!($name)),
            concat!(".globl payload_", stringify!($name), "_end"),
            concat!(".code", $bits),
            concat!("payload_", stringify!($name), ":"),
            $($code,)+
            concat!("payload_", stringify!($name), "_end:"),
            ".code64",
            ".popsection",
        );
        fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("payload_", stringify!($name))]
                static START: u8;
                #[link_name = concat!("payload_", stringify!($name), "_end")]
                static END: u8;
            }
            // SAFETY: both labels are in one section, the second after the first, and nothing writes there.
            unsafe {
                let start = &raw const START;
                let len = (&raw const END).offset_from_unsigned(start);
                std::slice::from_raw_parts(start, len)
            }
        }
    };
}
pub(crate) use payload;

/// 64-bit code: a stack, an IDT at 0x170000 whose `$vector` goes to the label `$handler`, 8259s masked, local APIC on.
macro_rules! take_interrupts {
    ($vector:literal, $handler:literal) => {
        concat!(
            "mov esp, 0x180000\n lea rax, [rip + ",
            $handler,
            "]\n mov edi, 0x170000 + 16 * ",
            $vector,
            "\n",
            "mov word ptr [rdi], ax\n mov word ptr [rdi + 2], 0x10\n mov word ptr [rdi + 4], 0x8e00\n shr rax, 16\n",
            "mov word ptr [rdi + 6], ax\n shr rax, 16\n mov dword ptr [rdi + 8], eax\n mov dword ptr [rdi + 12], 0\n",
            "mov edi, 0x16fff0\n mov word ptr [rdi], 0xfff\n mov dword ptr [rdi + 2], 0x170000\n",
            "mov dword ptr [rdi + 6], 0\n lidt [rdi]\n",
            "mov al, 0xff\n out 0x21, al\n out 0xa1, al\n",
            "mov edi, 0xfee000f0\n mov dword ptr [rdi], 0x1ff\n",
        )
    };
}
pub(crate) use take_interrupts;

/// 64-bit code: sets the low half of an I/O APIC pin's redirection entry, for the first CPU.
macro_rules! route_pin {
    ($pin:literal, $entry:literal) => {
        concat!(
            "mov edi, 0xfec00000\n mov dword ptr [rdi], 0x11 + 2 * ",
            $pin,
            "\n mov dword ptr [rdi + 16], 0\n",
            "mov dword ptr [rdi], 0x10 + 2 * ",
            $pin,
            "\n mov dword ptr [rdi + 16], ",
            $entry,
            "\n",
        )
    };
}
pub(crate) use route_pin;

/// The end of an interrupt to the local APIC.
macro_rules! end_of_interrupt {
    () => {
        "mov edi, 0xfee000b0\n mov dword ptr [rdi], 0"
    };
}
pub(crate) use end_of_interrupt;

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Wraps a 32-bit payload into an ELF with a PVH note.
pub fn elf(code: &[u8]) -> File {
    const CODE: usize = 0x200;
    let mut image = vec![0; CODE];
    put(&mut image, 0, b"\x7FELF\x02\x01\x01");
    put(&mut image, 18, &62u16.to_le_bytes());
    put(&mut image, 32, &64u64.to_le_bytes());
    put(&mut image, 54, &56u16.to_le_bytes());
    put(&mut image, 56, &2u16.to_le_bytes());
    // One loaded segment with room behind it, and the note.
    let load = (1u32, CODE as u64, u64::from(LOAD), code.len() as u64, 0x1_0000u64);
    for (at, (kind, offset, address, file, memory)) in [(64, load), (120, (4, 0x100, 0, 20, 20))] {
        put(&mut image, at, &kind.to_le_bytes());
        put(&mut image, at + 8, &offset.to_le_bytes());
        put(&mut image, at + 24, &address.to_le_bytes());
        put(&mut image, at + 32, &file.to_le_bytes());
        put(&mut image, at + 40, &memory.to_le_bytes());
    }
    put(&mut image, 0x100, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(&mut image, 0x10C, b"Xen\0");
    put(&mut image, 0x110, &LOAD.to_le_bytes());
    image.extend(code);
    file(&image)
}

/// Wraps a 64-bit payload into a bzImage.
pub fn bzimage(code: &[u8]) -> File {
    let mut image = vec![0; 1024];
    put(&mut image, 0x1F1, &[1]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020Fu16.to_le_bytes());
    put(&mut image, 0x211, &[1]);
    put(&mut image, 0x22C, &0x7FFF_FFFFu32.to_le_bytes());
    put(&mut image, 0x234, &[1, 21]);
    put(&mut image, 0x236, &1u16.to_le_bytes());
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x258, &u64::from(LOAD).to_le_bytes());
    put(&mut image, 0x260, &0x1_0000u32.to_le_bytes());
    // The 64-bit entry lies 512 bytes into the kernel.
    image.extend([0; 0x200]);
    image.extend(code);
    image.extend([0; 16]);
    file(&image)
}

pub fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}
