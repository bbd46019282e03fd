//! Admission by a real API server: the controller's webhooks answer it from this process.
//!
//! ```text
//!   webhooks   the webhooks, and what makes the API server ask them
//!   table      the controller's own table of objects
//!   writes     the table's objects, written
//!   others     what takes a look at other objects: moves, evictions, the KubeVirt object; who may write a status
//! ```

mod others;
#[allow(dead_code, reason = "a client of kube's doesn't hear warnings")]
#[path = "../../../../controller/src/admission/table/mod.rs"]
mod table;
mod webhooks;
mod writes;

use anyhow::Result;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use webhooks::Webhooks;

use super::{Scope, Test, tests};
use crate::kubernetes::ControlPlane;

pub(super) const ALONE: &[Test] = tests![Alone: what_is_wrong_is_refused_by_its_path_and_what_is_right_is_completed];

/// Who writes: may do everything, and yet isn't Vireo.
const TENANT: &str = "tenant";
/// The administrator, who is Vireo itself here.
const OWN: &str = "admin";

/// Without the controller, which would act on the instances that say what the tests need them to.
async fn what_is_wrong_is_refused_by_its_path_and_what_is_right_is_completed(scope: Scope) -> Result<()> {
    scope.suite().stop_controller().await?;
    let held = {
        let plane = scope.suite().plane().lock().await;
        let webhooks = Webhooks::start(&plane, OWN).await?;
        let held = all(&plane, scope.namespace(), &webhooks).await;
        webhooks.end(plane.client()).await?;
        held
    };
    scope.suite().start_controller().await?;
    held
}

async fn all(plane: &ControlPlane, namespace: &str, webhooks: &Webhooks) -> Result<()> {
    let tenant = tenant(plane).await?;
    webhooks.answers(&tenant, namespace).await?;
    writes::all(plane.client(), &tenant, namespace, webhooks).await?;
    others::all(plane.client(), &tenant, namespace).await
}

/// An eviction that is answered with 429 isn't asked for again and again, as a client of kube's does by itself.
async fn tenant(plane: &ControlPlane) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(plane.kubeconfig_of(TENANT, Some("system:masters"))?)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
