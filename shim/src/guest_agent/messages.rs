//! What is asked of an agent, and what it answers (QEMU's `qga/qapi-schema.json`). All of it is the guest's own word.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as STANDARD;
use serde::{Deserialize, Serialize};

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

/// One of `guest-get-users`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct User {
    /// Name.
    #[serde(rename = "user")]
    pub name: String,
    /// Windows' domain.
    pub domain: String,
    /// Seconds since 1970.
    pub login_time: f64,
}

/// One of `guest-get-fsinfo`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct FileSystem {
    /// The device, as in `sda1`.
    pub name: String,
    /// Where.
    pub mountpoint: String,
    /// As in `ext4`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes; 0 from agents that don't tell.
    pub used_bytes: u64,
    /// Likewise.
    pub total_bytes: u64,
}

/// The longest reply to a question after a command, bytes: what it printed, as base64. An agent itself keeps up to 16 MiB of each stream.
pub const MAX_OUTPUT_REPLY: usize = 6 << 20;

/// The arguments of `guest-exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Exec {
    /// The program: a path, or a name that the agent looks for in its own `PATH`.
    pub path: String,
    /// What follows it.
    pub arg: Vec<String>,
    /// The whole environment, `NAME=value` each; the agent's own if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The whole of its input, base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub input_data: String,
    /// Whether its output is wanted.
    pub capture_output: bool,
}

/// `guest-exec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Started {
    /// The guest's process.
    pub pid: i64,
}

/// `guest-exec-status`: all but `exited` comes once, when it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ExecStatus {
    /// Whether it is over.
    pub exited: bool,
    exitcode: Option<i64>,
    signal: Option<i64>,
    out_data: Option<String>,
    err_data: Option<String>,
    out_truncated: bool,
    err_truncated: bool,
}

/// What a command ends with of which its agent doesn't say how it ended.
const UNKNOWN: u32 = 255;

impl ExecStatus {
    /// How it ended, as a shell says it.
    pub fn code(&self) -> u32 {
        let code = match (self.exitcode, self.signal) {
            (_, Some(signal @ 1..=64)) => 128 + signal,
            (Some(code), _) => code,
            _ => return UNKNOWN,
        };
        u32::try_from(code).unwrap_or(UNKNOWN)
    }

    /// What it printed; an error if that is no base64.
    pub fn stdout(&self) -> Result<Vec<u8>, base64::DecodeError> {
        decode(self.out_data.as_deref())
    }

    /// What it complained of, likewise.
    pub fn stderr(&self) -> Result<Vec<u8>, base64::DecodeError> {
        decode(self.err_data.as_deref())
    }

    /// Whether the agent didn't keep all of its output.
    pub fn truncated(&self) -> bool {
        self.out_truncated || self.err_truncated
    }
}

fn decode(text: Option<&str>) -> Result<Vec<u8>, base64::DecodeError> {
    STANDARD.decode(text.unwrap_or_default())
}
