//! Finds the machines of this node by their sockets.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tonic::transport::{Channel, Endpoint};
use vireo_runtimeclass::machine_service::v1::{self, machine_client::MachineClient};
use vireo_runtimeclass::machine_service::{FOLDER, SUFFIX};

use super::{answered, ask};

/// A connection to a machine's shim.
pub(super) type Client = MachineClient<Channel>;

/// Every machine that answers, with what it is, by name.
pub(super) async fn all() -> Result<Vec<(Client, v1::InfoResponse)>> {
    let mut machines = Vec::new();
    for socket in sockets(Path::new(FOLDER)).with_context(|| format!("{FOLDER}: only root may look there"))? {
        // A shim that crashed leaves its socket until containerd has it swept.
        let Ok(mut client) = connect(&socket).await else { continue };
        let Ok(info) = answered(client.info(ask(v1::InfoRequest {})).await) else { continue };
        machines.push((client, info));
    }
    machines.sort_by_key(|(_, info)| (name(info), info.id.clone()));
    Ok(machines)
}

/// The one machine that `wanted` names.
pub(super) async fn find(wanted: &str) -> Result<Client> {
    let mut found = all().await?.into_iter().filter(|(_, info)| is(info, wanted));
    match (found.next(), found.next()) {
        (Some((client, _)), None) => Ok(client),
        (None, _) => bail!("no machine {wanted:?} on this node; `vireo ps` lists them"),
        (Some((_, one)), Some((_, other))) => {
            bail!("{wanted:?} may be {} or {}: give namespace/name, or the beginning of the id", one.id, other.id)
        }
    }
}

/// The pod, or the container where there is none.
pub(super) fn name(info: &v1::InfoResponse) -> String {
    if info.pod_name.is_empty() { info.id.clone() } else { format!("{}/{}", info.pod_namespace, info.pod_name) }
}

fn is(info: &v1::InfoResponse, wanted: &str) -> bool {
    name(info) == wanted || info.pod_name == wanted || (!wanted.is_empty() && info.id.starts_with(wanted))
}

async fn connect(socket: &Path) -> Result<Client> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
    Ok(MachineClient::new(endpoint.connect().await?))
}

fn sockets(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut sockets = Vec::new();
    let found = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(sockets),
        found => found?,
    };
    for socket in found {
        let socket = socket?.path();
        if socket.to_string_lossy().ends_with(SUFFIX) {
            sockets.push(socket);
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_three_names() {
        let info = v1::InfoResponse {
            id: "3f9c".into(),
            pod_namespace: "default".into(),
            pod_name: "vm".into(),
            ..v1::InfoResponse::default()
        };
        assert!(["vm", "default/vm", "3f", "3f9c"].iter().all(|wanted| is(&info, wanted)));
        assert!(["", "v", "other/vm", "9c"].iter().all(|wanted| !is(&info, wanted)));
        assert_eq!(name(&v1::InfoResponse { id: "x".into(), ..v1::InfoResponse::default() }), "x");
    }

    #[test]
    fn sockets_are_found_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(sockets(&folder.path().join("none")).unwrap().is_empty());
        for file in ["k8s.io.a.sock", "b.tmp"] {
            fs::write(folder.path().join(file), "").unwrap();
        }
        assert_eq!(sockets(folder.path()).unwrap(), [folder.path().join("k8s.io.a.sock")]);
    }
}
