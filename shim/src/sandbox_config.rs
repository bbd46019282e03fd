//! A pod as CRI describes it, where containerd asks for a sandbox in so many words (`CreateSandbox`) and makes no pause container.
//!
//! It becomes the OCI spec that the pause container would have had, as far as the shim reads one, and is put into the bundle: from there on,
//! also for `delete`, a sandbox is a sandbox.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use prost::Message;
use serde_json::{Value, json};

use crate::bundle::{self, BundleError, CONTAINER_TYPE, SANDBOX_ID, SPEC};

/// How containerd calls a `PodSandboxConfig` in an `Any`.
const TYPE: &str = "runtime.v1.PodSandboxConfig";
/// Name servers of a pod that says nothing of them: the node's.
const NODES_RESOLV_CONF: &str = "/etc/resolv.conf";

/// A sandbox can't be described.
#[derive(Debug, thiserror::Error)]
pub enum SandboxConfigError {
    /// Not CRI's.
    #[error("CreateSandbox: options of type {0:?}: {TYPE} is expected, as containerd's CRI plugin sends it")]
    Type(String),
    /// Not one either.
    #[error("CreateSandbox: the {TYPE} can't be read")]
    Decode(#[from] prost::DecodeError),
    /// A file of the bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// CRI's message (k8s.io/cri-api, `runtime.v1`), as far as it matters here.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PodSandboxConfig {
    /// The pod's name among hosts.
    #[prost(string, tag = "2")]
    pub hostname: String,
    /// Its name servers; the node's if there is none.
    #[prost(message, optional, tag = "4")]
    pub dns: Option<DnsConfig>,
    /// Where it is on a Linux node.
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxPodSandboxConfig>,
}

/// CRI's `DNSConfig`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DnsConfig {
    /// Addresses.
    #[prost(string, repeated, tag = "1")]
    pub servers: Vec<String>,
    /// Domains.
    #[prost(string, repeated, tag = "2")]
    pub searches: Vec<String>,
}

/// CRI's `LinuxPodSandboxConfig`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LinuxPodSandboxConfig {
    /// The pod's cgroup: a path, or the path of a systemd slice.
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
}

impl PodSandboxConfig {
    /// Reads what `CreateSandbox` brings along; nothing is a pod that says nothing.
    pub fn read(type_url: &str, value: &[u8]) -> Result<PodSandboxConfig, SandboxConfigError> {
        match type_url.rsplit('/').next().unwrap_or_default() {
            "" | TYPE => Ok(PodSandboxConfig::decode(value)?),
            _ => Err(SandboxConfigError::Type(type_url.into())),
        }
    }

    /// Writes the spec of sandbox `id`, whose network namespace is at `netns` (empty: the node's), and the files that it names into `bundle`.
    pub fn write(&self, bundle: &Path, id: &str, netns: &str) -> Result<(), SandboxConfigError> {
        bundle::write(bundle, "hostname", &format!("{}\n", self.hostname))?;
        let resolv_conf = match &self.dns {
            Some(dns) => dns.resolv_conf(),
            // A node without the file has no servers to tell of.
            None => fs::read_to_string(NODES_RESOLV_CONF).unwrap_or_default(),
        };
        bundle::write(bundle, "resolv.conf", &resolv_conf)?;
        let mount = |name: &str| {
            let source = bundle.join(name).display().to_string();
            json!({"destination": format!("/etc/{name}"), "source": source})
        };
        let mut spec = json!({
            "ociVersion": "1.1.0",
            "annotations": {CONTAINER_TYPE: "sandbox", SANDBOX_ID: id},
            "mounts": [mount("hostname"), mount("resolv.conf")],
            "linux": {"namespaces": []},
        });
        if !netns.is_empty() {
            spec["linux"]["namespaces"] = json!([{"type": "network", "path": netns}]);
        }
        if let Some(path) = self.cgroups_path(id) {
            spec["linux"]["cgroupsPath"] = Value::String(path);
        }
        Ok(bundle::write(bundle, SPEC, &spec.to_string())?)
    }

