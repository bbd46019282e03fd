//! The processes of pods, and containerd's.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context as _, Result};

use super::super::crash::gone;

/// containerd's process.
pub(super) fn daemon() -> Result<u32> {
    let text = fs::read_to_string("/run/node-containerd.pid").context("/run/node-containerd.pid")?;
    text.trim().parse().with_context(|| text.clone())
}

/// What runs for pods, by the pods' names.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// The shims' servers, and `start` on its way to one.
    pub(super) shims: HashMap<String, Vec<u32>>,
    /// The VMMs.
    pub(super) vmms: HashMap<String, Vec<u32>>,
}

impl Processes {
    /// Those that there are now.
    pub(super) fn look() -> Result<Self> {
        let mut all = Self::default();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
            let place = entry.path();
            match fs::read_to_string(place.join("comm")).unwrap_or_default().trim() {
                // As much of the name as there is room for.
                "containerd-shim" => all.shim(pid, &place),
                "vireo-vmm" => all.vmm(pid, &place),
                _ => {}
            }
        }
        Ok(all)
    }

    fn shim(&mut self, pid: u32, place: &Path) {
        let line = fs::read(place.join("cmdline")).unwrap_or_default();
        // What sweeps after a dead shim is none.
        if !line.windows(8).any(|part| part == b"-vireo-v") || line.ends_with(b"\0delete\0") {
            return;
        }
        // All work in their bundles.
        let Ok(spec) = fs::read(place.join("cwd/config.json")) else { return };
        let spec: serde_json::Value = serde_json::from_slice(&spec).unwrap_or_default();
        if let Some(name) = spec.pointer("/annotations/io.kubernetes.cri.sandbox-name").and_then(|name| name.as_str()) {
            self.shims.entry(name.to_owned()).or_default().push(pid);
        }
    }

    fn vmm(&mut self, pid: u32, place: &Path) {
        let cgroup = fs::read_to_string(place.join("cgroup")).unwrap_or_default();
        let pod = cgroup.split_once("/kubepods/").and_then(|(_, rest)| rest.split('/').next());
        if let Some(name) = pod
            && !gone(pid)
        {
            self.vmms.entry(name.to_owned()).or_default().push(pid);
        }
    }
}
