//! The `newc` cpio that Linux unpacks as an initramfs (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Everything belongs to root and dates from 1970: the same inputs give the same bytes.

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

/// An initramfs being written.
#[derive(Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    /// A directory, mode 0755.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, S_IFDIR | 0o755, &[], (0, 0));
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, S_IFREG | mode, content, (0, 0));
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, S_IFLNK | 0o777, target.as_bytes(), (0, 0));
    }

    /// A character device, mode 0600.
    pub fn char_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, S_IFCHR | 0o600, &[], (major, minor));
    }

    /// The archive, with its trailer.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        self.entries += 1;
        let links = if mode & S_IFDIR != 0 { 2 } else { 1 };
        let header = [
            self.entries,
            mode,
            0, // uid
            0, // gid
            links,
            0, // mtime
            u32::try_from(content.len()).expect("a file of an initramfs is smaller than 4 GiB"),
            0, // device of the file
            0,
            device.0,
            device.1,
            u32::try_from(path.len() + 1).expect("a path is short"),
            0, // check
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in header {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Cpio;

    #[test]
    fn entries_are_aligned_and_end_with_the_trailer() {
        let mut cpio = Cpio::default();
        cpio.directory("dev");
        cpio.file("init", 0o755, b"#!/bin/sh\n");
        let bytes = cpio.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..6], b"070701");
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 3);
        assert!(text.contains("#!/bin/sh\n") && text.contains("TRAILER!!!"));
    }
}
