//! OpenAPI documents, made of the one table: enough for the API server to merge, and for clients to know which paths there are.

use serde_json::{Map, Value, json};

use super::endpoints::{ENDPOINTS, Endpoint, GROUP, Kind, Method, VERSIONS};

pub(super) fn v2() -> Value {
    let mut paths = Map::new();
    for version in VERSIONS {
        for endpoint in ENDPOINTS {
            let parameters: Vec<_> = parameters(endpoint)
                .iter()
                .map(|name| json!({"name": name, "in": "path", "required": true, "type": "string"}))
                .collect();
            let mut operation = operation(version, endpoint);
            operation["produces"] = json!(["application/json"]);
            paths.insert(path(version, endpoint), json!({"parameters": parameters, method(endpoint): operation}));
        }
    }
    json!({"swagger": "2.0", "info": info(), "paths": paths, "definitions": {}})
}

pub(super) fn v3(version: &str) -> Value {
    let mut paths = Map::new();
    for endpoint in ENDPOINTS {
        let parameters: Vec<_> = parameters(endpoint)
            .iter()
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .collect();
        let operation = operation(version, endpoint);
        paths.insert(path(version, endpoint), json!({"parameters": parameters, method(endpoint): operation}));
    }
    json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": {}}})
}

/// Where the documents of version 3 are.
pub(super) fn v3_versions() -> Value {
    let paths: Map<_, _> = VERSIONS
        .iter()
        .map(|version| {
            let path = format!("apis/{GROUP}/{version}");
            let at = json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"))});
            (path, at)
        })
        .collect();
    json!({ "paths": paths })
}

fn info() -> Value {
    json!({"title": "Vireo", "version": env!("CARGO_PKG_VERSION")})
}

fn method(endpoint: &Endpoint) -> &'static str {
    match endpoint.method {
        Method::Get => "get",
        Method::Put => "put",
    }
}

fn parameters(endpoint: &Endpoint) -> &'static [&'static str] {
    match (endpoint.kind, endpoint.name) {
        (Kind::Namespace, _) => &["namespace"],
        (_, "portforward") => &["namespace", "name", "port"],
        _ => &["namespace", "name"],
    }
}

fn path(version: &str, endpoint: &Endpoint) -> String {
    let base = format!("/apis/{GROUP}/{version}/namespaces/{{namespace}}");
    let port = if endpoint.name == "portforward" { "/{port}" } else { "" };
    match endpoint.kind {
        Kind::Machine => format!("{base}/virtualmachines/{{name}}/{}{port}", endpoint.name),
        Kind::Instance => format!("{base}/virtualmachineinstances/{{name}}/{}{port}", endpoint.name),
        Kind::Namespace => format!("{base}/{}", endpoint.name),
    }
}

fn operation(version: &str, endpoint: &Endpoint) -> Value {
    json!({
        "operationId": format!("{version}-{}", endpoint.resource().replace('/', "-")),
        "description": endpoint.does,
        "responses": {"200": {"description": "OK"}, "401": {"description": "Unauthorized"}},
    })
}
