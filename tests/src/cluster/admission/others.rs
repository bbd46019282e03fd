//! What takes a look at other objects, or at who writes.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Error,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::Status,
};
use serde_json::{Value, json};
use tungstenite::http::Request;
use vireo_runtimeclass::cluster::{KubeVirt, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration};

const NODE: &str = "node-that-is-drained";

/// All of it.
pub(super) async fn all(admin: &Client, tenant: &Client, namespace: &str) -> Result<()> {
    statuses(admin, tenant, namespace).await.context("who writes statuses")?;
    moves(admin, tenant, namespace).await.context("moves")?;
    evictions(admin, tenant, namespace).await.context("evictions")?;
    kubevirt(admin, tenant, namespace).await.context("the KubeVirt object")
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    Ok(serde_json::from_value(value)?)
}

fn refusal<T>(written: Result<T, Error>) -> Result<Status> {
    match written {
        Err(Error::Api(status)) => Ok(*status),
        Err(error) => Err(error.into()),
        Ok(_) => bail!("it is let in"),
    }
}

fn instance(name: &str, strategy: &str) -> Result<VirtualMachineInstance> {
    object(json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": name},
        "spec": {"evictionStrategy": strategy, "domain": {"memory": {"guest": "1Gi"}, "devices": {}}},
    }))
}

async fn remove(instances: &Api<VirtualMachineInstance>, name: &str) -> Result<()> {
    instances.delete(name, &DeleteParams::default()).await?;
    let released = json!({"metadata": {"finalizers": null}});
    instances.patch(name, &PatchParams::default(), &Patch::Merge(released)).await?;
    Ok(())
}

/// A status is Vireo's own, and so is an instance's spec.
async fn statuses(admin: &Client, tenant: &Client, namespace: &str) -> Result<()> {
    let own: Api<VirtualMachineInstance> = Api::namespaced(admin.clone(), namespace);
    let others: Api<VirtualMachineInstance> = Api::namespaced(tenant.clone(), namespace);
    others.create(&PostParams::default(), &instance("guest", "None")?).await?;
    let status = Patch::Merge(json!({"status": {"phase": "Running"}}));
    let refused = refusal(others.patch_status("guest", &PatchParams::default(), &status).await)?;
    ensure!(refused.code == 403 && refused.message.contains("only by vireo's own"), "{}", refused.message);
    own.patch_status("guest", &PatchParams::default(), &status).await?;
    let spec = Patch::Merge(json!({"spec": {"terminationGracePeriodSeconds": 1}}));
    let refused = refusal(others.patch("guest", &PatchParams::default(), &spec).await)?;
    ensure!(refused.message.contains("update of VMI object is restricted"), "{}", refused.message);
    own.patch("guest", &PatchParams::default(), &spec).await?;
    // What is served in the older version is judged as well.
    let older =
        Request::post(format!("/apis/kubevirt.io/v1alpha3/namespaces/{namespace}/virtualmachineinstances?dryRun=All"))
            .header("content-type", "application/json")
            .body(
                json!({
                    "apiVersion": "kubevirt.io/v1alpha3",
                    "kind": "VirtualMachineInstance",
                    "metadata": {"name": "older"},
                    "spec": {"domain": {"memory": {"guest": "1Gi"}, "devices": {"sound": {"name": "s"}}}},
                })
                .to_string()
                .into_bytes(),
            )?;
    let refused = refusal(tenant.request_text(older).await)?;
    ensure!(refused.message.contains("spec.domain.devices.sound: not supported by vireo"), "{}", refused.message);
    remove(&own, "guest").await
}

async fn moves(admin: &Client, tenant: &Client, namespace: &str) -> Result<()> {
    let own: Api<VirtualMachineInstance> = Api::namespaced(admin.clone(), namespace);
    let moves: Api<VirtualMachineInstanceMigration> = Api::namespaced(tenant.clone(), namespace);
    let wanted: VirtualMachineInstanceMigration = object(json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {"generateName": "move-"},
        "spec": {"vmiName": "guest"},
    }))?;
    let asks = async |what: &str| {
        let refused = refusal(moves.create(&PostParams::default(), &wanted).await)?;
        ensure!(refused.message.contains(what), "{what}: {}", refused.message);
        anyhow::Ok(())
    };
    asks("there is no VirtualMachineInstance \"guest\"").await?;
    own.create(&PostParams::default(), &instance("guest", "None")?).await?;
    asks("it has no LiveMigratable condition yet").await?;
    let status = async |value: Value| {
        own.patch_status("guest", &PatchParams::default(), &Patch::Merge(json!({"status": value}))).await
    };
    status(json!({"conditions": [{"type": "LiveMigratable", "status": "False", "reason": "DisksNotLiveMigratable"}]}))
        .await?;
    asks("Cannot migrate VMI, Reason: DisksNotLiveMigratable").await?;
    status(json!({"conditions": [{"type": "LiveMigratable", "status": "True"}]})).await?;
    let first = moves.create(&PostParams::default(), &wanted).await?;
    asks("in-flight migration detected").await?;
    status(json!({"phase": "Failed"})).await?;
    asks("Cannot migrate VMI in finalized state.").await?;
    moves.delete(first.metadata.name.as_deref().context("it has a name")?, &DeleteParams::default()).await?;
    remove(&own, "guest").await
}

