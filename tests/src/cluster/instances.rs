//! Instances by themselves: their pods, phases, conditions and events, and their end.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{ConditionStatus, InstancePhase, VirtualMachineInstance};

use super::{Scope, Test, tests};
use crate::kubernetes::State;

pub(super) const TESTS: &[Test] = tests![Together:
    an_instance_runs_and_ends,
    an_instance_waits_for_its_claim,
    an_instance_tells_why_its_image_cant_be_had,
    an_instance_tells_which_secret_it_lacks,
    a_guest_that_crashes_is_told_of,
    an_instance_whose_pod_is_taken_away_fails,
    an_instance_that_no_pod_can_be_says_so,
];

fn instance(name: &str, volume: &Value) -> Value {
    let mut volume = volume.clone();
    volume["name"] = "disk".into();
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "domain": {"devices": {"disks": [{"name": "disk", "disk": {"bus": "virtio"}}]}, "memory": {"guest": "64Mi"}},
            "volumes": [volume],
        },
    })
}

fn disk() -> Value {
    json!({"containerDisk": {"image": "example.com/disk:1"}})
}

/// The status and the reason of a condition.
fn condition(vmi: &VirtualMachineInstance, kind: &str) -> Option<(ConditionStatus, String)> {
    let mut conditions = vmi.status.iter().flat_map(|status| &status.conditions);
    let found = conditions.find(|condition| condition.kind == kind)?;
    Some((found.status, found.reason.clone().unwrap_or_default()))
}

fn is_ready(vmi: &VirtualMachineInstance) -> bool {
    condition(vmi, "Ready").is_some_and(|(status, _)| status == ConditionStatus::True)
}

/// It doesn't become what it should be, for this reason.
fn lacks(vmi: &VirtualMachineInstance, kind: &str, reason: &str) -> bool {
    condition(vmi, kind) == Some((ConditionStatus::False, reason.to_owned()))
}

async fn an_instance_runs_and_ends(scope: Scope) -> Result<()> {
    use InstancePhase::{Pending, Running, Scheduled, Scheduling};
    scope.create(instance("web", &disk())).await?;
    let vmi = scope.wait("web", "it is ready", is_ready).await?;
    let status = vmi.status.clone().context("a status")?;
    ensure!(status.phase == Some(InstancePhase::Running), "{status:?}");
    let phases: Vec<_> = status.phase_transition_timestamps.iter().filter_map(|transition| transition.phase).collect();
    ensure!(phases == [Pending, Scheduling, Scheduled, Running], "{phases:?}");
    let pod = scope.pod(&vmi).await?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).context("a node")?;
    ensure!(pod.name_any().starts_with("virt-launcher-web-"), "{}", pod.name_any());
    ensure!(pod.labels().get("app").map(String::as_str) == Some("web"), "{:?}", pod.labels());
    ensure!(pod.labels().get("kubevirt.io/nodeName") == Some(&node), "{:?}", pod.labels());
    ensure!(vmi.labels().get("kubevirt.io/nodeName") == Some(&node), "{:?}", vmi.labels());
    ensure!(status.node_name.as_ref() == Some(&node), "{status:?}");
    ensure!(status.active_pods.get(&pod.uid().unwrap_or_default()) == Some(&node), "{status:?}");
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    ensure!(status.interfaces.first().and_then(|interface| interface.ip_address.clone()) == address, "{status:?}");
    for reason in ["SuccessfulCreate", "Created", "Started"] {
        scope.event("web", reason).await?;
    }
    scope.kubelet().hold(scope.namespace());
    scope.kubelet().say(&pod, &State::ended(0)).await?;
    scope.vmi("web", InstancePhase::Succeeded).await?;
    scope.event("web", "Stopped").await?;
    scope.delete::<VirtualMachineInstance>("web").await?;
    scope.wait_gone::<VirtualMachineInstance>("web").await?;
    scope.wait_gone::<Pod>(&pod.name_any()).await
}

async fn an_instance_waits_for_its_claim(scope: Scope) -> Result<()> {
    scope.create(instance("web", &json!({"persistentVolumeClaim": {"claimName": "data"}}))).await?;
    scope.wait("web", "it waits", |vmi| lacks(vmi, "Synchronized", "FailedPvcNotFound")).await?;
    let vmi = scope.vmi("web", InstancePhase::Pending).await?;
    ensure!(lacks(&vmi, "PodScheduled", "Unschedulable"), "{:?}", vmi.status);
    ensure!(scope.event("web", "FailedPvcNotFound").await?.contains("didn't find PVC data"), "the event names it");
    scope
        .create(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }))
        .await?;
    scope.wait("data", "it is there", |_: &PersistentVolumeClaim| true).await?;
    let vmi = scope.vmi("web", InstancePhase::Scheduling).await?;
    ensure!(condition(&vmi, "Synchronized").is_none(), "{:?}", vmi.status);
    let pod = scope.pod(&vmi).await?;
    let claims = pod.annotations().get("vireo.dev/claims").context("what becomes of the claim")?;
    ensure!(claims == r#"{"disk":{"capacity":"1Gi"}}"#, "{claims}");
    Ok(())
}

