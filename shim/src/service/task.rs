//! containerd's Task service: each call is one call on the pod.
//!
//! One implementation answers as `containerd.task.v2.Task` and `containerd.task.v3.Task`: v3 is v2 renamed. All 17 calls
//! are written out, because the generated default answers `NOT_FOUND`, which containerd takes for a lost task.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use containerd_shim::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse,
    StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim::protos::api::ProcessInfo;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::protobuf::{EnumOrUnknown, MessageField};
use containerd_shim::protos::shim_async::{Task, create_task};
use ttrpc::Code;
use ttrpc::r#async::{Service, TtrpcContext};
use ttrpc::error::get_rpc_status;
use vireo_runtimeclass::machine_service;

use crate::pod::exec::StartedExec;
use crate::pod::machine::MachineRequest;
use crate::pod::supervise::timestamp;
use crate::pod::{Pod, PodError};
use crate::service::machine::guard::Used;
use crate::service::machine::{MachineService, Socket, channel};
use crate::service::rpc::{logged, rpc};

/// The names under which the service is served.
const VERSIONS: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// The service of one pod.
#[derive(Debug)]
pub struct TaskService {
    pod: Arc<Pod>,
    /// containerd's.
    namespace: String,
    /// Where the machines' own services are served, and those that are.
    folder: PathBuf,
    sockets: Mutex<HashMap<String, Socket>>,
    /// The tokens that were used.
    used: Arc<Used>,
}

/// The methods of the pod's Task service, under both names. Its machine is served on a socket in `folder`.
pub fn services(pod: Arc<Pod>, namespace: &str, folder: PathBuf) -> HashMap<String, Service> {
    let service =
        TaskService { pod, namespace: namespace.into(), folder, sockets: Mutex::default(), used: Arc::default() };
    let task: Arc<dyn Task + Send + Sync> = Arc::new(service);
    VERSIONS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), create_task(task.clone()).into_values().next()?)))
        .collect()
}

impl TaskService {
    fn sockets(&self) -> MutexGuard<'_, HashMap<String, Socket>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves the machine of a new container, if it has one. The pod does without where that fails.
    fn serve(&self, id: &str) {
        let Ok(container) = self.pod.container(id) else { return };
        if container.machine().is_none() {
            return;
        }
        let path = self.folder.join(machine_service::socket(&self.namespace, id));
        match Socket::serve(path.clone(), MachineService::new(&container)) {
            Ok(socket) => drop(self.sockets().insert(id.to_owned(), socket)),
            Err(error) => log::warn!("{}: `vireo` won't find this machine: {error}", path.display()),
        }
    }

    /// Starts a command or a channel, which is answered from then on.
    async fn start_exec(&self, id: &str, exec: &str) -> Result<u32, PodError> {
        let StartedExec { pid, channel } = self.pod.start_exec(id, exec).await?;
        if let Some(channel) = channel {
            tokio::spawn(channel::serve(channel, self.used.clone()));
        }
        Ok(pid)
    }

    fn exec_state(&self, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let (container, exec) = self.pod.exec(&request.id, &request.exec_id).map_err(rpc)?;
        let phase = exec.phase();
        let exit = phase.exit();
        Ok(StateResponse {
            id: request.id,
            exec_id: request.exec_id,
            bundle: container.bundle.path().display().to_string(),
            pid: container.pid(),
            status: EnumOrUnknown::new(phase.status()),
            stdin: exec.stdio.stdin.clone(),
            stdout: exec.stdio.stdout.clone(),
            stderr: exec.stdio.stderr.clone(),
            exit_status: exit.map_or(0, |exit| exit.code),
            exited_at: MessageField::from_option(exit.map(|exit| timestamp(exit.at))),
            ..Default::default()
        })
    }
}

/// The numbers of a container's cgroup as containerd knows them.
pub(super) fn metrics(pod: &Pod, id: &str) -> ttrpc::Result<Any> {
    pod.stats(id).map_err(rpc)?.message().map_err(|error| get_rpc_status(Code::INTERNAL, error))
}

