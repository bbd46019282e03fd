//! containerd's events, as its own client tells them.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::super::{eventually::until, shell};

/// Where they are written. On no file system that [`Leftovers`](super::super::leftovers::Leftovers) looks at.
const FILE: &str = "/run/node-events";

/// Those since [`Events::listen`].
#[derive(Debug)]
pub(super) struct Events {
    listener: Child,
    file: PathBuf,
}

impl Events {
    /// Listens until this is dropped.
    pub(super) fn listen() -> Result<Self> {
        let file = File::create(FILE).context(FILE)?;
        let mut command = Command::new("ctr");
        command.arg("events").stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
        let events = Self { listener: command.spawn().context("run ctr events")?, file: FILE.into() };
        // It does not say when it begins to listen.
        until("an event to be heard", || {
            shell::output(["ctr", "namespaces", "label", "k8s.io", "vireo.test=1"])?;
            Ok(fs::metadata(FILE)?.len() > 0)
        })?;
        shell::output(["ctr", "namespaces", "label", "k8s.io", "vireo.test="])?;
        Ok(events)
    }

    /// Waits until `container` is told to be over, and expects that to have been told once, with `code`.
    pub(super) fn exit(&self, container: &str, code: i32) -> Result<()> {
        until(&format!("an event for the exit of {container}"), || Ok(!self.exits(container)?.is_empty()))?;
        let codes = self.exits(container)?;
        ensure!(codes == [i64::from(code)], "the exits told of {container} have {codes:?}, {code} was expected");
        Ok(())
    }

    /// The exit codes told of a container's own process. A line is `<when> <when> <when> <when> <namespace> <topic> <JSON>`.
    fn exits(&self, container: &str) -> Result<Vec<i64>> {
        let text = fs::read_to_string(&self.file)?;
        let told = text.lines().filter_map(|line| line.split_once(" /tasks/exit "));
        let told = told.filter_map(|(_, json)| serde_json::from_str::<Value>(json).ok());
        // A zero is left out.
        Ok(told
            .filter(|exit| exit["id"] == container)
            .map(|exit| exit["exit_status"].as_i64().unwrap_or_default())
            .collect())
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.listener.kill();
        let _ = self.listener.wait();
        let _ = fs::remove_file(&self.file);
    }
}
