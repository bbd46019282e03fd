//! Writes a small read-only file system: ISO 9660 (ECMA-119), whose files' true names are in Rock Ridge (RRIP 1.09, for Unix
//! systems) and in Joliet (for the others). The same files give the same bytes.
//!
//! | sectors | |
//! |---|---|
//! | 0 to 15 | zero |
//! | 16, 17, 18 | volume descriptors: primary, Joliet's, terminator |
//! | from 19 on | path tables: primary (little-endian, big-endian), Joliet's |
//! | then | folders: primary, Joliet's |
//! | then | files, each from a sector of its own on |

mod records;
mod tree;

use records::{Extent, Names, descriptor, folder, path_table};
use tree::{Folder, Node, folders};

pub use tree::IsoError;
pub(super) use tree::IsoFile;

/// Bytes.
const SECTOR: usize = 2048;
const DESCRIPTORS: usize = 16;
const TERMINATOR: &[u8] = b"\xFFCD001\x01";

/// A volume with these files, whose paths are relative and have `/` in them where they lie in folders.
///
/// # Errors
/// A name that one of the views can't show.
pub(super) fn image(label: &str, files: &[IsoFile<'_>]) -> Result<Vec<u8>, IsoError> {
    let folders = folders(files)?;
    let views = [Names::RockRidge, Names::Joliet];
    let nowhere = |_: &Node| Extent::default();
    let mut next = DESCRIPTORS + views.len() + 1;
    // How long a table or folder is doesn't depend on where things are.
    let tables = views.map(|names| {
        let first = next;
        let length = path_table(names, &folders, &[], u32::to_le_bytes).len();
        next += 2 * length.div_ceil(SECTOR);
        Extent::new(first, length)
    });
    let places = views.map(|names| {
        let mut places = Vec::new();
        for index in 0..folders.len() {
            let length = folder(names, &folders, index, nowhere).len();
            places.push(Extent::new(next, length));
            next += length.div_ceil(SECTOR);
        }
        places
    });
    let contents: Vec<Extent> = files
        .iter()
        .map(|file| {
            let place = Extent::new(next, file.content.len());
            next += file.content.len().div_ceil(SECTOR);
            place
        })
        .collect();

    let mut out = vec![0; DESCRIPTORS * SECTOR];
    for ((names, table), places) in views.into_iter().zip(tables).zip(&places) {
        sectors(&mut out, &descriptor(names, label, Extent::new(next, 0).sector, table, places[0]));
    }
    sectors(&mut out, TERMINATOR);
    for (names, places) in views.into_iter().zip(&places) {
        sectors(&mut out, &path_table(names, &folders, places, u32::to_le_bytes));
        sectors(&mut out, &path_table(names, &folders, places, u32::to_be_bytes));
    }
    for (names, places) in views.into_iter().zip(&places) {
        for index in 0..folders.len() {
            let place = |node: &Node| match node {
                Node::Folder(index) => places[*index],
                Node::File(index) => contents[*index],
            };
            sectors(&mut out, &folder(names, &folders, index, place));
        }
    }
    for file in files {
        sectors(&mut out, file.content);
    }
    Ok(out)
}

/// Appends bytes, up to the end of a sector.
fn sectors(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(SECTOR), 0);
}

#[cfg(test)]
pub(super) mod tests;
