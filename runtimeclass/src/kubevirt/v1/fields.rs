//! The fields of a machine: generated from the types and KubeVirt's own list of fields.
//! `UPDATE=1 cargo test -p vireo-runtimeclass generate` writes it anew.

use crate::schema::Kind::{Any, Boolean, List, Map, OneOf, Quantity, Record, String};
use crate::schema::{COUNT, Fields, OBJECT_META, optional, required};

pub(crate) static CONFIG_DRIVE_SSH_PUBLIC_KEY_ACCESS_CREDENTIAL_PROPAGATION: Fields = Fields {
    supported: &[],
    known: &[],
};

pub(crate) static NO_CLOUD_SSH_PUBLIC_KEY_ACCESS_CREDENTIAL_PROPAGATION: Fields = Fields {
    supported: &[],
    known: &[],
};

pub(crate) static QEMU_GUEST_AGENT_SSH_PUBLIC_KEY_ACCESS_CREDENTIAL_PROPAGATION: Fields = Fields {
    supported: &[
        optional("users", List(&String)),
    ],
    known: &[],
};

pub(crate) static SSH_PUBLIC_KEY_ACCESS_CREDENTIAL_PROPAGATION_METHOD: Fields = Fields {
    supported: &[
        optional("configDrive", Record(&CONFIG_DRIVE_SSH_PUBLIC_KEY_ACCESS_CREDENTIAL_PROPAGATION)),
        optional("noCloud", Record(&NO_CLOUD_SSH_PUBLIC_KEY_ACCESS_CREDENTIAL_PROPAGATION)),
        optional("qemuGuestAgent", Record(&QEMU_GUEST_AGENT_SSH_PUBLIC_KEY_ACCESS_CREDENTIAL_PROPAGATION)),
    ],
    known: &[],
};

pub(crate) static ACCESS_CREDENTIAL_SECRET_SOURCE: Fields = Fields {
    supported: &[
        required("secretName", String),
    ],
    known: &[],
};

pub(crate) static SSH_PUBLIC_KEY_ACCESS_CREDENTIAL_SOURCE: Fields = Fields {
    supported: &[
        optional("secret", Record(&ACCESS_CREDENTIAL_SECRET_SOURCE)),
    ],
    known: &[],
};

pub(crate) static SSH_PUBLIC_KEY_ACCESS_CREDENTIAL: Fields = Fields {
    supported: &[
        required("propagationMethod", Record(&SSH_PUBLIC_KEY_ACCESS_CREDENTIAL_PROPAGATION_METHOD)),
        required("source", Record(&SSH_PUBLIC_KEY_ACCESS_CREDENTIAL_SOURCE)),
    ],
    known: &[],
};

pub(crate) static QEMU_GUEST_AGENT_USER_PASSWORD_ACCESS_CREDENTIAL_PROPAGATION: Fields = Fields {
    supported: &[],
    known: &[],
};

pub(crate) static USER_PASSWORD_ACCESS_CREDENTIAL_PROPAGATION_METHOD: Fields = Fields {
    supported: &[
        optional("qemuGuestAgent", Record(&QEMU_GUEST_AGENT_USER_PASSWORD_ACCESS_CREDENTIAL_PROPAGATION)),
    ],
    known: &[],
};

pub(crate) static USER_PASSWORD_ACCESS_CREDENTIAL_SOURCE: Fields = Fields {
    supported: &[
        optional("secret", Record(&ACCESS_CREDENTIAL_SECRET_SOURCE)),
    ],
    known: &[],
};

pub(crate) static USER_PASSWORD_ACCESS_CREDENTIAL: Fields = Fields {
    supported: &[
        required("propagationMethod", Record(&USER_PASSWORD_ACCESS_CREDENTIAL_PROPAGATION_METHOD)),
        required("source", Record(&USER_PASSWORD_ACCESS_CREDENTIAL_SOURCE)),
    ],
    known: &[],
};

pub(crate) static ACCESS_CREDENTIAL: Fields = Fields {
    supported: &[
        optional("sshPublicKey", Record(&SSH_PUBLIC_KEY_ACCESS_CREDENTIAL)),
        optional("userPassword", Record(&USER_PASSWORD_ACCESS_CREDENTIAL)),
    ],
    known: &[],
};

