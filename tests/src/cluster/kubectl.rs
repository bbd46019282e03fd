//! What `kubectl` shows and does: kinds, fields, columns, server-side apply.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt as _;
use serde_json::Value;
use vireo_runtimeclass::cluster::{PrintableStatus, VirtualMachine};

use super::{
    Scope, Test,
    guests::{is, status},
    scope::LIMIT,
    tests,
};
use crate::kubernetes::eventually;

pub(super) const TESTS: &[Test] = tests![Together:
    kubectl_knows_the_kinds,
    the_openapi_document_has_the_subresources_too,
    kubectl_shows_columns,
    a_guest_that_runs_can_be_applied_again_by_the_server,
];

const MANIFEST: &str = "apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: applied, labels: {app: web}}
spec:
  runStrategy: Always
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      domain:
        memory: {guest: 64Mi}
        devices:
          disks:
          - {name: root, disk: {bus: virtio}}
      volumes:
      - name: root
        containerDisk: {image: example.com/disk:1}
";

async fn kubectl_knows_the_kinds(scope: Scope) -> Result<()> {
    scope.suite().aggregate().await?;
    let listed = scope.suite().kubectl(&["api-resources", "--no-headers"]).await?;
    for (plural, short, kind) in [
        ("virtualmachines", "vm,vms", "VirtualMachine"),
        ("virtualmachineinstances", "vmi,vmis", "VirtualMachineInstance"),
        ("virtualmachineinstancereplicasets", "vmirs,vmirss", "VirtualMachineInstanceReplicaSet"),
        ("virtualmachineinstancemigrations", "vmim,vmims", "VirtualMachineInstanceMigration"),
        ("kubevirts", "kv,kvs", "KubeVirt"),
        ("virtualmachineinstancetypes", "vminstancetype", "VirtualMachineInstancetype"),
        ("virtualmachineclusterpreferences", "vmcp", "VirtualMachineClusterPreference"),
    ] {
        let row = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = row.into_iter().find(|row| row.first() == Some(&plural) && row.last() == Some(&kind));
        let row = row.with_context(|| format!("no {plural} in\n{listed}"))?;
        ensure!(row[1].starts_with(short), "{row:?}");
    }
    Ok(())
}

/// One document of what the API server has and what the controller has.
async fn the_openapi_document_has_the_subresources_too(scope: Scope) -> Result<()> {
    scope.suite().aggregate().await?;
    let of = "/apis/subresources.kubevirt.io/v1/namespaces/{namespace}";
    let wanted = [
        format!("{of}/virtualmachines/{{name}}/start"),
        format!("{of}/virtualmachineinstances/{{name}}/pause"),
        format!("{of}/expand-vm-spec"),
    ];
    let document: Value = eventually("the API server has asked for the subresources", LIMIT, async || {
        let document: Value = serde_json::from_str(&scope.suite().kubectl(&["get", "--raw", "/openapi/v2"]).await?)?;
        let has_all = wanted.iter().all(|path| document["paths"][path].is_object());
        Ok(has_all.then_some(document))
    })
    .await?;
    let start = &document["paths"][&wanted[0]]["put"];
    ensure!(start["operationId"].is_string() && start["responses"].is_object(), "{start:#}");
    ensure!(document["paths"]["/apis/kubevirt.io/v1/virtualmachines"]["get"].is_object(), "and what is stored");
    Ok(())
}

/// Applies the manifest, with a change of one text for another.
async fn apply(scope: &Scope, arguments: &[&str], change: (&str, &str)) -> Result<String> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(MANIFEST.replace(change.0, change.1).as_bytes())?;
    let path = file.path().display().to_string();
    let all = ["apply", "--namespace", scope.namespace(), "--filename", &path];
    scope.suite().kubectl(&[&all, arguments].concat()).await
}

fn runs(vm: &VirtualMachine) -> bool {
    is(vm, PrintableStatus::Running) && status(vm).ready == Some(true)
}

async fn kubectl_shows_columns(scope: Scope) -> Result<()> {
    apply(&scope, &[], ("", "")).await?;
    scope.vm("applied", "it runs", runs).await?;
    let get = async |what: &str| {
        let shown = scope.suite().kubectl(&["get", what, "applied", "--namespace", scope.namespace()]).await?;
        let rows: Vec<Vec<String>> =
            shown.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        ensure!(rows.len() == 2, "{shown}");
        anyhow::Ok(rows)
    };
    let vm = get("vm").await?;
    ensure!(vm[0] == ["NAME", "AGE", "STATUS", "READY"], "{vm:?}");
    ensure!(vm[1][0] == "applied" && vm[1][2..] == ["Running", "True"], "{vm:?}");
    let vmi = get("vmi").await?;
    ensure!(vmi[0] == ["NAME", "AGE", "PHASE", "IP", "NODENAME", "READY"], "{vmi:?}");
    ensure!(vmi[1][2] == "Running" && vmi[1][3].starts_with("10.244.") && vmi[1][4].starts_with("fake-"), "{vmi:?}");
    ensure!(vmi[1][5] == "True", "{vmi:?}");
    Ok(())
}

/// The controller takes no field of a user's: who applies what is there changes nothing, and who changes something has no conflict.
async fn a_guest_that_runs_can_be_applied_again_by_the_server(scope: Scope) -> Result<()> {
    apply(&scope, &["--server-side"], ("", "")).await?;
    let first = scope.vm("applied", "it runs", runs).await?;
    apply(&scope, &["--server-side"], ("", "")).await.context("the same")?;
    let again = scope.api::<VirtualMachine>().get("applied").await?;
    ensure!(again.metadata.generation == first.metadata.generation, "nothing changed: {:?}", again.unread);
    ensure!(again.finalizers() == first.finalizers() && status(&again) == status(&first), "{again:?}");
    apply(&scope, &["--server-side"], ("Always", "Halted")).await.context("another strategy")?;
    scope.vm("applied", "it is stopped", |vm| is(vm, PrintableStatus::Stopped)).await?;
    // Somebody else's change is told of, and can be overruled.
    apply(&scope, &["--server-side", "--field-manager=other", "--force-conflicts"], ("64Mi", "128Mi")).await?;
    let Err(refused) = apply(&scope, &["--server-side"], ("", "")).await else {
        anyhow::bail!("the other one's size is overruled without a word");
    };
    ensure!(format!("{refused:#}").contains("conflict"), "{refused:#}");
    apply(&scope, &["--server-side", "--force-conflicts"], ("", "")).await?;
    scope.vm("applied", "it runs", runs).await.map(drop)
}
