//! A cgroup's numbers as containerd wants them: `io.containerd.cgroups.v2.Metrics` where the node has v2 alone, else
//! `io.containerd.cgroups.v1.Metrics`.

mod v1;
mod v2;

use std::fs;
use std::path::Path;

use containerd_shim::protos::cgroups::metrics::Metrics as V1;
use containerd_shim::protos::cgroups_v2::metrics::Metrics as V2;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::protobuf::{self, MessageFull};

use super::{CgroupError, Folders};

/// A cgroup's numbers.
#[derive(Debug)]
pub enum Metrics {
    /// Of a node with a v1 hierarchy.
    V1(V1),
    /// Of a node with v2 alone.
    V2(V2),
}

/// What a machine uses.
#[derive(Debug, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, nanoseconds.
    pub cpu: u64,
    /// Memory without what could be dropped, as the kubelet counts it, bytes.
    pub memory: u64,
    /// Its limit, bytes.
    pub memory_limit: Option<u64>,
}

impl Metrics {
    /// The message that containerd takes.
    pub fn message(&self) -> protobuf::Result<Any> {
        fn any<M: MessageFull>(message: &M) -> protobuf::Result<Any> {
            let type_url = M::descriptor().full_name().to_owned();
            Ok(Any { type_url, value: message.write_to_bytes()?, ..Default::default() })
        }
        match self {
            Metrics::V1(metrics) => any(metrics),
            Metrics::V2(metrics) => any(metrics),
        }
    }

    /// The numbers that one asks for most.
    pub fn usage(&self) -> Usage {
        let (cpu, used, dropped, limit) = match self {
            Metrics::V1(metrics) => {
                let memory = &metrics.memory;
                (metrics.cpu.usage.total, memory.usage.usage, memory.total_inactive_file, memory.usage.limit)
            }
            Metrics::V2(metrics) => {
                let memory = &metrics.memory;
                (metrics.cpu.usage_usec.saturating_mul(1000), memory.usage, memory.inactive_file, memory.usage_limit)
            }
        };
        // v1 says no limit as the largest number of whole pages.
        let memory_limit = Some(limit).filter(|&limit| limit < i64::MAX.unsigned_abs() >> 16 << 16);
        Usage { cpu, memory: used.saturating_sub(dropped), memory_limit }
    }
}

/// Reads the numbers of a cgroup. A controller that is off has none; a cgroup that is gone is an error.
pub fn metrics(folders: &Folders) -> Result<Metrics, CgroupError> {
    match folders.iter().next() {
        Some(folder) if folders.is_unified() => v2::metrics(&folder.path).map(Metrics::V2),
        _ => v1::metrics(folders).map(Metrics::V1),
    }
}

fn text(path: &Path, file: &str) -> String {
    fs::read_to_string(path.join(file)).unwrap_or_default()
}

/// A file of one number. `max`, the absence of a limit, is told as containerd's own reader does.
fn number(path: &Path, file: &str) -> u64 {
    match text(path, file).trim() {
        "max" => u64::MAX,
        digits => digits.parse().unwrap_or(0),
    }
}
