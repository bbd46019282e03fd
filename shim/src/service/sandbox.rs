//! containerd's Sandbox service (`sandboxer = "shim"`): each call is one call on the pod, whose machines are asked for by the Task service
//! beside it. All 9 calls are written out, for the generated default answers `NOT_FOUND`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest, PlatformResponse,
    SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest, SandboxStatusResponse, ShutdownSandboxRequest,
    ShutdownSandboxResponse, StartSandboxRequest, StartSandboxResponse, StopSandboxRequest, StopSandboxResponse,
    WaitSandboxRequest, WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_async::{Sandbox, create_sandbox};
use containerd_shim_protos::types::platform;
use ttrpc::Code;
use ttrpc::r#async::{Service, TtrpcContext};
use ttrpc::error::get_rpc_status;

use super::rpc::{logged, rpc};
use super::task::metrics;
use crate::pod::lifecycle::Phase;
use crate::pod::supervise::timestamp;
use crate::pod::{Pod, PodError};
use crate::sandbox_config::PodSandboxConfig;

/// CRI's words for a pod that takes containers, and for one that doesn't.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

/// The service of one pod.
#[derive(Debug)]
struct SandboxService {
    pod: Arc<Pod>,
}

/// The methods of the pod's Sandbox service.
pub fn services(pod: Arc<Pod>) -> HashMap<String, Service> {
    create_sandbox(Arc::new(SandboxService { pod }))
}

impl SandboxService {
    async fn create(&self, request: &CreateSandboxRequest) -> Result<(), PodError> {
        let (id, bundle) = (&request.sandbox_id, Path::new(&request.bundle_path));
        let config = PodSandboxConfig::read(&request.options.type_url, &request.options.value);
        config.and_then(|config| config.write(bundle, id, &request.netns_path)).map_err(anyhow::Error::from)?;
        self.pod.create_sandbox(id, bundle).await
    }
}

#[async_trait]
impl Sandbox for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        log::debug!("create sandbox {}", request.sandbox_id);
        self.create(&request).await.map_err(|error| logged("create sandbox", &request.sandbox_id, error))?;
        Ok(CreateSandboxResponse::new())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        log::debug!("start sandbox {}", request.sandbox_id);
        let sandbox = self.pod.sandbox(&request.sandbox_id).map_err(rpc)?;
        let pid = self.pod.start(&sandbox.id).await.map_err(|error| logged("start sandbox", &sandbox.id, error))?;
        let created_at = MessageField::some(timestamp(sandbox.created));
        Ok(StartSandboxResponse { pid, created_at, ..Default::default() })
    }

    async fn platform(&self, _: &TtrpcContext, request: PlatformRequest) -> ttrpc::Result<PlatformResponse> {
        self.pod.sandbox(&request.sandbox_id).map_err(rpc)?;
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let platform =
            platform::Platform { os: "linux".into(), architecture: architecture.into(), ..Default::default() };
        Ok(PlatformResponse { platform: MessageField::some(platform), ..Default::default() })
    }

    async fn stop_sandbox(&self, _: &TtrpcContext, request: StopSandboxRequest) -> ttrpc::Result<StopSandboxResponse> {
        log::debug!("stop sandbox {}", request.sandbox_id);
        let patience = Duration::from_secs(request.timeout_secs.into());
        self.pod.stop_sandbox(&request.sandbox_id, patience).await.map_err(rpc)?;
        Ok(StopSandboxResponse::new())
    }

    async fn wait_sandbox(&self, _: &TtrpcContext, request: WaitSandboxRequest) -> ttrpc::Result<WaitSandboxResponse> {
        let sandbox = self.pod.sandbox(&request.sandbox_id).map_err(rpc)?;
        let exit = self.pod.wait(&sandbox.id).await.map_err(rpc)?;
        let exited_at = MessageField::some(timestamp(exit.at));
        Ok(WaitSandboxResponse { exit_status: exit.code, exited_at, ..Default::default() })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> ttrpc::Result<SandboxStatusResponse> {
        let sandbox = self.pod.sandbox(&request.sandbox_id).map_err(rpc)?;
        let phase = sandbox.phase();
        Ok(SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: sandbox.pid(),
            state: if phase == Phase::Running { READY } else { NOT_READY }.into(),
            created_at: MessageField::some(timestamp(sandbox.created)),
            exited_at: MessageField::from_option(phase.exit().map(|exit| timestamp(exit.at))),
            ..Default::default()
        })
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> ttrpc::Result<PingResponse> {
        match self.pod.sandbox(&request.sandbox_id).map_err(rpc)?.phase() {
            Phase::Stopped(_) => Err(get_rpc_status(Code::FAILED_PRECONDITION, "the sandbox has stopped")),
            _ => Ok(PingResponse::new()),
        }
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        log::debug!("shut sandbox {} down", request.sandbox_id);
        self.pod.close(&request.sandbox_id).await.map_err(rpc)?;
        Ok(ShutdownSandboxResponse::new())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        let sandbox = self.pod.sandbox(&request.sandbox_id).map_err(rpc)?;
        let mut response = SandboxMetricsResponse::new();
        let told = response.metrics.mut_or_insert_default();
        told.timestamp = MessageField::some(timestamp(SystemTime::now()));
        told.data = MessageField::some(metrics(&self.pod, &sandbox.id)?);
        told.id = request.sandbox_id;
        Ok(response)
    }
}

#[cfg(test)]
mod tests;
