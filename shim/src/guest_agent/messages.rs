//! What is asked of an agent, and what it answers (QEMU's `qga/qapi-schema.json`). All of it is the guest's own word.

use serde::Deserialize;

/// `guest-info`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Info {
    /// The agent's version.
    pub version: String,
}

/// `guest-get-host-name`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostName {
    /// The guest's name for itself.
    pub host_name: String,
}

/// `guest-get-osinfo`: what the guest's `os-release` and `uname` say. Agents leave out what they don't know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct OsInfo {
    /// As in `debian`.
    pub id: String,
    /// As in `Debian GNU/Linux`.
    pub name: String,
    /// As in `Debian GNU/Linux 12 (bookworm)`.
    pub pretty_name: String,
    /// As in `12 (bookworm)`.
    pub version: String,
    /// As in `12`.
    pub version_id: String,
    /// As in `x86_64`.
    pub machine: String,
    /// As in `6.1.0-25-amd64`.
    pub kernel_release: String,
    /// As in `#1 SMP PREEMPT_DYNAMIC Debian 6.1.106-3 (2024-08-26)`.
    pub kernel_version: String,
}
