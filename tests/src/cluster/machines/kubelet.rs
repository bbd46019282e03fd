//! A kubelet's exec, for the pods of one namespace: each has a machine behind it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    extract::{
        Path, State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    net::TcpListener,
    sync::watch,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use vireo_controller::{
    certificates::{Pair, server_config},
    serve::serve,
};
use vireo_runtimeclass::{
    machine_service::{
        token::{Key, Pod as Identity},
        v1::machine_server::MachineServer,
    },
    pod::ANNOTATION_CONTROLLER_KEY,
};

use super::service::Machine;
use crate::{cluster::Scope, kubernetes::HOST};

/// Where an API server looks for a node that says nothing.
const PORT: u16 = 10250;
/// What API servers of any age speak over a WebSocket.
const PROTOCOL: &str = "v4.channel.k8s.io";
/// Channels of that: the first byte of each message.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
/// Bytes of a message, and of what is under way.
const PIECE: usize = 32 << 10;

/// The kubelet of every node that runs nothing; it ends with this.
#[derive(Debug)]
pub(super) struct Kubelet {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    pods: Api<Pod>,
    namespace: String,
    machines: Mutex<HashMap<String, Machine>>,
}

impl Kubelet {
    /// Starts it. There is one at a time.
    pub(super) async fn start(scope: &Scope) -> Result<Self> {
        let listener = TcpListener::bind((HOST, PORT)).await.context("listen as a kubelet")?;
        let issued = scope.suite().plane().lock().await.authority().server("kubelet", &[&HOST.to_string()])?;
        let pair = Pair { certificate: issued.certificate, key: issued.key };
        let (_, tls) = watch::channel(Arc::new(server_config(&pair, None, None)?));
        let (pods, namespace) = (scope.api::<Pod>(), scope.namespace().to_owned());
        let shared = Arc::new(Shared { pods, namespace, machines: Mutex::default() });
        let route = get(exec).post(exec);
        let router = Router::new().route("/exec/{namespace}/{pod}/{container}", route).with_state(Arc::clone(&shared));
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, tls, router, stop.clone().into()));
        Ok(Self { shared, _stop: stop.drop_guard() })
    }

    /// What the machine of a pod was asked.
    pub(super) fn asked(&self, pod: &str) -> Vec<String> {
        let machines = self.shared.machines.lock().unwrap_or_else(PoisonError::into_inner);
        machines.get(pod).map(Machine::calls).unwrap_or_default()
    }
}

impl Shared {
    /// The machine of a pod, which is the same for as long as this is.
    async fn machine(&self, name: &str) -> Result<Machine> {
        let pod = self.pods.get(name).await?;
        let key = pod.annotations().get(ANNOTATION_CONTROLLER_KEY).context("the pod has no key")?;
        let (key, uid) = (Key::parse(key)?, pod.uid().context("a stored pod has a uid")?);
        let identity = Identity { namespace: self.namespace.clone(), name: name.to_owned(), uid };
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(machines.entry(name.to_owned()).or_insert_with(|| Machine::new(identity, key)).clone())
    }
}

async fn exec(
    State(shared): State<Arc<Shared>>,
    Path((namespace, pod, _)): Path<(String, String, String)>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if namespace != shared.namespace {
        return (StatusCode::NOT_FOUND, "no machine here").into_response();
    }
    match shared.machine(&pod).await {
        Ok(machine) => upgrade.protocols([PROTOCOL]).on_upgrade(|socket| speak(socket, machine)),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
    }
}

/// Lets who is at the other end speak to a machine.
async fn speak(socket: WebSocket, machine: Machine) {
    let (near, far) = tokio::io::duplex(PIECE);
    let service = TowerToHyperService::new(MachineServer::new(machine));
    let answering = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(near), service);
    tokio::select! {
        _ = answering => {}
        () = relay(socket, far) => {}
    }
}

async fn relay(socket: WebSocket, far: DuplexStream) {
    let (mut outward, mut inward) = socket.split();
    let (mut from, mut to) = tokio::io::split(far);
    let out = async {
        let mut piece = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            let message = [&[STDOUT], &piece[..count]].concat();
            if outward.send(Message::Binary(message.into())).await.is_err() {
                return;
            }
        }
    };
    let into = async {
        while let Some(Ok(message)) = inward.next().await {
            if let Message::Binary(bytes) = message
                && let Some((&STDIN, typed)) = bytes.split_first()
                && to.write_all(typed).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = out => {}
        () = into => {}
    }
}
