//! Which of the controller's replicas reconciles: the one that holds the Lease.
//!
//! ```text
//!            free, released, or not renewed for DURATION
//!   follows ─────────────────────────────────────────────> leads ──┐ renews every RENEWAL
//!      ^                                                    │  ^───┘
//!      └──── taken by another, or not renewed for PATIENCE ─┘
//! ```
//!
//! How long a lease was not renewed is measured by each replica's own clock, from when it saw the lease change: clocks of nodes
//! differ. A leader gives up before another may take over (`PATIENCE` is less than `DURATION`), and what it was doing is
//! dropped there and then. A process that was frozen, and wakes in the middle of its work, looks at the clock before it does anything
//! more of it. One write can still be under way: objects' names and resource versions make that one harmless.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::context::NAME;

/// A lease that isn't renewed for so long may be taken.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that can't renew its lease for so long leads no more.
const PATIENCE: Duration = Duration::from_secs(10);
/// A leader renews its lease so often.
const RENEWAL: Duration = Duration::from_secs(3);
/// After an attempt that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Does `work` whenever, and only while, `identity` holds the lease of `namespace`, until that ends or `stop`; gives the lease back
/// then.
/// `identity` names one process, or one pod whose process was started anew.
pub async fn lead<F: Future<Output = ()>>(
    client: Client,
    namespace: &str,
    identity: &str,
    stop: &CancellationToken,
    mut work: impl FnMut() -> F,
) {
    let leases: Api<Lease> = Api::namespaced(client, namespace);
    while let Some((mut held, since)) = stop.run_until_cancelled(take(&leases, identity)).await {
        info!("{identity} leads");
        let until = Until::new(since + PATIENCE);
        tokio::select! {
            biased;
            () = stop.cancelled() => return give_back(&leases, held).await,
            () = hold(&leases, &mut held, identity, &until) => warn!("{identity} leads no more: its lease is lost"),
            () = while_held(&until, work()) => return give_back(&leases, held).await,
        }
    }
}

/// Until when this process may act as the leader.
struct Until(Mutex<Instant>);

impl Until {
    fn new(until: Instant) -> Self {
        Self(Mutex::new(until))
    }

