//! What the API server asks of admission, as a user's object makes it: answered, never with a panic; what is let in is let in
//! again as it was changed, and isn't changed a second time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use vireo_controller::admission::{Request, Verdict, judge, mutate};
use vireo_runtimeclass::cluster::KubeVirtConfiguration;

const PLURALS: [&str; 10] = [
    "virtualmachines",
    "virtualmachineinstances",
    "virtualmachineinstancemigrations",
    "virtualmachineinstancereplicasets",
    "kubevirts",
    "virtualmachineinstancetypes",
    "virtualmachineclusterinstancetypes",
    "virtualmachinepreferences",
    "virtualmachineclusterpreferences",
    "migrationpolicies",
];

fn ask(plural: &str, object: &Value, old: Option<&Value>) -> Option<Request> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "a",
            "kind": {"group": "kubevirt.io", "version": "v1", "kind": "Any"},
            "resource": {"group": "kubevirt.io", "version": "v1", "resource": plural},
            "namespace": "market",
            "operation": if old.is_some() { "UPDATE" } else { "CREATE" },
            "userInfo": {"username": "user"},
            "object": object,
            "oldObject": old,
        },
    });
    Request::read(review.to_string().as_bytes()).ok()
}

fuzz_target!(|input: &[u8]| {
    // As what a review is, then as what is in one.
    if let Ok(request) = Request::read(input) {
        let _ = request.patched(mutate(&request, &KubeVirtConfiguration::default()));
        let _ = request.answer(judge(&request, false, &KubeVirtConfiguration::default()));
    }
    let Ok(object) = serde_json::from_slice::<Value>(input) else { return };
    let configuration = KubeVirtConfiguration::default();
    for plural in PLURALS {
        let Some(request) = ask(plural, &object, None) else { continue };
        let mut changed = object.clone();
        let patch = mutate(&request, &configuration);
        json_patch::patch(&mut changed, &patch).expect("a patch of what it was made for");
        let Some(again) = ask(plural, &changed, None) else { continue };
        if judge(&request, false, &configuration) == Verdict::Admit(Vec::new()) {
            assert!(matches!(judge(&again, false, &configuration), Verdict::Admit(_)));
            assert!(mutate(&again, &configuration).0.is_empty());
        }
        // Its spec stays as it is.
        if let Some(update) = ask(plural, &changed, Some(&changed)) {
            let _ = judge(&update, false, &configuration);
        }
    }
});
