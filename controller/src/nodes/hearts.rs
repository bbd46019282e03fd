//! How long each node's last heartbeat counts.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use vireo_runtimeclass::node::{HEARTBEAT, SCHEDULABLE, SILENCE};

/// The nodes that take guests and have agents.
#[derive(Debug, Default)]
pub(super) struct Hearts(BTreeMap<String, Heart>);

#[derive(Debug)]
struct Heart {
    /// Of the node as it was seen.
    version: String,
    /// When its agent will have been silent for too long.
    end: Timestamp,
}

impl Hearts {
    /// Takes note of a node as it is `now`.
    pub(super) fn see(&mut self, node: &ObjectMeta, now: Timestamp) {
        let name = node.name.clone().unwrap_or_default();
        let takes_guests =
            node.labels.as_ref().and_then(|labels| labels.get(SCHEDULABLE)).is_some_and(|is| is == "true");
        let beat = node.annotations.as_ref().and_then(|annotations| annotations.get(HEARTBEAT));
        // A clock that is ahead of ours earns no more patience.
        match beat.and_then(|beat| beat.parse::<Timestamp>().ok()).map(|beat| beat.min(now)) {
            Some(beat) if takes_guests => {
                let version = node.resource_version.clone().unwrap_or_default();
                let end = beat.saturating_add(SILENCE).unwrap_or(beat);
                self.0.insert(name, Heart { version, end });
            }
            _ => self.forget(&name),
        }
    }

    /// It is gone, or takes no guests any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// All are told anew.
    pub(super) fn forget_all(&mut self) {
        self.0.clear();
    }

    /// How long nobody's patience ends; None where there is nobody.
    pub(super) fn next(&self, now: Timestamp) -> Option<Duration> {
        let end = self.0.values().map(|heart| heart.end).min()?;
        Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
    }

    /// The nodes that have been silent for too long, each with the version that was seen.
    pub(super) fn silent(&self, now: Timestamp) -> Vec<(String, String)> {
        let silent = self.0.iter().filter(|(_, heart)| heart.end <= now);
        silent.map(|(name, heart)| (name.clone(), heart.version.clone())).collect()
    }

    /// Something has to be tried again, after `wait`.
    pub(super) fn postpone(&mut self, name: &str, now: Timestamp, wait: Duration) {
        if let Some(heart) = self.0.get_mut(name) {
            heart.end = now.saturating_add(wait).unwrap_or(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, schedulable: &str, beat: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            resource_version: Some("7".to_owned()),
            labels: Some([(SCHEDULABLE.to_owned(), schedulable.to_owned())].into()),
            annotations: beat.map(|beat| [(HEARTBEAT.to_owned(), beat.to_owned())].into()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn patience_ends_five_minutes_after_a_beat() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-11-26T08:00:00Z");
        let mut hearts = Hearts::default();
        assert_eq!(hearts.next(now), None);
        hearts.see(&node("a", "true", Some("2026-11-26T07:59:00Z")), now);
        hearts.see(&node("b", "true", Some("2026-11-26T07:58:00Z")), now);
        hearts.see(&node("by-hand", "true", None), now);
        hearts.see(&node("unreadable", "true", Some("yesterday")), now);
        hearts.see(&node("unfit", "false", Some("2020-01-01T00:00:00Z")), now);
        assert_eq!((hearts.next(now), hearts.silent(now)), (Some(Duration::from_mins(3)), Vec::new()));
        let later = at("2026-11-26T08:03:00Z");
        assert_eq!(hearts.silent(later), [("b".to_owned(), "7".to_owned())]);
        assert_eq!(hearts.next(later), Some(Duration::ZERO));
        hearts.postpone("b", later, Duration::from_secs(5));
        assert_eq!((hearts.next(later), hearts.silent(later)), (Some(Duration::from_secs(5)), Vec::new()));
        hearts.see(&node("b", "true", Some("2026-11-26T08:02:59Z")), later);
        assert_eq!(hearts.next(later), Some(Duration::from_mins(1)), "a's");
        hearts.see(&node("a", "false", Some("2026-11-26T07:59:00Z")), later);
        hearts.forget("b");
        assert_eq!(hearts.next(later), None);
    }

    #[test]
    fn a_clock_that_is_ahead_earns_no_patience() {
        let now = "2026-11-26T08:00:00Z".parse().unwrap();
        let mut hearts = Hearts::default();
        hearts.see(&node("a", "true", Some("2036-11-26T08:00:00Z")), now);
        assert_eq!(hearts.next(now), Some(SILENCE));
    }
}
