//! The objects that a machine or an instance stands on, as KubeVirt draws them: for who backs one up, or moves it.
//!
//! As in KubeVirt it is what the specs name, whether it is there or not; only pods are looked up. KubeVirt forgets the claim of an
//! `ephemeral` volume and the objects of a `sysprep` one; they are here.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{InstanceSpec, InstancetypeRef, Matcher, VirtualMachineSpec, VirtualMachineStatus};
use vireo_runtimeclass::kubevirt::v1::{CloudInit, Volume, VolumeSource};

use super::refusal::{INSTANCE, MACHINE};
use super::{Refusal, Server, options};
use crate::admission::gate;

type Name = Path<(String, String)>;
type Answer = Result<Json<Value>, Refusal>;

/// The label of each node, which selectors select by.
const LABEL: &str = "kubevirt.io/dependency-type";

/// What a client wants to see.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Options {
    include_optional_nodes: Option<bool>,
    label_selector: Option<LabelSelector>,
}

/// Likewise, checked.
#[derive(Debug)]
struct Filter {
    without_optional: bool,
    selector: Selector,
}

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    group: &'static str,
    name: &'static str,
    dependency: &'static str,
}

const fn kind(group: &'static str, name: &'static str, dependency: &'static str) -> Kind {
    Kind { group, name, dependency }
}

const VM: Kind = kind("kubevirt.io", "VirtualMachine", "compute");
const VMI: Kind = kind("kubevirt.io", "VirtualMachineInstance", "compute");
const POD: Kind = kind("", "Pod", "compute");
const CLAIM: Kind = kind("", "PersistentVolumeClaim", "storage");
const DATA_VOLUME: Kind = kind("cdi.kubevirt.io", "DataVolume", "storage");
const CONFIG_MAP: Kind = kind("", "ConfigMap", "config");
const SECRET: Kind = kind("", "Secret", "config");
const SERVICE_ACCOUNT: Kind = kind("", "ServiceAccount", "config");
const REVISION: Kind = kind("apps", "ControllerRevision", "config");
const INSTANCETYPE: [Kind; 2] = [
    kind("instancetype.kubevirt.io", "VirtualMachineInstancetype", "config"),
    kind("instancetype.kubevirt.io", "VirtualMachineClusterInstancetype", "config"),
];
const PREFERENCE: [Kind; 2] = [
    kind("instancetype.kubevirt.io", "VirtualMachinePreference", "config"),
    kind("instancetype.kubevirt.io", "VirtualMachineClusterPreference", "config"),
];
const NETWORK: Kind = kind("k8s.cni.cncf.io", "NetworkAttachmentDefinition", "network");

/// An object, and those that it stands on.
#[derive(Debug, Clone, PartialEq)]
struct Node {
    kind: Kind,
    /// Empty for what is the whole cluster's.
    namespace: String,
    name: String,
    /// The machine could do without it.
    optional: bool,
    children: Vec<Node>,
}

impl Node {
    fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned(), optional: false, children: Vec::new() }
    }

    fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    fn with(self, children: Vec<Node>) -> Self {
        Self { children, ..self }
    }

    /// Without what isn't wanted below it.
    fn filtered(mut self, filter: &Filter) -> Self {
        let children = self.children.into_iter().filter(|child| filter.takes(child));
        self.children = children.map(|child| child.filtered(filter)).collect();
        self
    }

    fn json(&self) -> Value {
        let reference = json!({"apiGroup": self.kind.group, "kind": self.kind.name, "name": self.name, "namespace": self.namespace});
        let mut node = json!({"objectReference": reference, "labels": {LABEL: self.kind.dependency}});
        if self.optional {
            node["optional"] = true.into();
        }
        if !self.children.is_empty() {
            node["children"] = self.children.iter().map(Self::json).collect();
        }
        node
    }
}

impl Filter {
    fn read(body: &[u8]) -> Result<Self, Refusal> {
        let Options { include_optional_nodes, label_selector } = options::read(body)?;
        let selector = Selector::try_from(label_selector.unwrap_or_default());
        let selector = selector.map_err(|error| Refusal::bad_request(format!("labelSelector: {error}")))?;
        Ok(Self { without_optional: include_optional_nodes == Some(false), selector })
    }

