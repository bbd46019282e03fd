use std::collections::BTreeMap;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::{ChassisIdentity, SystemIdentity, TopologyConfig, identity::MAX_TEXT};
use crate::memory::guest_ram;

/// Structures by handle: the formatted area and the strings.
type Parsed = BTreeMap<u16, (Vec<u8>, Vec<String>)>;

/// Walks the tables as a guest does.
fn parse(tables: &[u8]) -> Parsed {
    let (mut all, mut rest) = (Parsed::new(), tables);
    loop {
        let (area, tail) = rest.split_at(usize::from(rest[1]));
        let end = tail.windows(2).position(|pair| pair == [0, 0]).unwrap();
        let strings = tail[..end].split(|byte| *byte == 0).filter(|s| !s.is_empty());
        let strings = strings.map(|s| String::from_utf8(s.to_vec()).unwrap()).collect();
        let handle = u16::from_le_bytes([area[2], area[3]]);
        assert!(all.insert(handle, (area.to_vec(), strings)).is_none(), "handle {handle:#x} is unique");
        rest = &tail[end + 2..];
        if area[0] == 127 {
            assert!(rest.is_empty(), "nothing follows the end");
            return all;
        }
    }
}

fn identity() -> IdentityConfig {
    let text = |s: &str| Some(s.to_owned());
    IdentityConfig {
        uuid: [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF],
        system: SystemIdentity { manufacturer: text("KubeVirt"), serial: text("S1"), ..SystemIdentity::default() },
        chassis: ChassisIdentity { asset: text("A1"), ..ChassisIdentity::default() },
    }
}

fn facts(identity: &IdentityConfig, vcpus: u8, memory: u64) -> Facts<'_> {
    Facts { identity, topology: Topology::cores(vcpus), memory, uefi: false }
}

#[test]
fn a_kernel_finds_the_tables_by_their_anchor() {
    let ram = guest_ram::create(16 << 20, None).unwrap();
    let identity = identity();
    write(&ram, facts(&identity, 2, 16 << 20)).unwrap();
    // As Linux searches (drivers/firmware/dmi_scan.c).
    let mut area = vec![0; 0x1_0000];
    ram.read_slice(&mut area, GuestAddress(0xF_0000)).unwrap();
    let at = (0..area.len()).step_by(16).find(|at| area[*at..].starts_with(b"_SM3_")).unwrap();
    let anchor = &area[at..at + ANCHOR];
    assert_eq!(anchor.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    let len = u32::from_le_bytes(anchor[12..16].try_into().unwrap()) as usize;
    let tables = u64::from_le_bytes(anchor[16..24].try_into().unwrap());
    let tables = usize::try_from(tables).unwrap() - 0xF_0000;
    let all = parse(&area[tables..tables + len]);
    let kinds: Vec<_> = all.values().map(|(area, _)| area[0]).collect();
    assert_eq!(kinds, [0, 1, 3, 4, 16, 17, 19, 32, 127]);
}

#[test]
fn strings_and_uuid_stand_where_a_guest_looks() {
    let identity = identity();
    let all = parse(&build(facts(&identity, 1, 1 << 30), 0).tables);
    let (system, strings) = &all[&0x100];
    assert_eq!(strings, &["KubeVirt", "S1"]);
    assert_eq!(system[4..8], [1, 0, 0, 2], "manufacturer and serial have numbers, the others have none");
    assert_eq!(system[8..16], [0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66]);
    assert_eq!(system[16..24], identity.uuid[8..]);
    let (chassis, strings) = &all[&0x300];
    assert_eq!((chassis.len(), chassis[8], strings[1].as_str()), (22, 2, "A1"));
    assert_eq!(strings[0], "KubeVirt", "made by who made the system");
}

#[test]
fn lengths_are_those_of_the_specification() {
    let identity = identity();
    let all = parse(&build(facts(&identity, 254, 1 << 40), 0).tables);
    let length = |handle: u16| all[&handle].0.len();
    assert_eq!([length(0), length(0x100), length(0x400)], [0x18, 0x1B, 0x30]);
    assert_eq!([length(0x1000), length(0x1100), length(0x1300), length(0x1301)], [0x17, 0x28, 0x1F, 0x1F]);
    let device = &all[&0x1100].0;
    assert_eq!(device[0x0C..0x0E], [0xFF, 0x7F]);
    assert_eq!(device[0x1C..0x20], (1_u32 << 20).to_le_bytes(), "MiB of 1 TiB");
}

#[test]
fn each_socket_has_its_cores_and_threads() {
    let identity = identity();
    let topology = Topology::new(TopologyConfig { sockets: 2, cores: 3, threads: 2 }).unwrap();
    let all = parse(&build(Facts { topology, ..facts(&identity, 1, 1 << 30) }, 0).tables);
    for (handle, name) in [(0x400, "CPU 0"), (0x401, "CPU 1")] {
        let (processor, strings) = &all[&handle];
        assert_eq!((strings[0].as_str(), &processor[0x23..0x26]), (name, [3, 3, 6].as_slice()));
    }
    assert!(!all.contains_key(&0x402));
}

#[test]
fn the_largest_tables_fit_their_place() {
    let text = || Some("x".repeat(MAX_TEXT));
    let identity = IdentityConfig {
        uuid: [0; 16],
        system: SystemIdentity {
            manufacturer: text(),
            product: text(),
            version: text(),
            serial: text(),
            sku: text(),
            family: text(),
        },
        chassis: ChassisIdentity { manufacturer: text(), version: text(), serial: text(), asset: text(), sku: text() },
    };
    // As many sockets as there can be: each has a structure.
    let topology = Topology::new(TopologyConfig { sockets: 254, cores: 1, threads: 1 }).unwrap();
    let tables = build(Facts { topology, ..facts(&identity, 1, 1 << 40) }, 0).tables;
    let end = low::SMBIOS + low::SMBIOS_TABLES + tables.len() as u64;
    assert!(end <= low::HIGH, "{end:#x}");
}
