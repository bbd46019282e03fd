//! A client of containerd's CRI, as the kubelet is one. Calls block; each has a deadline.

#[expect(
    missing_docs,
    clippy::pedantic,
    clippy::enum_variant_names,
    reason = "generated; proto/cri.proto says what it is"
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

pub mod attach;
pub mod websocket;

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tonic::{Status, transport::Channel};
use v1::runtime_service_client::RuntimeServiceClient;

/// containerd's socket on every node.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// Far beyond what an emulated node needs.
const DEADLINE: Duration = Duration::from_mins(1);

/// A connection to containerd.
pub struct Cri {
    runtime: Runtime,
    client: RuntimeServiceClient<Channel>,
}

impl std::fmt::Debug for Cri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cri")
    }
}

/// One blocking method per call: `name(request) -> the response's field, or the whole response`.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $response:ident;)*) => {
        impl Cri {
            $(
                $(#[$doc])*
                pub fn $name(&mut self, request: v1::$request) -> Result<v1::$response, Status> {
                    let mut request = tonic::Request::new(request);
                    request.set_timeout(DEADLINE);
                    let call = self.client.$name(request);
                    self.runtime.block_on(call).map(tonic::Response::into_inner)
                }
            )*
        }
    };
}

calls! {
    /// containerd's version.
    version(VersionRequest) -> VersionResponse;
    /// Whether runtime and network are ready.
    status(StatusRequest) -> StatusResponse;
    /// Makes a pod.
    run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    /// Stops a pod's containers and takes its network down.
    stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    /// Removes a pod.
    remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    /// A pod's state and address.
    pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    /// Every pod.
    list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    /// Makes a container in a pod.
    create_container(CreateContainerRequest) -> CreateContainerResponse;
    /// Starts a container.
    start_container(StartContainerRequest) -> StartContainerResponse;
    /// SIGTERM, and SIGKILL after the timeout.
    stop_container(StopContainerRequest) -> StopContainerResponse;
    /// Removes a container.
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    /// Every container.
    list_containers(ListContainersRequest) -> ListContainersResponse;
    /// A container's state and exit.
    container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    /// Changes a running container's limits.
    update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
    /// A container's usage.
    container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    /// Where to reach a container's console.
    attach(AttachRequest) -> AttachResponse;
    /// Reopens a container's log after its rotation.
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    /// Where to reach a command's streams.
    exec(ExecRequest) -> ExecResponse;
    /// Where to reach a pod's ports.
    port_forward(PortForwardRequest) -> PortForwardResponse;
    /// Runs a command in a container.
    exec_sync(ExecSyncRequest) -> ExecSyncResponse;
}

impl Cri {
    /// Connects to the node's containerd.
    pub fn connect() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = tonic::transport::Endpoint::from_shared(format!("unix://{SOCKET}"))?;
        let channel = runtime.block_on(endpoint.connect()).with_context(|| format!("connect to {SOCKET}"))?;
        Ok(Self { runtime, client: RuntimeServiceClient::new(channel) })
    }
}
