//! What a guest's agent says, in KubeVirt's shapes. It is the guest's own word.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::VirtualMachineInstance;
use vireo_runtimeclass::machine_service::v1;

use super::machine::{call, must_run};
use super::objects::{holds, name_of};
use super::refusal::INSTANCE;
use super::{Refusal, Server};

type Name = Path<(String, String)>;
type Answer = Result<Json<Value>, Refusal>;

pub(super) async fn guest_os_info(State(server): State<Server>, Path((namespace, name)): Name) -> Answer {
    let instance = with_agent(&server, &namespace, &name).await?;
    let frozen = instance.status.as_ref().and_then(|status| status.fs_freeze_status.as_deref());
    let answers = call(&server, &instance, async |machine| {
        let client = &mut machine.client;
        let answers = async {
            let info = client.guest_info(v1::GuestInfoRequest {}).await?.into_inner();
            let users = client.guest_users(v1::GuestUsersRequest {}).await?.into_inner().users;
            let systems = client.guest_file_systems(v1::GuestFileSystemsRequest {}).await?.into_inner().file_systems;
            Ok((info, users, systems))
        };
        Ok(answers.await)
    });
    let (info, users, systems) = answers.await?;
    Ok(Json(os_info(&info, &users, &systems, frozen)))
}

pub(super) async fn users(State(server): State<Server>, Path((namespace, name)): Name) -> Answer {
    let instance = with_agent(&server, &namespace, &name).await?;
    let users =
        call(&server, &instance, async |machine| Ok(machine.client.guest_users(v1::GuestUsersRequest {}).await));
    let users = users.await?.into_inner().users.iter().map(user).collect::<Vec<_>>();
    Ok(Json(list("VirtualMachineInstanceGuestOSUserList", &users)))
}

pub(super) async fn file_systems(State(server): State<Server>, Path((namespace, name)): Name) -> Answer {
    let instance = with_agent(&server, &namespace, &name).await?;
    let systems = call(&server, &instance, async |machine| {
        Ok(machine.client.guest_file_systems(v1::GuestFileSystemsRequest {}).await)
    });
    let systems = systems.await?.into_inner().file_systems.iter().map(file_system).collect::<Vec<_>>();
    Ok(Json(list("VirtualMachineInstanceFileSystemList", &systems)))
}

async fn with_agent(server: &Server, namespace: &str, name: &str) -> Result<VirtualMachineInstance, Refusal> {
    let instance = server.instance(namespace, name).await?;
    must_run(&instance, "VMI is not running")?;
    if !holds(&instance, "AgentConnected") {
        return Err(Refusal::conflict(INSTANCE, name_of(&instance), "VMI does not have guest agent connected"));
    }
    Ok(instance)
}

fn list(kind: &str, items: &[Value]) -> Value {
    json!({"kind": kind, "apiVersion": "subresources.kubevirt.io/v1", "metadata": {}, "items": items})
}

fn user(user: &v1::GuestUser) -> Value {
    filled(json!({"userName": user.name, "domain": user.domain, "loginTime": user.login_time}), &["userName"])
}

fn file_system(system: &v1::GuestFileSystem) -> Value {
    json!({
        "diskName": system.name,
        "mountPoint": system.mount_point,
        "fileSystemType": system.r#type,
        "usedBytes": system.used_bytes,
        "totalBytes": system.total_bytes,
    })
}

fn os_info(
    info: &v1::GuestInfoResponse,
    users: &[v1::GuestUser],
    systems: &[v1::GuestFileSystem],
    frozen: Option<&str>,
) -> Value {
    let os = json!({
        "name": info.os_name,
        "kernelRelease": info.kernel_release,
        "version": info.os_version,
        "prettyName": info.os_pretty_name,
        "versionId": info.os_version_id,
        "kernelVersion": info.kernel_version,
        "machine": info.machine,
        "id": info.os_id,
    });
    let all = json!({
        "guestAgentVersion": info.agent_version,
        "hostname": info.host_name,
        "os": filled(os, &[]),
        "userList": users.iter().map(user).collect::<Vec<_>>(),
        "fsInfo": {"disks": systems.iter().map(file_system).collect::<Vec<_>>()},
        "fsFreezeStatus": frozen,
    });
    filled(all, &["fsInfo", "os"])
}

/// Without what is empty, but for what is always there.
fn filled(mut object: Value, always: &[&str]) -> Value {
    if let Value::Object(fields) = &mut object {
        fields.retain(|name, value| always.contains(&name.as_str()) || !is_empty(value));
    }
    object
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_kubevirts_shapes() {
        let info = v1::GuestInfoResponse {
            agent_version: "7.2".to_owned(),
            os_id: "debian".to_owned(),
            ..v1::GuestInfoResponse::default()
        };
        let ann = v1::GuestUser { name: "ann".to_owned(), domain: String::new(), login_time: 1.5 };
        let root = v1::GuestFileSystem {
            name: "vda1".to_owned(),
            mount_point: "/".to_owned(),
            r#type: "ext4".to_owned(),
            used_bytes: 1,
            total_bytes: 2,
        };
        assert_eq!(
            os_info(&info, &[ann], &[root], None),
            json!({
                "guestAgentVersion": "7.2",
                "os": {"id": "debian"},
                "userList": [{"userName": "ann", "loginTime": 1.5}],
                "fsInfo": {"disks": [{
                    "diskName": "vda1", "mountPoint": "/", "fileSystemType": "ext4", "usedBytes": 1, "totalBytes": 2,
                }]},
            })
        );
        let nobody = list("VirtualMachineInstanceGuestOSUserList", &[]);
        assert_eq!(nobody["items"], json!([]));
    }
}
