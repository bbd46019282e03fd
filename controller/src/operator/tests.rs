use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{KubeVirtPhase, KubeVirtSpec, KubeVirtStatus};

use super::desired::{Inputs, desired};
use super::monitoring::Reader;
use super::plan::{Applied, Key, Observed, Seen, plan};
use super::release::{Image, Release};
use super::removal::{Removal, removal};
use super::status::{Outcome, status, waiting_for};
use super::{AGENT, API_SERVICES, CONTROLLER, HEALTH_PORT, MANAGED_BY, crds, observe, rbac, workloads};
use crate::admission::configurations::{MUTATING, VALIDATING};

const NAMESPACE: &str = "kubevirt";

fn images() -> (Image, Image) {
    let version = env!("CARGO_PKG_VERSION");
    let image = |name| Image::parse(&format!("vireo/{name}:{version}"));
    (image("vireo-controller"), image("vireo-agent"))
}

fn release(spec: &KubeVirtSpec) -> Release {
    let (controller, node) = images();
    Release::of(spec, NAMESPACE, &controller, &node)
}

fn all(spec: Value, answers: bool, is_new: bool) -> Vec<Value> {
    let spec = serde_json::from_value(spec).unwrap();
    let secrets = [json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {}})];
    desired(&Inputs {
        namespace: NAMESPACE,
        release: &release(&spec),
        spec: &spec,
        bundle: "authorities",
        secrets: &secrets,
        server: observe::Server { policy_v1: is_new, match_conditions: is_new, policies: is_new },
        answers,
        reader: Some(&Reader::usual()),
    })
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name).unwrap()
}

fn reads<T: DeserializeOwned + Serialize>(object: &Value) {
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), *object, "Kubernetes knows no such field");
}

/// Fields that Kubernetes doesn't know would be dropped without a word.
#[test]
fn every_object_is_what_kubernetes_takes() {
    let objects = all(json!({}), true, true);
    let operator = rbac::operator(NAMESPACE);
    for object in objects.iter().chain(&operator) {
        match object["kind"].as_str().unwrap() {
            "APIService" => reads::<APIService>(object),
            "ClusterRole" => reads::<ClusterRole>(object),
            "ClusterRoleBinding" => reads::<ClusterRoleBinding>(object),
            "DaemonSet" => reads::<DaemonSet>(object),
            "Deployment" => reads::<Deployment>(object),
            "MutatingWebhookConfiguration" => reads::<MutatingWebhookConfiguration>(object),
            "NetworkPolicy" => reads::<NetworkPolicy>(object),
            "PodDisruptionBudget" => reads::<PodDisruptionBudget>(object),
            "PriorityClass" => reads::<PriorityClass>(object),
            "Role" => reads::<Role>(object),
            "RoleBinding" => reads::<RoleBinding>(object),
            "RuntimeClass" => reads::<RuntimeClass>(object),
            "Service" => reads::<Service>(object),
            "ServiceAccount" => reads::<ServiceAccount>(object),
            "ValidatingAdmissionPolicy" => reads::<ValidatingAdmissionPolicy>(object),
            "ValidatingAdmissionPolicyBinding" => reads::<ValidatingAdmissionPolicyBinding>(object),
            "ValidatingWebhookConfiguration" => reads::<ValidatingWebhookConfiguration>(object),
            // The first two are no kinds of Kubernetes'.
            "PrometheusRule" | "ServiceMonitor" | "CustomResourceDefinition" | "Secret" => {}
            other => panic!("{other}"),
        }
    }
    let keys: BTreeSet<_> = objects.iter().map(Key::of).collect();
    assert_eq!(keys.len(), objects.len(), "each is there once");
    for object in &objects {
        assert_eq!(object["metadata"]["labels"][MANAGED_BY.0], MANAGED_BY.1);
        assert!(observe::resource(object["kind"].as_str().unwrap()).is_some(), "what isn't watched isn't removed");
    }
    for name in API_SERVICES {
        find(&objects, "APIService", name);
    }
    find(&objects, "MutatingWebhookConfiguration", MUTATING);
    find(&objects, "ValidatingWebhookConfiguration", VALIDATING);
}