pub(crate) static CHASSIS: Fields = Fields {
    supported: &[
        optional("asset", String),
        optional("manufacturer", String),
        optional("serial", String),
        optional("sku", String),
        optional("version", String),
    ],
    known: &[],
};

pub(crate) static CPU_FEATURE: Fields = Fields {
    supported: &[
        required("name", String),
        optional("policy", String),
    ],
    known: &[],
};

pub(crate) static CPU: Fields = Fields {
    supported: &[
        optional("cores", COUNT),
        optional("dedicatedCpuPlacement", Boolean),
        optional("features", List(&Record(&CPU_FEATURE))),
        optional("isolateEmulatorThread", Boolean),
        optional("model", String),
        optional("sockets", COUNT),
        optional("threads", COUNT),
    ],
    known: &["maxSockets", "numa", "realtime"],
};

pub(crate) static CUSTOM_BLOCK_SIZE: Fields = Fields {
    supported: &[
        required("logical", COUNT),
        required("physical", COUNT),
    ],
    known: &["discardGranularity"],
};

pub(crate) static FEATURE_STATE: Fields = Fields {
    supported: &[
        optional("enabled", Boolean),
    ],
    known: &[],
};

pub(crate) static BLOCK_SIZE: Fields = Fields {
    supported: &[
        optional("custom", Record(&CUSTOM_BLOCK_SIZE)),
        optional("matchVolume", Record(&FEATURE_STATE)),
    ],
    known: &[],
};

pub(crate) static CD_ROM_TARGET: Fields = Fields {
    supported: &[
        optional("bus", String),
        optional("readonly", Boolean),
    ],
    known: &["tray"],
};

pub(crate) static DISK_TARGET: Fields = Fields {
    supported: &[
        optional("bus", String),
        optional("readonly", Boolean),
    ],
    known: &["pciAddress"],
};

pub(crate) static DISK: Fields = Fields {
    supported: &[
        optional("blockSize", Record(&BLOCK_SIZE)),
        optional("bootOrder", COUNT),
        optional("cache", String),
        optional("cdrom", Record(&CD_ROM_TARGET)),
        optional("dedicatedIOThread", Boolean),
        optional("disk", Record(&DISK_TARGET)),
        optional("errorPolicy", String),
        optional("io", String),
        required("name", String),
        optional("serial", String),
        optional("shareable", Boolean),
    ],
    known: &["changedBlockTracking", "lun", "tag"],
};

pub(crate) static INTERFACE_BRIDGE: Fields = Fields {
    supported: &[],
    known: &[],
};

pub(crate) static DHCP_PRIVATE_OPTIONS: Fields = Fields {
    supported: &[
        required("option", COUNT),
        required("value", String),
    ],
    known: &[],
};

pub(crate) static DHCP_OPTIONS: Fields = Fields {
    supported: &[
        optional("bootFileName", String),
        optional("ntpServers", List(&String)),
        optional("privateOptions", List(&Record(&DHCP_PRIVATE_OPTIONS))),
        optional("tftpServerName", String),
    ],
    known: &[],
};

pub(crate) static INTERFACE_MASQUERADE: Fields = Fields {
    supported: &[],
    known: &[],
};

pub(crate) static PORT: Fields = Fields {
    supported: &[
        optional("name", String),
        required("port", COUNT),
        optional("protocol", String),
    ],
    known: &[],
};

pub(crate) static INTERFACE: Fields = Fields {
    supported: &[
        optional("bootOrder", COUNT),
        optional("bridge", Record(&INTERFACE_BRIDGE)),
        optional("dhcpOptions", Record(&DHCP_OPTIONS)),
        optional("macAddress", String),
        optional("masquerade", Record(&INTERFACE_MASQUERADE)),
        optional("model", String),
        required("name", String),
        optional("ports", List(&Record(&PORT))),
        optional("state", String),
    ],
    known: &["acpiIndex", "binding", "macvtap", "passt", "passtBinding", "pciAddress", "portRanges", "slirp", "sriov", "tag"],
};

