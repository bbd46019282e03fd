//! `vireo.v1.Machine`: one machine, for those who run `vireo` on its node, and over an exec for those whom Kubernetes lets. Each call
//! is one call on the container.
//!
//! What is asked of the guest goes through its agent, whose words are bounded and stripped of control characters.

pub mod channel;
pub mod guard;
mod guest;
mod socket;
mod streams;
mod vsock;

use std::sync::{Arc, Weak};
use std::time::Duration;

use tonic::{Request, Response, Status, Streaming};
use vireo_runtimeclass::machine_service::v1::{self, machine_server::Machine as Service};

use crate::guest_agent::{Agent, AgentError};
use crate::pod::PodError;
use crate::pod::container::Container;
use crate::pod::machine::{CommandError, Machine, MachineRequest, State};

pub use socket::{Socket, remove};

/// CRI's names of the pod.
const POD_NAME: &str = "io.kubernetes.cri.sandbox-name";
const POD_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";

/// The service of one container, which it doesn't keep.
#[derive(Debug, Clone)]
pub struct MachineService {
    container: Weak<Container>,
}

impl MachineService {
    /// For a container with a machine.
    pub fn new(container: &Arc<Container>) -> MachineService {
        MachineService { container: Arc::downgrade(container) }
    }

    fn container(&self) -> Result<Arc<Container>, Status> {
        self.container.upgrade().ok_or_else(|| Status::not_found("the machine is gone"))
    }

    fn machine(&self) -> Result<Arc<dyn Machine>, Status> {
        self.container()?.machine().ok_or_else(|| Status::not_found("the machine is gone"))
    }

    fn agent(&self) -> Result<Agent, Status> {
        self.container()?.agent().ok_or_else(|| Status::not_found("the machine is gone"))
    }

    async fn act(&self, request: MachineRequest) -> Result<(), Status> {
        log::info!("{} is asked for", request.name());
        self.container()?.request(request).await.map_err(|error| status(&error))
    }
}

/// Where a machine is, as the service says it, and why.
fn told(state: &State) -> (v1::State, String) {
    match state {
        State::Building | State::Ready => (v1::State::Created, String::new()),
        State::Started => (v1::State::Running, String::new()),
        State::Paused(reason) => (v1::State::Paused, reason.clone().unwrap_or_default()),
        State::Ended { outcome, .. } => (v1::State::Ended, outcome.reason.clone().unwrap_or_default()),
    }
}

fn status(error: &PodError) -> Status {
    let text = error.to_string();
    match error {
        PodError::Illegal { .. } | PodError::Command(CommandError::Refused(_) | CommandError::Ended(_)) => {
            Status::failed_precondition(text)
        }
        PodError::Invalid(_) => Status::invalid_argument(text),
        PodError::Command(CommandError::NoAnswer(_)) => Status::deadline_exceeded(text),
        _ => Status::unknown(text),
    }
}

fn agent_status(error: AgentError) -> Status {
    let made: fn(String) -> Status = match &error {
        AgentError::NotConnected | AgentError::Reply { .. } => Status::failed_precondition,
        AgentError::NoAnswer { .. } => Status::deadline_exceeded,
        AgentError::Closed | AgentError::Io(_) | AgentError::Rebooted { .. } => Status::unavailable,
    };
    made(format!("{:#}", anyhow::Error::from(error)))
}

#[tonic::async_trait]
impl Service for MachineService {
    type ConsoleStream = streams::Boxed<v1::ConsoleResponse>;
    type EventsStream = streams::Boxed<v1::EventsResponse>;
    type VsockStream = streams::Boxed<v1::VsockResponse>;

    async fn info(&self, _: Request<v1::InfoRequest>) -> Result<Response<v1::InfoResponse>, Status> {
        let container = self.container()?;
        let (machine, agent) = (self.machine()?, self.agent()?);
        let (state, reason) = told(&machine.state().borrow());
        let annotation = |key| container.bundle.annotation(key).unwrap_or_default().to_owned();
        Ok(Response::new(v1::InfoResponse {
            id: container.id.clone(),
            pod_namespace: annotation(POD_NAMESPACE),
            pod_name: annotation(POD_NAME),
            state: state.into(),
            reason,
            pid: machine.pid(),
            agent_connected: agent.is_connected(),
            frozen: agent.holds_file_systems(),
        }))
    }

