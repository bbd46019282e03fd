//! Everything that guests of a namespace were, in order.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt as _, pin_mut};
use kube::{
    ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::task::JoinHandle;
use vireo_runtimeclass::cluster::VirtualMachine;

use crate::cluster::Scope;

/// Every version of every guest from when it is made on; it ends with this.
#[derive(Debug)]
pub(super) struct History {
    all: Arc<Mutex<Vec<VirtualMachine>>>,
    watching: JoinHandle<()>,
}

impl History {
    /// Begins it.
    pub(super) fn of(scope: &Scope) -> Self {
        let all: Arc<Mutex<Vec<VirtualMachine>>> = Arc::default();
        let (api, seen) = (scope.api::<VirtualMachine>(), Arc::clone(&all));
        let watching = tokio::spawn(async move {
            let changes = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
            pin_mut!(changes);
            while let Some(change) = changes.next().await {
                // A watch that fails is made anew.
                if let Ok(guest) = change {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(guest);
                }
            }
        });
        Self { all, watching }
    }

    /// What a guest was.
    pub(super) fn of_guest(&self, name: &str) -> Vec<VirtualMachine> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|guest| guest.name_any() == name).cloned().collect()
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
