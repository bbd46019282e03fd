//! What is generated from the types: the CRDs in `manifests/crds`, and the tables of fields that admission, the shim and
//! `vireo run` read documents by. The tests of this crate compare it with what is in the tree.
//!
//! `UPDATE=1 cargo test -p vireo-runtimeclass generate` writes it anew.

mod crds;
mod node;
mod shape;
mod tables;
mod tests;

use std::any::TypeId;

use k8s_openapi::NamespaceResourceScope;
use schemars::JsonSchema;

use self::crds::{Column, Definition};
use self::node::{Reader, Record};
use self::shape::{Shape, Shapes};
use self::tables::Tables;
use crate::cluster::{Kind, kind};
use crate::kubevirt::v1;

/// What both files of tables begin with.
const HEADER: &str = "\
//! The fields of {}: generated from the types and KubeVirt's own list of fields.
//! `UPDATE=1 cargo test -p vireo-runtimeclass generate` writes it anew.

{}";

/// Everything that is generated: the path from the crate's root, and the text.
fn files() -> Vec<(String, String)> {
    let shapes = Shapes::read();
    let mut machine = Tables::default();
    machine.add(&read::<v1::VirtualMachine>(&shapes, "VirtualMachine"));
    let definitions = definitions(&shapes);
    let mut cluster = Tables::beyond(&machine);
    for definition in &definitions {
        cluster.add(&definition.spec);
    }
    let header = |what, imports: &str| HEADER.replacen("{}", what, 1).replacen("{}", imports, 1);
    let imports = "use crate::schema::Kind::{Any, Boolean, List, Map, OneOf, Quantity, Record, String};
use crate::schema::{COUNT, Fields, OBJECT_META, optional, required};
";
    let cluster_imports = "use crate::kubevirt::v1::fields as machine;
use crate::schema::Kind::{Any, Boolean, IntOrString, List, Map, OneOf, Quantity, Record, String};
use crate::schema::{COUNT, Fields, INT32, INT64, OBJECT_META, optional, required};
";
    let mut files = vec![
        ("src/kubevirt/v1/fields.rs".to_owned(), machine.file(&header("a machine", imports))),
        ("src/cluster/fields.rs".to_owned(), cluster.file(&header("a cluster's specs", cluster_imports))),
    ];
    for definition in &definitions {
        let yaml = serde_saphyr::to_string(&definition.object()).unwrap();
        files.push((format!("manifests/crds/{}.yaml", definition.name()), yaml));
    }
    files
}

/// What of a CRD is neither in its types nor the same for all.
struct Facts {
    short_names: &'static [&'static str],
    in_all: bool,
    columns: &'static [Column],
    scale: bool,
}

/// Every kind, with KubeVirt's names and columns.
fn definitions(shapes: &Shapes) -> Vec<Definition> {
    const AGE: Column = ("Age", "date", ".metadata.creationTimestamp", false);
    const PHASE: Column = ("Phase", "string", ".status.phase", false);
    const READY: Column = ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", false);
    let facts = |short_names, columns| Facts { short_names, in_all: true, columns, scale: false };
    vec![
        define::<kind::VirtualMachine>(
            shapes,
            &facts(&["vm", "vms"], &[AGE, ("Status", "string", ".status.printableStatus", false), READY]),
        ),
        define::<kind::VirtualMachineInstance>(
            shapes,
            &facts(
                &["vmi", "vmis"],
                &[
                    AGE,
                    PHASE,
                    ("IP", "string", ".status.interfaces[0].ipAddress", false),
                    ("NodeName", "string", ".status.nodeName", false),
                    READY,
                    ("Live-Migratable", "string", ".status.conditions[?(@.type=='LiveMigratable')].status", true),
                    ("Paused", "string", ".status.conditions[?(@.type=='Paused')].status", true),
                ],
            ),
        ),
        define::<kind::VirtualMachineInstanceMigration>(
            shapes,
            &facts(&["vmim", "vmims"], &[PHASE, ("VMI", "string", ".spec.vmiName", false)]),
        ),
        define::<kind::VirtualMachineInstanceReplicaSet>(
            shapes,
            &Facts {
                short_names: &["vmirs", "vmirss"],
                in_all: true,
                columns: &[
                    ("Desired", "integer", ".spec.replicas", false),
                    ("Current", "integer", ".status.replicas", false),
                    ("Ready", "integer", ".status.readyReplicas", false),
                    AGE,
                ],
                scale: true,
            },
        ),
        define::<kind::KubeVirt>(shapes, &facts(&["kv", "kvs"], &[AGE, PHASE])),
        define::<kind::VirtualMachineInstancetype>(
            shapes,
            &facts(&["vminstancetype", "vminstancetypes", "vmf", "vmfs"], &[]),
        ),
        define::<kind::VirtualMachineClusterInstancetype>(
            shapes,
            &Facts {
                in_all: false,
                ..facts(&["vmclusterinstancetype", "vmclusterinstancetypes", "vmcf", "vmcfs"], &[])
            },
        ),
        define::<kind::VirtualMachinePreference>(shapes, &facts(&["vmpref", "vmprefs", "vmp", "vmps"], &[])),
        define::<kind::VirtualMachineClusterPreference>(
            shapes,
            &Facts { in_all: false, ..facts(&["vmcp", "vmcps"], &[]) },
        ),
        define::<kind::MigrationPolicy>(shapes, &Facts { in_all: false, ..facts(&[], &[]) }),
    ]
}

fn define<K: Kind<Spec: JsonSchema, Status: JsonSchema, Scope: 'static>>(shapes: &Shapes, facts: &Facts) -> Definition {
    let prefix = if K::VERSIONS[0] == "v1" { String::new() } else { format!("{}.", K::VERSIONS[0]) };
    let root = shapes.get(&format!("{prefix}{}", K::KIND)).unwrap();
    let definition = |name| match root.iter().find(|member| member.name == name).map(|member| &member.shape) {
        Some(&Shape::Named(definition)) => Some(definition),
        _ => None,
    };
    let &Facts { short_names, in_all, columns, scale } = facts;
    Definition {
        group: K::GROUP,
        versions: K::VERSIONS,
        kind: K::KIND,
        plural: K::PLURAL,
        namespaced: TypeId::of::<K::Scope>() == TypeId::of::<NamespaceResourceScope>(),
        short_names,
        in_all,
        columns,
        scale,
        spec: read::<K::Spec>(shapes, definition("spec").unwrap()),
        status: definition("status").map(|definition| read::<K::Status>(shapes, definition)),
    }
}

fn read<T: JsonSchema>(shapes: &Shapes, definition: &'static str) -> Record {
    Reader::read(&schemars::schema_for!(T), shapes, definition)
}
