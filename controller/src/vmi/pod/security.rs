//! What a pod may do: nothing that the Restricted Pod Security Standard doesn't allow. The shim opens what the machine needs.

use k8s_openapi::api::core::v1::{Capabilities, PodSecurityContext, SeccompProfile, SecurityContext};
use vireo_runtimeclass::pod::DEFAULT_ID;

pub(super) fn pod() -> PodSecurityContext {
    let id = Some(i64::from(DEFAULT_ID));
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: id,
        run_as_group: id,
        // Claims with a file system become the guest's.
        fs_group: id,
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

pub(super) fn container() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        run_as_non_root: Some(true),
        run_as_user: Some(i64::from(DEFAULT_ID)),
        ..SecurityContext::default()
    }
}
