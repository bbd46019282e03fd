//! What a guest's agent says, as the service passes it on.

use vireo_runtimeclass::machine_service::v1;

use crate::guest_agent::{Agent, AgentError, plain};

pub async fn info(agent: &Agent) -> Result<v1::GuestInfoResponse, AgentError> {
    let (info, host, os) = (agent.info().await?, agent.host_name().await?, agent.os_info().await?);
    Ok(v1::GuestInfoResponse {
        agent_version: plain(&info.version),
        host_name: plain(&host.host_name),
        os_id: plain(&os.id),
        os_name: plain(&os.name),
        os_pretty_name: plain(&os.pretty_name),
        os_version: plain(&os.version),
        os_version_id: plain(&os.version_id),
        machine: plain(&os.machine),
        kernel_release: plain(&os.kernel_release),
        kernel_version: plain(&os.kernel_version),
    })
}

pub async fn users(agent: &Agent) -> Result<v1::GuestUsersResponse, AgentError> {
    let users = agent.users().await?.into_iter().map(|user| v1::GuestUser {
        name: plain(&user.name),
        domain: plain(&user.domain),
        login_time: user.login_time,
    });
    Ok(v1::GuestUsersResponse { users: users.collect() })
}

pub async fn file_systems(agent: &Agent) -> Result<v1::GuestFileSystemsResponse, AgentError> {
    let file_systems = agent.file_systems().await?.into_iter().map(|system| v1::GuestFileSystem {
        name: plain(&system.name),
        mount_point: plain(&system.mountpoint),
        r#type: plain(&system.kind),
        used_bytes: system.used_bytes,
        total_bytes: system.total_bytes,
    });
    Ok(v1::GuestFileSystemsResponse { file_systems: file_systems.collect() })
}