pub(crate) static RNG: Fields = Fields {
    supported: &[],
    known: &[],
};

pub(crate) static DEVICES: Fields = Fields {
    supported: &[
        optional("autoattachGraphicsDevice", Boolean),
        optional("autoattachMemBalloon", Boolean),
        optional("autoattachPodInterface", Boolean),
        optional("autoattachSerialConsole", Boolean),
        optional("autoattachVSOCK", Boolean),
        optional("blockMultiQueue", Boolean),
        optional("disks", List(&Record(&DISK))),
        optional("interfaces", List(&Record(&INTERFACE))),
        optional("networkInterfaceMultiqueue", Boolean),
        optional("rng", Record(&RNG)),
    ],
    known: &["autoattachInputDevice", "clientPassthrough", "disableHotplug", "downwardMetrics", "filesystems", "gpus", "hostDevices", "inputs", "logSerialConsole", "panicDevices", "sound", "tpm", "useVirtioTransitional", "video", "watchdog"],
};

pub(crate) static FEATURE_APIC: Fields = Fields {
    supported: &[
        optional("enabled", Boolean),
    ],
    known: &["endOfInterrupt"],
};

pub(crate) static FEATURE_KVM: Fields = Fields {
    supported: &[
        optional("hidden", Boolean),
    ],
    known: &[],
};

pub(crate) static FEATURES: Fields = Fields {
    supported: &[
        optional("acpi", Record(&FEATURE_STATE)),
        optional("apic", Record(&FEATURE_APIC)),
        optional("kvm", Record(&FEATURE_KVM)),
    ],
    known: &["hyperv", "hypervPassthrough", "pvspinlock", "smm"],
};

pub(crate) static BIOS: Fields = Fields {
    supported: &[
        optional("useSerial", Boolean),
    ],
    known: &[],
};

pub(crate) static EFI: Fields = Fields {
    supported: &[
        optional("persistent", Boolean),
        optional("secureBoot", Boolean),
    ],
    known: &[],
};

pub(crate) static BOOTLOADER: Fields = Fields {
    supported: &[
        optional("bios", Record(&BIOS)),
        optional("efi", Record(&EFI)),
    ],
    known: &[],
};

pub(crate) static KERNEL_BOOT_CONTAINER: Fields = Fields {
    supported: &[
        optional("image", String),
        optional("imagePullPolicy", OneOf(&["Always", "IfNotPresent", "Never"])),
        optional("imagePullSecret", String),
        optional("initrdPath", String),
        optional("kernelPath", String),
    ],
    known: &[],
};

pub(crate) static KERNEL_BOOT: Fields = Fields {
    supported: &[
        optional("container", Record(&KERNEL_BOOT_CONTAINER)),
        optional("kernelArgs", String),
    ],
    known: &[],
};

pub(crate) static FIRMWARE: Fields = Fields {
    supported: &[
        optional("bootloader", Record(&BOOTLOADER)),
        optional("kernelBoot", Record(&KERNEL_BOOT)),
        optional("serial", String),
        optional("uuid", String),
    ],
    known: &["acpi"],
};

pub(crate) static MACHINE: Fields = Fields {
    supported: &[
        optional("type", String),
    ],
    known: &[],
};

pub(crate) static HUGEPAGES: Fields = Fields {
    supported: &[
        required("pageSize", String),
    ],
    known: &[],
};

pub(crate) static MEMORY: Fields = Fields {
    supported: &[
        optional("guest", Quantity),
        optional("hugepages", Record(&HUGEPAGES)),
    ],
    known: &["maxGuest", "reservedOverhead"],
};

pub(crate) static RESOURCE_REQUIREMENTS: Fields = Fields {
    supported: &[
        optional("limits", Map(&Quantity)),
        optional("requests", Map(&Quantity)),
    ],
    known: &["overcommitGuestOverhead"],
};

