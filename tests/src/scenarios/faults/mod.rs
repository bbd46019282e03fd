//! Parts of a pod are killed with SIGKILL, one or many, at rest or within a call: nothing is left, no guest runs twice, and how each container
//! ended is told.

pub(super) mod calls;
mod events;
mod fds;
mod processes;
pub(super) mod streams;
pub(super) mod thirty;

use std::fs;

use anyhow::Result;
use vireo_runtimeclass::machine_service::FOLDER;
use vireo_shim::records::CONNECTED;

use super::{Bench, crash::quick, eventually::until};

/// What a container ends with whose guest was killed.
const KILLED: i32 = 128 + 9;
/// What CRI says where containerd itself has not seen how it ended.
const UNKNOWN: i32 = 255;

/// A pod as it should be: the node goes on, and its shim's start removes the sockets that those before had to leave, once these are old
/// enough.
fn another(bench: &mut Bench) -> Result<()> {
    until("the records of dead shims to be old", || {
        let records = fs::read_dir(FOLDER).into_iter().flatten().flatten();
        let young = |entry: &fs::DirEntry| -> Option<bool> {
            Some(entry.metadata().ok()?.modified().ok()?.elapsed().is_ok_and(|age| age < CONNECTED))
        };
        Ok(!records
            .filter(|entry| entry.path().extension().is_some_and(|suffix| suffix == "shim"))
            .any(|entry| young(&entry) == Some(true)))
    })?;
    let mut pod = bench.pod(quick())?;
    pod.create(bench)?;
    pod.start(bench)?;
    pod.remove(bench)
}
