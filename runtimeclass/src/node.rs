//! What a node says of itself, between its agent, the controller and the scheduler: names, and how long silence is patience.

use std::time::Duration;

/// Label: `true` on a node that guests may be placed on, `false` on one of Vireo's that is not fit for them, or silent (KubeVirt's).
pub const SCHEDULABLE: &str = "kubevirt.io/schedulable";

/// Annotation: when the node's agent last said that it lives, RFC 3339 (KubeVirt's).
pub const HEARTBEAT: &str = "kubevirt.io/heartbeat";

/// Label: the version of Vireo that new guests of the node get. Those that run keep theirs.
pub const VERSION: &str = "vireo.dev/version";

/// How often an agent says that it lives (KubeVirt's).
pub const BEAT: Duration = Duration::from_mins(1);

/// A node whose agent has said nothing for so long takes no more guests (KubeVirt's).
pub const SILENCE: Duration = Duration::from_mins(5);
