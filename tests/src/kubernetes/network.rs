//! A cluster's network: a network namespace with one bridge, on which the host is [`HOST`] and nodes are taps.
//!
//! The namespace is this thread's, and so of every thread and child that it makes; it goes when the last of them does. So
//! addresses and ports are the same in every cluster, and clusters don't see each other.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};

/// The bridge.
const BRIDGE: &str = "cluster0";
/// This machine on the bridge. The API server's Endpoints may not be on the loopback.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The node on the bridge.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// What leads to it.
pub(super) const NODE_TAP: &str = "node0";
/// The pods' addresses, as the node's CNI has them.
const PODS: &str = "10.88.0.0/16";

/// Takes this thread into a network of its own. What has to be fetched must be there before.
pub fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace: run as root")?;
    ip("link set lo up")?;
    ip(&format!("link add {BRIDGE} type bridge"))?;
    ip(&format!("address add {HOST}/24 dev {BRIDGE}"))?;
    ip(&format!("link set {BRIDGE} up"))
}

/// Makes [`NODE_TAP`], behind which [`NODE`] has the pods.
pub(super) fn add_node() -> Result<()> {
    ip(&format!("tuntap add {NODE_TAP} mode tap"))?;
    ip(&format!("link set {NODE_TAP} master {BRIDGE} up"))?;
    ip(&format!("route replace {PODS} via {NODE}"))
}

/// Makes an address this machine's, in the network that this thread is in: who asks a pod there is answered here.
pub fn lend(address: IpAddr) -> Result<()> {
    ip(&format!("address replace {address} dev lo"))
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("run ip")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
