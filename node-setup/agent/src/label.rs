//! What an agent writes on its Node, and takes off it.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use vireo_runtimeclass::node::{BEAT, HEARTBEAT, SCHEDULABLE, VERSION};

/// A share of the time between two beats, by which they differ: agents that were started together don't write together for ever.
const JITTER: f64 = 0.1;

/// The patch that says that the agent lives, and whether guests may come.
pub(crate) fn beat(is_fit: bool, now: Timestamp) -> Value {
    let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
    json!({"metadata": {
        "labels": {SCHEDULABLE: is_fit.to_string(), VERSION: env!("CARGO_PKG_VERSION")},
        "annotations": {HEARTBEAT: seconds.to_string()},
    }})
}

/// The patch that takes all of it off again.
pub(crate) fn farewell() -> Value {
    json!({"metadata": {"labels": {SCHEDULABLE: null, VERSION: null}, "annotations": {HEARTBEAT: null}}})
}

/// How long to wait for the next beat; `random` is 0 to 1.
pub(crate) fn until_next_beat(random: f64) -> Duration {
    BEAT.mul_f64(1.0 + JITTER * (2.0 * random.clamp(0.0, 1.0) - 1.0))
}

#[cfg(test)]
mod tests {
    use vireo_runtimeclass::node::SILENCE;

    use super::*;

    #[test]
    fn a_farewell_leaves_nothing_of_a_beat() {
        let beat = beat(true, "2026-11-26T08:00:01.5Z".parse().unwrap());
        assert_eq!(beat["metadata"]["annotations"]["kubevirt.io/heartbeat"], "2026-11-26T08:00:01Z");
        assert_eq!(beat["metadata"]["labels"]["kubevirt.io/schedulable"], "true");
        let farewell = farewell();
        for fields in ["labels", "annotations"] {
            for name in beat["metadata"][fields].as_object().unwrap().keys() {
                assert_eq!(farewell["metadata"][fields].get(name), Some(&Value::Null), "{name}");
            }
        }
    }

    #[test]
    fn beats_come_in_time() {
        assert!(until_next_beat(0.0) < BEAT && BEAT < until_next_beat(1.0));
        assert!(until_next_beat(7.0) * 4 < SILENCE, "three may be lost");
    }
}
