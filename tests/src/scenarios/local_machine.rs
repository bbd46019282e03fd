//! A machine of this node's own files, as `vireo run` launches it, driven by the test instead of a terminal.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use vireo_runtimeclass::RateLimits;
use vireo_shim::{
    guest_agent::GuestAgent,
    launch::{Launch, Vmm, launch},
    node_config::NodeConfig,
    translate::{LaunchPlan, Place, Source, translate},
};
use vireo_vmm::{
    config::JailConfig,
    control::{
        client::Received,
        message::{Command, End, Event, Request},
    },
};

use super::eventually::LIMIT;

/// A machine that runs; it ends with this.
pub(super) struct LocalMachine {
    vmm: Vmm,
    console: UnixStream,
    seen: Vec<u8>,
    runtime: tokio::runtime::Runtime,
    agent: GuestAgent,
}

impl LocalMachine {
    /// Starts a machine as a `VirtualMachineInstanceSpec` describes it.
    pub(super) fn start(name: &str, spec: &Value) -> Result<Self> {
        let spec = vireo_runtimeclass::parse_vmi(&spec.to_string())?;
        let place = Place::Local { folder: Path::new("/"), jail: JailConfig { uid: 107, gid: 107 }, ephemeral: &[] };
        let node = NodeConfig::default();
        let plan = translate(Source {
            name,
            hostname: None,
            spec: Some(&spec),
            limits: &RateLimits::default(),
            place,
            node: &node,
            nics: Vec::new(),
        })?;
        let LaunchPlan { machine, fds, jail, .. } = plan;
        let binary = File::open("/vireo/bin/vireo-vmm")?;
        let vmm = launch(Launch { vmm: &binary, cgroup: None, oom_score_adj: None, machine, fds, jail: Some(jail) })?;
        match vmm.control.wait(LIMIT)? {
            Received::Message(Event::Ready) => {}
            other => bail!("the machine is not built: {other:?}"),
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (agent, port) = {
            let _entered = runtime.enter();
            GuestAgent::pair()?
        };
        vmm.control.send(&Command::AttachAgent, &[port.as_fd()])?;
        let (console, theirs) = UnixStream::pair()?;
        vmm.control.send(&Command::AttachConsole, &[theirs.as_fd()])?;
        vmm.control.send(&Command::Start { paused: false }, &[])?;
        Ok(Self { vmm, console, seen: Vec::new(), runtime, agent })
    }

    /// Types.
    pub(super) fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.console.write_all(text.as_bytes())?)
    }

    /// Reads until `text` has come since the last wait, and returns everything up to its end.
    pub(super) fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let mut buffer = vec![0; 4096];
        loop {
            if let Some(at) = self.seen.windows(text.len()).position(|window| window == text.as_bytes()) {
                let taken: Vec<u8> = self.seen.drain(..at + text.len()).collect();
                return Ok(String::from_utf8_lossy(&taken).into_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            let shown = || String::from_utf8_lossy(&self.seen).into_owned();
            ensure!(!left.is_zero(), "{text:?}: not on the console within {limit:?}, which shows:\n{}", shown());
            self.console.set_read_timeout(Some(left))?;
            match self.console.read(&mut buffer) {
                Ok(0) => {
                    let why = self.ended(LIMIT).map_or_else(|error| format!("{error:#}"), |end| format!("{end:?}"));
                    bail!("{text:?}: the machine ended ({why}), having shown:\n{}", shown())
                }
                Ok(length) => self.seen.extend(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What the guest's agent says: its guest's name for itself, and the system it is.
    pub(super) fn introduced(&mut self) -> Result<(String, String)> {
        let Self { runtime, agent, .. } = self;
        runtime.block_on(async {
            let sync = tokio::time::timeout(LIMIT, agent.sync());
            sync.await.context("the guest agent is not there")??;
            agent.ping().await?;
            Ok((agent.host_name().await?.host_name, agent.os_info().await?.id))
        })
    }

    /// Presses the power button, and waits until the guest has switched itself off.
    pub(super) fn power_off(self, limit: Duration) -> Result<()> {
        self.vmm.control.send(&Command::Request { id: 1, request: Request::PowerButton }, &[])?;
        let end = self.ended(limit)?;
        ensure!(end == End::PowerOff, "the machine ended with {end:?}");
        ensure!(self.vmm.wait(LIMIT).is_some(), "the VMM is still there");
        Ok(())
    }

    /// How the machine ends, which it does within the limit.
    fn ended(&self, limit: Duration) -> Result<End> {
        let end = Instant::now() + limit;
        loop {
            match self.vmm.control.wait(end.saturating_duration_since(Instant::now()))? {
                Received::Message(Event::Ended(end)) => return Ok(end),
                Received::Message(_) => {}
                Received::Empty => bail!("the machine has not ended within {limit:?}"),
                Received::Closed => bail!("the VMM ended without a word: {:?}", self.vmm.wait(LIMIT)),
            }
        }
    }
}