pub(crate) static DOMAIN_SPEC: Fields = Fields {
    supported: &[
        optional("chassis", Record(&CHASSIS)),
        optional("cpu", Record(&CPU)),
        required("devices", Record(&DEVICES)),
        optional("features", Record(&FEATURES)),
        optional("firmware", Record(&FIRMWARE)),
        optional("machine", Record(&MACHINE)),
        optional("memory", Record(&MEMORY)),
        optional("resources", Record(&RESOURCE_REQUIREMENTS)),
    ],
    known: &["clock", "ioThreads", "ioThreadsPolicy", "launchSecurity", "rebootPolicy"],
};

pub(crate) static MULTUS_NETWORK: Fields = Fields {
    supported: &[
        optional("default", Boolean),
        required("networkName", String),
    ],
    known: &[],
};

pub(crate) static POD_NETWORK: Fields = Fields {
    supported: &[
        optional("vmIPv6NetworkCIDR", String),
        optional("vmNetworkCIDR", String),
    ],
    known: &[],
};

pub(crate) static NETWORK: Fields = Fields {
    supported: &[
        optional("multus", Record(&MULTUS_NETWORK)),
        required("name", String),
        optional("pod", Record(&POD_NETWORK)),
    ],
    known: &["resourceClaim"],
};

pub(crate) static LOCAL_OBJECT_REFERENCE: Fields = Fields {
    supported: &[
        optional("name", String),
    ],
    known: &[],
};

pub(crate) static CLOUD_INIT_CONFIG_DRIVE_SOURCE: Fields = Fields {
    supported: &[
        optional("networkData", String),
        optional("networkDataBase64", String),
        optional("networkDataSecretRef", Record(&LOCAL_OBJECT_REFERENCE)),
        optional("secretRef", Record(&LOCAL_OBJECT_REFERENCE)),
        optional("userData", String),
        optional("userDataBase64", String),
    ],
    known: &[],
};

pub(crate) static CLOUD_INIT_NO_CLOUD_SOURCE: Fields = Fields {
    supported: &[
        optional("networkData", String),
        optional("networkDataBase64", String),
        optional("networkDataSecretRef", Record(&LOCAL_OBJECT_REFERENCE)),
        optional("secretRef", Record(&LOCAL_OBJECT_REFERENCE)),
        optional("userData", String),
        optional("userDataBase64", String),
    ],
    known: &[],
};

pub(crate) static CONFIG_MAP_VOLUME_SOURCE: Fields = Fields {
    supported: &[
        optional("name", String),
        optional("optional", Boolean),
        optional("volumeLabel", String),
    ],
    known: &[],
};

pub(crate) static CONTAINER_DISK_SOURCE: Fields = Fields {
    supported: &[
        required("image", String),
        optional("imagePullPolicy", OneOf(&["Always", "IfNotPresent", "Never"])),
        optional("imagePullSecret", String),
        optional("path", String),
    ],
    known: &[],
};

pub(crate) static DATA_VOLUME_SOURCE: Fields = Fields {
    supported: &[
        required("name", String),
    ],
    known: &["hotpluggable"],
};

pub(crate) static DOWNWARD_API_VOLUME_FILE: Fields = Fields {
    supported: &[
        optional("fieldRef", Any),
        optional("mode", COUNT),
        required("path", String),
        optional("resourceFieldRef", Any),
    ],
    known: &[],
};

pub(crate) static DOWNWARD_API_VOLUME_SOURCE: Fields = Fields {
    supported: &[
        optional("fields", List(&Record(&DOWNWARD_API_VOLUME_FILE))),
        optional("volumeLabel", String),
    ],
    known: &[],
};

pub(crate) static EMPTY_DISK_SOURCE: Fields = Fields {
    supported: &[
        required("capacity", Quantity),
    ],
    known: &[],
};

pub(crate) static PERSISTENT_VOLUME_CLAIM_VOLUME_SOURCE: Fields = Fields {
    supported: &[
        required("claimName", String),
        optional("readOnly", Boolean),
    ],
    known: &[],
};

pub(crate) static EPHEMERAL_VOLUME_SOURCE: Fields = Fields {
    supported: &[
        optional("persistentVolumeClaim", Record(&PERSISTENT_VOLUME_CLAIM_VOLUME_SOURCE)),
    ],
    known: &[],
};

