//! The router, with an API server that keeps two objects.

use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Json};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use vireo_runtimeclass::cluster::KubeVirtConfiguration;
use vireo_runtimeclass::machine_service::token::Signer;

use super::endpoints::ENDPOINTS;
use super::*;
use crate::Settings;
use crate::serve::Peer;

/// What the API server has: a machine, what was reviewed, what was written, how many writes it refuses at first.
#[derive(Debug, Clone)]
struct Stored(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    machine: Value,
    reviews: Vec<Value>,
    patches: Vec<(String, Value)>,
    conflicts: usize,
}

/// The only instancetype.
async fn instancetype(Path(name): Path<String>) -> Response {
    if name != "small" {
        return status(404, "NotFound");
    }
    Json(json!({
        "apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineClusterInstancetype",
        "metadata": {"name": name}, "spec": {"cpu": {"guest": 2}, "memory": {"guest": "1Gi"}},
    }))
    .into_response()
}

/// Ann may do everything.
async fn review(State(stored): State<Stored>, Json(mut review): Json<Value>) -> Json<Value> {
    stored.0.lock().unwrap().reviews.push(review["spec"].clone());
    review["status"] = json!({"allowed": review["spec"]["user"] == "ann", "reason": ""});
    Json(review)
}

fn status(code: u16, reason: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason});
    (StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
}

async fn read(State(stored): State<Stored>, Path(name): Path<String>) -> Response {
    if name == "a" { Json(stored.0.lock().unwrap().machine.clone()).into_response() } else { status(404, "NotFound") }
}

async fn write(State(stored): State<Stored>, request: Request<Body>) -> Response {
    let uri = request.uri().to_string();
    let body: Bytes = to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let mut stored = stored.0.lock().unwrap();
    if stored.conflicts > 0 {
        stored.conflicts -= 1;
        return status(409, "Conflict");
    }
    stored.patches.push((uri, serde_json::from_slice(&body).unwrap()));
    Json(stored.machine.clone()).into_response()
}

fn stored() -> Stored {
    let machine = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": "7"},
        "spec": {"runStrategy": "Halted"},
    });
    Stored(Arc::new(Mutex::new(Inner { machine, reviews: vec![], patches: vec![], conflicts: 0 })))
}

fn server(stored: &Stored) -> Router {
    let machines = "/apis/kubevirt.io/v1/namespaces/shop/virtualmachines/{name}";
    let cluster = Router::new()
        .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", post(review))
        .route("/apis/instancetype.kubevirt.io/v1beta1/virtualmachineclusterinstancetypes/{name}", get(instancetype))
        .route(machines, get(read).patch(write))
        .route(&format!("{machines}/status"), axum::routing::patch(write))
        .fallback(async || status(404, "NotFound"))
        .with_state(stored.clone());
    let service =
        tower::service_fn(move |request: Request<kube::client::Body>| cluster.clone().oneshot(request.map(Body::new)));
    let context = Context {
        metrics: crate::metrics::Metrics::new(crate::metrics::Part::Controller, crate::health::Health::default()),
        client: kube::Client::new(service, "default"),
        settings: Settings::fixed(KubeVirtConfiguration::default()),
        signer: Arc::new(Signer::new(&[7; 32])),
        namespace: "kubevirt".to_owned(),
    };
    let front_proxy = watch::channel(Arc::new(FrontProxy::usual())).1;
    // A certificate that TLS has verified, and any name may be its.
    let peer = Peer(Some(b"a certificate".to_vec().into()));
    router(context, front_proxy, CancellationToken::new()).layer(Extension(peer))
}

/// The code of an answer, and what it says.
async fn ask(router: &Router, user: Option<&str>, method: &str, path: &str, body: Value) -> (u16, Value) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(user) = user {
        request = request.header("x-remote-user", user).header("x-remote-group", "system:authenticated");
    }
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let answer = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let code = answer.status().as_u16();
    let body = to_bytes(answer.into_body(), 4 << 20).await.unwrap();
    (code, serde_json::from_slice(&body).unwrap_or_default())
}

