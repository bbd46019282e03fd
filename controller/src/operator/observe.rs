//! What there is: everything that bears the operator's label, watched, and of each object no more than decides anything.

use std::collections::BTreeSet;

use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tracing::warn;

use super::plan::{Key, Observed, Seen};
use super::{MANAGED_BY, monitoring};

/// Where objects of a kind are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Cluster,
    /// The operator's namespace.
    Own,
    /// Where Kubernetes has the Role for servers of aggregated APIs.
    System,
}

/// Every kind that an operator of any version has made: group, version, kind, plural, place.
const KINDS: &[(&str, &str, &str, &str, Place)] = &[
    ("", "v1", "ConfigMap", "configmaps", Place::Own),
    ("", "v1", "Secret", "secrets", Place::Own),
    ("", "v1", "Service", "services", Place::Own),
    ("", "v1", "ServiceAccount", "serviceaccounts", Place::Own),
    (ADMISSION, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", Place::Cluster),
    (ADMISSION, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", Place::Cluster),
    (ADMISSION, "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", Place::Cluster),
    (ADMISSION, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", Place::Cluster),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", Place::Cluster),
    ("apiregistration.k8s.io", "v1", "APIService", "apiservices", Place::Cluster),
    ("apps", "v1", "DaemonSet", "daemonsets", Place::Own),
    ("apps", "v1", "Deployment", "deployments", Place::Own),
    (monitoring::GROUP, "v1", "PrometheusRule", "prometheusrules", Place::Own),
    (monitoring::GROUP, "v1", "ServiceMonitor", "servicemonitors", Place::Own),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", Place::Own),
    ("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", Place::Cluster),
    (POLICY, "v1", "PodDisruptionBudget", "poddisruptionbudgets", Place::Own),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", Place::Cluster),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", Place::Cluster),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", Place::Own),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", Place::Own),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", Place::System),
];

/// The one group whose version depends on the API server's.
const POLICY: &str = "policy";
/// The group of webhooks and policies.
const ADMISSION: &str = "admissionregistration.k8s.io";

/// The group and plural of a kind.
pub(super) fn resource(kind: &str) -> Option<(&'static str, &'static str)> {
    KINDS.iter().find(|row| row.2 == kind).map(|row| (row.0, row.3))
}

/// What newer API servers have and older ones haven't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    /// policy/v1, since 1.21.
    pub(super) policy_v1: bool,
    /// Conditions of webhooks, since 1.28.
    pub(super) match_conditions: bool,
    /// ValidatingAdmissionPolicies of v1, and tokens of pods that name their node, since 1.30.
    pub(super) policies: bool,
}

impl Server {
    /// Asks it.
    pub(super) async fn ask(client: &Client) -> kube::Result<Self> {
        let groups = client.list_api_groups().await?;
        let policy = groups.groups.iter().find(|group| group.name == POLICY);
        let policy_v1 = policy.is_none_or(|group| group.versions.iter().any(|version| version.version == "v1"));
        let version = client.apiserver_version().await?;
        let is_at_least = |wanted| is_at_least(&version.major, &version.minor, wanted);
        Ok(Self { policy_v1, match_conditions: is_at_least((1, 28)), policies: is_at_least((1, 30)) })
    }

    /// Whether it has a kind of [`KINDS`].
    fn has(self, kind: &str) -> bool {
        self.policies || !kind.starts_with("ValidatingAdmissionPolicy")
    }
}

/// Some distributions' minor versions end with a plus.
fn is_at_least(major: &str, minor: &str, wanted: (u32, u32)) -> bool {
    let number = |text: &str| text.trim_end_matches('+').parse::<u32>().ok();
    number(major).zip(number(minor)).is_none_or(|version| version >= wanted)
}

/// How objects are reached.
#[derive(Clone)]
pub(super) struct Apis {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) server: Server,
}

impl Apis {
    /// The API of a kind in a namespace, none for one that has none; None for a kind that the operator doesn't know.
    pub(super) fn of(&self, kind: &str, namespace: &str) -> Option<Api<DynamicObject>> {
        let &(group, version, kind, plural, place) = KINDS.iter().find(|row| row.2 == kind)?;
        let version = if group == POLICY && !self.server.policy_v1 { "v1beta1" } else { version };
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        Some(match place {
            Place::Cluster => Api::all_with(self.client.clone(), &resource),
            Place::Own | Place::System => Api::namespaced_with(self.client.clone(), namespace, &resource),
        })
    }

