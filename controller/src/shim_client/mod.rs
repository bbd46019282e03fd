//! A machine, reached through its pod: `vireo.v1.Machine` over the streams of an exec, as `docs/machines.md` tells.
//!
//! Kubernetes says who may open the channel (`pods/exec`); calls that change the machine also carry the controller's word, a
//! token that is good for one call on one pod, once. A channel is for a question or for a stream, not to be kept: a machine has
//! 16 of them at most.

mod token;

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{AttachParams, AttachedProcess};
use tokio::time::timeout;
use tonic::Request;
use tonic::transport::Channel;
use vireo_runtimeclass::machine_service::token::TokenError;
use vireo_runtimeclass::machine_service::v1::machine_client::MachineClient;
use vireo_runtimeclass::machine_service::{CHANNEL, client, token as claims};
use vireo_runtimeclass::pod::MACHINE_CONTAINER;

use crate::Context;
use crate::words::words;

/// API server, kubelet, containerd and shim together answer within this, or don't.
const CONNECT: Duration = Duration::from_secs(10);
/// What of a stream is held here, bytes, in each direction: some of HTTP/2's frames.
const BUFFER: usize = 64 << 10;

/// Why a machine can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The pod has no name or uid yet.
    #[error("the pod isn't stored yet, and so has no machine")]
    NotStored,
    /// The exec was refused, or the node can't be reached.
    #[error("exec in pod {0}: {said}", said = words(.1))]
    Exec(String, #[source] Box<kube::Error>),
    /// The exec has no streams, or what answers on them isn't a machine.
    #[error("pod {0} doesn't answer as a machine of Vireo's: {1}")]
    NoMachine(String, String),
    /// Nobody answered.
    #[error("pod {0} didn't answer within 10 s")]
    TimedOut(String),
    /// A name that no token can carry.
    #[error("can't sign a call on pod {0}: {1}")]
    Token(String, #[source] Box<TokenError>),
}

/// A channel to a pod's machine; it ends when this is dropped.
pub struct Machine {
    /// Its calls.
    pub client: MachineClient<Channel>,
    pod: claims::Pod,
    context: Context,
    /// Moves the bytes for as long as it lives.
    _exec: AttachedProcess,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("pod", &self.pod).finish_non_exhaustive()
    }
}

impl Machine {
    /// Opens a channel to the machine of `pod`.
    pub async fn connect(context: &Context, pod: &Pod) -> Result<Self, MachineError> {
        let pod = identity(pod)?;
        match timeout(CONNECT, Self::open(context, &pod)).await {
            Ok(opened) => opened,
            Err(_) => Err(MachineError::TimedOut(pod.to_string())),
        }
    }

    async fn open(context: &Context, pod: &claims::Pod) -> Result<Self, MachineError> {
        let pods: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace);
        let streams = AttachParams::default()
            .container(MACHINE_CONTAINER)
            .stdin(true)
            .stdout(true)
            .stderr(false)
            .max_stdin_buf_size(BUFFER)
            .max_stdout_buf_size(BUFFER);
        let exec = pods.exec(&pod.name, [CHANNEL], &streams).await;
        let mut exec = exec.map_err(|error| MachineError::Exec(pod.to_string(), Box::new(error)))?;
        let (Some(output), Some(input)) = (exec.stdout(), exec.stdin()) else {
            return Err(MachineError::NoMachine(pod.to_string(), "the exec has no streams".to_owned()));
        };
        let channel = client::channel(tokio::io::join(output, input)).await;
        let channel = channel.map_err(|error| MachineError::NoMachine(pod.to_string(), error.to_string()))?;
        let client = MachineClient::new(channel);
        Ok(Self { client, pod: pod.clone(), context: context.clone(), _exec: exec })
    }

    /// `message` for the call `method` (as in `Pause`), with the token that it needs.
    pub fn signed<T>(&self, method: &str, message: T) -> Result<Request<T>, MachineError> {
        let token = token::sign(&self.context.signer, &self.pod, method, Timestamp::now())
            .map_err(|error| MachineError::Token(self.pod.to_string(), Box::new(error)))?;
        Ok(client::with_token(message, &token))
    }
}

fn identity(pod: &Pod) -> Result<claims::Pod, MachineError> {
    let metadata = &pod.metadata;
    let [Some(namespace), Some(name), Some(uid)] =
        [&metadata.namespace, &metadata.name, &metadata.uid].map(Clone::clone)
    else {
        return Err(MachineError::NotStored);
    };
    Ok(claims::Pod { namespace, name, uid })
}
