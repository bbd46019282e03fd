//! Sizes of the binaries that are paid for on every node, and in every cluster.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::figure::Figure;

/// Binaries and their aims, KiB.
const BINARIES: [(&str, &str, Option<f64>); 3] = [
    ("size/vireo-vmm", "vireo-vmm", Some(4096.0)),
    ("size/containerd-shim-vireo-v2", "containerd-shim-vireo-v2", None),
    ("size/vireo-controller", "vireo-controller", None),
];

/// Sizes of the release build in a folder.
pub fn figures(folder: &Path) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, file, bound) in BINARIES {
        let path = folder.join(file);
        let length = fs::metadata(&path).with_context(|| format!("{}: cargo build --release", path.display()))?.len();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
        figures.extend(Figure::alone(name, "KiB", &[length as f64 / 1024.0], bound));
    }
    Ok(figures)
}
