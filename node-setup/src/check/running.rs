//! What the containerd that runs has read, which need not be what its files say now: asked by CRI, whose verbose `Status` holds
//! the configuration.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;
use vireo_node_setup::findings::RESTART_CONTAINERD;

use super::containerd::{RUNTIME_TYPE, dump, socket};

/// For an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// As of containerd 1.6.
const STATUS: &str = "/runtime.v1.RuntimeService/Status";

/// `runtime.v1.StatusRequest`, as much of it as is asked.
#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {
    #[prost(bool, tag = "1")]
    verbose: bool,
}

/// `runtime.v1.StatusResponse`, as much of it as is read.
#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

/// The containerd that runs knows the runtime.
pub(super) fn runtime() -> Result<String, (String, &'static str)> {
    let socket = socket(&dump().unwrap_or_default());
    let asked = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = asked.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async { timeout(PATIENCE, ask(&socket)).await.map_err(anyhow::Error::from).flatten() })
    });
    let config = answer.map_err(|error| {
        (
            format!("{socket} can't be asked: {}", error.root_cause()),
            "start containerd, with its CRI plugin; only root may ask it",
        )
    })?;
    examine(&config).map(|()| format!("{socket} has read it")).map_err(|found| (found, RESTART_CONTAINERD))
}

/// The configuration of who listens at `socket`.
async fn ask(socket: &str) -> anyhow::Result<Value> {
    let channel = Endpoint::from_shared(format!("unix://{socket}"))?.connect().await?;
    let mut client = Grpc::new(channel);
    client.ready().await?;
    let request = Request::new(StatusRequest { verbose: true });
    let codec = ProstCodec::<StatusRequest, StatusResponse>::default();
    let answer = client.unary(request, PathAndQuery::from_static(STATUS), codec).await;
    let answer = answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?.into_inner();
    let config = answer.info.get("config").ok_or_else(|| anyhow::anyhow!("it tells no configuration"))?;
    Ok(serde_json::from_str(config)?)
}

/// Looks for the runtime in CRI's configuration.
fn examine(config: &Value) -> Result<(), String> {
    let runtime = &config["containerd"]["runtimes"]["vireo"];
    match runtime["runtimeType"].as_str() {
        Some(RUNTIME_TYPE) => {}
        None => return Err("the containerd that runs knows no runtime vireo".to_owned()),
        Some(other) => return Err(format!("the runtime vireo of the containerd that runs is of type {other}")),
    }
    // Its case is that of Go's field in some releases.
    let fields = runtime.as_object().into_iter().flatten();
    let mut annotations =
        fields.filter(|(name, _)| name.eq_ignore_ascii_case("podAnnotations")).map(|(_, value)| value);
    if annotations.any(|patterns| patterns.to_string().contains("vireo.dev/")) {
        Ok(())
    } else {
        Err("the runtime vireo of the containerd that runs hands no annotations on".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_it_says_of_the_runtime() {
        let of = |runtime: Value| examine(&json!({"containerd": {"runtimes": {"runc": {}, "vireo": runtime}}}));
        let annotations = ["vireo.dev/*"];
        assert_eq!(of(json!({"runtimeType": RUNTIME_TYPE, "podAnnotations": annotations})), Ok(()));
        assert_eq!(of(json!({"runtimeType": RUNTIME_TYPE, "PodAnnotations": annotations})), Ok(()));
        for (runtime, why) in [
            (Value::Null, "knows no runtime"),
            (json!({"runtimeType": "x", "podAnnotations": annotations}), "is of type x"),
            (json!({"runtimeType": RUNTIME_TYPE, "podAnnotations": null}), "hands no annotations on"),
        ] {
            assert!(of(runtime).unwrap_err().contains(why));
        }
        assert!(examine(&json!([])).is_err());
    }
}
