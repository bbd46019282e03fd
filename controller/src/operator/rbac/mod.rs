//! Who may do what: the roles of users, which are KubeVirt's, and those of Vireo's own parts, which are as small as can be.

#[cfg(test)]
mod operator;
mod parts;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod users;

use serde_json::{Value, json};

#[cfg(test)]
pub(super) use self::operator::operator;
pub(super) use self::parts::{agent, controller};
pub(super) use self::users::users;

/// The API group of roles.
pub(super) const GROUP: &str = "rbac.authorization.k8s.io";
pub(super) const VERSION: &str = "rbac.authorization.k8s.io/v1";

pub(super) const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete"];
const STATUS: &[&str] = &["update", "patch"];

/// The namespace, and the Role in it, for who serves an aggregated API: Kubernetes makes it.
const FRONT_PROXY: (&str, &str) = ("kube-system", "extension-apiserver-authentication-reader");

/// So much of a role's rules: what may be done to which resources of a group, and, where there are names, to which of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rule {
    pub(super) group: &'static str,
    pub(super) resources: Vec<&'static str>,
    pub(super) names: Vec<String>,
    pub(super) verbs: Vec<&'static str>,
}

/// A rule for every object.
pub(super) fn rule(group: &'static str, resources: &[&'static str], verbs: &[&'static str]) -> Rule {
    Rule { group, resources: resources.to_vec(), names: Vec::new(), verbs: verbs.to_vec() }
}

impl Rule {
    /// The same for objects of these names only.
    fn named<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Self {
        Self { names: names.into_iter().map(Into::into).collect(), ..self }
    }

    fn value(&self) -> Value {
        let mut rule = json!({"apiGroups": [self.group], "resources": self.resources, "verbs": self.verbs});
        if !self.names.is_empty() {
            rule["resourceNames"] = json!(self.names);
        }
        rule
    }
}

/// A ClusterRole.
pub(super) fn cluster_role(name: &str, rules: &[Rule]) -> Value {
    let rules: Vec<_> = rules.iter().map(Rule::value).collect();
    json!({
        "apiVersion": VERSION,
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {"kubevirt.io": ""}},
        "rules": rules,
    })
}

/// A Role.
pub(super) fn role(namespace: &str, name: &str, rules: &[Rule]) -> Value {
    let mut role = cluster_role(name, rules);
    role["kind"] = json!("Role");
    role["metadata"]["namespace"] = json!(namespace);
    role
}

/// A ClusterRoleBinding of the role of the same name.
pub(super) fn cluster_binding(name: &str, subject: &Value) -> Value {
    json!({
        "apiVersion": VERSION,
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name, "labels": {"kubevirt.io": ""}},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name},
        "subjects": [subject],
    })
}

/// A RoleBinding of a Role.
pub(super) fn binding(namespace: &str, name: &str, role: &str, subject: &Value) -> Value {
    let mut binding = cluster_binding(name, subject);
    binding["kind"] = json!("RoleBinding");
    binding["metadata"]["namespace"] = json!(namespace);
    binding["roleRef"] = json!({"apiGroup": GROUP, "kind": "Role", "name": role});
    binding
}

pub(super) fn account(namespace: &str, name: &str) -> Value {
    json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
}

fn service_account(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubevirt.io": ""}},
    })
}
