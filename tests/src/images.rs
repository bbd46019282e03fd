//! The container images that Vireo is deployed as: OCI archives of static programs, whose bytes are those programs' alone.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    archive::{oci::Image, tar::Tar},
    node::share::Build,
};

/// The controller's and the operator's: what `vireo-operator.yaml` names.
pub const CONTROLLER: &str = concat!("docker.io/vireo/vireo-controller:", env!("CARGO_PKG_VERSION"));
/// The nodes' agents'.
pub const AGENT: &str = concat!("docker.io/vireo/vireo-agent:", env!("CARGO_PKG_VERSION"));
/// What an agent installs, in its image's folder `vireo`.
const INSTALLED: [&str; 3] = ["containerd-shim-vireo-v2", "vireo-vmm", "vireo"];

/// The image [`CONTROLLER`], of the newest build.
pub fn controller() -> Result<Vec<u8>> {
    let mut layer = Tar::default();
    layer.file("vireo-controller", 0o755, &program("vireo-controller")?);
    Ok(Image { reference: CONTROLLER, entrypoint: &["/vireo-controller"], command: &[], layer }.pack())
}

/// The image [`AGENT`], of the newest build.
pub fn agent() -> Result<Vec<u8>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node-setup/install.sh");
    let script = fs::read(&script).with_context(|| format!("read {}", script.display()))?;
    let installed = INSTALLED.map(|name| program(name).map(|bytes| (name, bytes)));
    Ok(pack_agent(&program("vireo-agent")?, &script, &installed.into_iter().collect::<Result<Vec<_>>>()?))
}

fn program(name: &str) -> Result<Vec<u8>> {
    let program = Build::Newest.find(name)?.with_context(|| format!("{name} is not built: cargo build --release"))?;
    fs::read(&program).with_context(|| format!("read {}", program.display()))
}

fn pack_agent(agent: &[u8], script: &[u8], installed: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut layer = Tar::default();
    layer.file("vireo-agent", 0o755, agent);
    layer.directory("vireo");
    layer.file("vireo/install.sh", 0o755, script);
    layer.directory("vireo/bin");
    for (name, program) in installed {
        layer.file(&format!("vireo/bin/{name}"), 0o755, program);
    }
    Image { reference: AGENT, entrypoint: &["/vireo-agent"], command: &["run"], layer }.pack()
}

#[cfg(test)]
mod tests {
    use super::pack_agent;

    #[test]
    fn the_same_programs_are_the_same_image() {
        let image = |vmm: &[u8]| pack_agent(b"agent", b"#!/bin/sh\n", &[("vireo-vmm", vmm.to_vec())]);
        assert_eq!(image(b"program"), image(b"program"));
        assert_ne!(image(b"program"), image(b"another"));
    }
}
