//! What KubeVirt's roles let users do, by the API server and the aggregated API.

use anyhow::{Result, ensure};
use kube::Client;
use serde_json::json;

use super::vireo::deploy;
use crate::{
    cluster::{Scope, scope::LIMIT, subresources::ask},
    kubernetes::until,
};

/// A user of each role, by its name, and one who has none.
const USERS: [&str; 5] = ["admin", "edit", "view", "migrate", "nobody"];

/// What is asked, and who of [`USERS`] may: `a` admin, `e` edit, `v` view, `m` migrate, `n` nobody. `VM` and `VMI` stand for the
/// objects' own resources, `SUB` for those of the aggregated API.
const CALLS: &[(&str, &str, &str)] = &[
    ("GET", "VM", "aev"),
    ("GET", "VMI", "aev"),
    ("GET", "VM/m", "aev"),
    ("POST", "VM", "ae"),
    ("DELETE", "VM?dryRun=All", "a"),
    ("DELETE", "VM/m?dryRun=All", "ae"),
    ("GET", "SUB/virtualmachines/m/expand-spec", "aev"),
    ("PUT", "SUB/expand-vm-spec", "aev"),
    ("PUT", "SUB/virtualmachines/m/start", "ae"),
    ("PUT", "SUB/virtualmachines/m/stop", "ae"),
    ("PUT", "SUB/virtualmachines/m/restart", "ae"),
    ("PUT", "SUB/virtualmachines/m/addvolume", "ae"),
    ("PUT", "SUB/virtualmachines/m/memorydump", "ae"),
    ("PUT", "SUB/virtualmachines/m/migrate", "m"),
    ("GET", "SUB/virtualmachines/m/portforward/22", "ae"),
    ("GET", "SUB/virtualmachineinstances/m/guestosinfo", "aev"),
    ("GET", "SUB/virtualmachineinstances/m/userlist", "aev"),
    ("GET", "SUB/virtualmachineinstances/m/filesystemlist", "aev"),
    ("GET", "SUB/virtualmachineinstances/m/console", "ae"),
    ("GET", "SUB/virtualmachineinstances/m/vnc", "ae"),
    ("GET", "SUB/virtualmachineinstances/m/vnc/screenshot", "a"),
    ("GET", "SUB/virtualmachineinstances/m/portforward/22/tcp", "ae"),
    ("PUT", "SUB/virtualmachineinstances/m/pause", "ae"),
    ("PUT", "SUB/virtualmachineinstances/m/unpause", "ae"),
    ("PUT", "SUB/virtualmachineinstances/m/freeze", "ae"),
    ("PUT", "SUB/virtualmachineinstances/m/reset", "ae"),
    ("PUT", "SUB/virtualmachineinstances/m/softreboot", "ae"),
    ("GET", "MOVES", "aevm"),
    ("POST", "MOVES", "m"),
    ("GET", "SIZES", "aev"),
    ("POST", "SIZES", "ae"),
    // Everybody who has a name.
    ("GET", "/apis/subresources.kubevirt.io/v1/version", "aevmn"),
    ("GET", "/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts", "aevmn"),
    ("GET", "/apis/instancetype.kubevirt.io/v1beta1/virtualmachineclusterinstancetypes", "aevmn"),
];

pub(super) async fn users_may_what_their_roles_say(scope: Scope) -> Result<()> {
    deploy(&scope, json!({})).await?;
    // A guest that is started and stopped by whoever may.
    scope
        .create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "m"},
            "spec": {"runStrategy": "Manual", "template": {"spec": {
                "domain": {"memory": {"guest": "1Gi"}, "devices": {}},
            }}},
        }))
        .await?;
    let mut users = Vec::new();
    for role in USERS {
        let user = scope.suite().user(&format!("{role}-by-role")).await?;
        if role != "nobody" {
            bind(&scope, role).await?;
            let list = path(&scope, if role == "migrate" { "MOVES" } else { "VM" });
            until(&format!("{role} may"), LIMIT, async || Ok(ask(&user, "GET", &list, "").await?.is_ok())).await?;
        }
        users.push((role, user));
    }
    let mut wrong = Vec::new();
    for (method, what, who) in CALLS {
        for (role, user) in &users {
            let may = role.chars().next().is_some_and(|first| who.contains(first));
            let (is_allowed, said) = may_call(&scope, user, method, what).await?;
            if is_allowed != may {
                wrong.push(format!("{role} {method} {what}: allowed {is_allowed}, should be {may}: {said}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Whether they may, which is not whether it can be done; what was said.
async fn may_call(scope: &Scope, user: &Client, method: &str, what: &str) -> Result<(bool, String)> {
    // An object that can't be: those who may make one are told so.
    let body = if method == "POST" { "{}" } else { "" };
    let said = ask(user, method, &path(scope, what), body).await?;
    Ok((!matches!(said, Err((403, _))), format!("{said:?}")))
}

fn path(scope: &Scope, what: &str) -> String {
    let namespace = scope.namespace();
    let (first, rest) = what.split_at(what.find(['/', '?']).unwrap_or(what.len()));
    let base = match first {
        "VM" => format!("/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachines"),
        "VMI" => format!("/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances"),
        "MOVES" => format!("/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstancemigrations"),
        "SIZES" => format!("/apis/instancetype.kubevirt.io/v1beta1/namespaces/{namespace}/virtualmachineinstancetypes"),
        "SUB" => format!("/apis/subresources.kubevirt.io/v1/namespaces/{namespace}"),
        other => other.to_owned(),
    };
    base + rest
}

/// Gives the user of a role that role, in this namespace.
async fn bind(scope: &Scope, role: &str) -> Result<()> {
    let rbac = "rbac.authorization.k8s.io";
    scope
        .create(json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": {"name": format!("{role}-by-role")},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": format!("kubevirt.io:{role}")},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": format!("{role}-by-role")}],
        }))
        .await?;
    Ok(())
}
