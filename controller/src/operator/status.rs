//! What the KubeVirt object says of itself: phases, conditions and reasons are KubeVirt's.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use vireo_runtimeclass::cluster::{Condition, ConditionStatus, Generation, KubeVirtPhase, KubeVirtStatus};

use super::plan::{Applied, Key, Observed};
use super::release::Release;
use super::{AGENT, API_SERVICES, CONTROLLER};

/// What came of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All is applied, and this is not yet ready; nothing of it where all is.
    Applied(Vec<String>),
    /// Something couldn't be applied.
    Failed(String),
    /// It goes, and waits for this.
    Deleting(String),
    /// It couldn't be removed.
    DeletionFailed(String),
    /// Nothing is left.
    Deleted,
    /// Another object is the one that counts.
    Second,
}

/// What isn't ready yet of the controller, the agents and what the API server asks.
pub(super) fn waiting_for(observed: &Observed, namespace: &str) -> Vec<String> {
    let mut waiting = Vec::new();
    let at = |kind: &str, namespace: &str, name: &str| {
        observed.get(&Key { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() })
    };
    for (kind, name, ready, updated) in [
        ("Deployment", CONTROLLER, "availableReplicas", "updatedReplicas"),
        ("DaemonSet", AGENT, "numberReady", "updatedNumberScheduled"),
    ] {
        let Some(seen) = at(kind, namespace, name) else {
            waiting.push(format!("{kind} {name}"));
            continue;
        };
        let count = |field: &str| seen.status[field].as_i64().unwrap_or(0);
        let wanted = seen.replicas.unwrap_or_else(|| count("desiredNumberScheduled"));
        let (ready, is_current) = (count(ready), seen.status["observedGeneration"].as_i64() == seen.generation);
        // A Deployment's old pods run until they are told to end.
        let has_old = count("replicas") > count(updated);
        if !is_current || ready < wanted || count(updated) < wanted || has_old {
            waiting.push(format!("{kind} {name} ({ready} of {wanted} ready)"));
        }
    }
    for name in API_SERVICES {
        let condition = at("APIService", "", name).and_then(|seen| {
            seen.status["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Available")
        });
        if condition.is_none_or(|condition| condition["status"] != "True") {
            let message = condition.and_then(|condition| condition["message"].as_str()).unwrap_or("not asked yet");
            waiting.push(format!("APIService {name} ({message})"));
        }
    }
    waiting
}

/// Whether the controller can be asked: an old one too, while a new one takes its place.
pub(super) fn answers(observed: &Observed, namespace: &str) -> bool {
    let key = Key { kind: "Deployment".to_owned(), namespace: namespace.to_owned(), name: CONTROLLER.to_owned() };
    let is_up = |status: &serde_json::Value| status["availableReplicas"].as_i64().unwrap_or(0) > 0;
    observed.get(&key).is_some_and(|seen| is_up(&seen.status))
        || observed.keys().any(|key| key.kind == "APIService" || key.kind == "ValidatingWebhookConfiguration")
}

