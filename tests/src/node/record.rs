//! Where a kept node is remembered: `node.json` in the build's folder.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::{Agent, share::builds_folder};

/// A node that outlives the program that booted it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// QEMU.
    pub pid: i32,
    /// QEMU's start time in clock ticks after boot: a pid alone may be another's by now.
    pub started: u64,
    /// How to reach it.
    pub agent: Agent,
    /// Its logs.
    pub folder: PathBuf,
}

impl Record {
    fn path() -> Result<PathBuf> {
        Ok(builds_folder()?.join("node.json"))
    }

    /// The kept node, if it lives.
    pub fn load() -> Result<Option<Self>> {
        let Ok(text) = fs::read(Self::path()?) else { return Ok(None) };
        let record: Self = serde_json::from_slice(&text).context("read node.json")?;
        Ok((start_time(record.pid) == Some(record.started)).then_some(record))
    }

    /// Remembers a node.
    pub(super) fn save(&self) -> Result<()> {
        Ok(fs::write(Self::path()?, serde_json::to_vec_pretty(self)?)?)
    }

    /// Ends the node.
    pub fn stop(self) -> Result<()> {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).context("kill QEMU")?;
        fs::remove_file(Self::path()?).context("remove node.json")
    }
}

/// Start time of a process: field 22 of `/proc/<pid>/stat`.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
