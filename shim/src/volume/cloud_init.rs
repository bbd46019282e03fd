//! The disk on which a guest's cloud-init finds what it is to do: its NoCloud data source looks for a file system called
//! `cidata`, with `meta-data`, `user-data` and `network-config`.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use uuid::Uuid;

use super::iso9660::{IsoFile, image};

const LABEL: &str = "cidata";
/// The longest host name, bytes (RFC 1123).
const MAX_HOSTNAME: usize = 63;

/// What cloud-init is told.
#[derive(Debug, Clone, Copy)]
pub struct Seed<'a> {
    /// The machine's UUID. What is done once per instance is done anew where it changes.
    pub instance: Uuid,
    /// The machine's name; up to its first dot it is the host's.
    pub name: &'a str,
    /// User data; may be empty.
    pub user_data: &'a [u8],
    /// Network data, if there is any; without, cloud-init asks DHCP.
    pub network_data: Option<&'a [u8]>,
}

impl Seed<'_> {
    /// The disk, in memory: nobody can write to it any more.
    pub fn disk(&self) -> io::Result<File> {
        let mut disk =
            File::from(memfd_create(c"vireo-cloud-init", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
        disk.write_all(&self.image())?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        fcntl(&disk, FcntlArg::F_ADD_SEALS(seals))?;
        // A VMM takes no read-only disk that is open for writing.
        File::open(format!("/proc/self/fd/{}", disk.as_raw_fd()))
    }

    fn image(&self) -> Vec<u8> {
        // JSON is YAML.
        let meta = serde_json::json!({"instance-id": self.instance, "local-hostname": hostname(self.name)}).to_string();
        let network = self.network_data.map(|content| IsoFile { name: "network-config", content });
        let meta = IsoFile { name: "meta-data", content: meta.as_bytes() };
        let user = IsoFile { name: "user-data", content: self.user_data };
        let files: Vec<_> = [Some(meta), network, Some(user)].into_iter().flatten().collect();
        image(LABEL, &files)
    }
}

/// As KubeVirt makes it of a machine's name.
fn hostname(name: &str) -> &str {
    let first = name.split('.').next().unwrap_or_default();
    let end = first.char_indices().map(|(at, char)| at + char.len_utf8()).take_while(|end| *end <= MAX_HOSTNAME).last();
    first[..end.unwrap_or(0)].trim_end_matches('-')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::super::iso9660::tests::read;
    use super::*;

    const INSTANCE: Uuid = Uuid::from_u128(0x5d30_7ca9_b3ef_428c_8861_06e7_2d69_f223);

    #[test]
    fn a_seed_says_who_the_guest_is() {
        let seed = Seed { instance: INSTANCE, name: "web.example", user_data: b"#cloud-config\n", network_data: None };
        let disk = seed.disk().unwrap();
        let mut image = vec![0; usize::try_from(disk.metadata().unwrap().len()).unwrap()];
        disk.read_exact_at(&mut image, 0).unwrap();
        assert_eq!(image, seed.image(), "always the same");
        let meta = r#"{"instance-id":"5d307ca9-b3ef-428c-8861-06e72d69f223","local-hostname":"web"}"#;
        let expected = [("meta-data", meta.as_bytes()), ("user-data", b"#cloud-config\n")];
        assert_eq!(read(&image, LABEL), expected.map(|(name, content)| (name.to_owned(), content.to_vec())));
        assert_eq!(disk.write_at(b"x", 0).unwrap_err().raw_os_error(), Some(libc::EBADF), "open for reading");
        let writable = File::options().write(true).open(format!("/proc/self/fd/{}", disk.as_raw_fd()));
        assert_eq!(writable.unwrap().write_at(b"x", 0).unwrap_err().raw_os_error(), Some(libc::EPERM), "sealed");
    }

    #[test]
    fn network_data_is_there_if_it_is_given() {
        let seed = Seed { instance: INSTANCE, name: "a", user_data: b"", network_data: Some(b"version: 2\n") };
        let files = read(&seed.image(), LABEL);
        assert_eq!(files[1], ("network-config".to_owned(), b"version: 2\n".to_vec()));
        assert_eq!(files[2], ("user-data".to_owned(), Vec::new()), "without it cloud-init looks no further");
    }

    #[test]
    fn host_names() {
        let long = "x".repeat(62);
        for (name, expected) in
            [("a", "a"), ("a.b.c", "a"), ("", ""), (&format!("{long}-y"), &long), (&format!("{long}\u{e4}"), &long)]
        {
            assert_eq!(hostname(name), expected);
        }
    }
}
