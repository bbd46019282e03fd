//! A container image as an OCI image layout in a tar, which `ctr images import` takes.

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::tar::Tar;
use crate::cache::hex;

/// What an image says of itself.
#[derive(Debug)]
pub struct Image<'a> {
    /// Its full name, as in `docker.io/library/busybox:1`.
    pub reference: &'a str,
    /// What runs, whatever its arguments; nothing: the command is all.
    pub entrypoint: &'a [&'a str],
    /// What runs without a command, or the arguments where there are none.
    pub command: &'a [&'a str],
    /// Its one layer.
    pub layer: Tar,
}

impl Image<'_> {
    /// The image's tar.
    pub fn pack(self) -> Vec<u8> {
        let layer = self.layer.finish();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        })
        .to_string()
        .into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        })
        .to_string()
        .into_bytes();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["platform"] = json!({"architecture": "amd64", "os": "linux"});
        entry["annotations"] = json!({"io.containerd.image.name": self.reference});
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();

        let mut tar = Tar::default();
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        tar.file("index.json", 0o644, index.as_bytes());
        for blob in [&config, &manifest, &layer] {
            tar.file(&format!("blobs/sha256/{}", hash(blob)), 0o644, blob);
        }
        tar.finish()
    }
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hash(bytes))
}

fn descriptor(kind: &str, blob: &[u8]) -> serde_json::Value {
    json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()})
}
