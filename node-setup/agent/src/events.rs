//! What `kubectl describe node` shows of an agent's work.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tracing::warn;

/// Who says it.
const NAME: &str = "vireo-agent";
/// The longest note that the API server takes, bytes.
const MAX_NOTE: usize = 1024;

/// Tells events of one node.
pub(crate) struct Events {
    recorder: Recorder,
    node: ObjectReference,
}

impl Events {
    pub(crate) fn new(client: Client, node: &str) -> Self {
        let reporter = Reporter { controller: NAME.to_owned(), instance: Some(node.to_owned()) };
        let node = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            // As kubelets have it in theirs, and `kubectl describe` looks for it.
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        };
        Self { recorder: Recorder::new(client, reporter), node }
    }

    /// Tells one; whether that could be. Where it couldn't, the log has it.
    pub(crate) async fn tell(&self, kind: EventType, reason: &str, note: &str) -> bool {
        let end = note.floor_char_boundary(MAX_NOTE);
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: note.get(..end).map(str::to_owned),
            action: reason.to_owned(),
            secondary: None,
        };
        let told = self.recorder.publish(&event, &self.node).await;
        if let Err(error) = &told {
            warn!("can't tell the event {reason} ({note}): {error}");
        }
        told.is_ok()
    }
}
