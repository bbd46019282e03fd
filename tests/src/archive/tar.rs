//! POSIX ustar, as much of it as an OCI layer needs.
//!
//! Everything belongs to root and dates from 1970: the same inputs give the same bytes.

const BLOCK: usize = 512;

/// A tar being written.
#[derive(Debug, Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    /// A directory, mode 0755.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, b'5', 0o755, &[], "");
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, b'0', mode, content, "");
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, b'2', 0o777, &[], target);
    }

    /// A named pipe.
    pub fn fifo(&mut self, path: &str) {
        self.entry(path, b'6', 0o644, &[], "");
    }

    /// A character device.
    pub fn char_device(&mut self, path: &str, major: u32, minor: u32) {
        self.node(path, b'3', 0o666, &[], "", (major, minor));
    }

    /// A block device.
    pub fn block_device(&mut self, path: &str, major: u32, minor: u32) {
        self.node(path, b'4', 0o666, &[], "", (major, minor));
    }

    /// The archive, with its two empty blocks at the end.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }

    fn entry(&mut self, path: &str, kind: u8, mode: u32, content: &[u8], link: &str) {
        self.node(path, kind, mode, content, link, (0, 0));
    }

    fn node(&mut self, path: &str, kind: u8, mode: u32, content: &[u8], link: &str, (major, minor): (u32, u32)) {
        assert!(path.len() <= 100 && link.len() <= 100, "{path}: a name of at most 100 bytes is needed");
        let mut header = [0_u8; BLOCK];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, path.as_bytes());
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        put(329, format!("{major:07o}\0").as_bytes());
        put(337, format!("{minor:07o}\0").as_bytes());
        // The checksum is taken with its own field read as spaces.
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use super::Tar;

    #[test]
    fn tar_itself_reads_it() {
        let mut tar = Tar::default();
        tar.directory("disk");
        tar.file("disk/disk.img", 0o644, b"content");
        tar.symlink("bin", "usr/bin");
        tar.block_device("disk/vda", 254, 16);
        let mut list =
            Command::new("tar").arg("-tv").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("tar runs");
        list.stdin.take().expect("piped").write_all(&tar.finish()).expect("tar reads");
        let output = list.wait_with_output().expect("tar ends");
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("names are text");
        assert!(text.contains("disk/disk.img") && text.contains("bin -> usr/bin") && text.contains(" 7 "), "{text}");
        assert!(text.contains("254,16"), "{text}");
    }
}