    /// What changes, of every kind.
    fn changes(&self) -> SelectAll<BoxStream<'static, Change>> {
        let config = watcher::Config::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1)).page_size(20);
        let kinds = KINDS.iter().enumerate().filter(|(_, row)| self.server.has(row.2));
        let streams = kinds.filter_map(|(at, row)| {
            let namespace = if row.4 == Place::System { "kube-system" } else { &self.namespace };
            let kind = row.2;
            let (api, config) = (self.of(kind, namespace)?, config.clone());
            let changes = move || changes_of(watcher(api.clone(), config.clone()), at, kind);
            Some(if row.0 == monitoring::GROUP {
                let crd = format!("{}.{}", row.3, row.0);
                monitoring::while_there(self.client.clone(), crd, changes, move || Change::Lost(at))
            } else {
                changes()
            })
        });
        futures_util::stream::select_all(streams)
    }
}

/// What changes of a kind, which is in a row of [`KINDS`].
fn changes_of(
    events: impl Stream<Item = watcher::Result<watcher::Event<DynamicObject>>> + Send + 'static,
    at: usize,
    kind: &'static str,
) -> BoxStream<'static, Change> {
    let seen = move |object: &DynamicObject| {
        // Lists leave their items' kind out.
        let mut value = serde_json::to_value(object).unwrap_or_default();
        value["kind"] = kind.into();
        (Key::of(&value), Seen::of(&value))
    };
    let changes = events.default_backoff().map_ok(move |event| match event {
        watcher::Event::Init => Change::Begun(at),
        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
            let (key, seen) = seen(&object);
            Change::Is(at, key, seen)
        }
        watcher::Event::Delete(object) => Change::Gone(seen(&object).0),
        watcher::Event::InitDone => Change::Complete(at),
    });
    let changes = changes
        .filter_map(move |change| async move { change.inspect_err(|error| warn!("can't watch {kind}: {error}")).ok() });
    changes.boxed()
}

/// What a watch tells; numbers are rows of [`KINDS`].
enum Change {
    Begun(usize),
    Is(usize, Key, Seen),
    Gone(Key),
    Complete(usize),
    /// The kind itself isn't there, or not any more.
    Lost(usize),
}

/// Everything that there is, kept up to date for as long as it is polled.
pub(super) struct Watch {
    changes: SelectAll<BoxStream<'static, Change>>,
    observed: Observed,
    /// Of each kind, what a list under way has named, and whether one was ever complete.
    lists: Vec<(Option<Vec<Key>>, bool)>,
    /// Kinds that aren't there.
    lost: BTreeSet<usize>,
}

impl Watch {
    pub(super) fn new(apis: &Apis) -> Self {
        // Of what the API server doesn't have there is nothing.
        let lists = KINDS.iter().map(|row| (None, !apis.server.has(row.2))).collect();
        Self { changes: apis.changes(), observed: Observed::new(), lists, lost: BTreeSet::new() }
    }

    /// Whether the kinds of a group are there, as far as is known.
    pub(super) fn has(&self, group: &str) -> bool {
        !self.lost.iter().any(|at| KINDS[*at].0 == group)
    }

    /// What there is, once every kind has been listed.
    pub(super) fn observed(&self) -> Option<&Observed> {
        self.lists.iter().all(|(_, complete)| *complete).then_some(&self.observed)
    }

    /// Notes what was applied just now: the watch tells it later.
    pub(super) fn note(&mut self, key: Key, seen: Seen) {
        self.observed.insert(key, seen);
    }

    /// Waits until something has changed.
    pub(super) async fn changed(&mut self) {
        let Some(change) = self.changes.next().await else { return std::future::pending().await };
        match change {
            Change::Begun(at) => {
                // What a kind has that has come is seen before anything is made of it.
                self.lists[at] = (Some(Vec::new()), self.lists[at].1 && !self.lost.remove(&at));
            }
            Change::Lost(at) => {
                self.lost.insert(at);
                self.lists[at] = (None, true);
                self.observed.retain(|key, _| key.kind != KINDS[at].2);
            }
            Change::Is(at, key, seen) => {
                if let Some(list) = &mut self.lists[at].0 {
                    list.push(key.clone());
                }
                self.observed.insert(key, seen);
            }
            Change::Gone(key) => drop(self.observed.remove(&key)),
            Change::Complete(at) => {
                let listed = self.lists[at].0.take().unwrap_or_default();
                let (_, _, kind, _, place) = KINDS[at];
                let is_of =
                    |key: &Key| key.kind == kind && (place == Place::System) == (key.namespace == "kube-system");
                self.observed.retain(|key, _| !is_of(key) || listed.contains(key));
                self.lists[at].1 = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_at_least;

    #[test]
    fn versions() {
        for (major, minor, is) in
            [("1", "20", false), ("1", "28", true), ("1", "33+", true), ("2", "0", true), ("1", "27+", false)]
        {
            assert_eq!(is_at_least(major, minor, (1, 28)), is, "{major}.{minor}");
        }
    }
}
