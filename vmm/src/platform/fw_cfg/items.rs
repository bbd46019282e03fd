//! What fw_cfg holds: items at fixed selectors, and files, which a directory names.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::config::Topology;

/// Selectors of the items that are no files.
mod selector {
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const RAM_SIZE: u16 = 0x03;
    pub const CPUS: u16 = 0x05;
    pub const MAX_CPUS: u16 = 0x0F;
    pub const DIRECTORY: u16 = 0x19;
    pub const FIRST_FILE: u16 = 0x20;
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}
/// Bits of the ID item: the data port, and DMA.
const ID_DATA_AND_DMA: u32 = 3;
/// Files that there are selectors for before those of an architecture begin.
const MAX_FILES: usize = 64;
/// Bytes of a file's name in the directory, the last of them NUL.
const NAME: usize = 56;

/// A file has no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("fw_cfg file {0:?}: a name of 1 to {max} bytes that isn't there yet, and fewer than {MAX_FILES} files, are needed", max = NAME - 1)]
pub struct FileError(pub String);

enum Content {
    Fixed(Arc<[u8]>),
    Made(Box<dyn Fn() -> Vec<u8> + Send + Sync>),
}

impl Content {
    fn get(&self) -> Arc<[u8]> {
        match self {
            Self::Fixed(bytes) => Arc::clone(bytes),
            Self::Made(make) => make().into(),
        }
    }
}

/// All items.
pub struct Items {
    fixed: BTreeMap<u16, Arc<[u8]>>,
    /// File n is at selector 0x20 + n.
    files: Vec<(String, Content)>,
}

impl fmt::Debug for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.files.iter().map(|(name, _)| name)).finish()
    }
}

impl Items {
    /// What every machine says: its processors and its RAM, bytes.
    pub fn new(cpus: Topology, ram: u64) -> Self {
        let vcpus = cpus.vcpus();
        // What firmware calls the most CPUs is a bound on APIC ids.
        let bound = u16::from(cpus.apic_id(vcpus - 1)) + 1;
        let fixed: [(u16, &[u8]); 6] = [
            (selector::SIGNATURE, b"QEMU"),
            (selector::ID, &ID_DATA_AND_DMA.to_le_bytes()),
            (selector::RAM_SIZE, &ram.to_le_bytes()),
            (selector::CPUS, &u16::from(vcpus).to_le_bytes()),
            (selector::MAX_CPUS, &bound.to_le_bytes()),
            (selector::IRQ0_OVERRIDE, &[1]),
        ];
        Self { fixed: fixed.into_iter().map(|(at, bytes)| (at, bytes.into())).collect(), files: Vec::new() }
    }

    /// Adds a file: `etc/smbios/smbios-tables`, say.
    pub fn add_file(&mut self, name: &str, content: Vec<u8>) -> Result<(), FileError> {
        self.add(name, Content::Fixed(content.into()))
    }

    /// Adds a file that is made anew whenever it is chosen, always of the same length.
    pub fn add_made_file(
        &mut self,
        name: &str,
        make: impl Fn() -> Vec<u8> + Send + Sync + 'static,
    ) -> Result<(), FileError> {
        self.add(name, Content::Made(Box::new(make)))
    }

    fn add(&mut self, name: &str, content: Content) -> Result<(), FileError> {
        let fits = (1..NAME).contains(&name.len()) && self.files.len() < MAX_FILES;
        if !fits || self.files.iter().any(|(other, _)| other == name) {
            return Err(FileError(name.to_owned()));
        }
        self.files.push((name.to_owned(), content));
        Ok(())
    }

    /// The item at a selector; one that isn't there is empty.
    pub(super) fn get(&self, selector: u16) -> Arc<[u8]> {
        if selector == selector::DIRECTORY {
            return self.directory().into();
        }
        let file = selector.checked_sub(selector::FIRST_FILE).and_then(|index| self.files.get(usize::from(index)));
        file.map(|(_, content)| content.get()).or_else(|| self.fixed.get(&selector).cloned()).unwrap_or_default()
    }

    /// A count, then { size, selector, reserved, name } of each file by name; numbers are big-endian.
    fn directory(&self) -> Vec<u8> {
        let word = |n: usize| u32::try_from(n).unwrap_or(0).to_be_bytes();
        let mut entries: Vec<_> = (selector::FIRST_FILE..).zip(&self.files).collect();
        entries.sort_by_key(|(_, (name, _))| name);
        let mut directory = word(entries.len()).to_vec();
        for (selector, (name, content)) in entries {
            directory.extend(word(content.get().len()));
            directory.extend(selector.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(name.as_bytes());
            directory.resize(directory.len() + NAME - name.len(), 0);
        }
        directory
    }
}
