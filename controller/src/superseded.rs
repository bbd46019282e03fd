//! Versions of objects that this process knows to be old, because it has written newer ones: what is decided from one of them
//! would be decided twice, and refused as a conflict. The watch brings the newer one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kube::Resource;

/// Old versions, by uid.
#[derive(Debug, Default)]
pub(crate) struct Superseded(Mutex<HashMap<String, Vec<String>>>);

impl Superseded {
    /// The object `uid` has been written anew since it was `version`.
    pub(crate) fn add(&self, uid: &str, version: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(uid.to_owned()).or_default().push(version.to_owned());
    }

    /// An object that was `version` is `written` now, which is the same where nothing had to be changed.
    pub(crate) fn wrote<K: Resource>(&self, version: Option<&str>, written: &K) {
        let (uid, now) = (written.meta().uid.as_deref(), written.meta().resource_version.as_deref());
        if let (Some(uid), Some(version)) = (uid, version.filter(|version| now != Some(*version))) {
            self.add(uid, version);
        }
    }

    /// `object` is known to be old. Once it isn't, nothing of it is remembered.
    pub(crate) fn contains<K: Resource>(&self, object: &K) -> bool {
        let metadata = object.meta();
        let (Some(uid), Some(version)) = (&metadata.uid, &metadata.resource_version) else { return false };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = all.get(uid).is_some_and(|versions| versions.contains(version));
        if !is_old {
            all.remove(uid);
        }
        is_old
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    #[test]
    fn a_version_is_old_until_another_is_seen() {
        let pod = |version: &str| {
            let mut pod = Pod::default();
            pod.metadata.uid = Some("a".to_owned());
            pod.metadata.resource_version = Some(version.to_owned());
            pod
        };
        let superseded = Superseded::default();
        assert!(!superseded.contains(&pod("1")));
        superseded.add("a", "1");
        superseded.add("a", "2");
        assert!(superseded.contains(&pod("1")) && superseded.contains(&pod("2")));
        assert!(!superseded.contains(&pod("3")));
        assert!(superseded.0.lock().unwrap().is_empty());
        superseded.wrote(Some("3"), &pod("3"));
        assert!(!superseded.contains(&pod("3")), "nothing was changed");
        superseded.wrote(Some("3"), &pod("4"));
        assert!(superseded.contains(&pod("3")) && !superseded.contains(&pod("4")));
    }
}
