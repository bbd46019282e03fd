//! The programs of a control plane.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::build::{Binaries, binaries};
use crate::{
    cache,
    debian::{Suite, resolve, unpack},
};

/// The programs of a control plane.
#[derive(Debug, Clone)]
pub struct Programs {
    kubernetes: Binaries,
    etcd: PathBuf,
}

impl Programs {
    /// Builds or fetches what the cache lacks.
    pub fn prepare() -> Result<Self> {
        Ok(Self { kubernetes: binaries()?, etcd: etcd()? })
    }

    /// The path of `kubelet` and its like.
    pub fn kubernetes(&self, name: &str) -> PathBuf {
        self.kubernetes.program(name)
    }

    pub(super) fn etcd(&self) -> &Path {
        &self.etcd
    }
}

/// Debian 12's etcd, which runs on this machine's own libc.
fn etcd() -> Result<PathBuf> {
    let resolved = resolve(Suite::Bookworm, &["etcd-server"])?;
    let key = cache::Key::default().with(&resolved.text).finish();
    let folder = cache::entry("etcd", &key, |folder| {
        let debs: Vec<_> = resolved.fetch()?.into_iter().filter(|deb| is_etcd(deb)).collect();
        let tree = folder.join("tree");
        fs::create_dir(&tree)?;
        unpack(&debs, &tree)?;
        fs::rename(tree.join("usr/bin/etcd"), folder.join("etcd")).context("the package has no etcd")?;
        fs::remove_dir_all(&tree).context("remove the package's tree")
    })?;
    Ok(folder.join("etcd"))
}

fn is_etcd(deb: &Path) -> bool {
    deb.file_name().is_some_and(|name| name.to_string_lossy().starts_with("etcd-server_"))
}
