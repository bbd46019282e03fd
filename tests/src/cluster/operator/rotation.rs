//! Certificates are replaced while they are used.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::{
    callers::Callers,
    vireo::{DEPLOYED, deploy, own},
};
use crate::{cluster::Scope, kubernetes::until};

/// Authorities and servers' certificates that have to be seen.
const SEEN: (usize, usize) = (3, 4);

/// With lifetimes of seconds: what happens in weeks elsewhere.
pub(super) async fn certificates_are_replaced_and_no_call_fails(scope: Scope) -> Result<()> {
    deploy(&scope, json!({})).await?;
    let callers = Callers::start(&scope).await?;
    let lifetimes = json!({"certificateRotateStrategy": {"selfSigned": {
        "ca": {"duration": "16s", "renewBefore": "8s"}, "server": {"duration": "12s", "renewBefore": "8s"},
    }}});
    deploy(&scope, lifetimes).await?;
    let secrets = own::<Secret>(&scope);
    let certificate = async |name: &str| {
        let data = secrets.get(name).await?.data.unwrap_or_default();
        Ok::<_, anyhow::Error>(data.get("tls.crt").context("it has a certificate")?.0.clone())
    };
    let (mut authorities, mut servers) = (BTreeSet::new(), BTreeSet::new());
    until("authorities and certificates that follow each other", DEPLOYED, async || {
        callers.check()?;
        authorities.insert(certificate("kubevirt-ca").await?);
        servers.insert(certificate("vireo-controller-certs").await?);
        Ok(authorities.len() >= SEEN.0 && servers.len() >= SEEN.1)
    })
    .await?;
    // And back to days: what was made for seconds is replaced once more.
    deploy(&scope, json!({})).await?;
    scope.suite().tell("certificates replaced", &callers.end().await?);
    Ok(())
}