    fn takes(&self, node: &Node) -> bool {
        let labels = BTreeMap::from([(LABEL.to_owned(), node.kind.dependency.to_owned())]);
        !(node.optional && self.without_optional) && self.selector.matches(&labels)
    }
}

/// Of a machine.
pub(super) async fn of_machine(State(server): State<Server>, Path((namespace, name)): Name, body: Bytes) -> Answer {
    let filter = asked(&server, &body)?;
    let machine = server.machine(&namespace, &name).await?;
    let spec = machine.spec().map_err(|problems| Refusal::conflict(MACHINE, &name, &problems.to_string()))?;
    let status = machine.status.unwrap_or_default();
    let instance = if status.created == Some(true) {
        let found = server.instances(&namespace).get_opt(&name).await.map_err(|error| Refusal::internal(&error))?;
        let pods = match &found {
            Some(instance) => server.pods_of(instance).await?,
            None => Vec::new(),
        };
        Some(Node::new(VMI, &namespace, &name).with(pod(&namespace, &pods)))
    } else {
        None
    };
    let children = machine_children(&spec, &status, instance, &namespace);
    Ok(Json(Node::new(VM, &namespace, &name).with(children).filtered(&filter).json()))
}

/// Of an instance.
pub(super) async fn of_instance(State(server): State<Server>, Path((namespace, name)): Name, body: Bytes) -> Answer {
    let filter = asked(&server, &body)?;
    let instance = server.instance(&namespace, &name).await?;
    let spec = instance.spec().map_err(|problems| Refusal::conflict(INSTANCE, &name, &problems.to_string()))?;
    let mut children = pod(&namespace, &server.pods_of(&instance).await?);
    children.extend(spec_children(&spec, &namespace));
    Ok(Json(Node::new(VMI, &namespace, &name).with(children).filtered(&filter).json()))
}

fn asked(server: &Server, body: &[u8]) -> Result<Filter, Refusal> {
    if !gate(&server.context.settings.now(), "ObjectGraph") {
        let why = "ObjectGraph feature gate not enabled: Unable to return object graph.";
        return Err(Refusal::bad_request(why.to_owned()));
    }
    Filter::read(body)
}

/// The pod of an instance that runs, or the one that is on its way.
fn pod(namespace: &str, pods: &[Pod]) -> Vec<Node> {
    let runs = |pod: &&Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    let pod = pods.iter().find(runs).or(pods.first());
    pod.and_then(|pod| pod.metadata.name.as_deref()).map(|name| Node::new(POD, namespace, name)).into_iter().collect()
}

fn machine_children(
    spec: &VirtualMachineSpec,
    status: &VirtualMachineStatus,
    instance: Option<Node>,
    namespace: &str,
) -> Vec<Node> {
    let instancetype = spec.instancetype.iter();
    let instancetype =
        instancetype.flat_map(|named| matched(named, status.instancetype_ref.as_ref(), INSTANCETYPE, namespace));
    let preference = spec.preference.iter();
    let preference = preference.flat_map(|named| matched(named, status.preference_ref.as_ref(), PREFERENCE, namespace));
    instance
        .into_iter()
        .chain(instancetype)
        .chain(preference)
        .chain(spec_children(&spec.template.spec, namespace))
        .collect()
}

/// An instancetype or a preference, which the machine can do without once it has the revision that it uses.
fn matched(matcher: &Matcher, used: Option<&InstancetypeRef>, [own, cluster]: [Kind; 2], namespace: &str) -> Vec<Node> {
    let is_own = matcher.kind.as_ref().is_some_and(|kind| kind.eq_ignore_ascii_case(own.name));
    let node = |name: &String| if is_own { Node::new(own, namespace, name) } else { Node::new(cluster, "", name) };
    let revision = match used {
        Some(used) => used.controller_revision_ref.as_ref().and_then(|revision| revision.name.as_ref()),
        // Its status isn't written yet.
        None => matcher.revision_name.as_ref(),
    };
    let revision = revision.filter(|name| !name.is_empty()).map(|name| Node::new(REVISION, namespace, name));
    matcher.name.iter().map(node).map(Node::optional).chain(revision).collect()
}

