//! One kind of object: a store of all that there are, and who is told when one of them changes.
//!
//! A follower is told of each object that was made, changed or deleted. After a list that was made anew it is told of all that
//! there are, and of those that went while nobody looked. It is told after the store has it; who follows slowly holds the watch up,
//! so that nothing piles up in memory.

use std::fmt::{self, Debug};
use std::hash::Hash;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup, ObjectRef, Store, store};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{SetOnce, mpsc};
use tracing::warn;

/// So many objects may wait for a follower.
const BEHIND: usize = 64;

/// One kind of object.
pub struct Feed<K: Lookup + Clone + 'static>
where
    K::DynamicType: Eq + Hash + Clone,
{
    reader: Store<K>,
    writer: Writer<K>,
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    followers: Vec<mpsc::Sender<Arc<K>>>,
    /// The store has all that there is. It can be waited for by many, which a store itself can't: it wakes one of them.
    seen: Arc<SetOnce<()>>,
}

impl<K: Lookup + Clone + 'static> Debug for Feed<K>
where
    K::DynamicType: Eq + Hash + Clone,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("followers", &self.followers.len()).finish_non_exhaustive()
    }
}

impl<K> Feed<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Objects of `api`, without what `slim` takes away.
    pub fn new(api: Api<K>, config: watcher::Config, slim: fn(&mut K)) -> Self {
        Self::of(watcher(api, config).default_backoff().modify(slim))
    }

    fn of(events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static) -> Self {
        let (reader, writer) = store();
        Self { reader, writer, events: events.boxed(), followers: Vec::new(), seen: Arc::default() }
    }

    /// What there is, as far as it was seen; up to date while the feed [runs](Self::run).
    pub fn store(&self) -> Store<K> {
        self.reader.clone()
    }

    /// Is set once the store has all that there is.
    pub(super) fn seen(&self) -> Arc<SetOnce<()>> {
        Arc::clone(&self.seen)
    }

    /// Is told of changes from now on.
    pub fn follow(&mut self) -> impl Stream<Item = Arc<K>> + Send + 'static + use<K> {
        let (sender, mut receiver) = mpsc::channel(BEHIND);
        self.followers.push(sender);
        futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))
    }

    /// Watches, for as long as it is polled.
    pub async fn run(mut self) {
        while let Some(event) = self.events.next().await {
            match event {
                Ok(event) => self.take(event).await,
                // It is tried again, each time after a longer while.
                Err(error) => warn!("can't watch {}: {error}", K::plural(&())),
            }
        }
    }

    async fn take(&mut self, event: Event<K>) {
        let before = if matches!(event, Event::InitDone) { self.reader.state() } else { Vec::new() };
        self.writer.apply_watcher_event(&event);
        match event {
            Event::Apply(object) => {
                let stored = self.reader.get(&ObjectRef::from_obj(&object));
                self.tell(stored.unwrap_or_else(|| Arc::new(object))).await;
            }
            Event::Delete(object) => self.tell(Arc::new(object)).await,
            Event::InitDone => {
                // Only the first time: the store is never empty again.
                let _ = self.seen.set(());
                let gone =
                    before.into_iter().filter(|object| self.reader.get(&ObjectRef::from_obj(&**object)).is_none());
                for object in gone.collect::<Vec<_>>() {
                    self.tell(object).await;
                }
                for object in self.reader.state() {
                    self.tell(object).await;
                }
            }
            Event::Init | Event::InitApply(_) => {}
        }
    }

    async fn tell(&self, object: Arc<K>) {
        for follower in &self.followers {
            // One that doesn't listen any more has ended.
            let _ = follower.send(Arc::clone(&object)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(name: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod
    }

    async fn told(events: Vec<Event<Pod>>) -> [Vec<String>; 2] {
        let mut feed = Feed::of(stream::iter(events.into_iter().map(Ok)));
        let (first, second) = (feed.follow(), feed.follow());
        let names = |told: Vec<Arc<Pod>>| told.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        let (first, second, ()) = tokio::join!(first.collect::<Vec<_>>(), second.collect::<Vec<_>>(), feed.run());
        [names(first), names(second)]
    }

    #[tokio::test]
    async fn each_follower_is_told_of_each_change() {
        let events = vec![
            Event::Init,
            Event::InitApply(pod("a")),
            Event::InitDone,
            Event::Apply(pod("b")),
            Event::Apply(pod("b")),
            Event::Delete(pod("a")),
        ];
        let expected: Vec<String> = ["a", "b", "b", "a"].map(str::to_owned).to_vec();
        assert_eq!(told(events).await, [expected.clone(), expected]);
    }

    #[tokio::test]
    async fn what_went_while_nobody_looked_is_told() {
        let again = |name| vec![Event::Init, Event::InitApply(pod(name)), Event::InitDone];
        let expected: Vec<String> = ["a", "a", "b"].map(str::to_owned).to_vec();
        assert_eq!(told([again("a"), again("b")].concat()).await, [expected.clone(), expected]);
    }

    #[tokio::test]
    async fn a_follower_that_is_gone_holds_nobody_up() {
        let events = (0..BEHIND * 2).map(|number| Ok(Event::Apply(pod(&number.to_string()))));
        let mut feed = Feed::of(stream::iter(events));
        drop(feed.follow());
        let (store, seen) = (feed.store(), feed.seen());
        feed.run().await;
        assert!(!seen.initialized(), "a list has an end");
        assert_eq!(store.len(), BEHIND * 2);
    }
}