/// The status after `outcome`, from the one `before`; it is the same where nothing has changed.
pub(super) fn status(
    before: &KubeVirtStatus,
    release: &Release,
    generation: Option<i64>,
    applied: &Applied,
    outcome: &Outcome,
    now: Timestamp,
) -> KubeVirtStatus {
    let mut status = before.clone();
    let is_updating = status.observed_deployment_id.as_ref().is_some_and(|observed| *observed != release.id);
    if *outcome == Outcome::Second {
        let message = "There is an active KubeVirt deployment".to_owned();
        set(&mut status, now, &[("Synchronized", ConditionStatus::False)], "ExistingDeployment", &message);
        return status;
    }
    status.operator_version = Some(env!("CARGO_PKG_VERSION").to_owned());
    status.default_architecture = Some("amd64".to_owned());
    let (yes, no) = (ConditionStatus::True, ConditionStatus::False);
    match outcome {
        Outcome::Applied(waiting) => {
            status.target_kube_virt_version = Some(release.version.clone());
            status.target_kube_virt_registry = Some(release.registry.clone());
            status.target_deployment_id = Some(release.id.clone());
            status.target_deployment_config = Some(release.config.clone());
            status.generations = generations(applied);
            remove(&mut status, "Synchronized");
            set(&mut status, now, &[("Created", yes)], "AllResourcesCreated", "All resources were created.");
            if waiting.is_empty() {
                let ready = [("Available", yes), ("Progressing", no), ("Degraded", no)];
                set(&mut status, now, &ready, "AllComponentsReady", "All components are ready.");
                status.phase = Some(KubeVirtPhase::Deployed);
                status.observed_kube_virt_version.clone_from(&status.target_kube_virt_version);
                status.observed_kube_virt_registry.clone_from(&status.target_kube_virt_registry);
                status.observed_deployment_id.clone_from(&status.target_deployment_id);
                status.observed_deployment_config.clone_from(&status.target_deployment_config);
                status.observed_generation = generation;
            } else if is_updating {
                let message = format!(
                    "Transitioning from previous version {} with registry {} to target version {} using registry {}; \
                     waiting for {}",
                    before.observed_kube_virt_version.as_deref().unwrap_or_default(),
                    before.observed_kube_virt_registry.as_deref().unwrap_or_default(),
                    release.version,
                    release.registry,
                    waiting.join(", ")
                );
                let updating = [("Available", yes), ("Progressing", yes), ("Degraded", yes)];
                set(&mut status, now, &updating, "UpdateInProgress", &message);
            } else {
                let (version, registry) = (&release.version, &release.registry);
                let message =
                    format!("Deploying version {version} with registry {registry}; waiting for {}", waiting.join(", "));
                let deploying = [("Available", no), ("Progressing", yes), ("Degraded", no)];
                set(&mut status, now, &deploying, "DeploymentInProgress", &message);
                status.phase = status.phase.or(Some(KubeVirtPhase::Deploying));
            }
        }
        Outcome::Failed(error) => {
            let message = format!("An error occurred during deployment: {error}");
            let failed = [("Synchronized", no), ("Available", no), ("Progressing", no), ("Degraded", yes)];
            set(&mut status, now, &failed, "DeploymentFailed", &message);
            status.phase = status.phase.or(Some(KubeVirtPhase::Deploying));
        }
        Outcome::Deleting(waiting) => {
            remove(&mut status, "Created");
            remove(&mut status, "Synchronized");
            let message = format!("Deletion was triggered; {waiting}");
            let deleting = [("Available", no), ("Progressing", no), ("Degraded", yes)];
            set(&mut status, now, &deleting, "DeletionInProgress", &message);
            status.phase = Some(KubeVirtPhase::Deleting);
        }
        Outcome::DeletionFailed(error) => {
            let message = format!("An error occurred during deletion: {error}");
            set(&mut status, now, &[("Synchronized", no)], "DeletionFailed", &message);
            status.phase = Some(KubeVirtPhase::Deleting);
        }
        Outcome::Deleted => status.phase = Some(KubeVirtPhase::Deleted),
        Outcome::Second => {}
    }
    status
}

/// The objects whose kinds count generations, as they were applied.
fn generations(applied: &Applied) -> Vec<Generation> {
    let of = |(key, (hash, content)): (&Key, &(String, String))| {
        let (group, resource) = super::observe::resource(&key.kind)?;
        Some(Generation {
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: Some(key.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: key.name.clone(),
            last_generation: content.strip_prefix("generation ")?.parse().ok()?,
            hash: Some(hash.clone()),
        })
    };
    applied.iter().filter_map(of).collect()
}

fn remove(status: &mut KubeVirtStatus, kind: &str) {
    status.conditions.retain(|condition| condition.kind != kind);
}

fn set(status: &mut KubeVirtStatus, now: Timestamp, kinds: &[(&str, ConditionStatus)], reason: &str, message: &str) {
    for &(kind, value) in kinds {
        let before = status.conditions.iter_mut().find(|condition| condition.kind == kind);
        let since = before
            .as_ref()
            .filter(|before| before.status == value)
            .and_then(|before| before.last_transition_time.clone());
        let is_same = before.as_ref().is_some_and(|before| {
            before.status == value
                && before.reason.as_deref() == Some(reason)
                && before.message.as_deref() == Some(message)
        });
        if is_same {
            continue;
        }
        let condition = Condition {
            kind: kind.to_owned(),
            status: value,
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(now)),
            last_transition_time: since.or(Some(Time(now))),
        };
        match before {
            Some(before) => *before = condition,
            None => status.conditions.push(condition),
        }
    }
}