    /// Where containerd would put the pause container: in the pod's cgroup, by systemd's spelling below a slice.
    fn cgroups_path(&self, id: &str) -> Option<String> {
        let parent = self.linux.as_ref()?.cgroup_parent.trim_end_matches('/');
        let name = parent.rsplit('/').next().filter(|name| !name.is_empty())?;
        let slice = Path::new(name).extension().is_some_and(|extension| extension == "slice");
        Some(if slice { format!("{name}:cri-containerd:{id}") } else { format!("{parent}/{id}") })
    }
}

impl DnsConfig {
    fn resolv_conf(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            let _ = writeln!(text, "search {}", self.searches.join(" "));
        }
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Bundle, Role};
    use crate::network::Names;

    fn config(parent: &str) -> PodSandboxConfig {
        let dns = DnsConfig { servers: vec!["10.96.0.10".into()], searches: vec!["svc.local".into(), "local".into()] };
        let linux = LinuxPodSandboxConfig { cgroup_parent: parent.into() };
        PodSandboxConfig { hostname: "first".into(), dns: Some(dns), linux: Some(linux) }
    }

    fn written(config: &PodSandboxConfig, netns: &str) -> (tempfile::TempDir, Bundle) {
        let directory = tempfile::tempdir().unwrap();
        config.write(directory.path(), "s1", netns).unwrap();
        let bundle = Bundle::open(directory.path()).unwrap();
        (directory, bundle)
    }

    #[test]
    fn a_sandbox_has_the_spec_of_a_pause_container() {
        let (_directory, bundle) = written(&config("/kubepods/pod1"), "/run/netns/x");
        assert_eq!((bundle.role(), bundle.sandbox_id()), (Role::Sandbox, Some("s1")));
        assert_eq!(bundle.netns(), Some(Path::new("/run/netns/x")));
        let linux = bundle.spec().linux().as_ref().unwrap();
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/kubepods/pod1/s1")));
        let names = Names::of(&[bundle.spec()]);
        assert_eq!(names.hostname.as_deref(), Some("first"));
        assert_eq!((names.servers.len(), names.search), (1, vec!["svc.local".to_owned(), "local".into()]));
    }

    #[test]
    fn a_pod_that_says_little() {
        let (directory, bundle) = written(&PodSandboxConfig::default(), "");
        assert_eq!(bundle.netns(), None);
        assert_eq!(bundle.spec().linux().as_ref().unwrap().cgroups_path(), &None);
        let servers = fs::read_to_string(directory.path().join("resolv.conf")).unwrap();
        assert_eq!(servers, fs::read_to_string(NODES_RESOLV_CONF).unwrap_or_default());
    }

    #[test]
    fn cgroup_parents_in_both_spellings() {
        let path = |parent: &str| config(parent).cgroups_path("s1");
        assert_eq!(path("/kubepods/pod1/").as_deref(), Some("/kubepods/pod1/s1"));
        assert_eq!(
            path("/kubepods.slice/kubepods-pod1.slice").as_deref(),
            Some("kubepods-pod1.slice:cri-containerd:s1")
        );
        assert_eq!((path(""), path("/")), (None, None));
    }

    #[test]
    fn what_containerd_sends_is_read() {
        let sent = config("/kubepods/pod1");
        for url in [TYPE.to_owned(), format!("type.googleapis.com/{TYPE}")] {
            assert_eq!(PodSandboxConfig::read(&url, &sent.encode_to_vec()).unwrap(), sent);
        }
        assert_eq!(PodSandboxConfig::read("", &[]).unwrap(), PodSandboxConfig::default());
        let error = PodSandboxConfig::read("runtime.v2.Other", &[]).unwrap_err().to_string();
        assert!(error.contains("\"runtime.v2.Other\""), "{error}");
        assert!(PodSandboxConfig::read(TYPE, &[0xff]).is_err());
    }
}
