//! A machine of words: it does nothing, and says that it did. What changes it wants the controller's token, as a shim does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};
use vireo_runtimeclass::machine_service::{
    TOKEN,
    token::{Key, Pod, Token},
    v1::{self, machine_server::Machine as Service},
};

/// One machine; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pod: Pod,
    key: Arc<Key>,
    told: Arc<Mutex<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    is_paused: bool,
    is_frozen: bool,
    /// The calls that were answered.
    calls: Vec<String>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Machine {
    /// The machine of a pod whose controller has this key.
    pub(super) fn new(pod: Pod, key: Key) -> Self {
        Self { pod, key: Arc::new(key), told: Arc::default() }
    }

    /// The calls that it answered.
    pub(super) fn calls(&self) -> Vec<String> {
        self.told().calls.clone()
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, call: &str) {
        self.told().calls.push(call.to_owned());
    }

    /// Whoever asks has the controller's word for it.
    fn admit<T>(&self, request: &Request<T>, call: &str) -> Result<(), Status> {
        let denied = |why: String| Status::unauthenticated(why);
        let token = request.metadata().get_bin(TOKEN).ok_or_else(|| denied("no token".to_owned()))?;
        let bytes = token.to_bytes().map_err(|error| denied(error.to_string()))?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(u64::MAX, |since| since.as_secs());
        Token::read(&bytes)
            .and_then(|token| token.verified(&self.key))
            .and_then(|claims| claims.permit(call, &self.pod, now))
            .map_err(|error| denied(error.to_string()))?;
        self.note(call);
        Ok(())
    }
}

/// A call that nobody makes here.
fn unasked<T>() -> Answer<T> {
    Err(Status::unimplemented("this machine has no such call"))
}

#[tonic::async_trait]
impl Service for Machine {
    type ConsoleStream = BoxStream<'static, Result<v1::ConsoleResponse, Status>>;
    type VsockStream = BoxStream<'static, Result<v1::VsockResponse, Status>>;
    type EventsStream = BoxStream<'static, Result<v1::EventsResponse, Status>>;

    async fn info(&self, _: Request<v1::InfoRequest>) -> Answer<v1::InfoResponse> {
        self.note("Info");
        let Told { is_paused, is_frozen, .. } = *self.told();
        let state = if is_paused { v1::State::Paused } else { v1::State::Running };
        Ok(Response::new(v1::InfoResponse {
            pod_namespace: self.pod.namespace.clone(),
            pod_name: self.pod.name.clone(),
            state: state.into(),
            agent_connected: true,
            frozen: is_frozen,
            ..v1::InfoResponse::default()
        }))
    }

    async fn pause(&self, request: Request<v1::PauseRequest>) -> Answer<v1::PauseResponse> {
        self.admit(&request, "Pause")?;
        self.told().is_paused = true;
        Ok(Response::new(v1::PauseResponse {}))
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Answer<v1::ResumeResponse> {
        self.admit(&request, "Resume")?;
        self.told().is_paused = false;
        Ok(Response::new(v1::ResumeResponse {}))
    }

    async fn reset(&self, request: Request<v1::ResetRequest>) -> Answer<v1::ResetResponse> {
        self.admit(&request, "Reset")?;
        Ok(Response::new(v1::ResetResponse {}))
    }

    async fn soft_reboot(&self, request: Request<v1::SoftRebootRequest>) -> Answer<v1::SoftRebootResponse> {
        self.admit(&request, "SoftReboot")?;
        Ok(Response::new(v1::SoftRebootResponse {}))
    }

    async fn freeze(&self, request: Request<v1::FreezeRequest>) -> Answer<v1::FreezeResponse> {
        self.admit(&request, "Freeze")?;
        self.told().is_frozen = true;
        Ok(Response::new(v1::FreezeResponse { frozen: 1 }))
    }

    async fn thaw(&self, request: Request<v1::ThawRequest>) -> Answer<v1::ThawResponse> {
        self.admit(&request, "Thaw")?;
        self.told().is_frozen = false;
        Ok(Response::new(v1::ThawResponse { thawed: 1 }))
    }

    async fn guest_info(&self, _: Request<v1::GuestInfoRequest>) -> Answer<v1::GuestInfoResponse> {
        self.note("GuestInfo");
        Ok(Response::new(v1::GuestInfoResponse {
            agent_version: "7.2".to_owned(),
            host_name: "speaks".to_owned(),
            os_id: "debian".to_owned(),
            kernel_release: "6.1.0".to_owned(),
            ..v1::GuestInfoResponse::default()
        }))
    }

    async fn guest_users(&self, _: Request<v1::GuestUsersRequest>) -> Answer<v1::GuestUsersResponse> {
        let ann = v1::GuestUser { name: "ann".to_owned(), domain: "example".to_owned(), login_time: 12.5 };
        Ok(Response::new(v1::GuestUsersResponse { users: vec![ann] }))
    }

    async fn guest_file_systems(
        &self,
        _: Request<v1::GuestFileSystemsRequest>,
    ) -> Answer<v1::GuestFileSystemsResponse> {
        let root = v1::GuestFileSystem {
            name: "vda1".to_owned(),
            mount_point: "/".to_owned(),
            r#type: "ext4".to_owned(),
            used_bytes: 1_000,
            total_bytes: 4_000,
        };
        Ok(Response::new(v1::GuestFileSystemsResponse { file_systems: vec![root] }))
    }

    async fn usage(&self, _: Request<v1::UsageRequest>) -> Answer<v1::UsageResponse> {
        unasked()
    }

    async fn power_button(&self, _: Request<v1::PowerButtonRequest>) -> Answer<v1::PowerButtonResponse> {
        unasked()
    }

    async fn nmi(&self, _: Request<v1::NmiRequest>) -> Answer<v1::NmiResponse> {
        unasked()
    }

    async fn console(&self, _: Request<Streaming<v1::ConsoleRequest>>) -> Answer<Self::ConsoleStream> {
        unasked()
    }

    async fn vsock(&self, _: Request<Streaming<v1::VsockRequest>>) -> Answer<Self::VsockStream> {
        unasked()
    }

    async fn events(&self, _: Request<v1::EventsRequest>) -> Answer<Self::EventsStream> {
        unasked()
    }
}