    fn get(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Goes on with `work` only while that is allowed. Whoever polls this polls [`hold`] as well, which says what comes then.
async fn while_held(until: &Until, work: impl Future<Output = ()>) {
    let mut work = pin!(work);
    poll_fn(|context| if Instant::now() < until.get() { work.as_mut().poll(context) } else { Poll::Pending }).await;
}

/// Waits for the lease, and takes it; with the time when it was asked for.
async fn take(leases: &Api<Lease>, identity: &str) -> (Lease, Instant) {
    let mut changes = pin!(watch_object(leases.clone(), NAME));
    let mut seen: Option<(Option<Lease>, Instant)> = None;
    let mut followed: Option<String> = None;
    loop {
        let free = seen.as_ref().map(|(lease, at)| *at + reserved(lease.as_ref(), identity));
        tokio::select! {
            change = changes.next() => match change {
                // A watch that is made anew tells what was told before.
                Some(Ok(lease)) if seen.as_ref().is_none_or(|(before, _)| *before != lease) => {
                    let other = holder(lease.as_ref()).filter(|holder| *holder != identity);
                    if let Some(other) = other.filter(|_| followed.as_deref() != other) {
                        info!("{identity} follows {other}");
                        followed = Some(other.to_owned());
                    }
                    seen = Some((lease, Instant::now()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    warn!("can't watch the lease {NAME}: {error}");
                    sleep(PAUSE).await;
                }
                None => changes.set(watch_object(leases.clone(), NAME)),
            },
            () = until(free) => {
                let before = seen.as_ref().and_then(|(lease, _)| lease.as_ref());
                let asked = Instant::now();
                match write(leases, claim(before, identity, Timestamp::now())).await {
                    Ok(lease) => return (lease, asked),
                    // Another one was faster; the watch tells who.
                    Err(kube::Error::Api(status)) if status.code == 409 => seen = None,
                    Err(error) => {
                        warn!("can't take the lease {NAME}: {error}");
                        sleep(PAUSE).await;
                    }
                }
            }
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Renews the lease; comes back when it is lost.
async fn hold(leases: &Api<Lease>, held: &mut Lease, identity: &str, until: &Until) {
    let mut pause = RENEWAL;
    loop {
        sleep(pause).await;
        let asked = Instant::now();
        match timeout_at(until.get(), write(leases, claim(Some(held), identity, Timestamp::now()))).await {
            Ok(Ok(lease)) => {
                *held = lease;
                until.set(asked + PATIENCE);
                pause = RENEWAL;
                continue;
            }
            // An answer of the API server's that never came may have been a yes.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => match leases.get(NAME).await {
                Ok(lease) if holder(Some(&lease)) == Some(identity) => *held = lease,
                Ok(_) => return,
                Err(error) => warn!("can't read the lease {NAME}: {error}"),
            },
            Ok(Err(error)) => warn!("can't renew the lease {NAME}: {error}"),
            Err(_) => return,
        }
        if Instant::now() >= until.get() {
            return;
        }
        pause = PAUSE;
    }
}

/// Another replica need not wait then.
async fn give_back(leases: &Api<Lease>, mut held: Lease) {
    if let Some(spec) = &mut held.spec {
        spec.holder_identity = Some(String::new());
    }
    if let Err(error) = write(leases, held).await {
        warn!("can't give back the lease {NAME}: {error}");
    }
}

async fn write(leases: &Api<Lease>, lease: Lease) -> kube::Result<Lease> {
    if lease.metadata.resource_version.is_some() {
        leases.replace(NAME, &PostParams::default(), &lease).await
    } else {
        leases.create(&PostParams::default(), &lease).await
    }
}

fn holder(lease: Option<&Lease>) -> Option<&str> {
    let holder = lease?.spec.as_ref()?.holder_identity.as_deref();
    holder.filter(|holder| !holder.is_empty())
}

/// For how long, since it last changed, a lease is another's.
fn reserved(lease: Option<&Lease>, identity: &str) -> Duration {
    if holder(lease).is_none_or(|holder| holder == identity) {
        return Duration::ZERO;
    }
    let said = lease.and_then(|lease| lease.spec.as_ref()?.lease_duration_seconds);
    said.and_then(|seconds| u64::try_from(seconds).ok()).map_or(DURATION, Duration::from_secs)
}

/// The lease as `identity` holds it from `now` on.
fn claim(before: Option<&Lease>, identity: &str, now: Timestamp) -> Lease {
    let mut lease = before.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
        spec: None,
    });
    let is_renewal = holder(before) == Some(identity);
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if !is_renewal {
        let before = spec.lease_transitions.unwrap_or(0);
        spec.lease_transitions = Some(if spec.acquire_time.is_some() { before.saturating_add(1) } else { before });
        spec.acquire_time = Some(MicroTime(now));
        spec.holder_identity = Some(identity.to_owned());
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
    }
    spec.renew_time = Some(MicroTime(now));
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_lease_is_anothers_until_that_one_has_not_renewed_it_for_long() {
        assert_eq!(reserved(None, "a"), Duration::ZERO);
        let mut lease = claim(None, "a", second(0));
        assert_eq!(reserved(Some(&lease), "a"), Duration::ZERO);
        assert_eq!(reserved(Some(&lease), "b"), DURATION);
        lease.spec.as_mut().unwrap().lease_duration_seconds = Some(40);
        assert_eq!(reserved(Some(&lease), "b"), Duration::from_secs(40));
        for odd in [None, Some(-1)] {
            lease.spec.as_mut().unwrap().lease_duration_seconds = odd;
            assert_eq!(reserved(Some(&lease), "b"), DURATION);
        }
        lease.spec.as_mut().unwrap().holder_identity = Some(String::new());
        assert_eq!(reserved(Some(&lease), "b"), Duration::ZERO);
        lease.spec = None;
        assert_eq!(reserved(Some(&lease), "b"), Duration::ZERO);
    }

    #[test]
    fn a_claim_is_a_renewal_or_a_transition() {
        let first = claim(None, "a", second(10));
        let spec = first.spec.clone().unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("a"), Some(0)));
        assert_eq!((spec.acquire_time, spec.renew_time), (Some(MicroTime(second(10))), Some(MicroTime(second(10)))));

        let renewed = claim(Some(&first), "a", second(20)).spec.unwrap();
        assert_eq!((renewed.lease_transitions, renewed.acquire_time), (Some(0), Some(MicroTime(second(10)))));
        assert_eq!(renewed.renew_time, Some(MicroTime(second(20))));

        let taken = claim(Some(&first), "b", second(30)).spec.unwrap();
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("b"), Some(1)));
        assert_eq!(taken.acquire_time, Some(MicroTime(second(30))));
    }

    #[tokio::test]
    async fn who_wakes_after_its_lease_does_nothing_more() {
        let until = Until::new(Instant::now());
        let done = std::cell::Cell::new(0);
        let mut work = pin!(while_held(&until, async {
            loop {
                done.set(done.get() + 1);
                tokio::task::yield_now().await;
            }
        }));
        assert!(futures_util::poll!(work.as_mut()).is_pending());
        assert_eq!(done.get(), 0);
        until.set(Instant::now() + DURATION);
        assert!(futures_util::poll!(work.as_mut()).is_pending());
        assert_eq!(done.get(), 1, "it was renewed");
    }

    #[test]
    fn a_leader_gives_up_before_another_may_take_over() {
        assert!(RENEWAL * 2 + PAUSE < PATIENCE);
        assert!(PATIENCE < DURATION);
    }
}
