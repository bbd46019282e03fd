use kube::Resource as _;
use serde_json::{Value, json};

use super::*;
use crate::schema::Kind::Record;
use crate::schema::check;
use crate::schema::tests::{complete, refusals};

/// Does the same for every kind.
macro_rules! every_kind {
    ($function:ident) => {
        $function::<kind::VirtualMachine>();
        $function::<kind::VirtualMachineInstance>();
        $function::<kind::VirtualMachineInstanceMigration>();
        $function::<kind::VirtualMachineInstanceReplicaSet>();
        $function::<kind::KubeVirt>();
        $function::<kind::VirtualMachineInstancetype>();
        $function::<kind::VirtualMachineClusterInstancetype>();
        $function::<kind::VirtualMachinePreference>();
        $function::<kind::VirtualMachineClusterPreference>();
        $function::<kind::MigrationPolicy>();
    };
}

#[test]
fn types_hold_exactly_the_supported_fields() {
    fn holds<K: Kind>() {
        let mut value = complete(&Record(K::fields().0));
        let mut problems = Vec::new();
        check(&mut value, K::fields().0, "spec", &mut problems);
        assert_eq!(problems, []);
        let spec: K::Spec = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&spec).unwrap(), value, "{}", K::KIND);
    }
    every_kind!(holds);
}

#[test]
fn what_has_no_place_is_refused_by_its_path() {
    fn refused<K: Kind>() {
        assert!(refusals(K::fields().0, "spec") > 2);
    }
    every_kind!(refused);
    assert!(refusals(kind::VirtualMachine::fields().0, "spec") > 180);
}

/// Objects as KubeVirt's users write them and its clients read them.
fn examples() -> Vec<Value> {
    let texts = include_str!("examples.yaml").split("\n---\n");
    texts.map(|text| serde_saphyr::from_str(text).unwrap()).collect()
}

#[test]
fn whole_objects_come_back_as_they_were() {
    fn returns<K: Kind>() {
        let examples = examples();
        let of_kind: Vec<_> = examples.iter().filter(|example| example["kind"] == K::KIND).collect();
        assert!(!of_kind.is_empty(), "no {}", K::KIND);
        for example in of_kind {
            let object = Object::<K>::parse(example.clone()).unwrap_or_else(|error| panic!("{}: {error}", K::KIND));
            assert_eq!(serde_json::to_value(&object).unwrap(), *example);
            assert_eq!(serde_json::to_value(object.spec().unwrap()).unwrap(), example["spec"]);
            let again = Object::<K>::new(object.metadata.clone(), &object.spec().unwrap()).unwrap();
            assert_eq!(again.unread, object.unread);
            assert_eq!(again.meta().name.as_deref(), example["metadata"]["name"].as_str());
        }
    }
    every_kind!(returns);
}

/// What refuses an object, a line each.
fn problems<K: Kind>(document: Value) -> Vec<String> {
    match Object::<K>::parse(document) {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().split("; spec").map(str::to_owned).collect(),
    }
}

fn vm() -> Value {
    examples().into_iter().find(|example| example["kind"] == "VirtualMachine").unwrap()
}

#[test]
fn what_is_wrong_outside_of_specs_is_refused_by_its_path_too() {
    let refused = |change: fn(&mut Value)| {
        let mut vm = vm();
        change(&mut vm);
        problems::<kind::VirtualMachine>(vm)
    };
    assert_eq!(refused(|_| ()), [""; 0]);
    assert_eq!(refused(|vm| vm["apiVersion"] = json!("kubevirt.io/v1alpha3")), [""; 0]);
    assert_eq!(
        refused(|vm| vm["apiVersion"] = json!("kubevirt.io/v2")),
        ["apiVersion: \"kubevirt.io/v2\" is not supported by vireo; kubevirt.io/v1 is"]
    );
    assert_eq!(refused(|vm| vm["sepc"] = json!({})), ["sepc: unknown field"]);
    assert_eq!(
        refused(|vm| vm["metadata"] = json!({"generation": "x"})),
        ["metadata: invalid type: string \"x\", expected i64"]
    );
    assert_eq!(
        refused(|vm| vm["status"]["created"] = json!(7)),
        ["status: invalid type: integer `7`, expected a boolean"]
    );
    assert_eq!(refused(|vm| *vm = json!([])), ["apiVersion: missing; kubevirt.io/v1 is needed"]);
    assert_eq!(
        refused(|vm| vm["spec"]["running"] = json!(true)),
        ["spec.running: excludes spec.runStrategy; name one of them"]
    );
    assert_eq!(
        refused(|vm| vm["spec"]["runStrategy"] = json!("WaitAsReceiver")),
        [
            "spec.runStrategy: \"WaitAsReceiver\" is not supported by vireo; Always, Halted, Manual, RerunOnFailure, Once are"
        ]
    );
    assert_eq!(
        refused(|vm| vm["spec"]["template"]["spec"]["domain"]["devices"]["disks"][0]["disk"]["bus"] = json!("sata")),
        ["spec.template.spec.domain.devices.disks[0].disk.bus: \"sata\" is not supported by vireo; virtio is"]
    );
}

/// A bad object in storage is one bad object, not the end of a watch.
#[test]
fn unreadable_specs_are_no_unreadable_objects() {
    let mut document = vm();
    document["spec"]["template"]["spec"]["domain"]["devices"]["sound"] = json!({"name": "s"});
    let stored: VirtualMachine = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(
        stored.spec().unwrap_err().to_string(),
        "spec.template.spec.domain.devices.sound: not supported by vireo"
    );
    assert_eq!(serde_json::to_value(stored).unwrap(), document);
}

/// The pod's own matters are a cluster's: neither the shim nor `vireo run` may take them and do nothing.
#[test]
fn machines_have_no_pod() {
    let error = crate::parse_vmi(r#"{"domain": {"devices": {}}, "nodeSelector": {"a": "b"}}"#).unwrap_err();
    assert_eq!(error.to_string(), "spec.nodeSelector: not supported by vireo");
    let spec = serde_json::from_value::<VirtualMachine>(vm()).unwrap().spec().unwrap().template.spec;
    assert!(!spec.pod.node_selector.is_empty());
    let annotation = serde_json::to_string(&spec.machine).unwrap();
    assert_eq!(crate::parse_vmi(&annotation).unwrap(), spec.machine);
}
