//! The disk on which a guest's cloud-init finds what it is to do. Its NoCloud data source looks for a file system called
//! `cidata`, with `meta-data`, `user-data` and `network-config`; its ConfigDrive data source for one called `config-2`, with the
//! files of OpenStack in the folder `openstack/latest`.

use std::fs::File;
use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use uuid::Uuid;
use vireo_runtimeclass::pod::SECRETS_DIR;

use super::iso9660::{IsoFile, image};
use super::made::sealed;
use super::small_files::{MAX_CONTENT, read};
use super::{ImageRoot, Mounted, Purpose, VolumeError};

/// The longest host name, bytes (RFC 1123).
const MAX_HOSTNAME: usize = 63;
/// What cloud-init reads may have passwords in it.
const MODE: u32 = 0o400;

/// Where cloud-init looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataSource {
    /// On a disk of its own making.
    NoCloud,
    /// On a disk as OpenStack makes it.
    ConfigDrive,
}

/// What cloud-init is told.
#[derive(Debug, Clone, Copy)]
pub struct Seed<'a> {
    /// Where it looks.
    pub source: DataSource,
    /// The machine's UUID. What is done once per instance is done anew where it changes.
    pub instance: Uuid,
    /// The machine's name.
    pub name: &'a str,
    /// The host's, which is what stands before the first dot.
    pub hostname: &'a str,
    /// The pod's namespace.
    pub namespace: &'a str,
    /// User data; may be empty.
    pub user_data: &'a [u8],
    /// Network data, if there is any; without, cloud-init asks DHCP.
    pub network_data: Option<&'a [u8]>,
    /// SSH keys of the image's own user.
    pub keys: &'a [String],
}

impl Seed<'_> {
    /// The disk, in memory: nobody can write to it any more.
    pub fn disk(&self) -> Result<File, VolumeError> {
        sealed(&self.image()?).map_err(VolumeError::Made)
    }

    fn image(&self) -> Result<Vec<u8>, VolumeError> {
        let (label, names) = match self.source {
            DataSource::NoCloud => ("cidata", ["meta-data", "network-config", "user-data"]),
            DataSource::ConfigDrive => (
                "config-2",
                ["openstack/latest/meta_data.json", "openstack/latest/network_data.json", "openstack/latest/user_data"],
            ),
        };
        // JSON is YAML.
        let meta = self.meta_data().to_string();
        let contents = [Some(meta.as_bytes()), self.network_data, Some(self.user_data)];
        let files: Vec<_> = names
            .into_iter()
            .zip(contents)
            .filter_map(|(path, content)| Some(IsoFile { path, content: content?, mode: MODE }))
            .collect();
        Ok(image(label, &files)?)
    }

    /// As KubeVirt words it. cloud-init's instance is `instance-id` in the one case, and `uuid` in the other.
    fn meta_data(&self) -> Value {
        let host = hostname(self.hostname);
        let (mut meta, keys) = match self.source {
            DataSource::NoCloud => (json!({"instance-id": self.instance, "local-hostname": host}), "public-keys"),
            DataSource::ConfigDrive => {
                let instance = format!("{}.{}", self.name, self.namespace);
                (json!({"instance_id": instance, "hostname": host, "uuid": self.instance}), "public_keys")
            }
        };
        if !self.keys.is_empty() {
            let numbered = self.keys.iter().enumerate().map(|(number, key)| (number.to_string(), key.clone().into()));
            meta[keys] = Value::Object(numbered.collect());
        }
        meta
    }
}

