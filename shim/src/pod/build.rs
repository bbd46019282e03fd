//! Builds real machines: spec and image become a plan, the pod's network a tap, the plan a `vireo-vmm` process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use oci_spec::runtime::Spec;

use super::machine::{Builder, Machine, Request};
use super::vmm::{Belongings, Process};
use crate::bundle::Bundle;
use crate::launch::{Launch, launch};
use crate::network::{self, Attachment, PodFacts};
use crate::node_config::NodeConfig;
use crate::translate::{Annotated, LaunchPlan, Place, Source, annotated, check_huge_pages, translate};
use crate::vsock::Sockets;

/// The node's configuration.
const NODE_CONFIG: &str = "/etc/vireo/config.json";
/// The VMM's file name.
const VMM: &str = "vireo-vmm";
/// CRI's name of the pod.
const POD_NAME: &str = "io.kubernetes.cri.sandbox-name";

/// Launches `vireo-vmm`.
#[derive(Debug)]
pub struct Launcher;

#[async_trait]
impl Builder for Launcher {
    async fn build(&self, request: Request<'_>) -> anyhow::Result<Arc<dyn Machine>> {
        let bundle = request.bundle;
        let netns = request.sandbox.and_then(Bundle::netns).map(Path::to_owned);
        if netns.is_none() && bundle.sandbox_id().is_some() {
            bail!("hostNetwork: not supported by vireo: a VM needs a network namespace of its own");
        }
        let inputs = Inputs {
            name: bundle.annotation(POD_NAME).unwrap_or(request.id).to_owned(),
            oci: bundle.spec().clone(),
            rootfs: bundle.rootfs(),
            netns,
            sandbox: request.sandbox.map(|sandbox| sandbox.spec().clone()),
        };
        // Images may lie on slow storage, and the network takes its time: containerd is answered meanwhile.
        let prepared =
            tokio::task::spawn_blocking(move || inputs.prepare()).await.context("preparing the machine")??;
        let Prepared { vmm, plan, network } = prepared;
        check_huge_pages(plan.machine.memory, |size| request.cgroup.huge_page_limit(size))?;
        let sockets = plan.machine.vsock.map(|_| Sockets::bind(bundle.path())).transpose();
        let sockets = sockets.context("the machine's vsock sockets")?;
        // On this thread, the main one, to whose life the process is bound.
        let process = launch(Launch {
            vmm: &vmm,
            cgroup: Some(request.cgroup.entrance()),
            oom_score_adj: bundle.spec().process().as_ref().and_then(oci_spec::runtime::Process::oom_score_adj),
            machine: plan.machine,
            fds: plan.fds,
            jail: Some(plan.jail),
        })?;
        let belongings = Belongings { network, sockets, start_paused: plan.start_paused, placement: plan.placement };
        Ok(Arc::new(Process::follow(process, belongings).context("the VMM can't be followed")?))
    }
}

struct Inputs {
    name: String,
    oci: Spec,
    rootfs: PathBuf,
    netns: Option<PathBuf>,
    sandbox: Option<Spec>,
}

struct Prepared {
    vmm: File,
    plan: LaunchPlan,
    network: Option<Attachment>,
}

impl Inputs {
    fn prepare(self) -> anyhow::Result<Prepared> {
        let node = NodeConfig::read(Path::new(NODE_CONFIG))?;
        let vmm = open_vmm(&node)?;
        let Annotated { spec, limits, claims } = annotated(&self.oci)?;
        let wishes = network::wishes(spec.as_ref(), &self.name);
        let facts = PodFacts::read(&self.oci, self.sandbox.as_ref(), node.allow_spoofing)?;
        let mut network = match &self.netns {
            Some(netns) if !wishes.is_empty() => Some(network::attach(netns, &wishes, &facts)?),
            _ => None,
        };
        let mut nics = network.as_mut().map(Attachment::nics).transpose().context("tap")?.unwrap_or_default();
        network::accelerate(&mut nics, &limits, &node);
        let place = Place::Pod { oci: &self.oci, rootfs: &self.rootfs, claims: &claims };
        let plan = translate(Source {
            name: &self.name,
            hostname: facts.names.hostname.as_deref(),
            spec: spec.as_ref(),
            limits: &limits,
            place,
            node: &node,
            nics,
        })?;
        Ok(Prepared { vmm, plan, network })
    }
}

/// The VMM that the node names, or the one beside the shim.
fn open_vmm(node: &NodeConfig) -> anyhow::Result<File> {
    let path = match &node.vmm {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("the shim's own path")?.with_file_name(VMM),
    };
    File::open(&path)
        .with_context(|| format!("{}: the VMM can't be opened; was vireo installed whole?", path.display()))
}
