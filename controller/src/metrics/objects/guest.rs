//! A VirtualMachine.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use prometheus_client::encoding::DescriptorEncoder;
use serde_json::Value as Json;
use vireo_runtimeclass::Quantity;
use vireo_runtimeclass::cluster::{PrintableStatus, VirtualMachine, VirtualMachineInstance};

use super::super::catalogue::{self, Metric};
use super::super::sample::{Labels, Value, write as write_samples};
use super::{Name, described, interfaces, name, size, word};

/// The groups of states, and since when a guest is in one of each.
const GROUPS: [(&str, &Metric); 5] = [
    ("starting", &catalogue::VM_STARTING),
    ("running", &catalogue::VM_RUNNING),
    ("migrating", &catalogue::VM_MIGRATING),
    ("non_running", &catalogue::VM_NON_RUNNING),
    ("error", &catalogue::VM_ERROR),
];
/// Conditions that tell since when a guest is in its state.
const TELLING: [&str; 3] = ["Ready", "Failure", "Paused"];

pub(super) fn write(
    encoder: &mut DescriptorEncoder<'_>,
    guests: &[Arc<VirtualMachine>],
    instances: &HashMap<Name<'_>, &VirtualMachineInstance>,
    claims: &HashMap<Name<'_>, &PersistentVolumeClaim>,
) -> fmt::Result {
    let labels = |vm| named(name(vm));
    let each = || guests.iter().map(|vm| (vm.as_ref(), labels(&vm.metadata)));
    let states: Vec<_> = each().map(|(vm, _)| state(vm)).collect();
    let described = each().zip(&states).map(|((vm, labels), state)| {
        let spec = vm.unread.value();
        (info(&spec, &labels, state).owned(), Value::Whole(1))
    });
    write_samples(encoder, &catalogue::VM_INFO, described)?;
    let created = each().filter_map(|(vm, labels)| {
        let created = vm.metadata.creation_timestamp.as_ref()?;
        Some((labels, Value::Whole(created.0.as_second())))
    });
    write_samples(encoder, &catalogue::VM_CREATED, created)?;
    for (group, metric) in GROUPS {
        let since = each().zip(&states).map(|((_, labels), state)| {
            // A state that nobody knows is an error's, as it is KubeVirt's.
            let is_in = state.group == group || (state.group == UNKNOWN && group == "error");
            (labels, Value::Whole(if is_in { state.since } else { 0 }))
        });
        write_samples(encoder, metric, since)?;
    }
    let sizes: Vec<_> = each().filter_map(|(vm, labels)| Some((size::of(vm, instances)?, labels))).collect();
    let requests = sizes.iter().flat_map(|(size, labels)| size.requests().map(|sample| sample.of(labels)));
    write_samples(encoder, &catalogue::VM_REQUESTS, requests)?;
    let limits = sizes.iter().flat_map(|(size, labels)| size.limits().map(|sample| sample.of(labels)));
    write_samples(encoder, &catalogue::VM_LIMITS, limits)?;
    let disks = each().flat_map(|(vm, labels)| {
        let spec = vm.unread.value();
        let samples = disks(&spec, name(&vm.metadata).0, &labels, claims);
        samples.map(|(labels, value)| (labels.owned(), value)).collect::<Vec<_>>()
    });
    write_samples(encoder, &catalogue::VM_DISK, disks)?;
    let wired = each().flat_map(|(vm, labels)| {
        let spec = vm.unread.value();
        let samples = interfaces::of(spec.pointer("/template/spec"), labels);
        samples.map(|(labels, value)| (labels.owned(), value)).collect::<Vec<_>>()
    });
    write_samples(encoder, &catalogue::VM_VNIC, wired)
}

