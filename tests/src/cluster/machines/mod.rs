//! Machines that answer: a kubelet whose execs reach `vireo.v1.Machine`, and what the aggregated API makes of what they say.
//!
//! ```text
//!   subresources ──exec──> API server ──WebSocket──> kubelet ──HTTP/2──> service: a machine, which wants the controller's tokens
//! ```

mod kubelet;
mod service;

use anyhow::{Context as _, Result, bail, ensure};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{
    ConditionStatus, PrintableStatus, RunStrategy, VirtualMachine, VirtualMachineInstance,
};

use super::{
    Scope, Test,
    guests::{guest, instance, is, status},
    subresources::ask,
    tests,
};
use kubelet::Kubelet;

pub(super) const TESTS: &[Test] = tests![Together: a_machine_s_and_its_agent_s_words_reach_whoever_asks];

/// Something of an instance, by the aggregated API.
async fn call(scope: &Scope, method: &str, name: &str, what: &str, body: &str) -> Result<Result<Value, (u16, String)>> {
    let namespace = scope.namespace();
    let of = format!("/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{name}");
    Ok(match ask(scope.client(), method, &format!("{of}/{what}"), body).await? {
        Ok(text) if text.is_empty() => Ok(Value::Null),
        Ok(text) => Ok(serde_json::from_str(&text)?),
        Err(refused) => Err(refused),
    })
}

async fn must(scope: &Scope, method: &str, what: &str, body: &str) -> Result<Value> {
    match call(scope, method, "speaks", what, body).await? {
        Ok(value) => Ok(value),
        Err((code, why)) => bail!("{what}: {code} {why}"),
    }
}

fn connected(instance: &VirtualMachineInstance) -> bool {
    let mut conditions = instance.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|condition| condition.kind == "AgentConnected" && condition.status == ConditionStatus::True)
}

async fn a_machine_s_and_its_agent_s_words_reach_whoever_asks(scope: Scope) -> Result<()> {
    scope.suite().aggregate().await?;
    let kubelet = Kubelet::start(&scope).await?;
    scope.create(guest("speaks", RunStrategy::Always)).await?;
    let runs = |vm: &VirtualMachine| is(vm, PrintableStatus::Running) && status(vm).ready == Some(true);
    scope.vm("speaks", "it runs", runs).await?;
    let told = scope.wait("speaks", "its agent is known", connected).await?;
    let os = told.status.and_then(|status| status.guest_os_info).context("it says what its guest is")?;
    ensure!(os.id.as_deref() == Some("debian") && os.kernel_release.as_deref() == Some("6.1.0"), "{os:?}");

    let user = json!({"userName": "ann", "domain": "example", "loginTime": 12.5});
    let disk = json!({
        "diskName": "vda1", "mountPoint": "/", "fileSystemType": "ext4", "usedBytes": 1_000, "totalBytes": 4_000,
    });
    let info = must(&scope, "GET", "guestosinfo", "").await?;
    ensure!(
        info["guestAgentVersion"] == "7.2" && info["hostname"] == "speaks" && info["os"]["id"] == "debian",
        "{info}"
    );
    ensure!(info["userList"] == json!([user]) && info["fsInfo"]["disks"] == json!([disk]), "{info}");
    let users = must(&scope, "GET", "userlist", "").await?;
    ensure!(users["items"] == json!([user]), "{users}");
    let systems = must(&scope, "GET", "filesystemlist", "").await?;
    ensure!(systems["items"] == json!([disk]), "{systems}");

    must(&scope, "PUT", "pause", "").await?;
    scope.vm("speaks", "it is paused", |vm| is(vm, PrintableStatus::Paused) && status(vm).ready == Some(false)).await?;
    let again = call(&scope, "PUT", "speaks", "pause", "").await?;
    ensure!(matches!(&again, Err((409, why)) if why.contains("already paused")), "{again:?}");
    must(&scope, "PUT", "unpause", "").await?;
    scope.vm("speaks", "it goes on", runs).await?;
    must(&scope, "PUT", "freeze", r#"{"unfreezeTimeout": "5m"}"#).await?;
    let frozen = |seen: &VirtualMachineInstance| {
        seen.status.as_ref().and_then(|status| status.fs_freeze_status.as_deref()) == Some("frozen")
    };
    scope.wait("speaks", "its file systems are held", frozen).await?;
    must(&scope, "PUT", "unfreeze", "").await?;
    scope.wait("speaks", "they aren't any more", |seen| !frozen(seen)).await?;
    must(&scope, "PUT", "softreboot", "").await?;
    must(&scope, "PUT", "reset", "").await?;
    for reason in ["Paused", "Unpaused", "Reset"] {
        scope.event("speaks", reason).await?;
    }
    let pod = scope.pod(&instance(&scope, "speaks").await?).await?.name_any();
    let asked = kubelet.asked(&pod);
    for method in ["Info", "GuestInfo", "Pause", "Resume", "Freeze", "Thaw", "SoftReboot", "Reset"] {
        ensure!(asked.iter().any(|asked| asked == method), "{method} didn't reach the machine: {asked:?}");
    }
    Ok(())
}
