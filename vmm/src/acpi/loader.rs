//! The table loader (QEMU's `hw/acpi/bios-linker-loader.c`): fw_cfg files with tables, and the commands by which firmware puts
//! them into memory, links them and sums them up.

use super::tables::{CHECKSUM, RSDP_SUMS, RSDP_XSDT, Tables};
use super::{Board, build};

/// Names of the fw_cfg files.
pub const TABLES: &str = "etc/acpi/tables";
/// The root pointer.
pub const RSDP: &str = "etc/acpi/rsdp";
/// The commands.
pub const COMMANDS: &str = "etc/table-loader";

/// Bytes of a command, and of a file's name in it.
const COMMAND: usize = 128;
const NAME: usize = 56;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
/// Zones that a file is put into: anywhere, or the BIOS area.
const HIGH: u8 = 1;
const FSEG: u8 = 2;

/// The commands and the root pointer of a machine. They are the same wherever its ECAM lies.
pub fn commands(board: &Board) -> (Vec<u8>, Vec<u8>) {
    let tables = build(board);
    let mut rsdp = tables.rsdp_at(0);
    // OVMF counts what stands in a checksum's place, so it has to be zero.
    for (at, _) in RSDP_SUMS {
        rsdp[at] = 0;
    }
    (script(&tables), rsdp)
}

/// The tables of a machine, not yet linked. Their length doesn't depend on where its ECAM lies.
pub fn tables(board: &Board) -> Vec<u8> {
    let tables = build(board);
    let linked = tables.linked();
    let mut bytes = tables.bytes;
    for (start, _) in linked {
        bytes[start + CHECKSUM] = 0;
    }
    bytes
}

fn script(tables: &Tables) -> Vec<u8> {
    let mut script = Vec::new();
    allocate(&mut script, TABLES, 64, HIGH);
    allocate(&mut script, RSDP, 16, FSEG);
    for pointer in &tables.pointers {
        add_pointer(&mut script, TABLES, pointer.at, pointer.size);
    }
    add_pointer(&mut script, RSDP, RSDP_XSDT, 8);
    for (start, length) in tables.linked() {
        add_checksum(&mut script, TABLES, start + CHECKSUM, start, length);
    }
    for (at, length) in RSDP_SUMS {
        add_checksum(&mut script, RSDP, at, 0, length);
    }
    script
}

fn allocate(script: &mut Vec<u8>, file: &str, align: u32, zone: u8) {
    command(script, ALLOCATE, &[file], &[&align.to_le_bytes(), &[zone]]);
}

/// The file's `size` bytes at `at`, an offset in the tables, become an address.
fn add_pointer(script: &mut Vec<u8>, file: &str, at: usize, size: u8) {
    command(script, ADD_POINTER, &[file, TABLES], &[&word(at), &[size]]);
}

fn add_checksum(script: &mut Vec<u8>, file: &str, at: usize, start: usize, length: usize) {
    command(script, ADD_CHECKSUM, &[file], &[&word(at), &word(start), &word(length)]);
}

fn command(script: &mut Vec<u8>, command: u32, files: &[&str], operands: &[&[u8]]) {
    let end = script.len() + COMMAND;
    script.extend(command.to_le_bytes());
    for file in files {
        let name = file.as_bytes();
        script.extend(name);
        script.resize(script.len() + NAME - name.len(), 0);
    }
    for operand in operands {
        script.extend(*operand);
    }
    script.resize(end, 0);
}

/// Offsets in tables of a few KiB.
fn word(offset: usize) -> [u8; 4] {
    u32::try_from(offset).unwrap_or(u32::MAX).to_le_bytes()
}
