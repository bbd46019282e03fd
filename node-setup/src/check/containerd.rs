//! What containerd must have been told.

use std::fs;
use std::process::Command;

use super::host::version_of;

type Checked = Result<String, (String, &'static str)>;

const CONFIG: &str = "/etc/containerd/config.toml";
pub(super) const RUNTIME_TYPE: &str = "io.containerd.vireo.v2";
const OLDEST: (u32, u32) = (1, 6);
/// Where it listens unless it is told otherwise.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// containerd is there and new enough.
pub(super) fn version() -> Checked {
    let remedy = "install containerd 1.6 or newer";
    let output = Command::new("containerd").arg("--version").output();
    let output = output.map_err(|error| (format!("can't be run: {error}"), remedy))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // containerd <package> <version> <revision>
    match text.split_whitespace().nth(2).and_then(version_of) {
        Some(version) if version >= OLDEST => Ok(text.trim().to_owned()),
        _ => Err((format!("{:?}", text.trim()), remedy)),
    }
}

/// The runtime is configured, and pods' annotations reach it.
pub(super) fn runtime() -> Checked {
    let remedy = "run node-setup/install.sh";
    let config = dump().map_err(|error| (format!("{CONFIG}: {error}"), remedy))?;
    examine(&config).map(|()| "vireo, with pod annotations".to_owned()).map_err(|found| (found, remedy))
}

/// What containerd itself makes of its files, imports and all; else what stands in the main one.
pub(super) fn dump() -> std::io::Result<String> {
    match Command::new("containerd").args(["config", "dump"]).output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        _ => fs::read_to_string(CONFIG),
    }
}

/// Where a containerd of this configuration listens.
pub(super) fn socket(config: &str) -> String {
    let lines = config.lines().map(str::trim).skip_while(|line| *line != "[grpc]").skip(1);
    let mut table = lines.take_while(|line| !line.starts_with('['));
    let address = table.find_map(|line| line.strip_prefix("address")?.trim_start().strip_prefix('='));
    let address = address.map(|value| value.trim().trim_matches(['"', '\'']));
    address.filter(|address| !address.is_empty()).unwrap_or(SOCKET).to_owned()
}

/// Looks for the runtime's table in a TOML text: `[….containerd.runtimes.vireo]`.
fn examine(config: &str) -> Result<(), String> {
    let mut lines = config.lines().map(str::trim);
    let header = |line: &str| line.starts_with('[') && line.trim_end_matches(']').ends_with(".runtimes.vireo");
    if !lines.any(header) {
        return Err("containerd knows no runtime vireo".to_owned());
    }
    let table: Vec<_> = lines.take_while(|line| !line.starts_with('[')).collect();
    let value = |key: &str| {
        let line = table.iter().find(|line| line.split('=').next().is_some_and(|name| name.trim() == key))?;
        line.split_once('=').map(|(_, value)| value.trim())
    };
    match value("runtime_type").map(|value| value.trim_matches(['"', '\''])) {
        Some(RUNTIME_TYPE) => {}
        other => return Err(format!("the runtime vireo has runtime_type {other:?}, not {RUNTIME_TYPE}")),
    }
    if !value("pod_annotations").is_some_and(|value| value.contains("vireo.dev/")) {
        return Err(
            "the runtime vireo has no pod_annotations = [\"vireo.dev/*\"]: VM specs would not reach it".to_owned()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r#"
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.vireo]
  runtime_type = "io.containerd.vireo.v2"
  pod_annotations = ["vireo.dev/*", "k8s.v1.cni.cncf.io/*", "sidecar.istio.io/*"]
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.vireo.options]
"#;

    #[test]
    fn the_runtimes_table() {
        assert_eq!(examine(TABLE), Ok(()));
        // As containerd 2.x prints it.
        let newer = TABLE.replace("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime").replace('"', "'");
        assert_eq!(examine(&newer), Ok(()));
        assert_eq!(
            examine(&TABLE.replace(".runtimes.vireo", ".runtimes.other")).unwrap_err(),
            "containerd knows no runtime vireo"
        );
        assert!(
            examine(&TABLE.replace("vireo.v2", "kata.v2"))
                .unwrap_err()
                .contains("runtime_type Some(\"io.containerd.kata.v2\")")
        );
        assert!(examine(&TABLE.replace("vireo.dev/*", "x/*")).unwrap_err().contains("VM specs would not reach it"));
        assert!(examine("").is_err());
    }

    #[test]
    fn where_it_listens() {
        assert_eq!(socket(TABLE), SOCKET);
        assert_eq!(socket("[grpc]\n  address = ''\n[ttrpc]\n  address = '/x'\n"), SOCKET);
        assert_eq!(socket("address = '/x'\n[grpc]\n  gid = 0\n  address = \"/y\"\n"), "/y");
    }
}
