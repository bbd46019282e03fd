//! Every field that KubeVirt has in the objects Vireo reads: the supported ones with what they hold, the others by name,
//! so that a mistyped field and an unsupported one are told apart.
//!
//! Names from KubeVirt's OpenAPI document (v1.10 development, August 2026).

use crate::schema::Kind::{Any, Boolean, Integer, List, Map, Quantity, Record, String};
use crate::schema::{Field, Fields, Kind};

const fn optional(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: false }
}

const fn required(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: true }
}

pub(crate) static VIRTUAL_MACHINE: Fields = Fields {
    supported: &[
        required("apiVersion", String),
        required("kind", String),
        optional("metadata", Record(&OBJECT_META)),
        required("spec", Record(&VIRTUAL_MACHINE_SPEC)),
        optional("status", Any),
    ],
    known: &[],
};

static OBJECT_META: Fields = Fields {
    supported: &[
        optional("name", String),
        optional("annotations", Map(&String)),
        optional("creationTimestamp", Any),
        optional("deletionGracePeriodSeconds", Any),
        optional("deletionTimestamp", Any),
        optional("finalizers", Any),
        optional("generateName", Any),
        optional("generation", Any),
        optional("labels", Map(&String)),
        optional("managedFields", Any),
        optional("namespace", String),
        optional("ownerReferences", Any),
        optional("resourceVersion", Any),
        optional("selfLink", Any),
        optional("uid", Any),
    ],
    known: &[],
};

static VIRTUAL_MACHINE_SPEC: Fields = Fields {
    supported: &[
        optional("runStrategy", String),
        optional("running", Boolean),
        required("template", Record(&INSTANCE_TEMPLATE)),
    ],
    known: &["dataVolumeTemplates", "instancetype", "preference", "updateVolumesStrategy"],
};

static INSTANCE_TEMPLATE: Fields = Fields {
    supported: &[optional("metadata", Record(&OBJECT_META)), required("spec", Record(&INSTANCE_SPEC))],
    known: &[],
};

pub(crate) static INSTANCE_SPEC: Fields = Fields {
    supported: &[
        optional("architecture", String),
        required("domain", Record(&DOMAIN)),
        optional("networks", List(&Record(&NETWORK))),
        optional("volumes", List(&Record(&VOLUME))),
        optional("accessCredentials", List(&Record(&ACCESS_CREDENTIAL))),
        optional("startStrategy", String),
        optional("terminationGracePeriodSeconds", Integer),
    ],
    known: &[
        "affinity",
        "dnsConfig",
        "dnsPolicy",
        "evictionStrategy",
        "hostname",
        "livenessProbe",
        "nodeSelector",
        "priorityClassName",
        "readinessProbe",
        "resourceClaims",
        "schedulerName",
        "serviceAccountName",
        "subdomain",
        "tolerations",
        "topologySpreadConstraints",
        "utilityVolumes",
    ],
};

static ACCESS_CREDENTIAL: Fields = Fields {
    supported: &[optional("sshPublicKey", Record(&SSH_PUBLIC_KEY)), optional("userPassword", Record(&USER_PASSWORD))],
    known: &[],
};

static SSH_PUBLIC_KEY: Fields = Fields {
    supported: &[
        required("source", Record(&CREDENTIAL_SOURCE)),
        required("propagationMethod", Record(&SSH_PUBLIC_KEY_PROPAGATION)),
    ],
    known: &[],
};

static SSH_PUBLIC_KEY_PROPAGATION: Fields = Fields {
    supported: &[
        optional("configDrive", Record(&EMPTY)),
        optional("noCloud", Record(&EMPTY)),
        optional("qemuGuestAgent", Record(&AGENT_USERS)),
    ],
    known: &[],
};

static AGENT_USERS: Fields = Fields { supported: &[optional("users", List(&String))], known: &[] };

static USER_PASSWORD: Fields = Fields {
    supported: &[
        required("source", Record(&CREDENTIAL_SOURCE)),
        required("propagationMethod", Record(&USER_PASSWORD_PROPAGATION)),
    ],
    known: &[],
};

static USER_PASSWORD_PROPAGATION: Fields =
    Fields { supported: &[optional("qemuGuestAgent", Record(&EMPTY))], known: &[] };

static CREDENTIAL_SOURCE: Fields = Fields { supported: &[optional("secret", Record(&CREDENTIAL_SECRET))], known: &[] };

static CREDENTIAL_SECRET: Fields = Fields { supported: &[required("secretName", String)], known: &[] };

static DOMAIN: Fields = Fields {
    supported: &[
        optional("cpu", Record(&CPU)),
        optional("memory", Record(&MEMORY)),
        optional("resources", Record(&RESOURCES)),
        optional("firmware", Record(&FIRMWARE)),
        optional("chassis", Record(&CHASSIS)),
        optional("features", Record(&FEATURES)),
        required("devices", Record(&DEVICES)),
    ],
    known: &["clock", "ioThreads", "ioThreadsPolicy", "launchSecurity", "machine", "rebootPolicy"],
};

