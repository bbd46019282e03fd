//! What Prometheus is told at `/metrics`, in KubeVirt's names.
//!
//! ```text
//!   catalogue    every metric: its name, type and help
//!   sample       samples as they are written; label values escaped and bounded
//!   standing     what this process is: its version, ready, leading
//!   objects      VirtualMachines and instances, of what the reconcilers' watches remember
//!   phases       how long instances are in their phases ─┐
//!   work         what reconcilers do                     │ counted where it happens
//!   rest_client  requests to the API server              │
//!   connections  consoles and ports ─────────────────────┘
//!   readers      who may read
//!   serve        GET /metrics
//! ```
//!
//! Each replica tells of itself; of objects and phases the one that leads alone, so that sums over replicas are right.

mod catalogue;
mod connections;
mod objects;
mod phases;
mod readers;
mod rest_client;
mod sample;
mod serve;
mod standing;
#[cfg(test)]
mod tests;
mod work;

use std::sync::Arc;

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use connections::{Connection, Connections, End};
pub use objects::{Objects, Told};
pub use phases::Phases;
pub use readers::{PATH, Readers, ReadersError, Verdict};
pub use rest_client::{Counted, Counts, RestClient};
pub use serve::router;
pub use standing::{Leading, Part, Standing};
pub use work::{Piece, Queue, Work};

use crate::health::Health;
use catalogue::Metric;
use sample::{Labels, Total};

/// Everything that is told; clones are the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// What this process is.
    pub standing: Standing,
    /// VirtualMachines and instances.
    pub objects: Objects,
    /// How long instances are in their phases.
    pub phases: Phases,
    /// What reconcilers do.
    pub work: Work,
    /// Requests to the API server.
    pub rest_client: RestClient,
    /// Consoles and ports.
    pub connections: Connections,
    created: Family<Labels<'static>, Total>,
    registry: Arc<Registry>,
}

impl Metrics {
    /// Those of a part of Vireo, which is as ready as `health` says.
    pub fn new(part: Part, health: Health) -> Self {
        let mut registry = Registry::default();
        let standing = Standing::new(part, health);
        registry.register_collector(Box::new(standing.clone()));
        let (objects, connections) = (Objects::default(), Connections::default());
        let rest_client = RestClient::new(&mut registry);
        let phases = Phases::new(&mut registry);
        // What an operator has none of it says nothing about.
        let mut unused = Registry::default();
        let work = Work::new(if part == Part::Controller { &mut registry } else { &mut unused });
        let created = counters(&mut registry, &catalogue::VM_CREATED_BY_POD);
        registry.register_collector(Box::new(objects.clone()));
        registry.register_collector(Box::new(connections.clone()));
        Self { standing, objects, phases, work, rest_client, connections, created, registry: Arc::new(registry) }
    }

    /// A VirtualMachine of a namespace was admitted.
    pub fn created_vm(&self, namespace: &str) {
        self.created.get_or_create(&Labels::new([("namespace", namespace)]).owned()).add_one();
    }

    /// All of it, in Prometheus' text format.
    pub fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a text doesn't fail; a number that can't be written ends the page, and Prometheus would take half of it.
        if let Err(error) = encode_registry(&mut page, &self.registry) {
            tracing::warn!("metrics can't be written: {error}");
            page.clear();
        }
        page
    }
}

type Histograms = Family<Labels<'static>, Histogram, fn() -> Histogram>;

fn histograms(registry: &mut Registry, metric: &Metric, make: fn() -> Histogram) -> Histograms {
    let family = Family::new_with_constructor(make);
    registry.register(metric.name, metric.help, family.clone());
    family
}

fn counters(registry: &mut Registry, metric: &Metric) -> Family<Labels<'static>, Total> {
    let family = Family::default();
    registry.register(metric.name, metric.help, family.clone());
    family
}
