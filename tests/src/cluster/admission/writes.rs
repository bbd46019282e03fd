//! The table's objects, written to a real API server: what is new isn't kept, so that nothing acts on it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use kube::{
    Api, Client, Error,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    core::Status,
};
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::KubeVirtConfiguration;

use super::{
    table::{Case, cases, contains},
    webhooks::Webhooks,
};

/// Kinds without namespaces.
const CLUSTERS: [&str; 3] =
    ["virtualmachineclusterinstancetypes", "virtualmachineclusterpreferences", "migrationpolicies"];

/// Every row, as `tenant` writes it. `admin` puts what is there before, and takes it away.
pub(super) async fn all(admin: &Client, tenant: &Client, namespace: &str, webhooks: &Webhooks) -> Result<()> {
    let (mut failures, mut refused) = (Vec::new(), 0);
    let cases = cases();
    for case in &cases {
        let configuration = Some(case.configuration.clone()).filter(|configuration| !configuration.is_null());
        webhooks.configure(configuration.map(serde_json::from_value).transpose()?.unwrap_or_default());
        let written = match &case.old {
            None => create(case, tenant, namespace).await,
            Some(old) => update(case, old, admin, tenant, namespace).await?,
        };
        refused += usize::from(written.is_err());
        if let Err(error) = judged(case, written) {
            failures.push(format!("{}: {error:#}", case.name));
        }
    }
    webhooks.configure(KubeVirtConfiguration::default());
    println!("admission: {} objects refused, {} let in", refused, cases.len() - refused);
    ensure!(failures.is_empty(), "{} of {} objects:\n{}", failures.len(), cases.len(), failures.join("\n"));
    Ok(())
}

fn api(case: &Case, client: &Client, namespace: &str) -> Api<DynamicObject> {
    let (group, version) = case.object["apiVersion"].as_str().and_then(|text| text.split_once('/')).unwrap_or_default();
    let kind = case.object["kind"].as_str().unwrap_or_default();
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), case.plural);
    if CLUSTERS.contains(&case.plural) {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    }
}

async fn create(case: &Case, tenant: &Client, namespace: &str) -> Result<Value, Error> {
    let object: DynamicObject = serde_json::from_value(case.object.clone()).map_err(Error::SerdeError)?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let stored = api(case, tenant, namespace).create(&dry, &object).await?;
    serde_json::to_value(stored).map_err(Error::SerdeError)
}

/// The outer failure is that of what was there before.
async fn update(
    case: &Case,
    old: &Value,
    admin: &Client,
    tenant: &Client,
    namespace: &str,
) -> Result<Result<Value, Error>> {
    let own = api(case, admin, namespace);
    let stored = own.create(&PostParams::default(), &serde_json::from_value(old.clone())?).await?;
    let name = stored.metadata.name.context("it has a name")?;
    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    let written = api(case, tenant, namespace).patch(&name, &dry, &Patch::Merge(&case.change)).await;
    own.delete(&name, &DeleteParams::background()).await?;
    let released = json!({"metadata": {"finalizers": null}});
    match own.patch(&name, &PatchParams::default(), &Patch::Merge(released)).await {
        Ok(_) => {}
        Err(Error::Api(status)) if status.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(written.and_then(|object| serde_json::to_value(object).map_err(Error::SerdeError)))
}

fn judged(case: &Case, written: Result<Value, Error>) -> Result<()> {
    let status = match written {
        Ok(object) if case.refused.is_empty() => {
            ensure!(contains(&object, &case.becomes), "it becomes {object}");
            return Ok(());
        }
        Ok(object) => bail!("it is let in: {object}"),
        Err(Error::Api(status)) => status,
        Err(error) => return Err(error.into()),
    };
    ensure!(!case.refused.is_empty(), "{}", status.message);
    ensure!(status.code == 422, "{} {}", status.code, status.message);
    if case.by_schema { by_schema(case, &status) } else { by_webhook(case, &status) }
}

fn by_webhook(case: &Case, status: &Status) -> Result<()> {
    ensure!(status.message.contains(".kubevirt.io\" denied the request: "), "{}", status.message);
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    ensure!(causes.len() == case.refused.len(), "{}", status.message);
    for cause in causes {
        let what = case.refused.get(&cause.field).with_context(|| format!("{} is wrong too", cause.field))?;
        ensure!(cause.message.contains(what), "{}: {}", cause.field, cause.message);
    }
    Ok(())
}

/// By its paths alone: a schema's words are the API server's, and so is where it counts a list's elements.
fn by_schema(case: &Case, status: &Status) -> Result<()> {
    let plain = |path: &str| path.trim_start_matches('.').split(['[', ']']).step_by(2).collect::<String>();
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let fields: BTreeSet<String> = causes.iter().map(|cause| plain(&cause.field)).collect();
    let expected: BTreeSet<String> = case.refused.keys().map(|path| plain(path)).collect();
    ensure!(fields == expected, "{fields:?}: {}", status.message);
    Ok(())
}