static CPU: Fields = Fields {
    supported: &[
        optional("cores", Integer),
        optional("sockets", Integer),
        optional("threads", Integer),
        optional("model", String),
        optional("features", List(&Record(&CPU_FEATURE))),
        optional("dedicatedCpuPlacement", Boolean),
        optional("isolateEmulatorThread", Boolean),
    ],
    known: &["maxSockets", "numa", "realtime"],
};

static CPU_FEATURE: Fields = Fields { supported: &[required("name", String), optional("policy", String)], known: &[] };

static FEATURES: Fields = Fields {
    supported: &[optional("kvm", Record(&FEATURE_KVM))],
    known: &["acpi", "apic", "hyperv", "hypervPassthrough", "pvspinlock", "smm"],
};

static FEATURE_KVM: Fields = Fields { supported: &[optional("hidden", Boolean)], known: &[] };

static MEMORY: Fields = Fields {
    supported: &[optional("guest", Quantity), optional("hugepages", Record(&HUGEPAGES))],
    known: &["maxGuest", "reservedOverhead"],
};

static HUGEPAGES: Fields = Fields { supported: &[required("pageSize", String)], known: &[] };

static RESOURCES: Fields = Fields {
    supported: &[optional("requests", Map(&Quantity)), optional("limits", Map(&Quantity))],
    known: &["overcommitGuestOverhead"],
};

static FIRMWARE: Fields = Fields {
    supported: &[
        optional("uuid", String),
        optional("serial", String),
        optional("kernelBoot", Record(&KERNEL_BOOT)),
        optional("bootloader", Record(&BOOTLOADER)),
    ],
    known: &["acpi"],
};

static BOOTLOADER: Fields =
    Fields { supported: &[optional("bios", Record(&BIOS)), optional("efi", Record(&EFI))], known: &[] };

static BIOS: Fields = Fields { supported: &[optional("useSerial", Boolean)], known: &[] };

static EFI: Fields =
    Fields { supported: &[optional("secureBoot", Boolean), optional("persistent", Boolean)], known: &[] };

static CHASSIS: Fields = Fields {
    supported: &[
        optional("manufacturer", String),
        optional("version", String),
        optional("serial", String),
        optional("asset", String),
        optional("sku", String),
    ],
    known: &[],
};

static KERNEL_BOOT: Fields = Fields {
    supported: &[optional("kernelArgs", String), optional("container", Record(&KERNEL_BOOT_CONTAINER))],
    known: &[],
};

static KERNEL_BOOT_CONTAINER: Fields = Fields {
    supported: &[optional("image", String), optional("kernelPath", String), optional("initrdPath", String)],
    known: &["imagePullPolicy", "imagePullSecret"],
};

static DEVICES: Fields = Fields {
    supported: &[
        optional("disks", List(&Record(&DISK))),
        optional("blockMultiQueue", Boolean),
        optional("networkInterfaceMultiqueue", Boolean),
        optional("interfaces", List(&Record(&INTERFACE))),
        optional("rng", Record(&EMPTY)),
        optional("autoattachPodInterface", Boolean),
        optional("autoattachSerialConsole", Boolean),
        optional("autoattachGraphicsDevice", Boolean),
        optional("autoattachMemBalloon", Boolean),
        optional("autoattachVSOCK", Boolean),
    ],
    known: &[
        "autoattachInputDevice",
        "clientPassthrough",
        "disableHotplug",
        "downwardMetrics",
        "filesystems",
        "gpus",
        "hostDevices",
        "inputs",
        "logSerialConsole",
        "panicDevices",
        "sound",
        "tpm",
        "useVirtioTransitional",
        "video",
        "watchdog",
    ],
};

static EMPTY: Fields = Fields { supported: &[], known: &[] };

static DISK: Fields = Fields {
    supported: &[
        required("name", String),
        optional("disk", Record(&DISK_TARGET)),
        optional("cdrom", Record(&CDROM_TARGET)),
        optional("serial", String),
        optional("cache", String),
        optional("io", String),
        optional("blockSize", Record(&BLOCK_SIZE)),
        optional("errorPolicy", String),
        optional("shareable", Boolean),
        optional("dedicatedIOThread", Boolean),
        optional("bootOrder", Integer),
    ],
    known: &["changedBlockTracking", "lun", "tag"],
};

static DISK_TARGET: Fields =
    Fields { supported: &[optional("bus", String), optional("readonly", Boolean)], known: &["pciAddress"] };

static CDROM_TARGET: Fields =
    Fields { supported: &[optional("bus", String), optional("readonly", Boolean)], known: &["tray"] };

static BLOCK_SIZE: Fields = Fields {
    supported: &[optional("custom", Record(&CUSTOM_BLOCK_SIZE)), optional("matchVolume", Record(&FEATURE_STATE))],
    known: &[],
};

static CUSTOM_BLOCK_SIZE: Fields = Fields {
    supported: &[required("logical", Integer), required("physical", Integer)],
    known: &["discardGranularity"],
};

static FEATURE_STATE: Fields = Fields { supported: &[optional("enabled", Boolean)], known: &[] };