const V1: &str = "/apis/subresources.kubevirt.io/v1";

fn path(version: &str, endpoint: &endpoints::Endpoint) -> String {
    let rest = match endpoint.kind {
        Kind::Machine => format!("virtualmachines/a/{}", endpoint.name),
        Kind::Instance => format!("virtualmachineinstances/a/{}", endpoint.name),
        Kind::Namespace => endpoint.name.to_owned(),
    };
    let port = if endpoint.name == "portforward" { "/22" } else { "" };
    format!("/apis/{GROUP}/{version}/namespaces/shop/{rest}{port}")
}

#[tokio::test]
async fn every_call_wants_a_user_with_the_right_and_says_what_is_not_built() {
    let stored = stored();
    let router = server(&stored);
    for version in VERSIONS {
        for endpoint in ENDPOINTS {
            let path = path(version, endpoint);
            let method = if endpoint.method == Method::Get { "GET" } else { "PUT" };
            let (code, answer) = ask(&router, None, method, &path, Value::Null).await;
            assert_eq!((code, &answer["reason"]), (401, &json!("Unauthorized")), "{path}");
            let (code, answer) = ask(&router, Some("bob"), method, &path, Value::Null).await;
            assert_eq!(
                (code, &answer["reason"], &answer["kind"]),
                (403, &json!("Forbidden"), &json!("Status")),
                "{path}"
            );
            let last = stored.0.lock().unwrap().reviews.last().unwrap().clone();
            assert_eq!(last["resourceAttributes"]["verb"], endpoint.verb(), "{path}");
            assert_eq!(last["groups"], json!(["system:authenticated"]));
            let (code, answer) = ask(&router, Some("ann"), method, &path, Value::Null).await;
            match endpoint.missing {
                Some(reason) => {
                    assert_eq!(code, 501, "{path}");
                    assert!(answer["message"].as_str().unwrap().contains(reason), "{path}: {answer}");
                }
                None => {
                    assert!(
                        code != 405 && code != 501 && (code != 404 || !answer.is_null()),
                        "{path}: {code} {answer}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn a_command_is_written_even_if_others_write() {
    let stored = stored();
    let router = server(&stored);
    let start = format!("{V1}/namespaces/shop/virtualmachines/a/start");
    stored.0.lock().unwrap().conflicts = 2;
    assert_eq!(ask(&router, Some("ann"), "PUT", &start, Value::Null).await.0, 202);
    let dry = json!({"dryRun": ["All"], "paused": true});
    assert_eq!(ask(&router, Some("ann"), "PUT", &start, dry).await.0, 202);
    {
        let patches = &stored.0.lock().unwrap().patches;
        assert_eq!(patches[0].1, json!({"metadata": {"resourceVersion": "7"}, "spec": {"runStrategy": "Always"}}));
        assert!(patches[1].0.contains("/status?") && patches[1].0.contains("dryRun=All"), "{}", patches[1].0);
        assert_eq!(
            patches[1].1["status"]["stateChangeRequests"],
            json!([{"action": "Start", "data": {"paused": "true"}}])
        );
    }
    stored.0.lock().unwrap().conflicts = 100;
    let (code, answer) = ask(&router, Some("ann"), "PUT", &start, Value::Null).await;
    assert_eq!((code, &answer["reason"]), (409, &json!("Conflict")));

    let (code, answer) =
        ask(&router, Some("ann"), "PUT", &format!("{V1}/namespaces/shop/virtualmachines/a/stop"), Value::Null).await;
    assert_eq!(code, 409);
    assert_eq!(
        answer["message"],
        "Operation cannot be fulfilled on virtualmachine.kubevirt.io \"a\": VM is not running"
    );
    let (code, answer) =
        ask(&router, Some("ann"), "PUT", &format!("{V1}/namespaces/shop/virtualmachines/b/stop"), Value::Null).await;
    assert_eq!((code, &answer["message"]), (404, &json!("virtualmachine.kubevirt.io \"b\" not found")));
}

#[tokio::test]
async fn a_machine_is_expanded_stored_or_sent() {
    let stored = stored();
    let mut machine = stored.0.lock().unwrap().machine.clone();
    let router = server(&stored);
    let mut ask_both = async |change: &dyn Fn(&mut Value)| {
        let template = json!({"spec": {"domain": {"devices": {}}}});
        machine["spec"] = json!({"runStrategy": "Halted", "instancetype": {"name": "small"}, "template": template});
        change(&mut machine["spec"]);
        stored.0.lock().unwrap().machine = machine.clone();
        let path = format!("{V1}/namespaces/shop/virtualmachines/a/expand-spec");
        let first = ask(&router, Some("ann"), "GET", &path, Value::Null).await;
        let path = format!("{V1}/namespaces/shop/expand-vm-spec");
        [first, ask(&router, Some("ann"), "PUT", &path, machine.clone()).await]
    };
    let long = "x".repeat(expand::OBJECT / 2);
    for (code, answer) in ask_both(&|spec| spec["template"]["metadata"] = json!({"annotations": {"a": long}})).await {
        assert_eq!((code, &answer["spec"]["instancetype"]), (200, &Value::Null), "{answer}");
        assert_eq!(answer["spec"]["template"]["spec"]["domain"]["memory"]["guest"], "1Gi");
    }
    for (wrong, said) in [
        (json!({"name": "big"}), "VirtualMachineClusterInstancetype big"),
        (json!({"name": "../small"}), "spec.instancetype.name"),
        (json!({"name": "small", "revisionName": "a?b"}), "spec.instancetype.revisionName"),
        (json!({"inferFromVolume": "root"}), "spec.instancetype.inferFromVolume"),
    ] {
        let answers = ask_both(&|spec| spec["instancetype"] = wrong.clone()).await;
        assert_eq!(answers.each_ref().map(|(code, _)| *code), [409, 400], "{wrong}");
        for (_, answer) in answers {
            assert!(answer["message"].as_str().unwrap().contains(said), "{answer}");
        }
    }
    let path = format!("{V1}/namespaces/shop/virtualmachines/b/expand-spec");
    assert_eq!(ask(&router, Some("ann"), "GET", &path, Value::Null).await.0, 404);
    let start = format!("{V1}/namespaces/shop/virtualmachines/a/start");
    assert_eq!(ask(&router, Some("ann"), "PUT", &start, json!({"a": "x".repeat(BODY)})).await.0, 413);
}

#[tokio::test]
async fn everybody_may_ask_what_there_is() {
    let router = server(&stored());
    let paths = ["/", "/apis", "/apis/subresources.kubevirt.io", V1, "/openapi/v2", "/openapi/v3"];
    for path in paths.map(str::to_owned).into_iter().chain([format!("{V1}/version"), format!("/openapi/v3{V1}")]) {
        assert_eq!(ask(&router, None, "GET", &path, Value::Null).await.0, 200, "{path}");
    }
    let (_, group) = ask(&router, None, "GET", "/apis/subresources.kubevirt.io", Value::Null).await;
    assert_eq!(group["preferredVersion"]["groupVersion"], "subresources.kubevirt.io/v1");
    let (_, list) = ask(&router, None, "GET", V1, Value::Null).await;
    assert_eq!(list["resources"].as_array().unwrap().len(), ENDPOINTS.len());
    let (_, document) = ask(&router, None, "GET", "/openapi/v2", Value::Null).await;
    let pause = "/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{name}/pause";
    assert!(document["paths"][pause]["put"]["operationId"].is_string());
    assert_eq!(ask(&router, None, "GET", &format!("{V1}/guestfs"), Value::Null).await.0, 501);
}