async fn an_instance_tells_why_its_image_cant_be_had(scope: Scope) -> Result<()> {
    scope.kubelet().hold(scope.namespace());
    scope.create(instance("web", &disk())).await?;
    let vmi = scope.vmi("web", InstancePhase::Scheduling).await?;
    let pod = scope.pod(&vmi).await?.name_any();
    let bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let pod = scope.wait(&pod, "it is bound", bound).await?;
    for reason in ["ErrImagePull", "ImagePullBackOff"] {
        scope.kubelet().say(&pod, &State::waiting(reason, "there is none")).await?;
        scope.wait("web", reason, |vmi| lacks(vmi, "Synchronized", reason)).await?;
    }
    scope.kubelet().say(&pod, &State::Running).await?;
    let vmi = scope.vmi("web", InstancePhase::Running).await?;
    ensure!(condition(&vmi, "Synchronized").is_none(), "{:?}", vmi.status);
    Ok(())
}

/// The kubelet says it of the pod, in an event.
async fn an_instance_tells_which_secret_it_lacks(scope: Scope) -> Result<()> {
    scope.kubelet().hold(scope.namespace());
    scope.create(instance("web", &json!({"secret": {"secretName": "keys"}}))).await?;
    let vmi = scope.vmi("web", InstancePhase::Scheduling).await?;
    let bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let pod = scope.wait(&scope.pod(&vmi).await?.name_any(), "it is bound", bound).await?;
    scope.kubelet().say(&pod, &State::waiting("ContainerCreating", "")).await?;
    let message = "MountVolume.SetUp failed for volume \"disk\" : secret \"keys\" not found";
    let of = json!({
        "apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "namespace": scope.namespace(), "uid": pod.uid(),
    });
    scope
        .create(json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": format!("{}.1", pod.name_any())},
            "involvedObject": of, "reason": "FailedMount", "type": "Warning", "message": message,
            "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1, "source": {"component": "kubelet"},
        }))
        .await?;
    let vmi = scope.wait("web", "it says so", |vmi| lacks(vmi, "Synchronized", "FailedMount")).await?;
    let mut conditions = vmi.status.iter().flat_map(|status| &status.conditions);
    let told = conditions.find(|condition| condition.kind == "Synchronized");
    ensure!(told.and_then(|told| told.message.as_deref()) == Some(message), "{told:?}");
    scope.kubelet().say(&pod, &State::Running).await?;
    let vmi = scope.vmi("web", InstancePhase::Running).await?;
    ensure!(condition(&vmi, "Synchronized").is_none(), "{:?}", vmi.status);
    Ok(())
}

async fn a_guest_that_crashes_is_told_of(scope: Scope) -> Result<()> {
    scope.create(instance("web", &disk())).await?;
    let vmi = scope.vmi("web", InstancePhase::Running).await?;
    let pod = scope.pod(&vmi).await?;
    scope.kubelet().hold(scope.namespace());
    scope.kubelet().say(&pod, &State::ended(137)).await?;
    let vmi = scope.vmi("web", InstancePhase::Failed).await?;
    ensure!(vmi.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Error"), "{:?}", vmi.status);
    ensure!(lacks(&vmi, "Ready", "PodTerminating"), "{:?}", vmi.status);
    scope.event("web", "Stopped").await.map(drop)
}

async fn an_instance_whose_pod_is_taken_away_fails(scope: Scope) -> Result<()> {
    scope.create(instance("web", &disk())).await?;
    let vmi = scope.vmi("web", InstancePhase::Running).await?;
    let pod = scope.pod(&vmi).await?.name_any();
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    scope.api::<Pod>().delete(&pod, &at_once).await?;
    scope.vmi("web", InstancePhase::Failed).await?;
    let pods = scope.api::<Pod>().list(&ListParams::default()).await?;
    ensure!(pods.items.is_empty(), "an instance has one pod in its life: {:?}", pods.items);
    Ok(())
}

async fn an_instance_that_no_pod_can_be_says_so(scope: Scope) -> Result<()> {
    let mut several = instance("web", &disk());
    several["spec"]["volumes"] = json!([
        {"name": "disk", "containerDisk": {"image": "example.com/disk:1"}},
        {"name": "other", "containerDisk": {"image": "example.com/other:1"}},
    ]);
    scope.create(several).await?;
    scope.wait("web", "it can't be", |vmi| lacks(vmi, "Synchronized", "FailedCreate")).await?;
    let said = scope.event("web", "FailedCreate").await?;
    ensure!(said.contains("spec.volumes[1].containerDisk.image"), "{said}");
    Ok(())
}
