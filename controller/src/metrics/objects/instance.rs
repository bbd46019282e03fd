//! A VirtualMachineInstance.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use prometheus_client::encoding::DescriptorEncoder;
use serde_json::Value as Json;
use vireo_runtimeclass::Quantity;
use vireo_runtimeclass::cluster::{
    ConditionStatus, EvictionStrategy, InstanceStatus, KubeVirtConfiguration, VirtualMachineInstance,
};

use super::super::catalogue;
use super::super::sample::{Labels, Value, write as write_samples};
use super::guest::named;
use super::{described, interfaces, name, word};
use crate::vmi::pod::CREATED_BY_LABEL;

/// An instance whose pod an older version made has this label, in KubeVirt.
const OUTDATED_LABEL: &str = "kubevirt.io/outdatedLauncherImage";

pub(super) fn write(
    encoder: &mut DescriptorEncoder<'_>,
    instances: &[Arc<VirtualMachineInstance>],
    pods: &[Arc<Pod>],
    configuration: &KubeVirtConfiguration,
) -> fmt::Result {
    let unknown = InstanceStatus::default();
    let pods: HashMap<_, _> = pods.iter().filter_map(|pod| running(pod)).collect();
    let each = || {
        instances.iter().map(|vmi| {
            let status = vmi.status.as_ref().unwrap_or(&unknown);
            let (namespace, name) = name(&vmi.metadata);
            let node = status.node_name.as_deref().unwrap_or_default();
            (vmi.as_ref(), status, Labels::new([("node", node), ("namespace", namespace), ("name", name)]))
        })
    };
    let evictable: Vec<_> = each().map(|(vmi, status, _)| is_evictable(vmi, status, configuration)).collect();
    let phases: Vec<_> =
        each().map(|(_, status, _)| status.phase.map(word).unwrap_or_default().to_ascii_lowercase()).collect();
    let described = each().zip(evictable.iter().zip(&phases)).map(|((vmi, status, labels), (evictable, phase))| {
        let pod = pods.get(&(vmi.metadata.uid.as_deref().unwrap_or_default(), status.node_name.as_deref()));
        let labels = info(vmi, status, &labels.and([("phase", phase)])).and([
            ("evictable", if *evictable { "true" } else { "false" }),
            ("outdated", if has_label(vmi, OUTDATED_LABEL) { "true" } else { "false" }),
            ("vmi_pod", pod.copied().unwrap_or_default()),
        ]);
        (labels, Value::Whole(1))
    });
    write_samples(encoder, &catalogue::VMI_INFO, described)?;
    let stuck = each().zip(&evictable).map(|((_, _, labels), evictable)| (labels, Value::from(!evictable)));
    write_samples(encoder, &catalogue::VMI_NON_EVICTABLE, stuck)?;
    let addresses = each().flat_map(|(_, status, labels)| addresses(status, labels));
    write_samples(encoder, &catalogue::VMI_ADDRESSES, addresses)?;
    let wired = each().flat_map(|(vmi, ..)| {
        let spec = vmi.unread.value();
        let samples = interfaces::of(Some(&spec), named(name(&vmi.metadata)));
        samples.map(|(labels, value)| (labels.owned(), value)).collect::<Vec<_>>()
    });
    write_samples(encoder, &catalogue::VMI_VNIC, wired)?;
    let overheads = each().filter_map(|(vmi, status, _)| {
        let overhead = status.memory.as_ref()?.memory_overhead.as_ref().map(Quantity::value)?;
        let (namespace, name) = name(&vmi.metadata);
        Some((Labels::new([("namespace", namespace), ("name", name)]), Value::from(overhead)))
    });
    write_samples(encoder, &catalogue::VMI_OVERHEAD, overheads)
}

/// A pod that runs: its instance's uid and its node, and its name.
fn running(pod: &Pod) -> Option<((&str, Option<&str>), &str)> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let uid = pod.metadata.labels.as_ref()?.get(CREATED_BY_LABEL)?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    (phase == Some("Running")).then_some(((uid.as_str(), node), pod.metadata.name.as_deref()?))
}

fn has_label(vmi: &VirtualMachineInstance, label: &str) -> bool {
    vmi.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}

fn text(text: Option<&String>) -> &str {
    text.map(String::as_str).unwrap_or_default()
}

fn info<'a>(vmi: &'a VirtualMachineInstance, status: &'a InstanceStatus, labels: &Labels<'a>) -> Labels<'a> {
    let annotations = vmi.metadata.annotations.as_ref();
    let annotation = |name: &str| annotations.and_then(|annotations| annotations.get(name)).map(String::as_str);
    // By itself, or of the cluster.
    let of = |kind: &str| {
        let own = annotation(&format!("kubevirt.io/{kind}-name"));
        own.or_else(|| annotation(&format!("kubevirt.io/cluster-{kind}-name"))).unwrap_or_default()
    };
    let guest = status.guest_os_info.as_ref();
    let machine = status.machine.as_ref().and_then(|machine| machine.kind.as_ref());
    labels.and(described(|name| annotation(&format!("vm.kubevirt.io/{name}")))).and([
        ("instance_type", of("instancetype")),
        ("preference", of("preference")),
        ("guest_os_kernel_release", text(guest.and_then(|guest| guest.kernel_release.as_ref()))),
        ("guest_os_machine", text(machine)),
        ("guest_os_arch", text(guest.and_then(|guest| guest.machine.as_ref()))),
        ("guest_os_name", text(guest.and_then(|guest| guest.name.as_ref()))),
        ("guest_os_version_id", text(guest.and_then(|guest| guest.version_id.as_ref()))),
    ])
}

/// Nothing is in the way of its leaving its node: it needn't be moved for that, or can be.
fn is_evictable(vmi: &VirtualMachineInstance, status: &InstanceStatus, configuration: &KubeVirtConfiguration) -> bool {
    let spec = vmi.unread.value();
    let is_to_move = match spec.get("evictionStrategy").and_then(Json::as_str) {
        Some(own) => own == "LiveMigrate",
        None => configuration.eviction_strategy == Some(EvictionStrategy::LiveMigrate),
    };
    let mut conditions = status.conditions.iter();
    let moves = conditions.find(|condition| condition.kind == "LiveMigratable");
    !is_to_move || moves.is_some_and(|moves| moves.status != ConditionStatus::False)
}

fn addresses<'a>(status: &'a InstanceStatus, labels: Labels<'a>) -> impl Iterator<Item = (Labels<'a>, Value)> {
    status.interfaces.iter().filter_map(move |interface| {
        let address = interface.ip_address.as_deref().unwrap_or_default();
        let (vnic, own) = (interface.name.as_deref(), interface.interface_name.as_deref());
        let kind = match (address, vnic, own) {
            ("", None, None) => return None,
            ("", ..) => "SystemInterface",
            _ => "ExternalInterface",
        };
        let labels = labels.and([
            ("vnic_name", vnic.unwrap_or_default()),
            ("interface_name", own.unwrap_or_default()),
            ("address", address),
            ("type", kind),
        ]);
        Some((labels, Value::Whole(1)))
    })
}
