//! What `kubectl describe node` shows of an agent's work.
//!
//! Events as kubelets tell them, of the core group and in namespace `default`: the newer group's are refused for nodes by API
//! servers of 1.20, whatever the namespace that `kubectl` would look for.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::runtime::events::EventType;
use kube::{Api, Client};
use tracing::warn;

/// Who says it.
const NAME: &str = "vireo-agent";
/// The longest message that the API server takes, bytes.
const MAX_MESSAGE: usize = 1024;

/// Tells events of one node.
pub(crate) struct Events {
    events: Api<Event>,
    node: String,
}

impl Events {
    pub(crate) fn new(client: Client, node: &str) -> Self {
        Self { events: Api::namespaced(client, "default"), node: node.to_owned() }
    }

    /// Tells one; whether that could be. Where it couldn't, the log has it.
    pub(crate) async fn tell(&self, kind: EventType, reason: &str, message: &str) -> bool {
        let event = event(&self.node, kind, reason, message, Timestamp::now());
        let told = self.events.create(&PostParams::default(), &event).await;
        if let Err(error) = &told {
            warn!("can't tell the event {reason} ({message}): {error}");
        }
        told.is_ok()
    }
}

fn event(node: &str, kind: EventType, reason: &str, message: &str, now: Timestamp) -> Event {
    let kind = match kind {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    };
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{node}.{:x}", now.as_nanosecond())),
            namespace: Some("default".to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            // As kubelets have it in theirs, and `kubectl describe` looks for it.
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        },
        reason: Some(reason.to_owned()),
        message: message.get(..message.floor_char_boundary(MAX_MESSAGE)).map(str::to_owned),
        type_: Some(kind.to_owned()),
        source: Some(EventSource { component: Some(NAME.to_owned()), host: Some(node.to_owned()) }),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_as_kubelets_tell_them() {
        let now = Timestamp::from_second(1).unwrap();
        let told = event("node-1", EventType::Warning, "VireoLeft", &"é".repeat(600), now);
        assert_eq!(told.metadata.name.as_deref(), Some("node-1.3b9aca00"));
        assert_eq!(told.metadata.namespace.as_deref(), Some("default"));
        let of = &told.involved_object;
        assert_eq!((of.name.as_deref(), of.uid.as_deref(), &of.namespace), (Some("node-1"), Some("node-1"), &None));
        assert_eq!(told.message.map(|message| message.len()), Some(1024));
    }
}
