//! Writes the container images that Vireo is deployed as.
#![forbid(unsafe_code)]

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use vireo_tests::images;

/// Writes the container images that Vireo is deployed as, as OCI archives: `ctr -n k8s.io images import` takes them.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where they go.
    folder: PathBuf,
}

fn main() -> Result<()> {
    let Arguments { folder } = Arguments::parse();
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    for (name, reference, image) in [
        ("vireo-controller.tar", images::CONTROLLER, images::controller()?),
        ("vireo-agent.tar", images::AGENT, images::agent()?),
    ] {
        let path = folder.join(name);
        fs::write(&path, &image).with_context(|| format!("write {}", path.display()))?;
        println!("{}  {reference} ({} KiB)", path.display(), image.len() >> 10);
    }
    Ok(())
}
