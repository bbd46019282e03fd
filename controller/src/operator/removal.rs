//! The way out: what goes when.
//!
//! ```text
//!   objects of Vireo's kinds  ─>  webhooks, API services  ─>  controller, agents  ─>  nodes' labels  ─>  all else
//!   (with their CRDs; the        (or their namespace         (agents clean their     (what is left
//!   controller ends them)         never goes)                 nodes)                  of them)
//! ```

use super::plan::{Key, Observed};

/// What goes together.
const STAGES: [&[&str]; 3] = [
    &["CustomResourceDefinition"],
    &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "APIService"],
    &["DaemonSet", "Deployment"],
];

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// Delete these, and look again when they are gone; there are more to wait for than to delete where some are already going.
    Delete { now: Vec<Key>, waiting: Vec<Key> },
    /// Take the labels off nodes, then delete these.
    Rest { now: Vec<Key>, waiting: Vec<Key> },
    /// Nothing is left.
    Done,
}

/// What to do next about `observed`.
pub(super) fn removal(observed: &Observed) -> Removal {
    let split = |is_of: &dyn Fn(&str) -> bool| {
        let of = observed.iter().filter(|(key, _)| is_of(&key.kind));
        let (going, now): (Vec<_>, Vec<_>) = of.partition(|(_, seen)| seen.is_going);
        let keys = |all: Vec<(&Key, _)>| all.into_iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        (keys(now), keys(going))
    };
    for stage in STAGES {
        let (now, going) = split(&|kind| stage.contains(&kind));
        if !now.is_empty() || !going.is_empty() {
            return Removal::Delete { now, waiting: going };
        }
    }
    match split(&|_| true) {
        (now, going) if now.is_empty() && going.is_empty() => Removal::Done,
        (now, waiting) => Removal::Rest { now, waiting },
    }
}