async fn evictions(admin: &Client, tenant: &Client, namespace: &str) -> Result<()> {
    let own: Api<VirtualMachineInstance> = Api::namespaced(admin.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(admin.clone(), namespace);
    // Pods of a node that there isn't are soon collected.
    let nodes: Api<Node> = Api::all(admin.clone());
    nodes.create(&PostParams::default(), &object(json!({"metadata": {"name": NODE}}))?).await?;
    for (name, strategy) in [("stays", "None"), ("leaves", "LiveMigrate")] {
        own.create(&PostParams::default(), &instance(name, strategy)?).await?;
        let status =
            json!({"status": {"nodeName": NODE, "conditions": [{"type": "LiveMigratable", "status": "True"}]}});
        own.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
        let pod: Pod = object(json!({
            "metadata": {
                "name": format!("virt-launcher-{name}"),
                "labels": {"kubevirt.io": "virt-launcher"},
                "annotations": {"kubevirt.io/domain": name},
            },
            "spec": {"nodeName": NODE, "containers": [{"name": "compute", "image": "a"}]},
        }))?;
        pods.create(&PostParams::default(), &pod).await?;
    }
    let evict = async |name: &str, dry: bool| {
        let pod = format!("virt-launcher-{name}");
        let body = json!({
            // What Kubernetes 1.20 knows, and every later one until 1.25.
            "apiVersion": "policy/v1beta1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
            "deleteOptions": {"gracePeriodSeconds": 0, "dryRun": if dry { json!(["All"]) } else { json!([]) }},
        });
        let request = Request::post(format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction"))
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())?;
        anyhow::Ok(tenant.request_text(request).await)
    };
    let told = async || {
        let status = own.get("leaves").await?.status.context("it has a status")?;
        anyhow::Ok(status.evacuation_node_name)
    };
    let words = format!("Eviction triggered evacuation of VMI \"{namespace}/leaves\"");
    for (dry, expected, node) in [
        (true, words.clone(), None),
        (false, words.clone(), Some(NODE)),
        (false, format!("Evacuation in progress: {words}"), Some(NODE)),
    ] {
        let refused = refusal(evict("leaves", dry).await?)?;
        ensure!(refused.code == 429 && refused.message.ends_with(&expected), "{} {}", refused.code, refused.message);
        ensure!(told().await?.as_deref() == node, "dry: {dry}: told to leave {:?}", told().await?);
    }
    evict("stays", false).await??;
    for name in ["stays", "leaves"] {
        pods.delete(&format!("virt-launcher-{name}"), &DeleteParams::default().grace_period(0)).await.ok();
        remove(&own, name).await?;
    }
    nodes.delete(NODE, &DeleteParams::default()).await?;
    Ok(())
}

/// A cluster has one KubeVirt object, which doesn't go while there are machines where it says so.
async fn kubevirt(admin: &Client, tenant: &Client, namespace: &str) -> Result<()> {
    let own: Api<KubeVirt> = Api::namespaced(admin.clone(), namespace);
    let others: Api<KubeVirt> = Api::namespaced(tenant.clone(), namespace);
    let machines: Api<VirtualMachine> = Api::namespaced(admin.clone(), namespace);
    let object = |name: &str| {
        object::<KubeVirt>(json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "KubeVirt",
            "metadata": {"name": name},
            "spec": {"uninstallStrategy": "BlockUninstallIfWorkloadsExist"},
        }))
    };
    others.create(&PostParams::default(), &object("kubevirt")?).await?;
    let refused = refusal(others.create(&PostParams::default(), &object("second")?).await)?;
    ensure!(refused.message.contains("Kubevirt is already created"), "{}", refused.message);
    let deployed = Patch::Merge(json!({"status": {"phase": "Deployed"}}));
    own.patch_status("kubevirt", &PatchParams::default(), &deployed).await?;
    let machine: VirtualMachine = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "guest"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"memory": {"guest": "1Gi"}, "devices": {}}}}},
    }))?;
    machines.create(&PostParams::default(), &machine).await?;
    let refused = refusal(others.delete("kubevirt", &DeleteParams::default()).await)?;
    ensure!(refused.message.contains("there are still Virtual Machines present"), "{}", refused.message);
    machines.delete("guest", &DeleteParams::default()).await?;
    let released = json!({"metadata": {"finalizers": null}});
    machines.patch("guest", &PatchParams::default(), &Patch::Merge(released)).await.ok();
    others.delete("kubevirt", &DeleteParams::default()).await?;
    Ok(())
}
