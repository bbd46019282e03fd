//! What machines say of themselves: the one place that asks them, over their pods' exec.
//!
//! A machine is asked a while after it has started, then after twice as long each time, ten minutes at most: its guest's agent
//! comes up at some time, and tells what doesn't change much. What it said is written down once: whoever writes later, as a
//! subresource that pauses a guest does, knows more.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tracing::debug;
use vireo_runtimeclass::cluster::GuestOsInfo;
use vireo_runtimeclass::machine_service::v1::{GuestInfoRequest, InfoRequest, State};

use super::status::Report;
use crate::Context;
use crate::shim_client::{Machine, MachineError};

/// Before a machine is asked for the first time, and at most.
const WAITS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(10));
/// So many are asked at a time.
const AT_A_TIME: usize = 16;
/// An answer takes no longer.
const ANSWER: Duration = Duration::from_secs(15);

/// What machines said, by the uid of their instance.
pub struct Guests {
    context: Context,
    known: Mutex<HashMap<String, Known>>,
    slots: Semaphore,
    /// Told whose machine has said something: namespace and name of the instance.
    changed: mpsc::UnboundedSender<(String, String)>,
}

#[derive(Debug, Clone)]
struct Known {
    report: Option<Report>,
    wait: Duration,
    next: Instant,
}

impl fmt::Debug for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guests").field("known", &self.known().len()).finish_non_exhaustive()
    }
}

impl Guests {
    /// Nothing is known at first. What comes out of the other end is who has a report.
    pub fn new(context: &Context) -> (Arc<Self>, mpsc::UnboundedReceiver<(String, String)>) {
        let (changed, receiver) = mpsc::unbounded_channel();
        let guests =
            Self { context: context.clone(), known: Mutex::default(), slots: Semaphore::new(AT_A_TIME), changed };
        (Arc::new(guests), receiver)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the machine of an instance has said since that was last written down.
    pub fn report(&self, uid: &str) -> Option<Report> {
        self.known().get(uid)?.report.clone()
    }

    /// What it said is written down.
    pub fn written(&self, uid: &str) {
        if let Some(known) = self.known().get_mut(uid) {
            known.report = None;
        }
    }

    /// It is over.
    pub fn forget(&self, uid: &str) {
        self.known().remove(uid);
    }

    /// Asks a machine that runs, if it is time to. Returns when it will be.
    pub fn look(self: &Arc<Self>, uid: &str, instance: (&str, &str), pod: &Pod) -> Duration {
        let now = Instant::now();
        let mut all = self.known();
        let known =
            all.entry(uid.to_owned()).or_insert_with(|| Known { report: None, wait: WAITS.0, next: now + WAITS.0 });
        if known.next > now {
            return known.next - now;
        }
        known.wait = (known.wait * 2).min(WAITS.1);
        known.next = now + known.wait;
        let wait = known.wait;
        drop(all);
        let (guests, uid, pod) = (Arc::clone(self), uid.to_owned(), pod.clone());
        let instance = (instance.0.to_owned(), instance.1.to_owned());
        tokio::spawn(async move { guests.ask(&uid, instance, &pod).await });
        wait
    }

    async fn ask(&self, uid: &str, instance: (String, String), pod: &Pod) {
        let Ok(_slot) = self.slots.acquire().await else { return };
        let report = match timeout(ANSWER, ask(&self.context, pod)).await {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => return debug!("{}/{}: {error}", instance.0, instance.1),
            Err(_) => return debug!("{}/{}: the machine doesn't answer", instance.0, instance.1),
        };
        let mut all = self.known();
        if let Some(known) = all.get_mut(uid) {
            known.report = Some(report);
            let _ = self.changed.send(instance);
        }
    }
}

/// Why a machine said nothing.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error(transparent)]
    Unreached(#[from] MachineError),
    #[error("the machine refused: {0}")]
    Refused(#[from] Box<tonic::Status>),
}

/// Asks a pod's machine.
async fn ask(context: &Context, pod: &Pod) -> Result<Report, Silence> {
    let mut machine = Machine::connect(context, pod).await?;
    let info = machine.client.info(InfoRequest {}).await.map_err(Box::new)?.into_inner();
    let paused = (info.state() == State::Paused).then(|| info.reason.clone());
    let guest = if info.agent_connected {
        // An agent that goes away meanwhile has said nothing.
        machine.client.guest_info(GuestInfoRequest {}).await.ok().map(tonic::Response::into_inner)
    } else {
        None
    };
    let text = |text: String| (!text.is_empty()).then_some(text);
    let guest = guest.map(|told| GuestOsInfo {
        id: text(told.os_id),
        name: text(told.os_name),
        pretty_name: text(told.os_pretty_name),
        version: text(told.os_version),
        version_id: text(told.os_version_id),
        kernel_release: text(told.kernel_release),
        kernel_version: text(told.kernel_version),
        machine: text(told.machine),
    });
    Ok(Report { paused, agent: info.agent_connected, guest })
}