#[test]
fn what_the_controller_answers_waits_for_it() {
    let kinds = |answers| {
        all(json!({}), answers, true)
            .iter()
            .map(|object| object["kind"].as_str().unwrap().to_owned())
            .collect::<BTreeSet<_>>()
    };
    for kind in ["APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
        assert!(!kinds(false).contains(kind) && kinds(true).contains(kind));
    }
    let objects = all(json!({}), true, true);
    let at = |kind: &str| objects.iter().position(|object| object["kind"] == kind).unwrap();
    assert!(
        at("ValidatingWebhookConfiguration") < at("Secret"),
        "who trusts an authority does so before it has signed"
    );
    assert!(at("Secret") < at("Deployment") && at("ClusterRole") < at("Deployment"));
}

#[test]
fn the_spec_decides() {
    let spec = json!({
        "imageTag": "9", "imagePullPolicy": "Always", "imagePullSecrets": [{"name": "pull"}],
        "infra": {"replicas": 3, "nodePlacement": {"nodeSelector": {"infra": ""}}},
        "workloads": {"nodePlacement": {
            "nodeSelector": {"vms": "yes"}, "tolerations": [{"key": "vms", "operator": "Exists"}],
        }},
        "productName": "product", "productVersion": "7",
    });
    let objects = all(spec, false, false);
    let controller = find(&objects, "Deployment", CONTROLLER);
    assert_eq!(controller["spec"]["replicas"], 3);
    let pod = &controller["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], "vireo/vireo-controller:9");
    assert_eq!(pod["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(pod["imagePullSecrets"][0]["name"], "pull");
    assert_eq!(pod["nodeSelector"], json!({"infra": "", "kubernetes.io/os": "linux"}));
    let agent = &find(&objects, "DaemonSet", AGENT)["spec"]["template"]["spec"];
    assert_eq!(agent["nodeSelector"]["vms"], "yes");
    assert_eq!(agent["tolerations"][1]["key"], "vms");
    let class = find(&objects, "RuntimeClass", "vireo");
    assert_eq!(class["scheduling"]["nodeSelector"], json!({"kubevirt.io/schedulable": "true"}));
    assert_eq!(class["scheduling"]["tolerations"][0]["key"], "vms");
    assert!(class["overhead"]["podFixed"]["memory"].is_string());
    assert_eq!(find(&objects, "PodDisruptionBudget", CONTROLLER)["apiVersion"], "policy/v1beta1");
    let conditions = |is_new| {
        let objects = all(json!({}), true, is_new);
        find(&objects, "ValidatingWebhookConfiguration", VALIDATING).to_string().matches("matchConditions").count()
    };
    assert_eq!((conditions(true), conditions(false)), (1, 0), "older API servers refuse what they don't know");
    assert_eq!(class["metadata"]["labels"]["app.kubernetes.io/part-of"], "product");
    assert_eq!(class["metadata"]["labels"]["app.kubernetes.io/version"], "7");
}

/// Or a kubelet never calls them ready.
#[test]
fn probes_ask_where_the_program_answers() {
    let (image, agent) = images();
    let objects = all(json!({}), false, true);
    let operator = workloads::operator(NAMESPACE, &image, &agent);
    for workload in [find(&objects, "Deployment", CONTROLLER), find(&objects, "DaemonSet", AGENT), &operator] {
        let container = &workload["spec"]["template"]["spec"]["containers"][0];
        let arguments = container["args"].as_array().unwrap();
        assert!(arguments.contains(&json!(format!("--health=0.0.0.0:{HEALTH_PORT}"))), "{arguments:?}");
        for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
            if workload["kind"] == "Deployment" {
                assert_eq!(container[probe]["httpGet"], json!({"path": path, "port": HEALTH_PORT}));
            }
        }
        let name = workload["metadata"]["name"].as_str().unwrap();
        let open = &find(&objects, "NetworkPolicy", name)["spec"]["ingress"][0]["ports"];
        for port in container["ports"].as_array().unwrap() {
            assert!(
                open.as_array().unwrap().iter().any(|open| open["port"] == port["containerPort"]),
                "{name}: {port}"
            );
        }
    }
    let agent = &find(&objects, "DaemonSet", AGENT)["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(agent["readinessProbe"]["tcpSocket"], json!({"port": HEALTH_PORT}));
    assert!(agent.get("livenessProbe").is_none(), "its heartbeat tells");
}

/// It has its node's root, so nobody else's.
#[test]
fn an_agent_reaches_its_own_node_only() {
    let policy =
        |is_new| all(json!({}), true, is_new).into_iter().find(|object| object["kind"] == "ValidatingAdmissionPolicy");
    assert_eq!(policy(false), None, "older API servers don't know policies, and tokens there don't name nodes");
    let policy = policy(true).unwrap();
    assert_eq!(
        policy["spec"]["matchConditions"][0]["expression"],
        "request.userInfo.username == 'system:serviceaccount:kubevirt:vireo-agent'"
    );
    let objects = all(json!({}), true, true);
    assert_eq!(
        find(&objects, "ValidatingAdmissionPolicyBinding", AGENT)["spec"]["policyName"],
        policy["metadata"]["name"]
    );
    let pod = &find(&objects, "DaemonSet", AGENT)["spec"]["template"]["spec"];
    assert_eq!(
        (pod.get("volumes"), pod.get("hostNetwork")),
        (None, None),
        "it enters the node, nothing of which is in it"
    );
}

/// An API server that keeps what it is given.
fn apply(objects: &[Value], observed: &mut Observed, applied: &mut Applied) -> (usize, usize) {
    let plan = plan(objects, observed, applied);
    let counts = (plan.apply.len(), plan.remove.len());
    for (key, hash, _) in plan.apply {
        let seen =
            Seen { content: hash.clone(), is_going: false, generation: Some(1), replicas: None, status: Value::Null };
        applied.insert(key.clone(), (hash, seen.content.clone()));
        observed.insert(key, seen);
    }
    for key in plan.remove {
        observed.remove(&key);
    }
    counts
}

#[test]
fn nothing_is_written_twice_and_what_others_change_is_put_right() {
    let (mut observed, mut applied) = (Observed::new(), Applied::new());
    let objects = all(json!({}), true, true);
    assert_eq!(apply(&objects, &mut observed, &mut applied), (objects.len(), 0));
    assert_eq!(apply(&objects, &mut observed, &mut applied), (0, 0));
    let controller = Key::of(find(&objects, "Deployment", CONTROLLER));
    observed.remove(&controller);
    assert_eq!(apply(&objects, &mut observed, &mut applied), (1, 0), "deleted by somebody");
    observed.get_mut(&controller).unwrap().content = "generation 7".to_owned();
    assert_eq!(apply(&objects, &mut observed, &mut applied), (1, 0), "changed by somebody");
    observed.get_mut(&controller).unwrap().status = json!({"availableReplicas": 1});
    assert_eq!(apply(&objects, &mut observed, &mut applied), (0, 0), "a status is no change");
    // Another version has no agents, and other images.
    let other = all(json!({"imageTag": "2"}), true, true);
    let other: Vec<_> = other.into_iter().filter(|object| object["metadata"]["name"] != AGENT).collect();
    assert_eq!(apply(&other, &mut observed, &mut applied), (1, 9));
    // Back again, on an older API server: the image, seven objects of the agents (no policy), the budget, the webhooks.
    assert_eq!(apply(&all(json!({}), true, false), &mut observed, &mut applied), (10, 0));
}

#[test]
fn what_goes_goes_in_order() {
    let (mut observed, mut applied) = (Observed::new(), Applied::new());
    apply(&all(json!({}), true, true), &mut observed, &mut applied);
    let mut order = Vec::new();
    loop {
        let now = match removal(&observed) {
            Removal::Delete { now, .. } => now,
            Removal::Rest { now, .. } => {
                order.push("nodes".to_owned());
                now
            }
            Removal::Done => break,
        };
        assert!(!now.is_empty());
        for key in &now {
            observed.get_mut(key).unwrap().is_going = true;
        }
        match removal(&observed) {
            Removal::Delete { now, .. } | Removal::Rest { now, .. } => assert!(now.is_empty(), "it waits"),
            Removal::Done => panic!("it isn't gone yet"),
        }
        order.extend(now.iter().map(|key| key.kind.clone()));
        observed.retain(|_, seen| !seen.is_going);
    }
    let first = |kind: &str| order.iter().position(|name| name == kind).unwrap();
    let last = |kind: &str| order.iter().rposition(|name| name == kind).unwrap();
    assert_eq!(first("CustomResourceDefinition"), 0, "the controller ends their objects while it is there");
    for (before, after) in [
        ("CustomResourceDefinition", "APIService"),
        ("ValidatingWebhookConfiguration", "Deployment"),
        ("APIService", "Deployment"),
        ("DaemonSet", "nodes"),
        ("nodes", "ClusterRole"),
        ("Deployment", "Secret"),
    ] {
        assert!(last(before) < first(after), "{before} {after}: {order:?}");
    }
}

fn conditions(status: &KubeVirtStatus) -> Vec<(String, String, String)> {
    let text = |condition: &vireo_runtimeclass::cluster::Condition| {
        (condition.kind.clone(), format!("{:?}", condition.status), condition.reason.clone().unwrap_or_default())
    };
    status.conditions.iter().map(text).collect()
}

fn triples(expected: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    expected.iter().map(|(kind, value, reason)| ((*kind).into(), (*value).into(), (*reason).into())).collect()
}

#[test]
fn the_status_is_as_kubevirt_s() {
    let (first, applied) = (release(&KubeVirtSpec::default()), Applied::new());
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let next = |before: &KubeVirtStatus, release: &Release, outcome: Outcome, seconds| {
        status(before, release, Some(3), &applied, &outcome, at(seconds))
    };
    let waiting = || Outcome::Applied(vec!["Deployment vireo-controller (0 of 2 ready)".to_owned()]);
    let deploying = next(&KubeVirtStatus::default(), &first, waiting(), 1);
    assert_eq!(deploying.phase, Some(KubeVirtPhase::Deploying));
    assert_eq!(deploying, next(&deploying, &first, waiting(), 2), "nothing new, nothing written");
    assert_eq!(
        conditions(&deploying),
        triples(&[
            ("Created", "True", "AllResourcesCreated"),
            ("Available", "False", "DeploymentInProgress"),
            ("Progressing", "True", "DeploymentInProgress"),
            ("Degraded", "False", "DeploymentInProgress"),
        ])
    );
    assert_eq!((deploying.observed_deployment_id.as_ref(), deploying.observed_generation), (None, None));
    let deployed = next(&deploying, &first, Outcome::Applied(Vec::new()), 3);
    assert_eq!((deployed.phase, deployed.observed_generation), (Some(KubeVirtPhase::Deployed), Some(3)));
    assert_eq!(deployed.observed_deployment_id, Some(first.id.clone()));
    assert!(conditions(&deployed).contains(&triples(&[("Available", "True", "AllComponentsReady")])[0]));
    let second = release(&serde_json::from_value(json!({"imageTag": "2"})).unwrap());
    let updating = next(&deployed, &second, waiting(), 4);
    assert!(conditions(&updating).contains(&triples(&[("Available", "True", "UpdateInProgress")])[0]));
    assert_eq!(updating.phase, Some(KubeVirtPhase::Deployed));
    assert_eq!(updating.target_kube_virt_version.as_deref(), Some("2"));
    assert_eq!(updating.observed_deployment_id, Some(first.id.clone()));
    let failed = next(&deployed, &first, Outcome::Failed("Service x: no".to_owned()), 5);
    assert!(conditions(&failed).contains(&triples(&[("Synchronized", "False", "DeploymentFailed")])[0]));
    let healed = next(&failed, &first, Outcome::Applied(Vec::new()), 6);
    assert!(!conditions(&healed).iter().any(|condition| condition.0 == "Synchronized"));
    let deleting = next(&deployed, &first, Outcome::Deleting("waiting".to_owned()), 7);
    assert_eq!(deleting.phase, Some(KubeVirtPhase::Deleting));
    assert!(conditions(&deleting).contains(&triples(&[("Degraded", "True", "DeletionInProgress")])[0]));
    let other = next(&KubeVirtStatus::default(), &first, Outcome::Second, 8);
    assert_eq!(conditions(&other), triples(&[("Synchronized", "False", "ExistingDeployment")]));
    assert_eq!(other.phase, None);
}

#[test]
fn ready_is_what_runs_and_answers() {
    let objects = all(json!({}), true, true);
    let (mut observed, mut applied) = (Observed::new(), Applied::new());
    apply(&objects, &mut observed, &mut applied);
    let waiting = waiting_for(&observed, NAMESPACE);
    assert_eq!(waiting.len(), 4, "{waiting:?}");
    for object in &objects {
        let mut object = object.clone();
        object["metadata"]["generation"] = json!(1);
        object["status"] = match object["kind"].as_str().unwrap() {
            "Deployment" => json!({"observedGeneration": 1, "availableReplicas": 2, "updatedReplicas": 2}),
            "DaemonSet" => {
                json!({"observedGeneration": 1, "desiredNumberScheduled": 3, "numberReady": 3, "updatedNumberScheduled": 3})
            }
            "APIService" => json!({"conditions": [{"type": "Available", "status": "True"}]}),
            _ => continue,
        };
        observed.insert(Key::of(&object), Seen::of(&object));
    }
    assert_eq!(waiting_for(&observed, NAMESPACE), Vec::<String>::new());
    let controller = observed.get_mut(&Key::of(find(&objects, "Deployment", CONTROLLER))).unwrap();
    controller.status["updatedReplicas"] = json!(1);
    assert_eq!(waiting_for(&observed, NAMESPACE), ["Deployment vireo-controller (2 of 2 ready)"]);
    let controller = observed.get_mut(&Key::of(find(&objects, "Deployment", CONTROLLER))).unwrap();
    (controller.status["updatedReplicas"], controller.status["replicas"]) = (json!(2), json!(3));
    assert_eq!(waiting_for(&observed, NAMESPACE), ["Deployment vireo-controller (2 of 2 ready)"], "an old one runs");
}

/// What `kubectl apply` takes: `UPDATE=1 cargo test -p vireo-controller operator` writes it anew.
#[test]
fn the_manifest_is_what_the_tree_has() {
    let (controller, node) = images();
    let mut objects = vec![
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": NAMESPACE,
                // Agents set nodes up.
                "labels": {"kubevirt.io": "", "pod-security.kubernetes.io/enforce": "privileged"},
            },
        }),
        workloads::priority_class(),
        crds::own(),
    ];
    objects.extend(rbac::operator(NAMESPACE));
    objects.push(workloads::operator(NAMESPACE, &controller, &node));
    let texts: Vec<_> = objects.iter().map(|object| serde_saphyr::to_string(object).unwrap()).collect();
    let header = "# The operator. It acts on a KubeVirt object (kubevirt-cr.yaml). Generated: UPDATE=1 cargo test -p vireo-controller operator\n";
    let text = format!("{header}{}", texts.join("---\n"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtimeclass/manifests/vireo-operator.yaml");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        there == text,
        "vireo-operator.yaml is not what the code says: UPDATE=1 cargo test -p vireo-controller operator"
    );
}
