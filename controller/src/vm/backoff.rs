//! How long a guest waits that doesn't come up.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use vireo_runtimeclass::cluster::{RunStrategy, StartFailure};

use super::Guest;

/// The first wait, seconds.
const BASE: u64 = 10;
/// No wait is longer, seconds.
const LONGEST: u64 = 300;

/// How long to wait after so many failures in a row: ten seconds by their square, half as much again by chance (`random`
/// may be anything), so that guests that fail together aren't started together, and five minutes at most.
pub fn delay(failures: u32, random: u64) -> Duration {
    let failures = u64::from(failures.max(1));
    let delay = failures.saturating_mul(failures).saturating_mul(BASE).min(LONGEST);
    Duration::from_secs((delay + random % (delay / 2 + 1)).min(LONGEST))
}

/// How long a guest still waits at `now`.
pub fn wait(failure: &StartFailure, now: Timestamp) -> Duration {
    let until = failure.retry_after_timestamp.as_ref().map_or(now, |time| time.0);
    Duration::try_from(until.duration_since(now)).unwrap_or_default()
}

/// What `status.startFailure` is to be at `now`. An instance that ends before its guest has run is a failure and counts
/// once; one whose guest has run ends the row.
pub fn start_failure(guest: &Guest<'_>, now: Timestamp, random: u64) -> Option<StartFailure> {
    let starts_again = matches!(guest.strategy, RunStrategy::Always | RunStrategy::RerunOnFailure | RunStrategy::Once);
    if !starts_again || guest.instance.is_some_and(|instance| instance.has_run()) {
        return None;
    }
    let before = guest.status.start_failure.as_ref();
    let counted = before.and_then(|failure| failure.last_failed_vmiuid.as_deref());
    let Some(failed) = guest.instance.filter(|instance| instance.is_final() && counted != Some(instance.uid)) else {
        return before.cloned();
    };
    let failures = before.and_then(|failure| failure.consecutive_fail_count).unwrap_or(0).saturating_add(1);
    let until = now.checked_add(delay(failures, random)).unwrap_or(now);
    Some(StartFailure {
        consecutive_fail_count: Some(failures),
        last_failed_vmiuid: Some(failed.uid.to_owned()),
        retry_after_timestamp: Some(Time(until)),
    })
}

#[cfg(test)]
mod tests {
    use vireo_runtimeclass::cluster::{InstancePhase, InstancePhaseTransition, InstanceStatus, VirtualMachineStatus};

    use super::super::Instance;
    use super::super::samples::{STRATEGIES, instance};
    use super::*;

    #[test]
    fn waits_grow_by_the_square_up_to_five_minutes() {
        let least = [0, 1, 2, 3, 4, 5, 6, u32::MAX].map(|failures| delay(failures, 0).as_secs());
        assert_eq!(least, [10, 10, 40, 90, 160, 250, 300, 300]);
        for failures in 1..8 {
            let least = delay(failures, 0).as_secs();
            for random in [1, 7, 1_000_003, u64::MAX] {
                let by_chance = delay(failures, random).as_secs();
                assert!((least..=(least + least / 2).min(300)).contains(&by_chance), "{failures} {random}");
            }
        }
    }

    fn seen(phase: InstancePhase, has_run: bool) -> InstanceStatus {
        let mut status = instance(Some(phase));
        if has_run {
            let running = Some(InstancePhase::Running);
            status.phase_transition_timestamps =
                vec![InstancePhaseTransition { phase: running, phase_transition_timestamp: None }];
        }
        status
    }

    #[test]
    fn each_failure_counts_once_until_a_guest_runs() {
        let now = Timestamp::from_second(1000).unwrap();
        let mut status = VirtualMachineStatus::default();
        let failed = seen(InstancePhase::Failed, false);
        for (uid, count, until) in [("a", 1, 1010), ("a", 1, 1010), ("b", 2, 1040), ("c", 3, 1090)] {
            let seen = Some(Instance { uid, is_deleted: false, grace_period: None, status: &failed });
            let guest = Guest { strategy: RunStrategy::Always, is_deleted: false, status: &status, instance: seen };
            let failure = start_failure(&guest, now, 0).unwrap();
            assert_eq!(failure.consecutive_fail_count, Some(count));
            assert_eq!(failure.last_failed_vmiuid.as_deref(), Some(uid));
            assert_eq!(failure.retry_after_timestamp, Some(Time(Timestamp::from_second(until).unwrap())));
            status.start_failure = Some(failure);
        }
        let after = |strategy, instance: Option<&InstanceStatus>| {
            let seen = instance.map(|status| Instance { uid: "d", is_deleted: false, grace_period: None, status });
            let guest = Guest { strategy, is_deleted: false, status: &status, instance: seen };
            start_failure(&guest, now, 0).and_then(|failure| failure.consecutive_fail_count)
        };
        let counts = |instance: Option<InstanceStatus>| STRATEGIES.map(|strategy| after(strategy, instance.as_ref()));
        assert_eq!(counts(None), [Some(3), None, None, Some(3), Some(3)]);
        assert_eq!(counts(Some(seen(InstancePhase::Scheduling, false))), [Some(3), None, None, Some(3), Some(3)]);
        assert_eq!(counts(Some(seen(InstancePhase::Succeeded, false))), [Some(4), None, None, Some(4), Some(4)]);
        assert_eq!(counts(Some(seen(InstancePhase::Running, true))), [None; 5]);
        assert_eq!(counts(Some(seen(InstancePhase::Failed, true))), [None; 5]);
    }
}
