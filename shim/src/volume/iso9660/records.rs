//! The bytes of descriptors, path tables and folders.

use std::iter::repeat_n;

use super::{Folder, Node, SECTOR};

/// 1 January 1980: no file is of any other time.
const TIME: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];
const FOLDER_MODE: u32 = 0o040_555;
const FILE: u32 = 0o100_000;

/// Where content is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    pub(super) sector: u32,
    /// Bytes.
    length: u32,
}

impl Extent {
    /// An image is far below these bounds.
    pub(super) fn new(sector: usize, length: usize) -> Self {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self { sector: number(sector), length: number(length) }
    }
}

/// One of the two views of the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    RockRidge,
    Joliet,
}

impl Names {
    /// A name in a record or path table (ECMA-119 7.5, level 2; Joliet: UCS-2).
    fn identifier(self, name: &str, plain: &str) -> Vec<u8> {
        match self {
            Self::RockRidge => plain.as_bytes().to_vec(),
            Self::Joliet => wide(name),
        }
    }

    /// Text in a descriptor's field of `length` bytes.
    fn field(self, text: &str, length: usize) -> Vec<u8> {
        let (mut bytes, space): (_, &[u8]) = match self {
            Self::RockRidge => (text.as_bytes().to_vec(), b" "),
            Self::Joliet => (wide(text), b"\0 "),
        };
        bytes.truncate(length);
        while bytes.len() < length {
            bytes.push(space[bytes.len() % space.len()]);
        }
        bytes
    }
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// A number in both byte orders (ECMA-119 7.3.3, 7.2.3).
fn both(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn both_short(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

/// A volume descriptor (ECMA-119 8.4, 8.5; Joliet's has an escape sequence for UCS-2 level 3).
pub(super) fn descriptor(names: Names, label: &str, sectors: u32, table: Extent, root: Extent) -> Vec<u8> {
    let big_endian = table.sector + table.length.div_ceil(2048);
    let mut out = vec![if names == Names::Joliet { 2 } else { 1 }];
    out.extend(b"CD001\x01\0");
    out.extend(names.field("", 32));
    out.extend(names.field(label, 32));
    out.extend([0; 8]);
    out.extend(both(sectors));
    let escape: &[u8] = if names == Names::Joliet { b"%/E" } else { b"" };
    out.extend(escape.iter().copied().chain(repeat_n(0, 32 - escape.len())));
    out.extend([both_short(1), both_short(1), both_short(2048)].concat());
    out.extend(both(table.length));
    out.extend(table.sector.to_le_bytes());
    out.extend([0; 4]);
    out.extend(big_endian.to_be_bytes());
    out.extend([0; 4]);
    out.extend(record(&[0], root, true, &[]));
    // Volume set, publisher, preparer, application.
    for _ in 0..4 {
        out.extend(names.field("", 128));
    }
    // Copyright, abstract and bibliographic file.
    for _ in 0..3 {
        out.extend(names.field("", 37));
    }
    // Made, changed, ends, begins: not told.
    for _ in 0..4 {
        out.extend(b"0000000000000000\0");
    }
    out.push(1);
    out
}

/// A path table (ECMA-119 9.4): every folder, its place (0 where `places` doesn't say) and its parent's number.
pub(super) fn path_table(
    names: Names,
    folders: &[Folder<'_>],
    places: &[Extent],
    order: fn(u32) -> [u8; 4],
) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, folder) in folders.iter().enumerate() {
        let identifier = if index == 0 { vec![0] } else { names.identifier(folder.name, &folder.plain) };
        let place = places.get(index).map_or(0, |place| place.sector);
        let parent = order(u32::try_from(folder.parent + 1).unwrap_or(u32::MAX));
        out.extend([u8::try_from(identifier.len()).unwrap_or(u8::MAX), 0]);
        out.extend(order(place));
        // The lower half, in the same order.
        out.extend(if order(1)[0] == 1 { &parent[..2] } else { &parent[2..] });
        out.extend(&identifier);
        out.extend(repeat_n(0, identifier.len() % 2));
    }
    out
}

/// A folder's records. None of them crosses a sector (ECMA-119 6.8.1.1).
pub(super) fn folder(names: Names, folders: &[Folder<'_>], index: usize, place: impl Fn(&Node) -> Extent) -> Vec<u8> {
    let rock_ridge = names == Names::RockRidge;
    let when = |bytes: Vec<u8>| if rock_ridge { bytes } else { Vec::new() };
    let mode = |index: usize| posix(FOLDER_MODE, 2 + folders[index].subfolders());
    let this = &folders[index];
    // SUSP begins in the root's first record, which names the extension, too (SUSP 5.3, 5.5; RRIP 4.3).
    let itself = match index {
        0 => [&b"SP\x07\x01\xBE\xEF\0"[..], &mode(0), b"ER\x12\x01\x0A\0\0\x01RRIP_1991A"].concat(),
        _ => mode(index),
    };
    let mut records = vec![
        record(&[0], place(&Node::Folder(index)), true, &when(itself)),
        record(&[1], place(&Node::Folder(this.parent)), true, &when(mode(this.parent))),
    ];
    for entry in &this.entries {
        let mut identifier = names.identifier(entry.name, &entry.plain);
        let (is_folder, posix) = match entry.node {
            Node::Folder(index) => (true, mode(index)),
            Node::File(_) => (false, posix(FILE | entry.mode, 1)),
        };
        if rock_ridge && !is_folder {
            identifier.extend(b".;1");
        }
        let length = u8::try_from(5 + entry.name.len()).unwrap_or(u8::MAX);
        let name = [b"NM", &[length, 1, 0][..], entry.name.as_bytes()].concat();
        records.push(record(&identifier, place(&entry.node), is_folder, &when([posix, name].concat())));
    }
    let mut out: Vec<u8> = Vec::new();
    for record in records {
        if out.len() % SECTOR + record.len() > SECTOR {
            out.resize(out.len().next_multiple_of(SECTOR), 0);
        }
        out.extend(record);
    }
    out.resize(out.len().next_multiple_of(SECTOR), 0);
    out
}

/// Mode and links, of root (RRIP 4.1.1).
fn posix(mode: u32, links: usize) -> Vec<u8> {
    let links = u32::try_from(links).unwrap_or(u32::MAX);
    [b"PX\x24\x01", &both(mode)[..], &both(links), &both(0), &both(0)].concat()
}

/// A record of a folder (ECMA-119 9.1). `system` is what SUSP has to say.
fn record(identifier: &[u8], extent: Extent, is_folder: bool, system: &[u8]) -> Vec<u8> {
    let pad = usize::from(identifier.len().is_multiple_of(2));
    let mut out = vec![0, 0];
    out.extend(both(extent.sector));
    out.extend(both(extent.length));
    out.extend(TIME);
    out.extend([if is_folder { 2 } else { 0 }, 0, 0]);
    out.extend(both_short(1));
    out.push(u8::try_from(identifier.len()).unwrap_or(u8::MAX));
    out.extend(identifier);
    out.extend(repeat_n(0, pad));
    out.extend(system);
    out.resize(out.len().next_multiple_of(2), 0);
    out[0] = u8::try_from(out.len()).unwrap_or(u8::MAX);
    out
}
