//! Every instance and every pod that there ever was in a namespace, and whether a guest ever had two of them at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Result, ensure};
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher, watcher::Event},
};
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;
use vireo_runtimeclass::cluster::VirtualMachineInstance;

use crate::{
    cluster::{Scope, scope::LIMIT},
    kubernetes::until,
};

/// What there was; it looks for as long as it lives.
#[derive(Debug)]
pub(super) struct Seen {
    book: Arc<Mutex<Book>>,
    _watching: [AbortOnDropHandle<()>; 2],
}

#[derive(Debug, Default)]
struct Book {
    /// Instances' uids, by name.
    instances: BTreeMap<String, BTreeSet<String>>,
    /// Pods' uids, by the uid of their instance.
    pods: BTreeMap<String, BTreeSet<String>>,
    /// Pods that haven't ended, by the name of their guest.
    live: BTreeMap<String, BTreeSet<String>>,
    wrong: Vec<String>,
}

impl Seen {
    /// Begins to look.
    pub(super) fn of(scope: &Scope) -> Self {
        let book: Arc<Mutex<Book>> = Arc::default();
        let instances = follow(scope.api::<VirtualMachineInstance>(), &book, Book::instance);
        let pods = follow(scope.api::<Pod>(), &book, Book::pod);
        Self { book, _watching: [instances, pods] }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A guest had so many instances, one after the other, and of each one pod at most. What looks may have been cut off, too: it is
    /// waited for.
    pub(super) async fn check(&self, guest: &str, instances: usize) -> Result<()> {
        let had = || self.book().instances.get(guest).map_or(0, BTreeSet::len);
        let what = format!("{guest} is seen to have had {instances} instances");
        until(&what, LIMIT, async || Ok(had() >= instances)).await?;
        let had = had();
        let book = self.book();
        ensure!(had == instances, "{guest} had {had} instances in place of {instances}");
        for instance in book.instances.get(guest).into_iter().flatten() {
            let pods = book.pods.get(instance).map_or(0, BTreeSet::len);
            ensure!(pods <= 1, "an instance of {guest}'s had {pods} pods");
        }
        ensure!(book.wrong.is_empty(), "{:?}", book.wrong);
        Ok(())
    }
}

impl Book {
    fn instance(&mut self, event: Event<VirtualMachineInstance>) {
        if let Event::Apply(instance) | Event::InitApply(instance) = event {
            self.instances.entry(instance.name_any()).or_default().insert(instance.uid().unwrap_or_default());
        }
    }

    fn pod(&mut self, event: Event<Pod>) {
        let (pod, is_there) = match event {
            Event::Apply(pod) | Event::InitApply(pod) => (pod, true),
            Event::Delete(pod) => (pod, false),
            // All that there is comes next.
            Event::Init => return self.live.clear(),
            Event::InitDone => return,
        };
        let guest = pod.annotations().get("kubevirt.io/domain").cloned().unwrap_or_default();
        let uid = pod.uid().unwrap_or_default();
        if let Some(instance) = pod.labels().get("kubevirt.io/created-by") {
            self.pods.entry(instance.clone()).or_default().insert(uid.clone());
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let live = self.live.entry(guest.clone()).or_default();
        if is_there && !matches!(phase, Some("Succeeded" | "Failed")) {
            live.insert(uid);
        } else {
            live.remove(&uid);
        }
        if live.len() > 1 {
            self.wrong.push(format!("{guest} had two pods at a time: {live:?}"));
        }
    }
}

fn follow<K>(api: Api<K>, book: &Arc<Mutex<Book>>, note: fn(&mut Book, Event<K>)) -> AbortOnDropHandle<()>
where
    K: kube::Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let book = Arc::clone(book);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let changes = watcher(api, watcher::Config::default()).default_backoff();
        pin_mut!(changes);
        while let Some(change) = changes.next().await {
            // A watch that fails is made anew.
            if let Ok(event) = change {
                note(&mut book.lock().unwrap_or_else(PoisonError::into_inner), event);
            }
        }
    }))
}