    async fn usage(&self, _: Request<v1::UsageRequest>) -> Result<Response<v1::UsageResponse>, Status> {
        let metrics = self.container()?.with_cgroup(crate::cgroup::metrics);
        let metrics = metrics.ok_or_else(|| Status::not_found("the machine is gone"))?;
        let metrics = metrics.map_err(|error| Status::unknown(error.to_string()))?;
        let usage = metrics.usage();
        Ok(Response::new(v1::UsageResponse {
            cpu_nanoseconds: usage.cpu,
            memory_bytes: usage.memory,
            memory_limit_bytes: usage.memory_limit.unwrap_or(0),
        }))
    }

    async fn pause(&self, _: Request<v1::PauseRequest>) -> Result<Response<v1::PauseResponse>, Status> {
        self.act(MachineRequest::Pause).await?;
        Ok(Response::new(v1::PauseResponse {}))
    }

    async fn resume(&self, _: Request<v1::ResumeRequest>) -> Result<Response<v1::ResumeResponse>, Status> {
        self.act(MachineRequest::Resume).await?;
        Ok(Response::new(v1::ResumeResponse {}))
    }

    async fn reset(&self, _: Request<v1::ResetRequest>) -> Result<Response<v1::ResetResponse>, Status> {
        self.act(MachineRequest::Reset).await?;
        Ok(Response::new(v1::ResetResponse {}))
    }

    async fn power_button(
        &self,
        _: Request<v1::PowerButtonRequest>,
    ) -> Result<Response<v1::PowerButtonResponse>, Status> {
        self.act(MachineRequest::PowerButton).await?;
        Ok(Response::new(v1::PowerButtonResponse {}))
    }

    async fn nmi(&self, _: Request<v1::NmiRequest>) -> Result<Response<v1::NmiResponse>, Status> {
        self.act(MachineRequest::Nmi).await?;
        Ok(Response::new(v1::NmiResponse {}))
    }

    async fn soft_reboot(&self, _: Request<v1::SoftRebootRequest>) -> Result<Response<v1::SoftRebootResponse>, Status> {
        log::info!("a soft reboot is asked for");
        if matches!(*self.machine()?.state().borrow(), State::Paused(_)) {
            return Err(Status::failed_precondition("soft reboot: the machine is paused; resume it first"));
        }
        match self.agent()?.reboot().await {
            Err(AgentError::NotConnected | AgentError::NoAnswer { .. }) => self.act(MachineRequest::Reboot).await?,
            asked => asked.map_err(agent_status)?,
        }
        Ok(Response::new(v1::SoftRebootResponse {}))
    }

    async fn console(
        &self,
        request: Request<Streaming<v1::ConsoleRequest>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        streams::console(&self.machine()?, self.container.clone(), request.into_inner()).map(Response::new)
    }

    async fn events(&self, _: Request<v1::EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        Ok(Response::new(streams::events(self.machine()?.state())))
    }

    async fn vsock(
        &self,
        request: Request<Streaming<v1::VsockRequest>>,
    ) -> Result<Response<Self::VsockStream>, Status> {
        vsock::connect(&self.machine()?, request.into_inner()).await.map(Response::new)
    }

    async fn guest_info(&self, _: Request<v1::GuestInfoRequest>) -> Result<Response<v1::GuestInfoResponse>, Status> {
        guest::info(&self.agent()?).await.map(Response::new).map_err(agent_status)
    }

    async fn guest_users(&self, _: Request<v1::GuestUsersRequest>) -> Result<Response<v1::GuestUsersResponse>, Status> {
        guest::users(&self.agent()?).await.map(Response::new).map_err(agent_status)
    }

    async fn guest_file_systems(
        &self,
        _: Request<v1::GuestFileSystemsRequest>,
    ) -> Result<Response<v1::GuestFileSystemsResponse>, Status> {
        guest::file_systems(&self.agent()?).await.map(Response::new).map_err(agent_status)
    }

    async fn freeze(&self, request: Request<v1::FreezeRequest>) -> Result<Response<v1::FreezeResponse>, Status> {
        let limit = Some(request.into_inner().timeout_milliseconds).filter(|limit| *limit != 0);
        let frozen = self.agent()?.freeze(limit.map(Duration::from_millis)).await.map_err(agent_status)?;
        Ok(Response::new(v1::FreezeResponse { frozen }))
    }

    async fn thaw(&self, _: Request<v1::ThawRequest>) -> Result<Response<v1::ThawResponse>, Status> {
        let thawed = self.agent()?.thaw().await.map_err(agent_status)?;
        Ok(Response::new(v1::ThawResponse { thawed }))
    }
}

#[cfg(test)]
mod tests;
