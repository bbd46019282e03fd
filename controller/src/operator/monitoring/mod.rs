//! What reads Vireo's metrics: a Service that leads Prometheus to them, and, where the cluster has a Prometheus operator, the objects
//! that tell it (a ServiceMonitor), its rules and alerts (a PrometheusRule), and Prometheus' rights. Names are KubeVirt's.
//!
//! The ServiceMonitor is in Vireo's own namespace, not in Prometheus' as KubeVirt's: Prometheus shows a token, so it has to know whom,
//! and the authority that it needs for that (ConfigMap `kubevirt-ca`) can be named from its own namespace only.
//!
//! ```text
//!   objects      as data
//!   reader       who Prometheus is
//!   while_there  watches kinds for as long as there are any
//! ```

mod objects;
mod reader;
mod while_there;

use std::time::Duration;

#[cfg(test)]
pub(super) use objects::reads;
pub(super) use objects::{objects, service};
pub(super) use reader::Reader;
pub(super) use while_there::while_there;

/// The group of the Prometheus operator's kinds.
pub(super) const GROUP: &str = "monitoring.coreos.com";
/// The label, and its value, of pods and Services that have metrics.
pub(super) const LABEL: (&str, &str) = ("prometheus.kubevirt.io", "true");
/// The ClusterRole that lets Prometheus read, and its binding.
pub(super) const READER: &str = "vireo-metrics-reader";
/// How often Prometheus' namespace is looked for while it isn't there.
pub(super) const LOOKS_EVERY: Duration = Duration::from_mins(1);