fn unimplemented<T>(text: &str) -> ttrpc::Result<T> {
    Err(get_rpc_status(Code::UNIMPLEMENTED, text))
}

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        if !request.exec_id.is_empty() {
            return self.exec_state(request);
        }
        let container = self.pod.container(&request.id).map_err(rpc)?;
        let status = container.status();
        let mut response = StateResponse {
            id: request.id,
            bundle: container.bundle.path().display().to_string(),
            pid: container.pid(),
            status: EnumOrUnknown::new(status),
            stdin: container.stdio.stdin.clone(),
            stdout: container.stdio.stdout.clone(),
            stderr: container.stdio.stderr.clone(),
            terminal: container.stdio.terminal,
            ..Default::default()
        };
        if let Some(exit) = container.phase().exit() {
            response.exit_status = exit.code;
            response.exited_at = MessageField::some(timestamp(exit.at));
        }
        Ok(response)
    }

    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> ttrpc::Result<CreateTaskResponse> {
        log::debug!("create {}", request.id);
        let pid = self.pod.create(&request).await.map_err(|error| logged("create", &request.id, error))?;
        self.serve(&request.id);
        Ok(CreateTaskResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        log::debug!("start {} {}", request.id, request.exec_id);
        let started = match request.exec_id.as_str() {
            "" => self.pod.start(&request.id).await,
            exec => self.start_exec(&request.id, exec).await,
        };
        let pid = started.map_err(|error| logged("start", &request.id, error))?;
        Ok(StartResponse { pid, ..Default::default() })
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        log::debug!("delete {} {}", request.id, request.exec_id);
        let deleted = match request.exec_id.as_str() {
            "" => self.pod.delete(&request.id).await,
            exec => self.pod.delete_exec(&request.id, exec),
        };
        let (pid, exit) = deleted.map_err(rpc)?;
        if request.exec_id.is_empty() {
            self.sockets().remove(&request.id);
        }
        let exited_at = MessageField::some(timestamp(exit.at));
        Ok(DeleteResponse { pid, exit_status: exit.code, exited_at, ..Default::default() })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let container = self.pod.container(&request.id).map_err(rpc)?;
        let pid = match container.pid() {
            // Being created. containerd takes an empty list for a leaked shim.
            0 => std::process::id(),
            pid => pid,
        };
        Ok(PidsResponse { processes: vec![ProcessInfo { pid, ..Default::default() }], ..Default::default() })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        log::debug!("pause {}", request.id);
        self.pod.request(&request.id, MachineRequest::Pause).await.map_err(rpc)?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        log::debug!("resume {}", request.id);
        self.pod.request(&request.id, MachineRequest::Resume).await.map_err(rpc)?;
        Ok(Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        unimplemented("checkpoint: not supported by vireo")
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        log::debug!("kill {} {} {}", request.id, request.exec_id, request.signal);
        let killed = match request.exec_id.as_str() {
            "" => self.pod.kill(&request.id, request.signal),
            exec => self.pod.kill_exec(&request.id, exec, request.signal),
        };
        killed.map_err(rpc)?;
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        log::debug!("exec {} {}", request.id, request.exec_id);
        self.pod.add_exec(&request).map_err(|error| logged("exec", &request.id, error))?;
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        if !request.exec_id.is_empty() {
            return unimplemented("a terminal of an exec: not supported by vireo");
        }
        self.pod.resize(&request.id, request.width, request.height).map_err(rpc)?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        if request.stdin {
            let closed = match request.exec_id.as_str() {
                "" => self.pod.close_stdin(&request.id),
                exec => self.pod.close_exec_stdin(&request.id, exec),
            };
            closed.map_err(rpc)?;
        }
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let resources = serde_json::from_slice(&request.resources.value)
            .map_err(|error| get_rpc_status(Code::INVALID_ARGUMENT, format!("resources: {error}")))?;
        self.pod.update(&request.id, &resources).map_err(rpc)?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let ended = match request.exec_id.as_str() {
            "" => self.pod.wait(&request.id).await,
            exec => self.pod.wait_exec(&request.id, exec).await,
        };
        let exit = ended.map_err(rpc)?;
        let exited_at = MessageField::some(timestamp(exit.at));
        Ok(WaitResponse { exit_status: exit.code, exited_at, ..Default::default() })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = MessageField::some(metrics(&self.pod, &request.id)?);
        Ok(StatsResponse { stats, ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        let container = self.pod.container(&request.id).map_err(rpc)?;
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: container.pid(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.pod.shutdown();
        Ok(Empty::new())
    }
}

#[cfg(test)]
mod tests;
