//! An evacuation that is cancelled: the instance no longer has to leave its node.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use vireo_runtimeclass::cluster::VirtualMachineInstance;

use super::objects::{is_conflict, name_of};
use super::refusal::INSTANCE;
use super::{Refusal, Server, options};

type Name = Path<(String, String)>;

pub(super) async fn cancel(
    State(server): State<Server>,
    Path((namespace, name)): Name,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let instance = server.instance(&namespace, &name).await?;
    server.cancel_evacuation(&instance, &body).await
}

pub(super) async fn cancel_of_machine(
    State(server): State<Server>,
    Path((namespace, name)): Name,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let instance = server.instance_of(&namespace, &name).await?;
    server.cancel_evacuation(&instance, &body).await
}

impl Server {
    async fn cancel_evacuation(&self, instance: &VirtualMachineInstance, body: &[u8]) -> Result<StatusCode, Refusal> {
        let options: options::CancelEvacuation = options::read(body)?;
        let node = instance.status.as_ref().and_then(|status| status.evacuation_node_name.as_deref());
        let Some(node) = node.filter(|node| !node.is_empty()) else { return Ok(StatusCode::OK) };
        if node != options.evacuation_node_name {
            let why = format!("it leaves node {node:?}, not {:?}", options.evacuation_node_name);
            return Err(Refusal::conflict(INSTANCE, name_of(instance), &why));
        }
        let params = PatchParams { dry_run: options.dry_run.is_dry()?, ..PatchParams::default() };
        let version = &instance.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "status": {"evacuationNodeName": null}});
        let instances = self.instances(instance.metadata.namespace.as_deref().unwrap_or_default());
        match instances.patch_status(name_of(instance), &params, &Patch::Merge(&patch)).await {
            Ok(_) => Ok(StatusCode::OK),
            Err(error) if is_conflict(&error) => {
                Err(Refusal::conflict(INSTANCE, name_of(instance), "it has changed: try again"))
            }
            Err(error) => Err(Refusal::internal(&error)),
        }
    }
}