static INTERFACE: Fields = Fields {
    supported: &[
        required("name", String),
        optional("masquerade", Record(&EMPTY)),
        optional("bridge", Record(&EMPTY)),
        optional("model", String),
        optional("macAddress", String),
        optional("state", String),
        optional("ports", List(&Record(&PORT))),
        optional("dhcpOptions", Record(&DHCP_OPTIONS)),
        optional("bootOrder", Integer),
    ],
    known: &[
        "acpiIndex",
        "binding",
        "macvtap",
        "passt",
        "passtBinding",
        "pciAddress",
        "portRanges",
        "slirp",
        "sriov",
        "tag",
    ],
};

static DHCP_OPTIONS: Fields = Fields {
    supported: &[
        optional("bootFileName", String),
        optional("tftpServerName", String),
        optional("ntpServers", List(&String)),
        optional("privateOptions", List(&Record(&DHCP_PRIVATE_OPTION))),
    ],
    known: &[],
};

static DHCP_PRIVATE_OPTION: Fields =
    Fields { supported: &[required("option", Integer), required("value", String)], known: &[] };

static PORT: Fields = Fields {
    supported: &[optional("name", String), optional("protocol", String), required("port", Integer)],
    known: &[],
};

static NETWORK: Fields = Fields {
    supported: &[
        required("name", String),
        optional("pod", Record(&POD_NETWORK)),
        optional("multus", Record(&MULTUS_NETWORK)),
    ],
    known: &["resourceClaim"],
};

static POD_NETWORK: Fields =
    Fields { supported: &[optional("vmNetworkCIDR", String), optional("vmIPv6NetworkCIDR", String)], known: &[] };

static MULTUS_NETWORK: Fields =
    Fields { supported: &[required("networkName", String), optional("default", Boolean)], known: &[] };

static VOLUME: Fields = Fields {
    supported: &[
        required("name", String),
        optional("containerDisk", Record(&CONTAINER_DISK)),
        optional("hostDisk", Record(&HOST_DISK)),
        optional("ephemeral", Record(&EPHEMERAL)),
        optional("emptyDisk", Record(&EMPTY_DISK)),
        optional("persistentVolumeClaim", Record(&CLAIM_DISK)),
        optional("dataVolume", Record(&DATA_VOLUME)),
        optional("cloudInitNoCloud", Record(&CLOUD_INIT)),
        optional("cloudInitConfigDrive", Record(&CLOUD_INIT)),
        optional("configMap", Record(&CONFIG_MAP)),
        optional("secret", Record(&SECRET)),
        optional("downwardAPI", Record(&DOWNWARD_API)),
        optional("serviceAccount", Record(&SERVICE_ACCOUNT)),
        optional("sysprep", Record(&SYSPREP)),
    ],
    known: &["containerPath", "downwardMetrics", "memoryDump"],
};

static EPHEMERAL: Fields = Fields { supported: &[optional("persistentVolumeClaim", Record(&CLAIM))], known: &[] };

static CLAIM: Fields =
    Fields { supported: &[required("claimName", String), optional("readOnly", Boolean)], known: &[] };

static CLAIM_DISK: Fields = Fields { supported: CLAIM.supported, known: &["hotpluggable"] };

static DATA_VOLUME: Fields = Fields { supported: &[required("name", String)], known: &["hotpluggable"] };

static REFERENCE: Fields = Fields { supported: &[optional("name", String)], known: &[] };

static CONFIG_MAP: Fields = Fields {
    supported: &[optional("name", String), optional("optional", Boolean), optional("volumeLabel", String)],
    known: &[],
};

static SECRET: Fields = Fields {
    supported: &[optional("secretName", String), optional("optional", Boolean), optional("volumeLabel", String)],
    known: &[],
};

static DOWNWARD_API: Fields = Fields {
    supported: &[optional("fields", List(&Record(&DOWNWARD_API_FILE))), optional("volumeLabel", String)],
    known: &[],
};

static DOWNWARD_API_FILE: Fields = Fields {
    supported: &[
        required("path", String),
        optional("fieldRef", Any),
        optional("resourceFieldRef", Any),
        optional("mode", Integer),
    ],
    known: &[],
};

static SERVICE_ACCOUNT: Fields = Fields { supported: &[optional("serviceAccountName", String)], known: &[] };

static SYSPREP: Fields = Fields {
    supported: &[optional("secret", Record(&REFERENCE)), optional("configMap", Record(&REFERENCE))],
    known: &[],
};

static EMPTY_DISK: Fields = Fields { supported: &[required("capacity", Quantity)], known: &[] };

static CONTAINER_DISK: Fields = Fields {
    supported: &[required("image", String), optional("path", String)],
    known: &["imagePullPolicy", "imagePullSecret"],
};

static CLOUD_INIT: Fields = Fields {
    supported: &[
        optional("userData", String),
        optional("userDataBase64", String),
        optional("secretRef", Record(&REFERENCE)),
        optional("networkData", String),
        optional("networkDataBase64", String),
        optional("networkDataSecretRef", Record(&REFERENCE)),
    ],
    known: &[],
};

static HOST_DISK: Fields = Fields {
    supported: &[required("path", String), required("type", String), optional("capacity", Quantity)],
    known: &["shared"],
};
