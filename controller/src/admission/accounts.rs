//! Who is Vireo itself: whose writes of statuses and instances are let in.

use std::collections::BTreeSet;
use std::sync::Arc;

/// The service accounts of Vireo's own parts.
const OWN: [&str; 2] = ["vireo-controller", "vireo-operator"];

/// Users that are Vireo itself; clones are the same.
#[derive(Debug, Clone)]
pub struct Accounts(Arc<BTreeSet<String>>);

impl Accounts {
    /// Vireo's service accounts in its namespace, and further users: whoever runs it outside of the cluster, for one.
    pub fn of(namespace: &str, more: impl IntoIterator<Item = String>) -> Self {
        let own = OWN.iter().map(|name| format!("system:serviceaccount:{namespace}:{name}"));
        Self(Arc::new(own.chain(more).collect()))
    }

    /// Whether a user is Vireo itself.
    pub fn is_own(&self, user: &str) -> bool {
        self.0.contains(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_accounts_are_vireo() {
        let accounts = Accounts::of("kubevirt", ["admin".to_owned()]);
        assert!(accounts.is_own("system:serviceaccount:kubevirt:vireo-controller"));
        assert!(accounts.is_own("admin"));
        for other in ["", "system:serviceaccount:default:vireo-controller", "vireo-controller", "system:admin"] {
            assert!(!accounts.is_own(other), "{other}");
        }
    }
}
