//! How the API server finds what Vireo serves: its certificate, a Service that leads to this machine, and the API services.

use anyhow::{Context, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use vireo_controller::certificates;

use super::objects;
use crate::kubernetes::{ControlPlane, HOST};

/// The Service.
pub(super) const SERVICE: &str = "vireo-controller";
/// Versions of `subresources.kubevirt.io`.
pub(super) const VERSIONS: [&str; 2] = ["v1", "v1alpha3"];

/// Makes the certificate of a server in a namespace; who signed it (PEM), and the server's name.
pub(super) async fn certify(plane: &ControlPlane, namespace: &str) -> Result<(String, String)> {
    let host = format!("{SERVICE}.{namespace}.svc");
    let issued = plane.authority().server("front", &[&host, &HOST.to_string()])?;
    let data = json!({
        "tls.crt": BASE64_STANDARD.encode(issued.certificate), "tls.key": BASE64_STANDARD.encode(issued.key),
    });
    let name = json!({"name": certificates::SERVER, "namespace": namespace});
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": name, "type": "kubernetes.io/tls", "data": data});
    objects::apply(plane.client(), secret).await.context("make the server's certificate")?;
    Ok((plane.authority().certificate(), host))
}

/// Has the API server forward the API to a port of this machine's, whose certificate `authority` (PEM) signed.
pub(super) async fn aggregate(client: &Client, namespace: &str, port: u16, authority: &str) -> Result<()> {
    let name = json!({"name": SERVICE, "namespace": namespace});
    let ports = json!([{"port": 443, "protocol": "TCP", "targetPort": port}]);
    let subsets = json!([{"addresses": [{"ip": HOST.to_string()}], "ports": [{"port": port, "protocol": "TCP"}]}]);
    for object in [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": name, "spec": {"ports": ports}}),
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": name, "subsets": subsets}),
    ] {
        objects::apply(client, object).await.context("aggregate the API")?;
    }
    // API servers of this age can't apply these.
    separate(client).await?;
    let services: Api<APIService> = Api::all(client.clone());
    for version in VERSIONS {
        let service = json!({
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": format!("{version}.subresources.kubevirt.io")},
            "spec": {
                "group": "subresources.kubevirt.io",
                "version": version,
                "service": {"namespace": namespace, "name": SERVICE, "port": 443},
                "caBundle": BASE64_STANDARD.encode(authority),
                "groupPriorityMinimum": 1000,
                "versionPriority": 15,
            },
        });
        let service = serde_json::from_value(service)?;
        services.create(&PostParams::default(), &service).await.context("aggregate the API")?;
    }
    Ok(())
}

/// The API server forwards it no more.
pub(super) async fn separate(client: &Client) -> Result<()> {
    let services: Api<APIService> = Api::all(client.clone());
    for version in VERSIONS {
        match services.delete(&format!("{version}.subresources.kubevirt.io"), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted?),
        }
    }
    Ok(())
}
