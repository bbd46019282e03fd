//! Objects of every kind, as admission sees them: read or refused by name, and what is read comes back as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use vireo_runtimeclass::cluster::{Kind, Object, kind};
use vireo_runtimeclass::{ParseError, parse_virtual_machine, parse_vmi};

fn read<K: Kind>(document: &Value) {
    match Object::<K>::parse(document.clone()) {
        Ok(object) => {
            let spec = object.spec().expect("a spec that was read once");
            let again = Object::<K>::new(object.metadata, &spec).expect("JSON");
            assert!(again.spec().expect("a spec that was written") == spec);
        }
        Err(ParseError::Refused(problems)) => assert!(!problems.0.is_empty()),
        Err(ParseError::Json(error)) => panic!("the table of fields took what the types don't: {error}"),
    }
}

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = parse_vmi(text);
    let Ok(document) = serde_json::from_str::<Value>(text) else { return };
    let _ = parse_virtual_machine(document.clone());
    read::<kind::VirtualMachine>(&document);
    read::<kind::VirtualMachineInstance>(&document);
    read::<kind::VirtualMachineInstanceMigration>(&document);
    read::<kind::VirtualMachineInstanceReplicaSet>(&document);
    read::<kind::KubeVirt>(&document);
    read::<kind::VirtualMachineInstancetype>(&document);
    read::<kind::VirtualMachinePreference>(&document);
    read::<kind::MigrationPolicy>(&document);
});
