//! What makes the API server ask: the webhook configurations, as objects to apply. Names of webhooks are KubeVirt's.

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The names of the two configurations.
pub const MUTATING: &str = "virt-api-mutator";
/// As above.
pub const VALIDATING: &str = "virt-api-validator";
/// Seconds that an answer may take.
const TIMEOUT: i32 = 10;

/// Where the webhooks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// A service of the cluster, port 443.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// `https://host:port`, for a controller outside of the cluster.
    Url(String),
}

impl Server {
    fn at(&self, path: &str, authority: &[u8]) -> WebhookClientConfig {
        let (service, url) = match self {
            Self::Service { namespace, name } => {
                let (namespace, name) = (namespace.clone(), name.clone());
                (Some(ServiceReference { namespace, name, path: Some(path.to_owned()), port: None }), None)
            }
            Self::Url(url) => (None, Some(format!("{url}{path}"))),
        };
        WebhookClientConfig { ca_bundle: Some(ByteString(authority.to_vec())), service, url }
    }
}

const KUBEVIRT: (&str, &str) = ("kubevirt.io", "v1");
const INSTANCETYPE: (&str, &str) = ("instancetype.kubevirt.io", "v1beta1");
const MIGRATIONS: (&str, &str) = ("migrations.kubevirt.io", "v1alpha1");
const WRITES: &[&str] = &["CREATE", "UPDATE"];

/// Group and version, resource, name of the webhook, operations.
type Row = ((&'static str, &'static str), &'static str, &'static str, &'static [&'static str]);

const MUTATED: &[Row] = &[
    (KUBEVIRT, "virtualmachines", "virtualmachines-mutator.kubevirt.io", &["CREATE"]),
    (KUBEVIRT, "virtualmachineinstances", "virtualmachineinstances-mutator.kubevirt.io", &["CREATE"]),
];

const VALIDATED: &[Row] = &[
    (KUBEVIRT, "virtualmachines", "virtualmachine-validator.kubevirt.io", WRITES),
    (KUBEVIRT, "virtualmachineinstances", "virtualmachineinstances-validator.kubevirt.io", WRITES),
    (KUBEVIRT, "virtualmachineinstancereplicasets", "virtualmachinereplicaset-validator.kubevirt.io", WRITES),
    (KUBEVIRT, "virtualmachineinstancemigrations", "migration-validator.kubevirt.io", WRITES),
    (KUBEVIRT, "kubevirts", "kubevirt-validator.kubevirt.io", &["CREATE", "UPDATE", "DELETE"]),
    (
        INSTANCETYPE,
        "virtualmachineinstancetypes",
        "virtualmachineinstancetype-validator.instancetype.kubevirt.io",
        WRITES,
    ),
    (
        INSTANCETYPE,
        "virtualmachineclusterinstancetypes",
        "virtualmachineclusterinstancetype-validator.instancetype.kubevirt.io",
        WRITES,
    ),
    (INSTANCETYPE, "virtualmachinepreferences", "virtualmachinepreference-validator.instancetype.kubevirt.io", WRITES),
    (
        INSTANCETYPE,
        "virtualmachineclusterpreferences",
        "virtualmachineclusterpreference-validator.instancetype.kubevirt.io",
        WRITES,
    ),
    (MIGRATIONS, "migrationpolicies", "migration-policy-validator.kubevirt.io", WRITES),
];

/// Kinds whose status is guarded.
const STATUSES: &[(&str, &str)] = &[
    ("virtualmachines", "kubevirt.io"),
    ("virtualmachineinstances", "kubevirt.io"),
    ("virtualmachineinstancereplicasets", "kubevirt.io"),
    ("virtualmachineinstancemigrations", "kubevirt.io"),
    ("kubevirts", "kubevirt.io"),
];

fn rule((group, version): (&str, &str), resource: &str, operations: &[&str]) -> RuleWithOperations {
    let list = |text: &str| Some(vec![text.to_owned()]);
    RuleWithOperations {
        api_groups: list(group),
        api_versions: list(version),
        resources: list(resource),
        operations: Some(operations.iter().map(|operation| (*operation).to_owned()).collect()),
        scope: None,
    }
}

fn metadata(name: &str) -> ObjectMeta {
    let labels = [("kubevirt.io".to_owned(), name.to_owned())];
    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels.into()), ..ObjectMeta::default() }
}

/// What gives objects their defaults. `authority` (PEM) signed the server's certificate.
pub fn mutating(server: &Server, authority: &[u8]) -> MutatingWebhookConfiguration {
    let webhook = |(group, resource, name, operations): &Row| MutatingWebhook {
        name: (*name).to_owned(),
        admission_review_versions: vec!["v1".to_owned()],
        client_config: server.at(&format!("/mutate/{resource}"), authority),
        failure_policy: Some("Fail".to_owned()),
        rules: Some(vec![rule(*group, resource, operations)]),
        side_effects: "None".to_owned(),
        timeout_seconds: Some(TIMEOUT),
        ..MutatingWebhook::default()
    };
    let webhooks = Some(MUTATED.iter().map(webhook).collect());
    MutatingWebhookConfiguration { metadata: metadata(MUTATING), webhooks }
}

/// What judges objects and evictions. `authority` (PEM) signed the server's certificate.
pub fn validating(server: &Server, authority: &[u8]) -> ValidatingWebhookConfiguration {
    let webhook = |name: &str, path: &str, rule: RuleWithOperations| ValidatingWebhook {
        name: name.to_owned(),
        admission_review_versions: vec!["v1".to_owned()],
        client_config: server.at(path, authority),
        failure_policy: Some("Fail".to_owned()),
        rules: Some(vec![rule]),
        side_effects: "None".to_owned(),
        timeout_seconds: Some(TIMEOUT),
        ..ValidatingWebhook::default()
    };
    let judges = VALIDATED.iter().map(|(group, resource, name, operations)| {
        webhook(name, &format!("/validate/{resource}"), rule(*group, resource, operations))
    });
    let guards = STATUSES.iter().map(|(resource, group)| {
        let rule = rule((*group, "v1"), &format!("{resource}/status"), &["UPDATE"]);
        webhook(&format!("{resource}-status.kubevirt.io"), &format!("/validate/{resource}/status"), rule)
    });
    let evictions = webhook(
        "virt-launcher-eviction-interceptor.kubevirt.io",
        "/validate/pods/eviction",
        rule(("", "v1"), "pods/eviction", &["CREATE"]),
    );
    let evictions = ValidatingWebhook {
        // It tells an instance to leave its node.
        side_effects: "NoneOnDryRun".to_owned(),
        // Clusters that don't know this (before 1.28) ask about every pod's eviction.
        match_conditions: Some(vec![MatchCondition {
            name: "only-vms".to_owned(),
            expression: "object.metadata.name.startsWith(\"virt-launcher\")".to_owned(),
        }]),
        ..evictions
    };
    let webhooks = Some(judges.chain(guards).chain([evictions]).collect());
    ValidatingWebhookConfiguration { metadata: metadata(VALIDATING), webhooks }
}
