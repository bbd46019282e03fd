//! What every part of the controller works with.

use std::fmt;
use std::sync::Arc;

use vireo_runtimeclass::machine_service::token::Signer;

use crate::Settings;
use crate::metrics::Metrics;

/// The field manager of everything that the controller applies, and the name in its events.
pub const NAME: &str = "vireo-controller";

/// What every part of the controller works with; clones are the same.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: kube::Client,
    /// The cluster's configuration, as it is now.
    pub settings: Settings,
    /// Signs the tokens that change a machine. Pods carry its public half.
    pub signer: Arc<Signer>,
    /// The namespace that the controller and its KubeVirt object are in.
    pub namespace: String,
    /// What is told of what it does.
    pub metrics: Metrics,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}
