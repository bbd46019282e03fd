//! From paths to folders, and which paths there can be.

use std::collections::{BTreeMap, HashSet};

/// The longest name, bytes: what Joliet has room for in a record, and more than its specification's 64.
const MAX_NAME: usize = 103;
/// Folders in folders, without the root (ECMA-119 6.8.2.1).
const MAX_DEPTH: usize = 7;
/// Primary names are cut off here, bytes: with a version they are at most as long as level 2 allows.
const MAX_PLAIN: usize = 26;

/// A file of the image.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct IsoFile<'a> {
    /// Its path, relative; no two files have the same.
    pub(in super::super) path: &'a str,
    /// What is in it.
    pub(in super::super) content: &'a [u8],
    /// Who may read it, as in `0o400`; it is root's.
    pub(in super::super) mode: u32,
}

/// A file whose name the file system can't show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsoError {
    /// Too long, or of other characters.
    #[error("the name {0:?}: at most {MAX_NAME} characters of ASCII are supported, without any of * / : ; ? \\")]
    Name(String),
    /// Too deep.
    #[error("{0:?} lies in more than {MAX_DEPTH} folders")]
    Depth(String),
    /// A folder and a file are called the same.
    #[error("{0:?} is there twice")]
    Twice(String),
}

/// What a name stands for, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Folder(usize),
    File(usize),
}

/// A name in a folder.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    /// The same for who reads neither Rock Ridge nor Joliet: upper-case, short, once in the folder.
    pub(super) plain: String,
    pub(super) node: Node,
    /// Of a file.
    pub(super) mode: u32,
}

/// A folder; the first one is the root, its own parent, and each comes after its parent.
#[derive(Debug, Default)]
pub(super) struct Folder<'a> {
    pub(super) name: &'a str,
    pub(super) plain: String,
    pub(super) parent: usize,
    pub(super) entries: Vec<Entry<'a>>,
}

impl Folder<'_> {
    pub(super) fn subfolders(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.node, Node::Folder(_))).count()
    }
}

enum Tree<'a> {
    File(usize, u32),
    Folder(BTreeMap<&'a str, Tree<'a>>),
}

/// The folders of these files, level by level.
pub(super) fn folders<'a>(files: &[IsoFile<'a>]) -> Result<Vec<Folder<'a>>, IsoError> {
    let mut root = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        insert(&mut root, file, index)?;
    }
    let mut folders = vec![Folder::default()];
    let mut contents = vec![root];
    let mut at = 0;
    while let Some(content) = contents.get_mut(at).map(std::mem::take) {
        let mut taken = HashSet::new();
        for (name, tree) in content {
            let plain = plain(name, &mut taken);
            let (node, mode) = match tree {
                Tree::File(index, mode) => (Node::File(index), mode),
                Tree::Folder(inner) => {
                    folders.push(Folder { name, plain: plain.clone(), parent: at, entries: Vec::new() });
                    contents.push(inner);
                    (Node::Folder(folders.len() - 1), 0)
                }
            };
            folders[at].entries.push(Entry { name, plain, node, mode });
        }
        at += 1;
    }
    Ok(folders)
}

fn insert<'a>(root: &mut BTreeMap<&'a str, Tree<'a>>, file: &IsoFile<'a>, index: usize) -> Result<(), IsoError> {
    let twice = || IsoError::Twice(file.path.to_owned());
    let (folders, name) = file.path.rsplit_once('/').unwrap_or(("", file.path));
    let mut folder = root;
    for (depth, name) in folders.split('/').filter(|_| !folders.is_empty()).enumerate() {
        if depth >= MAX_DEPTH {
            return Err(IsoError::Depth(file.path.to_owned()));
        }
        match folder.entry(checked(name)?).or_insert_with(|| Tree::Folder(BTreeMap::new())) {
            Tree::Folder(inner) => folder = inner,
            Tree::File(..) => return Err(twice()),
        }
    }
    match folder.insert(checked(name)?, Tree::File(index, file.mode)) {
        None => Ok(()),
        Some(_) => Err(twice()),
    }
}

fn checked(name: &str) -> Result<&str, IsoError> {
    let fits = |byte: u8| matches!(byte, b' '..=b'~') && !b"*/:;?\\".contains(&byte);
    let fine = !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME && name.bytes().all(fits);
    if fine { Ok(name) } else { Err(IsoError::Name(name.to_owned())) }
}

fn plain(name: &str, taken: &mut HashSet<String>) -> String {
    let byte = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_uppercase() as char } else { '_' };
    let full: String = name.bytes().take(MAX_PLAIN).map(byte).collect();
    let mut plain = full.clone();
    let mut number = 0;
    while !taken.insert(plain.clone()) {
        let tail = format!("_{number}");
        plain = full.chars().take(MAX_PLAIN - tail.len()).chain(tail.chars()).collect();
        number += 1;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> Result<Vec<String>, IsoError> {
        let files: Vec<_> = paths.iter().map(|path| IsoFile { path, content: b"", mode: 0o400 }).collect();
        let folders = folders(&files)?;
        let line = |folder: &Folder<'_>| {
            let entries: Vec<_> =
                folder.entries.iter().map(|entry| format!("{}={}", entry.name, entry.plain)).collect();
            format!("{}<{}: {}", folder.parent, folder.name, entries.join(" "))
        };
        Ok(folders.iter().map(line).collect())
    }

    #[test]
    fn folders_come_level_by_level() {
        assert_eq!(tree(&[]).unwrap(), ["0<: "]);
        assert_eq!(
            tree(&["b/x/deep", "a", "b/y", "c/z"]).unwrap(),
            ["0<: a=A b=B c=C", "0<b: x=X y=Y", "0<c: z=Z", "1<x: deep=DEEP"]
        );
    }

    #[test]
    fn plain_names_are_short_and_differ() {
        let (long, longer) = ("x".repeat(30), "x".repeat(31));
        let lines = tree(&["a-b", "a.b", "a_B", &long, &longer]).unwrap();
        let (cut, numbered) = ("X".repeat(26), "X".repeat(24));
        assert_eq!(lines, [format!("0<: a-b=A_B a.b=A_B_0 a_B=A_B_1 {long}={cut} {longer}={numbered}_0")]);
    }

    #[test]
    fn names_that_cannot_be_shown_are_refused() {
        for name in ["a:b", "a\\b", "\u{e4}", "a\nb", ".", "..", "", "a//b", &"x".repeat(104)] {
            assert!(matches!(tree(&[name]), Err(IsoError::Name(_))), "{name}");
        }
        assert!(tree(&[&"x".repeat(103)]).is_ok());
        assert!(tree(&["1/2/3/4/5/6/7/x"]).is_ok());
        assert_eq!(tree(&["1/2/3/4/5/6/7/8/x"]), Err(IsoError::Depth("1/2/3/4/5/6/7/8/x".to_owned())));
        assert_eq!(tree(&["a", "a/b"]), Err(IsoError::Twice("a/b".to_owned())));
        assert_eq!(tree(&["a/b", "a"]), Err(IsoError::Twice("a".to_owned())));
    }
}