pub(crate) static HOST_DISK: Fields = Fields {
    supported: &[
        optional("capacity", Quantity),
        required("path", String),
        required("type", String),
    ],
    known: &["shared"],
};

pub(crate) static PERSISTENT_VOLUME_CLAIM_VOLUME_SOURCE_2: Fields = Fields {
    supported: &[
        required("claimName", String),
        optional("readOnly", Boolean),
    ],
    known: &["hotpluggable"],
};

pub(crate) static SECRET_VOLUME_SOURCE: Fields = Fields {
    supported: &[
        optional("optional", Boolean),
        optional("secretName", String),
        optional("volumeLabel", String),
    ],
    known: &[],
};

pub(crate) static SERVICE_ACCOUNT_VOLUME_SOURCE: Fields = Fields {
    supported: &[
        optional("serviceAccountName", String),
    ],
    known: &[],
};

pub(crate) static SYSPREP_SOURCE: Fields = Fields {
    supported: &[
        optional("configMap", Record(&LOCAL_OBJECT_REFERENCE)),
        optional("secret", Record(&LOCAL_OBJECT_REFERENCE)),
    ],
    known: &[],
};

pub(crate) static VOLUME: Fields = Fields {
    supported: &[
        optional("cloudInitConfigDrive", Record(&CLOUD_INIT_CONFIG_DRIVE_SOURCE)),
        optional("cloudInitNoCloud", Record(&CLOUD_INIT_NO_CLOUD_SOURCE)),
        optional("configMap", Record(&CONFIG_MAP_VOLUME_SOURCE)),
        optional("containerDisk", Record(&CONTAINER_DISK_SOURCE)),
        optional("dataVolume", Record(&DATA_VOLUME_SOURCE)),
        optional("downwardAPI", Record(&DOWNWARD_API_VOLUME_SOURCE)),
        optional("emptyDisk", Record(&EMPTY_DISK_SOURCE)),
        optional("ephemeral", Record(&EPHEMERAL_VOLUME_SOURCE)),
        optional("hostDisk", Record(&HOST_DISK)),
        required("name", String),
        optional("persistentVolumeClaim", Record(&PERSISTENT_VOLUME_CLAIM_VOLUME_SOURCE_2)),
        optional("secret", Record(&SECRET_VOLUME_SOURCE)),
        optional("serviceAccount", Record(&SERVICE_ACCOUNT_VOLUME_SOURCE)),
        optional("sysprep", Record(&SYSPREP_SOURCE)),
    ],
    known: &["containerPath", "downwardMetrics", "memoryDump"],
};

pub(crate) static VIRTUAL_MACHINE_INSTANCE_SPEC: Fields = Fields {
    supported: &[
        optional("accessCredentials", List(&Record(&ACCESS_CREDENTIAL))),
        optional("architecture", String),
        required("domain", Record(&DOMAIN_SPEC)),
        optional("networks", List(&Record(&NETWORK))),
        optional("startStrategy", String),
        optional("terminationGracePeriodSeconds", COUNT),
        optional("volumes", List(&Record(&VOLUME))),
    ],
    known: &["affinity", "dnsConfig", "dnsPolicy", "evictionStrategy", "hostname", "livenessProbe", "nodeSelector", "priorityClassName", "readinessProbe", "resourceClaims", "schedulerName", "serviceAccountName", "subdomain", "tolerations", "topologySpreadConstraints", "utilityVolumes"],
};

pub(crate) static VIRTUAL_MACHINE_INSTANCE_TEMPLATE_SPEC: Fields = Fields {
    supported: &[
        optional("metadata", Record(&OBJECT_META)),
        required("spec", Record(&VIRTUAL_MACHINE_INSTANCE_SPEC)),
    ],
    known: &[],
};

pub(crate) static VIRTUAL_MACHINE_SPEC: Fields = Fields {
    supported: &[
        optional("runStrategy", String),
        optional("running", Boolean),
        required("template", Record(&VIRTUAL_MACHINE_INSTANCE_TEMPLATE_SPEC)),
    ],
    known: &["dataVolumeTemplates", "instancetype", "preference", "updateVolumesStrategy"],
};

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