/// An object's first two labels.
pub(super) fn named((namespace, name): Name<'_>) -> Labels<'_> {
    Labels::new([("name", name), ("namespace", namespace)])
}

/// What a guest does.
struct State {
    /// KubeVirt's word, in lower case.
    word: String,
    group: &'static str,
    /// Since when, seconds of Unix time; 0 where nothing tells.
    since: i64,
}

/// The group of what has no state yet.
const UNKNOWN: &str = "<unknown>";

fn state(vm: &VirtualMachine) -> State {
    use PrintableStatus as S;
    let status = vm.status.as_ref().and_then(|status| status.printable_status);
    let group = match status {
        Some(S::Provisioning | S::Starting | S::WaitingForVolumeBinding) => "starting",
        Some(S::Running) => "running",
        Some(S::Migrating) => "migrating",
        Some(S::Stopped | S::Paused | S::Stopping | S::Terminating) => "non_running",
        Some(
            S::CrashLoopBackOff
            | S::Unknown
            | S::ErrorUnschedulable
            | S::ErrImagePull
            | S::ImagePullBackOff
            | S::ErrorPvcNotFound
            | S::DataVolumeError,
        ) => "error",
        None => UNKNOWN,
    };
    let conditions = vm.status.iter().flat_map(|status| &status.conditions);
    let told = conditions.filter(|condition| TELLING.contains(&condition.kind.as_str()));
    let times = told.filter_map(|condition| condition.last_transition_time.as_ref());
    let since = times.map(|time| time.0.as_second()).max().unwrap_or(0);
    State { word: status.map(word).unwrap_or_default().to_ascii_lowercase(), group, since }
}

fn info<'a>(spec: &'a Json, labels: &Labels<'a>, state: &'a State) -> Labels<'a> {
    let text = |path: &str| spec.pointer(path).and_then(Json::as_str).unwrap_or_default();
    let annotation = |name: &str| {
        spec.pointer(&format!("/template/metadata/annotations/vm.kubevirt.io~1{name}")).and_then(Json::as_str)
    };
    labels.and(described(annotation)).and([
        ("machine_type", text("/template/spec/domain/machine/type")),
        ("instance_type", text("/instancetype/name")),
        ("preference", text("/preference/name")),
        ("status", &state.word),
        ("status_group", state.group),
    ])
}

/// What a guest's claims are to hold.
fn disks<'a>(
    spec: &'a Json,
    namespace: &'a str,
    labels: &'a Labels<'a>,
    claims: &'a HashMap<Name<'_>, &PersistentVolumeClaim>,
) -> impl Iterator<Item = (Labels<'a>, Value)> {
    let volumes = spec.pointer("/template/spec/volumes").and_then(Json::as_array).into_iter().flatten();
    volumes.filter_map(move |volume| {
        let text = |path: &str| volume.pointer(path).and_then(Json::as_str);
        let made = text("/dataVolume/name");
        let claim = text("/persistentVolumeClaim/claimName").or(made)?;
        let wanted = claims.get(&(namespace, claim))?.spec.as_ref()?;
        let requested = || wanted.resources.as_ref()?.requests.as_ref()?.get("storage")?.0.parse().ok();
        let size = made.and_then(|made| of_template(spec, made)).or_else(requested)?;
        let volume_mode = wanted.volume_mode.as_deref().unwrap_or_default();
        let labels =
            labels.and([("persistentvolumeclaim", claim), ("volume_mode", volume_mode), ("device", text("/name")?)]);
        Some((labels, Value::from(size.value())))
    })
}

/// What the guest's own template of a DataVolume asks for.
fn of_template(spec: &Json, wanted: &str) -> Option<Quantity> {
    let templates = spec.pointer("/dataVolumeTemplates")?.as_array()?;
    let is = |template: &&Json| template.pointer("/metadata/name").and_then(Json::as_str) == Some(wanted);
    let found = templates.iter().find(is)?;
    let size = |of: &str| found.pointer(&format!("/spec/{of}/resources/requests/storage"))?.as_str()?.parse().ok();
    size("pvc").or_else(|| size("storage"))
}
