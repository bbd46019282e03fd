//! Writes a small read-only file system: ISO 9660 (ECMA-119) with one folder, whose files' true names are in Rock Ridge
//! (RRIP 1.09, for Unix systems) and in Joliet (for the others). The same files give the same bytes.
//!
//! | sector | |
//! |---|---|
//! | 0 to 15 | zero |
//! | 16, 17, 18 | volume descriptors: primary, Joliet's, terminator |
//! | 19 to 22 | path tables: primary (little-endian, big-endian), Joliet's |
//! | 23, 24 | the folder: primary, Joliet's |
//! | from 25 on | files, each from a sector of its own on |

use std::iter::repeat_n;

/// Bytes.
const SECTOR: usize = 2048;
const PATH_TABLES: u32 = 19;
const FOLDERS: u32 = 23;
const DATA: u32 = 25;
/// A path table with nothing but the root, bytes.
const PATH_TABLE: u32 = 10;
/// 1 January 1980: no file is of any other time.
const TIME: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];

const FOLDER_MODE: u32 = 0o040_555;
/// What cloud-init reads may have passwords in it.
const FILE_MODE: u32 = 0o100_400;

/// A file of the image.
#[derive(Debug, Clone, Copy)]
pub(super) struct IsoFile<'a> {
    /// Its name, lower-case ASCII, at most 29 bytes.
    pub(super) name: &'a str,
    /// What is in it.
    pub(super) content: &'a [u8],
}

/// A volume with its folder's files, a handful, sorted by name; both folders have one sector.
pub(super) fn image(label: &str, files: &[IsoFile<'_>]) -> Vec<u8> {
    let mut placed = Vec::new();
    let mut next = DATA;
    for file in files {
        let place = Extent { sector: next, length: u32::try_from(file.content.len()).unwrap_or(u32::MAX) };
        placed.push((*file, place));
        next += place.length.div_ceil(2048);
    }
    let mut out = vec![0; 16 * SECTOR];
    for names in [Names::RockRidge, Names::Joliet] {
        sector(&mut out, &descriptor(names, label, next));
    }
    sector(&mut out, b"\xFFCD001\x01");
    for names in [Names::RockRidge, Names::Joliet] {
        // Of the root alone, which is its own parent (ECMA-119 9.4).
        let folder = names.folder();
        sector(&mut out, &[&[1, 0], &folder.to_le_bytes()[..], &1u16.to_le_bytes(), &[0, 0]].concat());
        sector(&mut out, &[&[1, 0], &folder.to_be_bytes()[..], &1u16.to_be_bytes(), &[0, 0]].concat());
    }
    for names in [Names::RockRidge, Names::Joliet] {
        sector(&mut out, &folder(names, &placed));
    }
    for (file, _) in placed {
        sector(&mut out, file.content);
    }
    out
}

/// Appends bytes, up to the end of a sector.
fn sector(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(SECTOR), 0);
}

/// Where content is.
#[derive(Debug, Clone, Copy)]
struct Extent {
    sector: u32,
    /// Bytes.
    length: u32,
}

/// One of the two views of the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    RockRidge,
    Joliet,
}

impl Names {
    /// The folder's sector.
    fn folder(self) -> u32 {
        FOLDERS + u32::from(self == Self::Joliet)
    }

    /// The first of its two path tables' sectors.
    fn path_tables(self) -> u32 {
        PATH_TABLES + if self == Self::Joliet { 2 } else { 0 }
    }

    /// The name of a file in its record (ECMA-119 7.5, level 2; Joliet: UCS-2).
    fn identifier(self, name: &str) -> Vec<u8> {
        match self {
            Self::RockRidge => {
                let plain = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_uppercase() } else { b'_' };
                name.bytes().map(plain).chain(*b".;1").collect()
            }
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
fn descriptor(names: Names, label: &str, sectors: u32) -> Vec<u8> {
    let tables = names.path_tables();
    let mut out = vec![if names == Names::Joliet { 2 } else { 1 }];
    out.extend(b"CD001\x01\0");
    out.extend(names.field("", 32));
    out.extend(names.field(label, 32));
    out.extend([0; 8]);
    out.extend(both(sectors));
    let escape: &[u8] = if names == Names::Joliet { b"%/E" } else { b"" };
    out.extend(escape.iter().copied().chain(repeat_n(0, 32 - escape.len())));
    out.extend([both_short(1), both_short(1), both_short(2048)].concat());
    out.extend(both(PATH_TABLE));
    out.extend(tables.to_le_bytes());
    out.extend([0; 4]);
    out.extend((tables + 1).to_be_bytes());
    out.extend([0; 4]);
    out.extend(record(&[0], folder_extent(names), true, &[]));
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

fn folder_extent(names: Names) -> Extent {
    Extent { sector: names.folder(), length: 2048 }
}

fn folder(names: Names, files: &[(IsoFile<'_>, Extent)]) -> Vec<u8> {
    let rock_ridge = names == Names::RockRidge;
    let when = |bytes: Vec<u8>| if rock_ridge { bytes } else { Vec::new() };
    // SUSP begins in the root's first record, which names the extension, too (SUSP 5.3, 5.5; RRIP 4.3).
    let itself = [&b"SP\x07\x01\xBE\xEF\0"[..], &posix(FOLDER_MODE, 2), b"ER\x12\x01\x0A\0\0\x01RRIP_1991A"].concat();
    let mut out = record(&[0], folder_extent(names), true, &when(itself));
    out.extend(record(&[1], folder_extent(names), true, &when(posix(FOLDER_MODE, 2))));
    for (file, extent) in files {
        let length = u8::try_from(5 + file.name.len()).unwrap_or(u8::MAX);
        let name = [b"NM", &[length, 1, 0][..], file.name.as_bytes()].concat();
        let system = when([posix(FILE_MODE, 1), name].concat());
        out.extend(record(&names.identifier(file.name), *extent, false, &system));
    }
    out
}

/// Mode and links, of root (RRIP 4.1.1).
fn posix(mode: u32, links: u32) -> Vec<u8> {
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

#[cfg(test)]
pub(super) mod tests;
