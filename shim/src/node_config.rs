//! What an admin sets for a node: `/etc/vireo/config.json`, written by `install.sh`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// SeaBIOS, as Debian's package `seabios` installs it.
pub const BIOS: &str = "/usr/share/seabios/bios-256k.bin";
/// OVMF's code, as Debian's package `ovmf` installs it.
pub const EFI_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// OVMF's empty variables, likewise.
pub const EFI_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// A node's configuration. An absent file is the default one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfig {
    /// The kernel for guests that bring none: a bzImage, or an ELF with a PVH entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_initrd: Option<PathBuf>,
    /// The BIOS, where it is not Debian's [`BIOS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bios: Option<PathBuf>,
    /// The code of EFI, where it is not Debian's [`EFI_CODE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub efi_code: Option<PathBuf>,
    /// What the variables of EFI begin as, where it is not Debian's [`EFI_VARIABLES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub efi_variables: Option<PathBuf>,
    /// Let firmware's messages go to the VMM's log.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub firmware_log: bool,
    /// Whether the host's kernel moves guests' packets (vhost-net); where left out, it does if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost_net: Option<bool>,
    /// Let guests send with any hardware and IP address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_spoofing: bool,
    /// The VMM, where it doesn't lie beside the shim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm: Option<PathBuf>,
}

/// Why a node's configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum NodeConfigError {
    /// It can't be read.
    #[error("{0}: can't be read")]
    Read(PathBuf, #[source] io::Error),
    /// It is malformed, or has an unknown field.
    #[error("{0}: not a node configuration")]
    Malformed(PathBuf, #[source] serde_json::Error),
    /// A path in it starts nowhere.
    #[error("{0}: {1} must be absolute")]
    Relative(PathBuf, &'static str),
}

impl NodeConfig {
    /// Reads the configuration at `path`.
    pub fn read(path: &Path) -> Result<Self, NodeConfigError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(NodeConfigError::Read(path.to_owned(), error)),
        };
        let config: Self =
            serde_json::from_slice(&text).map_err(|error| NodeConfigError::Malformed(path.to_owned(), error))?;
        for (field, value) in [
            ("guestKernel", &config.guest_kernel),
            ("guestInitrd", &config.guest_initrd),
            ("bios", &config.bios),
            ("efiCode", &config.efi_code),
            ("efiVariables", &config.efi_variables),
            ("vmm", &config.vmm),
        ] {
            if value.as_ref().is_some_and(|value| !value.is_absolute()) {
                return Err(NodeConfigError::Relative(path.to_owned(), field));
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        assert_eq!(NodeConfig::read(&path).unwrap(), NodeConfig::default());
        fs::write(&path, r#"{"guestKernel": "/boot/k", "guestInitrd": "/boot/i"}"#).unwrap();
        assert_eq!(NodeConfig::read(&path).unwrap().guest_kernel, Some("/boot/k".into()));
        for (text, expected) in [
            ("", "not a node configuration"),
            (r#"{"kernel": "/boot/k"}"#, "not a node configuration"),
            (r#"{"guestKernel": "k"}"#, "guestKernel must be absolute"),
        ] {
            fs::write(&path, text).unwrap();
            let error = NodeConfig::read(&path).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{error}");
        }
        assert!(matches!(NodeConfig::read(dir.path()), Err(NodeConfigError::Read(..))));
    }
}
