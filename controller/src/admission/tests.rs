use serde_json::{Value, json};
use vireo_runtimeclass::cluster::{KubeVirtConfiguration, VirtualMachineInstance};

use super::eviction::{Answer, answer};
use super::table::{Case, cases, contains};
use super::*;

/// What the API server asks about a write.
fn request(plural: &str, object: &Value, old: Option<&Value>) -> Request {
    let (group, version) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap();
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "0b8e4f0a-51a2-4d55-8a2f-9d2f6b9b2b11",
            "kind": {"group": group, "version": version, "kind": object["kind"]},
            "resource": {"group": group, "version": version, "resource": plural},
            "name": object["metadata"]["name"],
            "namespace": "market",
            "operation": if old.is_some() { "UPDATE" } else { "CREATE" },
            "userInfo": {"username": "user"},
            "object": object,
            "oldObject": old,
        },
    });
    Request::read(review.to_string().as_bytes()).unwrap()
}

fn configuration(case: &Case) -> KubeVirtConfiguration {
    if case.configuration.is_null() {
        return KubeVirtConfiguration::default();
    }
    serde_json::from_value(case.configuration.clone()).unwrap()
}

/// Mutated, then judged, as the API server does but for the schema's part.
fn admitted(case: &Case) -> (Value, Verdict) {
    let configuration = configuration(case);
    let asked = request(case.plural, &case.object, case.old.as_ref());
    let mut object = case.object.clone();
    json_patch::patch(&mut object, &mutate(&asked, &configuration)).unwrap();
    let verdict = judge(&request(case.plural, &object, case.old.as_ref()), false, &configuration);
    (object, verdict)
}

