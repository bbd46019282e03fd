//! Events: what users of `kubectl describe` are told.
//!
//! They are told beside the work, not before it goes on: a guest's start would else wait for four of them. Those of one object are
//! told one after the other, in their order.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tracing::warn;

use crate::Context;
use crate::context::NAME;

/// The longest note that the API server takes, bytes.
const MAX_NOTE: usize = 1024;
/// So many objects' events are told at a time.
const LANES: usize = 8;
/// So many may wait in each lane; who has more to tell waits with them.
const WAITING: usize = 512;

type Told = (Event, ObjectReference);

/// Tells events; clones are the same. A warning that is told again within minutes is counted, not repeated.
#[derive(Clone)]
pub struct Events(Arc<[mpsc::Sender<Told>]>);

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Events of the controller. They are told by tasks of the runtime that this is called in, which end once nobody has more to
    /// tell.
    pub fn new(context: &Context) -> Self {
        let client = &context.client;
        let warnings = Recorder::new(client.clone(), NAME.into());
        let lane = |_| {
            let (sender, receiver) = mpsc::channel(WAITING);
            tokio::spawn(publish(client.clone(), warnings.clone(), receiver));
            sender
        };
        Self((0..LANES).map(lane).collect())
    }

    /// Nothing to worry about.
    pub async fn normal<K>(&self, object: &K, reason: &str, note: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        self.tell(object, EventType::Normal, reason, note).await;
    }

    /// Something that somebody has to see to.
    pub async fn warning<K>(&self, object: &K, reason: &str, note: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        self.tell(object, EventType::Warning, reason, note).await;
    }

    async fn tell<K>(&self, object: &K, kind: EventType, reason: &str, note: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        // With it, what is told again of a changed object would be another event.
        let reference = ObjectReference { resource_version: None, ..object.object_ref(&()) };
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(shortened(note).to_owned()),
            action: reason.to_owned(),
            secondary: None,
        };
        if let Some(lane) = self.0.get(lane(&reference)) {
            // A lane ends with its runtime.
            let _ = lane.send((event, reference)).await;
        }
    }
}

/// Where an object's events are told.
fn lane(object: &ObjectReference) -> usize {
    let mut hasher = DefaultHasher::new();
    (&object.uid, &object.namespace, &object.name).hash(&mut hasher);
    usize::try_from(hasher.finish() % LANES as u64).unwrap_or_default()
}

/// An event that can't be told is logged: whatever it is about goes on.
///
/// A recorder remembers each event for minutes. Of the normal ones a start has four, which come once: each has a recorder of its own.
async fn publish(client: Client, warnings: Recorder, mut events: mpsc::Receiver<Told>) {
    while let Some((event, reference)) = events.recv().await {
        let recorder = match event.type_ {
            EventType::Normal => Recorder::new(client.clone(), NAME.into()),
            EventType::Warning => warnings.clone(),
        };
        if let Err(error) = recorder.publish(&event, &reference).await {
            let Event { reason, note, .. } = event;
            let (name, note) = (reference.name.unwrap_or_default(), note.unwrap_or_default());
            warn!("can't tell the event {reason} of {name} ({note}): {error}");
        }
    }
}

fn shortened(note: &str) -> &str {
    note.get(..note.floor_char_boundary(MAX_NOTE)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_s_events_keep_their_order_and_objects_don_t_wait_for_each_other() {
        let of = |uid: &str| lane(&ObjectReference { uid: Some(uid.to_owned()), ..ObjectReference::default() });
        assert_eq!(of("a"), of("a"));
        let lanes: std::collections::BTreeSet<_> = (0..100).map(|number| of(&number.to_string())).collect();
        assert_eq!(lanes, (0..LANES).collect());
    }

    #[test]
    fn notes_are_as_long_as_they_may_be() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"x".repeat(2000)).len(), MAX_NOTE);
        let wide = "ä".repeat(1000);
        assert_eq!(shortened(&format!("x{wide}")).len(), MAX_NOTE - 1);
    }
}
