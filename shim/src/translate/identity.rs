//! What the machine calls itself: the spec's words, KubeVirt's where it has none.

use uuid::Uuid;
use vireo_runtimeclass::kubevirt::v1::{Chassis, DomainSpec, Firmware};
use vireo_runtimeclass::validate::parse_uuid;
use vireo_vmm::config::{ChassisIdentity, IdentityConfig, SystemIdentity};

use super::{Place, Source};

/// CRI's name of the pod's uid.
const POD_UID: &str = "io.kubernetes.cri.sandbox-uid";
/// The namespace in which KubeVirt makes UUIDs of names (its `pkg/virt-controller`).
const NAMES: Uuid = Uuid::from_u128(0x6a1a_24a1_4061_4607_8bf4_a396_3d0c_5895);
/// KubeVirt's own words, by which guests know where they are.
const MANUFACTURER: &str = "KubeVirt";
const FAMILY: &str = "KubeVirt";
const PRODUCT: &str = "None";

pub(super) fn identity(source: &Source<'_>) -> IdentityConfig {
    let domain = source.spec.map(|spec| &spec.domain);
    let firmware = domain.and_then(|domain: &DomainSpec| domain.firmware.clone()).unwrap_or_default();
    let chassis = domain.and_then(|domain| domain.chassis.clone()).unwrap_or_default();
    IdentityConfig {
        uuid: uuid(&firmware, source),
        system: SystemIdentity {
            manufacturer: Some(MANUFACTURER.to_owned()),
            product: Some(PRODUCT.to_owned()),
            family: Some(FAMILY.to_owned()),
            serial: told(firmware.serial),
            version: None,
            sku: None,
        },
        chassis: self::chassis(chassis),
    }
}

fn chassis(chassis: Chassis) -> ChassisIdentity {
    let Chassis { manufacturer, version, serial, asset, sku } = chassis;
    ChassisIdentity {
        manufacturer: told(manufacturer),
        version: told(version),
        serial: told(serial),
        asset: told(asset),
        sku: told(sku),
    }
}

/// The spec's UUID, else the pod's uid, else one of the machine's name, always the same.
fn uuid(firmware: &Firmware, source: &Source<'_>) -> [u8; 16] {
    let pod = match source.place {
        Place::Pod { oci, .. } => oci.annotations().as_ref().and_then(|annotations| annotations.get(POD_UID)),
        Place::Local { .. } => None,
    };
    let given = [firmware.uuid.as_deref(), pod.map(String::as_str)].into_iter().flatten().find_map(parse_uuid);
    given.unwrap_or_else(|| Uuid::new_v5(&NAMES, source.name.as_bytes()).into_bytes())
}

/// An empty string is the same as none.
fn told(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}
