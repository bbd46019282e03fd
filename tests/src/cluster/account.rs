//! Who the controller is: the service account that the operator gives it, with the rights that the operator gives it and no others. A
//! right that it lacks is a test that fails.

use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, api::PostParams};
use vireo_controller::{context::NAME, operator::controller_s_account};

use super::{objects, suite::NAMESPACE};
use crate::kubernetes::ControlPlane;

/// Longer than any suite takes, seconds.
const TOKEN_LIVES: i64 = 24 * 3600;

/// Makes the account where it isn't there, or isn't as it should be. What a controller needs to be it, at `server` in place of the API
/// server.
pub(super) async fn kubeconfig(plane: &ControlPlane, server: Option<&str>) -> Result<PathBuf> {
    for object in controller_s_account(NAMESPACE) {
        objects::apply(plane.client(), object).await.context("make the controller's account")?;
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(plane.client().clone(), NAMESPACE);
    let asked = TokenRequest {
        spec: TokenRequestSpec { expiration_seconds: Some(TOKEN_LIVES), ..TokenRequestSpec::default() },
        ..TokenRequest::default()
    };
    let token = accounts.create_token_request(NAME, &PostParams::default(), &asked).await.context("make a token")?;
    plane.kubeconfig_with_token(NAME, &token.status.context("a token")?.token, server)
}
