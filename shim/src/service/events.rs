//! Events to containerd, in the order in which they happened.
//!
//! `containerd_shim::publisher` puts an event that could not be sent behind later ones and drops it after about 20
//! seconds, which a restart of containerd can outlast. Here the queue waits at its head until containerd takes it. It
//! can't grow without bound: a pod has a handful of events in its whole life.

use std::time::{Duration, SystemTime};

use containerd_shim::event::Event;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim::protos::protobuf::{MessageField, MessageFull};
use containerd_shim::protos::shim::event::Envelope;
use containerd_shim::protos::shim::events::ForwardRequest;
use containerd_shim::protos::shim_async::{Client, EventsClient};
use tokio::sync::{mpsc, oneshot};

/// How long containerd may take to accept an event.
const ACCEPT: Duration = Duration::from_secs(5);
/// Between attempts: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What stands in the queue.
#[derive(Debug)]
pub enum Item {
    /// An event.
    Event(Box<Envelope>),
    /// Tells when everything before it is delivered.
    Flush(oneshot::Sender<()>),
}

/// The queue's tail.
#[derive(Debug, Clone)]
pub struct Publisher {
    namespace: String,
    queue: mpsc::UnboundedSender<Item>,
}

impl Publisher {
    /// An empty queue for containerd's `namespace`, and its head.
    pub fn new(namespace: &str) -> (Publisher, mpsc::UnboundedReceiver<Item>) {
        let (queue, head) = mpsc::unbounded_channel();
        (Publisher { namespace: namespace.into(), queue }, head)
    }

    /// For what is no task of containerd's: its events go nowhere.
    pub fn nowhere() -> Publisher {
        Publisher::new("").0
    }

    /// Puts an event into the queue; it is of this moment.
    pub fn publish<E: Event + MessageFull>(&self, event: &E) {
        let value = match event.write_to_bytes() {
            Ok(value) => value,
            Err(error) => return log::error!("event {}: not written: {error}", event.topic()),
        };
        // containerd's typeurl has the bare name, without a host before it.
        let type_url = E::descriptor().full_name().to_owned();
        let envelope = Envelope {
            timestamp: MessageField::some(Timestamp::from(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic: event.topic(),
            event: MessageField::some(Any { type_url, value, ..Default::default() }),
            ..Default::default()
        };
        // Without a head the shim is ending, or nobody is to hear.
        let _ = self.queue.send(Item::Event(Box::new(envelope)));
    }

    /// Waits, at most `patience`, until everything so far is delivered.
    pub async fn flush(&self, patience: Duration) {
        let (sender, receiver) = oneshot::channel();
        if self.queue.send(Item::Flush(sender)).is_ok() && tokio::time::timeout(patience, receiver).await.is_err() {
            log::warn!("containerd does not take the last events");
        }
    }
}

/// Delivers the queue to containerd's ttrpc socket at `address`, until all its tails are gone.
pub async fn deliver(address: String, mut head: mpsc::UnboundedReceiver<Item>) {
    let address = if address.contains("://") { address } else { format!("unix://{address}") };
    let mut client = None;
    while let Some(item) = head.recv().await {
        match item {
            Item::Event(envelope) => deliver_one(&address, &mut client, *envelope).await,
            Item::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

async fn deliver_one(address: &str, client: &mut Option<EventsClient>, envelope: Envelope) {
    let request = ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() };
    let mut wait = RETRY.0;
    loop {
        match attempt(address, client, &request).await {
            Ok(()) => return,
            Err(error) => {
                log::debug!("event {}: not delivered yet: {error}", request.envelope.topic);
                *client = None;
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        }
    }
}

async fn attempt(address: &str, client: &mut Option<EventsClient>, request: &ForwardRequest) -> ttrpc::Result<()> {
    let connected = match client.take() {
        Some(connected) => connected,
        None => EventsClient::new(Client::connect(address).await?),
    };
    connected.forward(ttrpc::context::with_duration(ACCEPT), request).await?;
    *client = Some(connected);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use containerd_shim::protos::api::Empty;
    use containerd_shim::protos::events::task::{TaskExit, TaskStart};
    use containerd_shim::protos::shim_async::{Events, create_events};
    use ttrpc::r#async::{Server, TtrpcContext};

    use super::*;

    #[derive(Default)]
    struct Containerd {
        topics: Mutex<Vec<String>>,
        refusals: Mutex<u32>,
    }

    #[async_trait]
    impl Events for Containerd {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            let mut refusals = self.refusals.lock().unwrap();
            if *refusals > 0 {
                *refusals -= 1;
                return Err(ttrpc::Error::Others("busy".into()));
            }
            self.topics.lock().unwrap().push(format!("{} {}", request.envelope.namespace, request.envelope.topic));
            Ok(Empty::new())
        }
    }

    #[tokio::test]
    async fn order_survives_a_containerd_that_comes_late_and_refuses_first() {
        let directory = tempfile::tempdir().unwrap();
        let address = directory.path().join("ttrpc").display().to_string();
        let (publisher, head) = Publisher::new("k8s.io");
        tokio::spawn(deliver(address.clone(), head));
        publisher.publish(&TaskStart::new());
        publisher.publish(&TaskExit::new());
        tokio::task::yield_now().await;
        let containerd = Arc::new(Containerd { refusals: Mutex::new(2), ..Containerd::default() });
        let service: Arc<dyn Events + Send + Sync> = containerd.clone();
        let mut server =
            Server::new().bind(&format!("unix://{address}")).unwrap().register_service(create_events(service));
        server.start().await.unwrap();
        publisher.flush(Duration::from_secs(20)).await;
        assert_eq!(*containerd.topics.lock().unwrap(), ["k8s.io /tasks/start", "k8s.io /tasks/exit"]);
        server.shutdown().await.unwrap();
    }
}
