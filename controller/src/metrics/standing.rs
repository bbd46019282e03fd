//! What this process is: its version, whether it is ready, whether it leads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::catalogue;
use super::sample::{Labels, Value, write};
use crate::health::Health;

/// Which part of Vireo a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The controller, which is what KubeVirt's virt-api and virt-controller are.
    Controller,
    /// The operator, which is KubeVirt's virt-operator.
    Operator,
}

/// What this process is; clones are the same.
#[derive(Debug, Clone)]
pub struct Standing {
    part: Part,
    health: Health,
    leads: Arc<AtomicBool>,
}

/// This process leads, until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Leading(Arc<AtomicBool>);

impl Standing {
    pub(super) fn new(part: Part, health: Health) -> Self {
        Self { part, health, leads: Arc::default() }
    }

    /// This process leads, from now on.
    pub fn lead(&self) -> Leading {
        self.leads.store(true, Ordering::Relaxed);
        Leading(Arc::clone(&self.leads))
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let version = concat!("v", env!("CARGO_PKG_VERSION"));
        write(&mut encoder, &catalogue::INFO, [(Labels::new([("kubeversion", version)]), Value::Whole(1))])?;
        let leads = self.leads.load(Ordering::Relaxed);
        let is_ready = self.health.is_ready();
        let told = match self.part {
            Part::Controller => &[
                (&catalogue::API_READY, is_ready),
                (&catalogue::CONTROLLER_LEADING, leads),
                // It waits for the lease from its first moment on.
                (&catalogue::CONTROLLER_READY, true),
            ][..],
            Part::Operator => &[(&catalogue::OPERATOR_LEADING, leads), (&catalogue::OPERATOR_READY, is_ready)],
        };
        told.iter().try_for_each(|(metric, is)| write(&mut encoder, metric, [(Labels::default(), Value::from(*is))]))
    }
}
