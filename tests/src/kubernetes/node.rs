//! A virtual node of the cluster: containerd, Vireo as its admin installs it, and the kubelet.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;

use super::{
    ControlPlane, HOST, NODE, Programs,
    network::{NODE_TAP, add_node},
    wait::until,
};
use crate::{
    node::{Node, Options, Request, image::program_layer, share::Build},
    progress,
};

/// Its name.
pub const NODE_NAME: &str = "node-1";
/// kubelets of this age speak a CRI that containerd 2 has no more.
const CONTAINERD: &str = "1.7";
/// Where the node keeps what the kubelet reads.
const FOLDER: &str = "/etc/kubernetes";
/// In a node that is emulated, on a machine under load.
const LIMIT: Duration = Duration::from_mins(3);
/// What it is configured by.
const CONFIGURATION: &str = include_str!("../../node/kubelet.yaml");
/// What brings it up.
const START: &str = include_str!("../../node/kubelet-start");

/// What such a node is made of. To be had before this thread is in the cluster's network, for what the cache lacks.
pub fn prepare(programs: &Programs) -> Result<Options> {
    let mut options = Options::prepare("cluster", Build::Newest, false)?;
    options.layers.push(program_layer(&programs.kubernetes("kubelet"))?);
    options.tap = Some(NODE_TAP.to_owned());
    Ok(options)
}

/// Boots a node into a cluster; comes back when the cluster says that it is ready.
pub async fn join(plane: &ControlPlane, options: &Options) -> Result<Node> {
    add_node()?;
    let node = Node::boot(options)?;
    progress::step("installing Vireo on the node, starting containerd", || {
        node.agent().output(Request::new(["/vireo/bin/vireo-scenarios", "provision", "--containerd", CONTAINERD]))
    })?;
    let kubeconfig = plane.kubeconfig_of(&format!("system:node:{NODE_NAME}"), Some("system:nodes"))?;
    let served = plane.authority().server(NODE_NAME, &[NODE_NAME, &NODE.to_string()])?;
    for (name, text) in [
        ("ca.crt", plane.authority().certificate()),
        ("kubelet.crt", served.certificate),
        ("kubelet.key", served.key),
        ("kubeconfig", std::fs::read_to_string(&kubeconfig)?),
        ("kubelet.yaml", CONFIGURATION.to_owned()),
    ] {
        let script = format!("mkdir -p {FOLDER} && cat > {FOLDER}/{name}");
        node.agent().output(Request::script(&script).input(std::io::Cursor::new(text)))?;
    }
    let script = format!("NAME={NODE_NAME} ADDRESS={NODE} HOST={HOST}\n{START}");
    node.agent().output(Request::script(&script)).context("start the kubelet")?;
    let nodes: Api<NodeObject> = Api::all(plane.client().clone());
    let ready = until("the node is ready", LIMIT, async || {
        let object = nodes.get_opt(NODE_NAME).await?;
        let mut conditions = object.and_then(|node| node.status?.conditions).into_iter().flatten();
        Ok(conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True"))
    });
    if let Err(error) = ready.await {
        return Err(error.context(log(&node)));
    }
    Ok(node)
}

/// The end of the kubelet's log.
pub fn log(node: &Node) -> String {
    let tail = node.agent().output(Request::script("tail -n 40 /var/log/kubelet.log"));
    tail.unwrap_or_else(|error| format!("the node doesn't answer: {error:#}"))
}
