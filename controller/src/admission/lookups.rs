//! What can't be judged by an object alone: it takes a look at others.

use kube::api::ListParams;
use kube::core::admission::Operation;
use kube::{Api, Client};
use vireo_runtimeclass::cluster::{
    Kind, KubeVirt, KubeVirtPhase, Object, UninstallStrategy, VirtualMachine, VirtualMachineInstance,
    VirtualMachineInstanceMigration, VirtualMachineInstanceReplicaSet,
};

use super::review::Request;
use super::rules;
use super::verdict::Verdict;

/// No instance has so many moves that aren't over.
const MANY_MOVES: u32 = 500;

/// What others say against a request that is right by itself.
///
/// # Errors
/// Where they can't be read.
pub(super) async fn look(request: &Request, client: &Client) -> Result<Option<Verdict>, kube::Error> {
    match (request.resource.resource.as_str(), &request.operation) {
        ("virtualmachineinstancemigrations", Operation::Create) => can_move(request, client).await,
        ("kubevirts", Operation::Create) => is_first(client).await,
        ("kubevirts", Operation::Delete) => may_go(request, client).await,
        _ => Ok(None),
    }
}

async fn can_move(request: &Request, client: &Client) -> Result<Option<Verdict>, kube::Error> {
    let document = request.document().unwrap_or_default();
    let name = document.pointer("/spec/vmiName").and_then(|name| name.as_str()).unwrap_or_default();
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let instances: Api<VirtualMachineInstance> = Api::namespaced(client.clone(), namespace);
    let moves: Api<VirtualMachineInstanceMigration> = Api::namespaced(client.clone(), namespace);
    let instance = instances.get_opt(name).await?;
    let others = moves.list(&ListParams::default().limit(MANY_MOVES)).await?;
    let why = rules::cant_move(name, instance.as_ref(), &others.items);
    Ok(why.map(|why| Verdict::refuse(400, "BadRequest", why)))
}

/// A cluster has one.
async fn is_first(client: &Client) -> Result<Option<Verdict>, kube::Error> {
    let exists = any(Api::<KubeVirt>::all(client.clone())).await?;
    Ok(exists.then(|| Verdict::refuse(400, "BadRequest", "Kubevirt is already created: a cluster has one")))
}

/// Whether Vireo may leave the cluster.
async fn may_go(request: &Request, client: &Client) -> Result<Option<Verdict>, kube::Error> {
    let going: Option<KubeVirt> = request.old_document().and_then(|old| serde_json::from_value(old).ok());
    let Some(going) = going else { return Ok(None) };
    let is_deployed = going.status.as_ref().and_then(|status| status.phase) == Some(KubeVirtPhase::Deployed);
    // By itself, since the rest of a spec may be from another version.
    let strategy =
        going.unread.value().get("uninstallStrategy").cloned().and_then(|name| serde_json::from_value(name).ok());
    let blocks = strategy == Some(UninstallStrategy::BlockUninstallIfWorkloadsExist);
    if !is_deployed || !blocks {
        return Ok(None);
    }
    let there = if any(Api::<VirtualMachineInstance>::all(client.clone())).await? {
        "Virtual Machine Instances"
    } else if any(Api::<VirtualMachine>::all(client.clone())).await? {
        "Virtual Machines"
    } else if any(Api::<VirtualMachineInstanceReplicaSet>::all(client.clone())).await? {
        "Virtual Machine Instance Replica Sets"
    } else {
        return Ok(None);
    };
    let message = format!(
        "Rejecting the uninstall request, since there are still {there} present. Either delete all KubeVirt related workloads or change the uninstall strategy before uninstalling KubeVirt."
    );
    Ok(Some(Verdict::refuse(400, "BadRequest", message)))
}

async fn any<K: Kind>(api: Api<Object<K>>) -> Result<bool, kube::Error> {
    Ok(!api.list(&ListParams::default().limit(1)).await?.items.is_empty())
}