fn spec_children(spec: &InstanceSpec, namespace: &str) -> Vec<Node> {
    let machine = &spec.machine;
    let mut nodes = Vec::new();
    for credential in &machine.access_credentials {
        let keys = credential.ssh_public_key.as_ref().map(|keys| &keys.source);
        let source = keys.or(credential.user_password.as_ref().map(|password| &password.source));
        if let Some(secret) = source.and_then(|source| source.secret.as_ref()) {
            nodes.push(Node::new(SECRET, namespace, &secret.secret_name));
        }
    }
    for source in machine.volumes.iter().flat_map(Volume::sources) {
        nodes.extend(volume(source, namespace));
    }
    for multus in machine.networks.iter().filter_map(|network| network.multus.as_ref()) {
        let (namespace, name) = multus.network_name.split_once('/').unwrap_or((namespace, &multus.network_name));
        nodes.push(Node::new(NETWORK, namespace, name).optional());
    }
    nodes
}

fn volume(source: VolumeSource<'_>, namespace: &str) -> Vec<Node> {
    let node = |kind, name: &str| Node::new(kind, namespace, name);
    match source {
        // The claim has its name.
        VolumeSource::DataVolume(data) => vec![node(DATA_VOLUME, &data.name).with(vec![node(CLAIM, &data.name)])],
        VolumeSource::PersistentVolumeClaim(claim) => vec![node(CLAIM, &claim.claim_name)],
        VolumeSource::Ephemeral(ephemeral) => {
            ephemeral.persistent_volume_claim.iter().map(|claim| node(CLAIM, &claim.claim_name)).collect()
        }
        VolumeSource::ConfigMap(map) => vec![node(CONFIG_MAP, &map.name)],
        VolumeSource::Secret(secret) => vec![node(SECRET, &secret.secret_name)],
        VolumeSource::ServiceAccount(account) => vec![node(SERVICE_ACCOUNT, &account.service_account_name)],
        VolumeSource::CloudInitNoCloud(CloudInit { secret_ref, network_data_secret_ref, .. })
        | VolumeSource::CloudInitConfigDrive(CloudInit { secret_ref, network_data_secret_ref, .. }) => {
            let secrets = [secret_ref, network_data_secret_ref].into_iter().flatten();
            secrets.map(|secret| node(SECRET, &secret.name)).collect()
        }
        VolumeSource::Sysprep(sysprep) => {
            let map = sysprep.config_map.iter().map(|map| node(CONFIG_MAP, &map.name));
            map.chain(sysprep.secret.iter().map(|secret| node(SECRET, &secret.name))).collect()
        }
        VolumeSource::ContainerDisk(_)
        | VolumeSource::HostDisk(_)
        | VolumeSource::EmptyDisk(_)
        | VolumeSource::DownwardApi(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn children(spec: &Value, status: &Value) -> Vec<Node> {
        let spec: VirtualMachineSpec = serde_json::from_value(spec.clone()).unwrap();
        let status = serde_json::from_value(status.clone()).unwrap();
        let instance = Node::new(VMI, "shop", "a").with(vec![Node::new(POD, "shop", "virt-launcher-a-x")]);
        machine_children(&spec, &status, Some(instance), "shop")
    }

    /// A machine that names one of each.
    fn all() -> Value {
        json!({
            "runStrategy": "Always",
            "instancetype": {"name": "small"},
            "preference": {"name": "linux", "kind": "virtualmachinepreference", "revisionName": "linux-1"},
            "template": {"spec": {
                "domain": {"devices": {}},
                "accessCredentials": [
                    {"userPassword": {"source": {"secret": {"secretName": "passwords"}}, "propagationMethod": {}}},
                ],
                "volumes": [
                    {"name": "root", "dataVolume": {"name": "disk"}},
                    {"name": "data", "persistentVolumeClaim": {"claimName": "claim"}},
                    {"name": "base", "ephemeral": {"persistentVolumeClaim": {"claimName": "shared"}}},
                    {"name": "seed", "cloudInitNoCloud": {
                        "secretRef": {"name": "user"}, "networkDataSecretRef": {"name": "net"},
                    }},
                    {"name": "settings", "configMap": {"name": "map"}},
                    {"name": "keys", "secret": {"secretName": "keys"}},
                    {"name": "token", "serviceAccount": {"serviceAccountName": "account"}},
                    {"name": "answers", "sysprep": {"configMap": {"name": "unattend"}}},
                    {"name": "image", "containerDisk": {"image": "i"}},
                ],
                "networks": [
                    {"name": "default", "pod": {}},
                    {"name": "lan", "multus": {"networkName": "lan"}},
                    {"name": "wan", "multus": {"networkName": "net/wan"}},
                ],
            }},
        })
    }

    fn names(nodes: &[Node]) -> Vec<String> {
        nodes.iter().map(|node| format!("{} {}/{}", node.kind.name, node.namespace, node.name)).collect()
    }

    #[test]
    fn a_machine_stands_on_what_it_names() {
        let used = json!({"instancetypeRef": {"controllerRevisionRef": {"name": "small-1"}}});
        let nodes = children(&all(), &used);
        let expected = [
            "VirtualMachineInstance shop/a",
            "VirtualMachineClusterInstancetype /small",
            "ControllerRevision shop/small-1",
            "VirtualMachinePreference shop/linux",
            "ControllerRevision shop/linux-1",
            "Secret shop/passwords",
            "DataVolume shop/disk",
            "PersistentVolumeClaim shop/claim",
            "PersistentVolumeClaim shop/shared",
            "Secret shop/user",
            "Secret shop/net",
            "ConfigMap shop/map",
            "Secret shop/keys",
            "ServiceAccount shop/account",
            "ConfigMap shop/unattend",
            "NetworkAttachmentDefinition shop/lan",
            "NetworkAttachmentDefinition net/wan",
        ];
        assert_eq!(names(&nodes), expected);
        assert_eq!(names(&nodes[0].children), ["Pod shop/virt-launcher-a-x"]);
        assert_eq!(names(&nodes[6].children), ["PersistentVolumeClaim shop/disk"]);
        let optional: Vec<_> = nodes.iter().filter(|node| node.optional).map(|node| node.name.as_str()).collect();
        assert_eq!(optional, ["small", "linux", "lan", "wan"]);
    }

    #[test]
    fn a_node_has_kubevirts_shape() {
        let node = Node::new(VM, "shop", "a").with(vec![Node::new(INSTANCETYPE[1], "", "small").optional()]);
        assert_eq!(
            node.json(),
            json!({
                "objectReference": {"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "namespace": "shop", "name": "a"},
                "labels": {"kubevirt.io/dependency-type": "compute"},
                "children": [{
                    "objectReference": {
                        "apiGroup": "instancetype.kubevirt.io", "kind": "VirtualMachineClusterInstancetype",
                        "namespace": "", "name": "small",
                    },
                    "labels": {"kubevirt.io/dependency-type": "config"},
                    "optional": true,
                }],
            })
        );
    }

    #[test]
    fn what_is_not_wanted_is_left_out() {
        let graph = |body: &str| {
            let filter = Filter::read(body.as_bytes()).unwrap();
            Node::new(VM, "shop", "a").with(children(&all(), &json!({}))).filtered(&filter).children
        };
        assert_eq!(graph("").len(), 16);
        assert_eq!(graph(r#"{"includeOptionalNodes": true}"#), graph(""));
        assert!(graph(r#"{"includeOptionalNodes": false}"#).iter().all(|node| !node.optional));
        let storage = graph(r#"{"labelSelector": {"matchLabels": {"kubevirt.io/dependency-type": "storage"}}}"#);
        assert_eq!(names(&storage).len(), 3);
        assert_eq!(names(&storage[0].children), ["PersistentVolumeClaim shop/disk"]);
        let compute = r#"{"labelSelector": {"matchExpressions": [
            {"key": "kubevirt.io/dependency-type", "operator": "NotIn", "values": ["config", "storage", "network"]}]}}"#;
        assert_eq!(names(&graph(compute)), ["VirtualMachineInstance shop/a"]);
        let wrong = r#"{"labelSelector": {"matchExpressions": [{"key": "a", "operator": "Near", "values": []}]}}"#;
        assert_eq!(Filter::read(wrong.as_bytes()).unwrap_err().code(), 400);
    }

    #[test]
    fn the_pod_that_runs_is_the_one() {
        let pods: Vec<Pod> = serde_json::from_value(json!([
            {"metadata": {"name": "old"}, "status": {"phase": "Succeeded"}},
            {"metadata": {"name": "new"}, "status": {"phase": "Running"}},
        ]))
        .unwrap();
        assert_eq!(names(&pod("shop", &pods)), ["Pod shop/new"]);
        assert_eq!(names(&pod("shop", &pods[..1])), ["Pod shop/old"]);
        assert!(pod("shop", &[]).is_empty());
    }
}
