//! What becomes of an eviction: a pod ends as any other, or its machine is to leave the node first and the pod stays until
//! it has.
//!
//! Who drains a node repeats a request that is answered with 429. In KubeVirt's words, which the descheduler reads.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{EvictionStrategy, InstanceStatus, KubeVirtConfiguration, VirtualMachineInstance};

use super::review::Request;
use super::rules;
use super::verdict::Verdict;
use crate::context::NAME;

/// Label and value of a machine's pod, and the annotation that names its instance.
const APP: (&str, &str) = ("kubevirt.io", "virt-launcher");
const DOMAIN: &str = "kubevirt.io/domain";
/// What the descheduler adds to its requests, and what its evacuations are told by then.
const REQUESTED_BY: (&str, &str) = ("requested-by", "sigs.k8s.io/descheduler");
const EVICTION_SOURCE: (&str, &str) = ("kubevirt.io/eviction-source", "descheduler");

/// What is to be done about an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It goes on.
    Evict,
    /// Not now, for this reason.
    Wait(String),
    /// Not now: the instance has to leave its node, and is told so.
    Evacuate(String),
}

/// What is to be done about an eviction of an instance's pod from `node`.
pub(super) fn answer(instance: &VirtualMachineInstance, node: &str, configuration: &KubeVirtConfiguration) -> Answer {
    let unknown = InstanceStatus::default();
    let status = instance.status.as_ref().unwrap_or(&unknown);
    // One that can't be read any more has no say.
    let own = instance.spec().ok().and_then(|spec| spec.pod.eviction_strategy);
    let leaves = match own.or(configuration.eviction_strategy) {
        None | Some(EvictionStrategy::None) => false,
        Some(EvictionStrategy::External) => true,
        Some(EvictionStrategy::LiveMigrateIfPossible) => rules::not_migratable(status).is_none(),
        Some(EvictionStrategy::LiveMigrate) => {
            if let Some(why) = rules::not_migratable(status) {
                let name = instance.name_any();
                let what = "is configured with an eviction strategy but is not live-migratable";
                return Answer::Wait(format!("VMI {name} {what}: {why}"));
            }
            true
        }
    };
    if !leaves {
        return Answer::Evict;
    }
    let (namespace, name) = (instance.namespace().unwrap_or_default(), instance.name_any());
    let words = format!("Eviction triggered evacuation of VMI \"{namespace}/{name}\"");
    if status.evacuation_node_name.as_deref().is_some_and(|node| !node.is_empty()) {
        return Answer::Wait(format!("Evacuation in progress: {words}"));
    }
    if status.node_name.as_deref() != Some(node) {
        return Answer::Wait("Eviction request for target Pod".to_owned());
    }
    Answer::Evacuate(words)
}

/// Answers an eviction, having told the instance if it has to leave.
pub(super) async fn evict(request: &Request, client: &Client, configuration: &KubeVirtConfiguration) -> Verdict {
    let admit = || Verdict::Admit(Vec::new());
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    // What isn't there, or can't be read, is the eviction's own matter.
    let Ok(Some(pod)) = pods.get_opt(&request.name).await else { return admit() };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_over = matches!(phase, Some("Succeeded" | "Failed"));
    let is_machine = pod.labels().get(APP.0).is_some_and(|app| app == APP.1);
    let Some(name) = pod.annotations().get(DOMAIN).filter(|_| is_machine && !is_over) else { return admit() };
    let instances: Api<VirtualMachineInstance> = Api::namespaced(client.clone(), namespace);
    let instance = match instances.get_opt(name).await {
        Ok(Some(instance)) => instance,
        Ok(None) => return wait(format_args!("there is no VirtualMachineInstance {name:?}")),
        Err(error) => return wait(format_args!("can't read VirtualMachineInstance {name:?}: {error}")),
    };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    match answer(&instance, node, configuration) {
        Answer::Evict => admit(),
        Answer::Wait(why) => wait(why),
        Answer::Evacuate(words) => match tell(&instances, name, node, request).await {
            Ok(()) => wait(words),
            Err(error) => wait(format_args!("can't tell VirtualMachineInstance {name:?} to leave its node: {error}")),
        },
    }
}

/// Tells an instance to leave its node; nothing is written where nothing is meant to be.
async fn tell(
    instances: &Api<VirtualMachineInstance>,
    name: &str,
    node: &str,
    request: &Request,
) -> Result<(), kube::Error> {
    let document = request.document().unwrap_or_default();
    let dry = document.pointer("/deleteOptions/dryRun").and_then(Value::as_array).is_some_and(|dry| !dry.is_empty());
    let params = PatchParams { dry_run: request.dry_run || dry, ..PatchParams::apply(NAME) };
    let told = json!({"status": {"evacuationNodeName": node}});
    instances.patch_status(name, &params, &Patch::Merge(told)).await?;
    let annotations = document.pointer("/metadata/annotations");
    if annotations.and_then(|annotations| annotations.get(REQUESTED_BY.0)).is_some_and(|by| by == REQUESTED_BY.1) {
        let told = json!({"metadata": {"annotations": {EVICTION_SOURCE.0: EVICTION_SOURCE.1}}});
        instances.patch(name, &params, &Patch::Merge(told)).await?;
    }
    Ok(())
}

/// Whoever drains asks again.
fn wait(message: impl std::fmt::Display) -> Verdict {
    Verdict::refuse(429, "TooManyRequests", message)
}