#[test]
fn the_table_is_judged_as_it_says() {
    let mut failures = Vec::new();
    let cases = cases();
    for case in &cases {
        let (object, verdict) = admitted(case);
        match verdict {
            Verdict::Admit(warnings) => {
                let warned = case.warns.as_ref().is_none_or(|warns| warnings.iter().any(|one| one.starts_with(warns)));
                if !case.refused.is_empty() || !contains(&object, &case.becomes) || !warned {
                    failures.push(format!("{}: let in as {object}, with {warnings:?}", case.name));
                }
            }
            Verdict::Refuse(status) => {
                let told = status.details.map(|details| details.causes).unwrap_or_default();
                let matches = |cause: &kube::core::response::StatusCause| {
                    case.refused.get(&cause.field).is_some_and(|what| cause.message.contains(what))
                };
                if told.len() != case.refused.len() || !told.iter().all(matches) {
                    failures.push(format!("{}: {}", case.name, status.message));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    let refused = cases.iter().filter(|case| !case.refused.is_empty()).count();
    assert!(refused > 300 && cases.len() - refused > 50, "{refused} of {}", cases.len());
}

/// What is let in once is let in again, and isn't changed any more.
#[test]
fn defaults_are_given_once() {
    for case in cases().iter().filter(|case| case.refused.is_empty() && case.old.is_none()) {
        let (object, _) = admitted(case);
        let again = mutate(&request(case.plural, &object, None), &configuration(case));
        assert_eq!(again.0, [], "{}", case.name);
    }
}

fn base(name: &str) -> Case {
    let case = cases().into_iter().find(|case| case.name.contains(name)).unwrap();
    assert!(case.refused.is_empty());
    case
}

#[test]
fn each_machine_is_another() {
    let case = base("a priority class");
    let firmware = || {
        let (object, _) = admitted(&case);
        object["spec"]["template"]["spec"]["domain"]["firmware"].clone()
    };
    let (one, other) = (firmware(), firmware());
    for field in ["uuid", "serial"] {
        assert!(vireo_runtimeclass::validate::parse_uuid(one[field].as_str().unwrap()).is_some());
        assert_ne!(one[field], other[field]);
    }
}

#[test]
fn what_an_older_version_let_in_can_still_be_let_go() {
    let mut old = base("a priority class").object;
    old["spec"]["template"]["spec"]["domain"]["devices"]["sound"] = json!({"name": "s"});
    let judged = |object: &Value| {
        judge(&request("virtualmachines", object, Some(&old)), false, &KubeVirtConfiguration::default())
    };
    let mut labelled = old.clone();
    labelled["metadata"]["labels"] = json!({"app": "a"});
    assert_eq!(judged(&labelled), Verdict::Admit(Vec::new()));
    let mut changed = old.clone();
    changed["spec"]["runStrategy"] = json!("Always");
    assert!(matches!(judged(&changed), Verdict::Refuse(_)));
    changed["metadata"]["deletionTimestamp"] = json!("2026-11-25T10:00:00Z");
    assert_eq!(judged(&changed), Verdict::Admit(Vec::new()));
}

#[test]
fn only_the_controller_changes_instances() {
    let is_instance = |case: &Case| case.plural == "virtualmachineinstances" && case.refused.is_empty();
    let old = cases().into_iter().find(is_instance).unwrap().object;
    let mut new = old.clone();
    new["spec"]["terminationGracePeriodSeconds"] = json!(1);
    new["metadata"]["labels"] = json!({"kubevirt.io/nodeName": "node01"});
    let judged = |is_own| {
        judge(&request("virtualmachineinstances", &new, Some(&old)), is_own, &KubeVirtConfiguration::default())
    };
    assert_eq!(judged(true), Verdict::Admit(Vec::new()));
    let Verdict::Refuse(status) = judged(false) else { panic!("let in") };
    assert!(status.message.contains("update of VMI object is restricted"), "{}", status.message);
}

#[test]
fn evictions_as_kubevirt_answers_them() {
    let template = base("a bridge on the pod network").object["spec"]["template"].clone();
    let instance = |strategy: &str, status: Value| -> VirtualMachineInstance {
        let mut object = template.clone();
        object["apiVersion"] = json!("kubevirt.io/v1");
        object["kind"] = json!("VirtualMachineInstance");
        object["metadata"] = json!({"name": "shop", "namespace": "market"});
        if !strategy.is_empty() {
            object["spec"]["evictionStrategy"] = json!(strategy);
        }
        object["status"] = status;
        serde_json::from_value(object).unwrap()
    };
    let stays = json!({"nodeName": "node01", "conditions": [{"type": "LiveMigratable", "status": "False", "reason": "DisksNotLiveMigratable"}]});
    let moves = json!({"nodeName": "node01", "conditions": [{"type": "LiveMigratable", "status": "True"}]});
    let mut leaving = moves.clone();
    leaving["evacuationNodeName"] = json!("node01");
    let none = KubeVirtConfiguration::default();
    let triggered = "Eviction triggered evacuation of VMI \"market/shop\"".to_owned();
    let evacuate = Answer::Evacuate(triggered.clone());
    let cant = |why: &str| {
        Answer::Wait(format!("VMI shop is configured with an eviction strategy but is not live-migratable: {why}"))
    };
    let asked = |strategy, status: &Value| answer(&instance(strategy, status.clone()), "node01", &none);
    for status in [&stays, &moves] {
        assert_eq!(asked("", status), Answer::Evict);
        assert_eq!(asked("None", status), Answer::Evict);
        assert_eq!(asked("External", status), evacuate);
    }
    assert_eq!(asked("LiveMigrate", &stays), cant("Reason: DisksNotLiveMigratable, Message: "));
    assert_eq!(
        asked("LiveMigrate", &json!({"nodeName": "node01"})),
        cant("Reason: Unknown, Message: it has no LiveMigratable condition yet")
    );
    assert_eq!(asked("LiveMigrate", &moves), evacuate);
    assert_eq!(asked("LiveMigrateIfPossible", &stays), Answer::Evict);
    assert_eq!(asked("LiveMigrateIfPossible", &moves), evacuate);
    assert_eq!(asked("LiveMigrate", &leaving), Answer::Wait(format!("Evacuation in progress: {triggered}")));
    let target = answer(&instance("LiveMigrate", moves.clone()), "node02", &none);
    assert_eq!(target, Answer::Wait("Eviction request for target Pod".to_owned()));
    let cluster: KubeVirtConfiguration = serde_json::from_value(json!({"evictionStrategy": "LiveMigrate"})).unwrap();
    assert_eq!(answer(&instance("", moves), "node01", &cluster), evacuate);
}

#[test]
fn reviews_are_read_whole_or_not_at_all() {
    for (body, what) in [
        ("", "not an AdmissionReview"),
        ("[]", "not an AdmissionReview"),
        (r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#, "without a request"),
        (r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}"#, "admission.k8s.io/v1 is"),
    ] {
        let error = Request::read(body.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
