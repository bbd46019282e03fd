//! The networks of a benched guest: taps of the node's, and taps in pods, as the shim makes them, for either monitor.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, Result};
use serde_json::json;
use vireo_shim::network::{Attachment, PodFacts, attach, wishes};

use super::{rig::Subject, rows::Way};
use crate::{
    bench::monitor::{Card, Tap},
    scenarios::{
        Bench,
        pod::{Pod, PodSpec},
        shell,
    },
};

/// The node's address for guests behind a pod's: it is in no network that they have.
const NODE: &str = "10.99.0.1";
/// The node's address in the pods' network (`tests/node/cni.conflist`).
const BRIDGE: &str = "10.88.0.1";

/// One of a guest's networks.
#[derive(Debug)]
pub struct Network {
    /// How packets pass.
    pub way: Way,
    /// The node's address there.
    pub host: String,
    /// The guest's, with the length of its prefix.
    pub guest: String,
    /// A route of the guest's, `to@by`.
    pub route: Option<String>,
    /// The guest's card.
    pub card: Card,
    /// What a pod's goes with.
    _pod: Option<(Attachment, Pod)>,
}

/// A subject's, in the order of its cards. Makes them.
pub fn networks(bench: &mut Bench, subject: Subject) -> Result<Vec<Network>> {
    let first = if subject == Subject::Vireo { 0 } else { 2 };
    let mut networks = Vec::new();
    for (number, way) in (first..).zip([Way::Tap, Way::Userspace]) {
        let (tap, host) = (format!("load{number}"), format!("10.77.{number}.1"));
        shell::output(["ip", "tuntap", "add", "dev", &tap, "mode", "tap", "vnet_hdr"])?;
        shell::output(["ip", "address", "add", &format!("{host}/24"), "dev", &tap])?;
        shell::output(["ip", "link", "set", &tap, "up"])?;
        let card = Card { tap: Tap::Named(tap), mac: [2, 0, 0, 0, 0, number + 1], vhost: way == Way::Tap };
        networks.push(Network { way, host, guest: format!("10.77.{number}.2/24"), route: None, card, _pod: None });
    }
    // The second subject finds it there.
    shell::output(["ip", "address", "replace", &format!("{NODE}/32"), "dev", "lo"])?;
    for way in [Way::Masquerade, Way::Bridge] {
        networks.push(in_pod(bench, subject, way)?);
    }
    Ok(networks)
}

/// A pod of an ordinary runtime, for its network namespace, with what the shim makes in a VM pod's.
fn in_pod(bench: &mut Bench, subject: Subject, way: Way) -> Result<Network> {
    let pod = bench.pod(PodSpec::ordinary())?;
    let processes = pod.pod_cgroup_of("memory").join(&pod.sandbox).join("cgroup.procs");
    let processes = fs::read_to_string(&processes).with_context(|| format!("read {}", processes.display()))?;
    let process = processes.lines().next().context("a sandbox has a process")?;
    let bridged = json!({
        "domain": {"devices": {"interfaces": [{"name": "default", "bridge": {}}]}},
        "networks": [{"name": "default", "pod": {}}],
    });
    let spec = (way == Way::Bridge).then(|| serde_json::from_value(bridged)).transpose()?;
    let wishes = wishes(spec.as_ref(), subject.name());
    let mut attachment = attach(Path::new(&format!("/proc/{process}/ns/net")), &wishes, &PodFacts::default())?;
    let mut nic = attachment.nics()?.pop().context("a pod has an interface")?;
    let tap = Tap::Open(Arc::new(nic.taps.pop().context("a tap has a queue")?));
    let (host, guest, route) = match way {
        Way::Bridge => (BRIDGE, format!("{}/16", pod.ip), None),
        _ => (NODE, "10.0.2.2/24".to_owned(), Some(format!("{NODE}@10.0.2.1"))),
    };
    let card = Card { tap, mac: nic.mac, vhost: true };
    Ok(Network { way, host: host.to_owned(), guest, route, card, _pod: Some((attachment, pod)) })
}