/// Reads user or network data out of a secret: the first of `keys` that it has. KubeVirt's pods mount each of them as a file
/// of its own, and the kubelet makes an empty folder of one that isn't there; the whole secret, mounted as a folder, will do as well.
pub fn secret_value(
    oci: &Spec,
    ids: (u32, u32),
    volume: &str,
    keys: &'static [&'static str],
) -> Result<Vec<u8>, VolumeError> {
    const SECRET: &str = "secret";
    let place = Path::new(SECRETS_DIR).join(volume);
    let mut any = false;
    for key in keys {
        let Some(mounted) = Mounted::find(oci, ids, &place.join(key), SECRET) else { continue };
        any = true;
        if mounted.source().is_file() {
            return read(&mounted.file(Purpose::Content)?, key, MAX_CONTENT);
        }
    }
    if let Some(mounted) = Mounted::find(oci, ids, &place, SECRET) {
        return mounted.folder(|mount| {
            let current = mount.current()?;
            let root: &ImageRoot = current.as_ref().unwrap_or(mount);
            for key in keys {
                if let Some(file) = root.file_if_any(key, Purpose::Content)? {
                    return read(&file, key, MAX_CONTENT);
                }
            }
            Err(VolumeError::NoKey { keys })
        });
    }
    if any {
        return Err(VolumeError::NoKey { keys });
    }
    Err(VolumeError::NotMounted { what: SECRET, place: place.display().to_string(), or: String::new() })
}

/// As KubeVirt makes it of a machine's name.
fn hostname(name: &str) -> &str {
    let first = name.split('.').next().unwrap_or_default();
    let end = first.char_indices().map(|(at, char)| at + char.len_utf8()).take_while(|end| *end <= MAX_HOSTNAME).last();
    first[..end.unwrap_or(0)].trim_end_matches('-')
}

#[cfg(test)]
mod tests {
    use super::super::iso9660::tests::read;
    use super::*;

    const INSTANCE: Uuid = Uuid::from_u128(0x5d30_7ca9_b3ef_428c_8861_06e7_2d69_f223);

    fn seed(source: DataSource) -> Seed<'static> {
        Seed {
            source,
            instance: INSTANCE,
            name: "virt-launcher-web-1",
            hostname: "web.example",
            namespace: "shop",
            user_data: b"#cloud-config\n",
            network_data: None,
            keys: &[],
        }
    }

    fn files(seed: Seed<'_>, label: &str) -> Vec<(String, String)> {
        let files = read(&seed.image().unwrap(), label).into_iter();
        files.map(|(name, content)| (name, String::from_utf8(content).unwrap())).collect()
    }

    fn pairs(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect()
    }

    #[test]
    fn a_seed_says_who_the_guest_is() {
        let meta = r#"{"instance-id":"5d307ca9-b3ef-428c-8861-06e72d69f223","local-hostname":"web"}"#;
        let expected = [("meta-data", meta), ("user-data", "#cloud-config\n")];
        assert_eq!(files(seed(DataSource::NoCloud), "cidata"), pairs(&expected));
        let drive = r#"{"hostname":"web","instance_id":"virt-launcher-web-1.shop","uuid":"5d307ca9-b3ef-428c-8861-06e72d69f223"}"#;
        let expected = [("openstack/latest/meta_data.json", drive), ("openstack/latest/user_data", "#cloud-config\n")];
        assert_eq!(files(seed(DataSource::ConfigDrive), "config-2"), pairs(&expected));
    }

    #[test]
    fn network_data_and_keys_are_there_if_they_are_given() {
        let keys = ["ssh-ed25519 A me".to_owned(), "ssh-ed25519 B you".to_owned()];
        let given =
            Seed { network_data: Some(b"version: 2\n"), user_data: b"", keys: &keys, ..seed(DataSource::NoCloud) };
        let found = files(given, "cidata");
        assert!(found[0].1.contains(r#""public-keys":{"0":"ssh-ed25519 A me","1":"ssh-ed25519 B you"}"#), "{found:?}");
        assert_eq!(
            found[1..],
            pairs(&[("network-config", "version: 2\n"), ("user-data", "")]),
            "without it cloud-init looks no further"
        );
        let found = files(Seed { source: DataSource::ConfigDrive, ..given }, "config-2");
        assert!(found[0].1.contains(r#""public_keys":{"0":"ssh-ed25519 A me","#), "{found:?}");
        assert_eq!(found[1], ("openstack/latest/network_data.json".to_owned(), "version: 2\n".to_owned()));
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
