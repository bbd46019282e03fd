//! KubeVirt's words for what happens to instances: reasons of events and of the condition `Synchronized`.

/// A claim isn't there.
pub const NO_CLAIM: &str = "FailedPvcNotFound";
/// A volume of its pod's can't be mounted: the kubelet's word, which KubeVirt's instances don't repeat.
pub const FAILED_MOUNT: &str = "FailedMount";
/// A pod was made.
pub const CREATED_POD: &str = "SuccessfulCreate";
/// A pod can't be made.
pub const FAILED_CREATE: &str = "FailedCreate";
/// A pod was told to go.
pub const DELETED_POD: &str = "SuccessfulDelete";
/// A pod can't be told to go.
pub const FAILED_DELETE: &str = "FailedDelete";
/// The guest's machine is made.
pub const CREATED: &str = "Created";
/// The guest runs.
pub const STARTED: &str = "Started";
/// The guest ended well, or otherwise.
pub const STOPPED: &str = "Stopped";
