use super::loader::{COMMANDS, RSDP, TABLES};
use super::*;
use crate::memory::guest_ram;
use crate::memory::layout::ECAM_START;

const BOARD: Board = Board { cpus: Topology::cores(254), ecam: ECAM_START, mmio64: 4 << 30..1 << 46 };

/// Memory that tables are read from: its first byte's address, and the bytes.
struct Memory(u64, Vec<u8>);

impl Memory {
    fn read(&self, at: u64, len: usize) -> &[u8] {
        let at = usize::try_from(at - self.0).unwrap();
        &self.1[at..at + len]
    }

    fn number(&self, at: u64, len: usize) -> u64 {
        self.read(at, len).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// The table at `at`, whose sum is right.
    fn table(&self, at: u64) -> &[u8] {
        let table = self.read(at, usize::try_from(self.number(at + 4, 4)).unwrap());
        assert_eq!(sum(table), 0, "{:?}", &table[..4]);
        table
    }

    /// Follows every pointer from the RSDP on; returns the MCFG.
    fn walk(&self, rsdp: &[u8]) -> &[u8] {
        assert_eq!((&rsdp[..8], sum(&rsdp[..20]), sum(rsdp)), (b"RSD PTR ".as_slice(), 0, 0));
        let xsdt = self.table(u64::from_le_bytes(rsdp[24..32].try_into().unwrap()));
        let entries = xsdt[36..].chunks(8).map(|at| self.table(u64::from_le_bytes(at.try_into().unwrap())));
        let entries: Vec<_> = entries.collect();
        let names: Vec<_> = entries.iter().map(|t| String::from_utf8_lossy(&t[..4]).into_owned()).collect();
        assert_eq!(names, ["FACP", "APIC", "MCFG"]);
        let pointer = |at: usize, len: usize| {
            entries[0][at..at + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        assert_eq!(&self.table(pointer(FADT_DSDT, 4))[..4], b"DSDT");
        assert_eq!(pointer(FADT_DSDT, 4), pointer(FADT_X_DSDT, 8));
        let facs = pointer(FADT_FACS, 4);
        assert_eq!((self.read(facs, 4), facs % 64), (b"FACS".as_slice(), 0));
        entries[2]
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[test]
fn every_table_is_reached_and_sums_to_zero() {
    let ram = guest_ram::create(16 << 20, None).unwrap();
    let rsdp = write(&ram, &BOARD).unwrap();
    let mut bytes = vec![0; usize::try_from(low::HIGH - rsdp).unwrap()];
    ram.read_slice(&mut bytes, GuestAddress(rsdp)).unwrap();
    let root = bytes[..36].to_vec();
    Memory(rsdp, bytes).walk(&root);
}

/// Does what firmware does with the loader's commands: each file at its address.
fn run_loader(board: &Board) -> (Vec<u8>, Memory) {
    const AT: [u64; 2] = [0x7FE0_0000, 0xF_5000];
    let (script, rsdp) = loader::commands(board);
    let mut files = [loader::tables(board), rsdp];
    let index = |name: &[u8]| {
        let name = name.split(|byte| *byte == 0).next().unwrap();
        [TABLES, RSDP].iter().position(|file| file.as_bytes() == name).expect(COMMANDS)
    };
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let mut allocated = 0;
    for command in script.chunks_exact(128) {
        let file = index(&command[4..60]);
        match word(command) {
            1 => {
                assert_eq!(AT[file] % word(&command[60..]) as u64, 0);
                assert_eq!(command[64] == 2, AT[file] < low::HIGH, "what lies in the BIOS area is asked for there");
                allocated += 1;
            }
            2 => {
                let (to, at, size) = (index(&command[60..116]), word(&command[116..]), usize::from(command[120]));
                let place = &mut files[file][at..at + size];
                let target = place.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)) + AT[to];
                place.copy_from_slice(&target.to_le_bytes()[..size]);
            }
            3 => {
                let (at, start, len) = (word(&command[60..]), word(&command[64..]), word(&command[68..]));
                // As OVMF does it; SeaBIOS would take away what stands there.
                files[file][at] = 0u8.wrapping_sub(sum(&files[file][start..start + len]));
            }
            other => panic!("command {other}"),
        }
    }
    assert_eq!(allocated, 2);
    let [tables, rsdp] = files;
    (rsdp, Memory(AT[0], tables))
}

#[test]
fn firmware_links_the_same_tables() {
    let (rsdp, memory) = run_loader(&BOARD);
    let mcfg = memory.walk(&rsdp);
    assert_eq!(u64::from_le_bytes(mcfg[44..52].try_into().unwrap()), ECAM_START);
}

#[test]
fn the_length_does_not_depend_on_the_ecam() {
    let moved = Board { ecam: 0xB000_0000, ..BOARD };
    assert_eq!(loader::tables(&moved).len(), loader::tables(&BOARD).len());
    assert_eq!(loader::commands(&moved), loader::commands(&BOARD));
    let (rsdp, memory) = run_loader(&moved);
    let mcfg = memory.walk(&rsdp);
    assert_eq!(u64::from_le_bytes(mcfg[44..52].try_into().unwrap()), 0xB000_0000);
}
