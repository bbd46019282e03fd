//! The fields of a cluster's specs: generated from the types and KubeVirt's own list of fields.
//! `UPDATE=1 cargo test -p vireo-runtimeclass generate` writes it anew.

use crate::kubevirt::v1::fields as machine;
use crate::schema::Kind::{Any, Boolean, IntOrString, List, Map, OneOf, Quantity, Record, String};
use crate::schema::{COUNT, Fields, INT32, INT64, OBJECT_META, optional, required};

pub(crate) static DATA_VOLUME_TEMPLATE_SPEC: Fields = Fields {
    supported: &[
        optional("apiVersion", String),
        optional("kind", String),
        optional("metadata", Record(&OBJECT_META)),
        required("spec", Any),
        optional("status", Any),
    ],
    known: &[],
};

pub(crate) static INSTANCETYPE_MATCHER: Fields = Fields {
    supported: &[
        optional("inferFromVolume", String),
        optional("inferFromVolumeFailurePolicy", OneOf(&["Reject", "Ignore"])),
        optional("kind", String),
        optional("name", String),
        optional("revisionName", String),
    ],
    known: &[],
};

pub(crate) static PREFERENCE_MATCHER: Fields = Fields {
    supported: &[
        optional("inferFromVolume", String),
        optional("inferFromVolumeFailurePolicy", OneOf(&["Reject", "Ignore"])),
        optional("kind", String),
        optional("name", String),
        optional("revisionName", String),
    ],
    known: &[],
};

pub(crate) static NODE_SELECTOR_REQUIREMENT: Fields = Fields {
    supported: &[
        required("key", String),
        required("operator", String),
        optional("values", List(&String)),
    ],
    known: &[],
};

pub(crate) static NODE_SELECTOR_TERM: Fields = Fields {
    supported: &[
        optional("matchExpressions", List(&Record(&NODE_SELECTOR_REQUIREMENT))),
        optional("matchFields", List(&Record(&NODE_SELECTOR_REQUIREMENT))),
    ],
    known: &[],
};

pub(crate) static PREFERRED_SCHEDULING_TERM: Fields = Fields {
    supported: &[
        required("preference", Record(&NODE_SELECTOR_TERM)),
        required("weight", INT32),
    ],
    known: &[],
};

pub(crate) static NODE_SELECTOR: Fields = Fields {
    supported: &[
        required("nodeSelectorTerms", List(&Record(&NODE_SELECTOR_TERM))),
    ],
    known: &[],
};

pub(crate) static NODE_AFFINITY: Fields = Fields {
    supported: &[
        optional("preferredDuringSchedulingIgnoredDuringExecution", List(&Record(&PREFERRED_SCHEDULING_TERM))),
        optional("requiredDuringSchedulingIgnoredDuringExecution", Record(&NODE_SELECTOR)),
    ],
    known: &[],
};

pub(crate) static LABEL_SELECTOR_REQUIREMENT: Fields = Fields {
    supported: &[
        required("key", String),
        required("operator", String),
        optional("values", List(&String)),
    ],
    known: &[],
};

pub(crate) static LABEL_SELECTOR: Fields = Fields {
    supported: &[
        optional("matchExpressions", List(&Record(&LABEL_SELECTOR_REQUIREMENT))),
        optional("matchLabels", Map(&String)),
    ],
    known: &[],
};

pub(crate) static POD_AFFINITY_TERM: Fields = Fields {
    supported: &[
        optional("labelSelector", Record(&LABEL_SELECTOR)),
        optional("matchLabelKeys", List(&String)),
        optional("mismatchLabelKeys", List(&String)),
        optional("namespaceSelector", Record(&LABEL_SELECTOR)),
        optional("namespaces", List(&String)),
        required("topologyKey", String),
    ],
    known: &[],
};

pub(crate) static WEIGHTED_POD_AFFINITY_TERM: Fields = Fields {
    supported: &[
        required("podAffinityTerm", Record(&POD_AFFINITY_TERM)),
        required("weight", INT32),
    ],
    known: &[],
};

pub(crate) static POD_AFFINITY: Fields = Fields {
    supported: &[
        optional("preferredDuringSchedulingIgnoredDuringExecution", List(&Record(&WEIGHTED_POD_AFFINITY_TERM))),
        optional("requiredDuringSchedulingIgnoredDuringExecution", List(&Record(&POD_AFFINITY_TERM))),
    ],
    known: &[],
};

pub(crate) static POD_ANTI_AFFINITY: Fields = Fields {
    supported: &[
        optional("preferredDuringSchedulingIgnoredDuringExecution", List(&Record(&WEIGHTED_POD_AFFINITY_TERM))),
        optional("requiredDuringSchedulingIgnoredDuringExecution", List(&Record(&POD_AFFINITY_TERM))),
    ],
    known: &[],
};

pub(crate) static AFFINITY: Fields = Fields {
    supported: &[
        optional("nodeAffinity", Record(&NODE_AFFINITY)),
        optional("podAffinity", Record(&POD_AFFINITY)),
        optional("podAntiAffinity", Record(&POD_ANTI_AFFINITY)),
    ],
    known: &[],
};

pub(crate) static POD_DNS_CONFIG_OPTION: Fields = Fields {
    supported: &[
        optional("name", String),
        optional("value", String),
    ],
    known: &[],
};

pub(crate) static POD_DNS_CONFIG: Fields = Fields {
    supported: &[
        optional("nameservers", List(&String)),
        optional("options", List(&Record(&POD_DNS_CONFIG_OPTION))),
        optional("searches", List(&String)),
    ],
    known: &[],
};

pub(crate) static EXEC_ACTION: Fields = Fields {
    supported: &[
        optional("command", List(&String)),
    ],
    known: &[],
};

pub(crate) static GUEST_AGENT_PING: Fields = Fields {
    supported: &[],
    known: &[],
};

pub(crate) static HTTP_HEADER: Fields = Fields {
    supported: &[
        required("name", String),
        required("value", String),
    ],
    known: &[],
};

pub(crate) static HTTP_GET_ACTION: Fields = Fields {
    supported: &[
        optional("host", String),
        optional("httpHeaders", List(&Record(&HTTP_HEADER))),
        optional("path", String),
        required("port", IntOrString),
        optional("scheme", String),
    ],
    known: &[],
};

pub(crate) static TCP_SOCKET_ACTION: Fields = Fields {
    supported: &[
        optional("host", String),
        required("port", IntOrString),
    ],
    known: &[],
};

pub(crate) static PROBE: Fields = Fields {
    supported: &[
        optional("exec", Record(&EXEC_ACTION)),
        optional("failureThreshold", COUNT),
        optional("guestAgentPing", Record(&GUEST_AGENT_PING)),
        optional("httpGet", Record(&HTTP_GET_ACTION)),
        optional("initialDelaySeconds", COUNT),
        optional("periodSeconds", COUNT),
        optional("successThreshold", COUNT),
        optional("tcpSocket", Record(&TCP_SOCKET_ACTION)),
        optional("timeoutSeconds", COUNT),
    ],
    known: &[],
};

pub(crate) static TOLERATION: Fields = Fields {
    supported: &[
        optional("effect", String),
        optional("key", String),
        optional("operator", String),
        optional("tolerationSeconds", INT64),
        optional("value", String),
    ],
    known: &[],
};

pub(crate) static TOPOLOGY_SPREAD_CONSTRAINT: Fields = Fields {
    supported: &[
        optional("labelSelector", Record(&LABEL_SELECTOR)),
        optional("matchLabelKeys", List(&String)),
        required("maxSkew", INT32),
        optional("minDomains", INT32),
        optional("nodeAffinityPolicy", String),
        optional("nodeTaintsPolicy", String),
        required("topologyKey", String),
        required("whenUnsatisfiable", String),
    ],
    known: &[],
};

pub(crate) static VIRTUAL_MACHINE_INSTANCE_SPEC: Fields = Fields {
    supported: &[
        optional("accessCredentials", List(&Record(&machine::ACCESS_CREDENTIAL))),
        optional("affinity", Record(&AFFINITY)),
        optional("architecture", String),
        optional("dnsConfig", Record(&POD_DNS_CONFIG)),
        optional("dnsPolicy", OneOf(&["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"])),
        required("domain", Record(&machine::DOMAIN_SPEC)),
        optional("evictionStrategy", OneOf(&["None", "LiveMigrate", "LiveMigrateIfPossible", "External"])),
        optional("hostname", String),
        optional("livenessProbe", Record(&PROBE)),
        optional("networks", List(&Record(&machine::NETWORK))),
        optional("nodeSelector", Map(&String)),
        optional("priorityClassName", String),
        optional("readinessProbe", Record(&PROBE)),
        optional("schedulerName", String),
        optional("serviceAccountName", String),
        optional("startStrategy", String),
        optional("subdomain", String),
        optional("terminationGracePeriodSeconds", COUNT),
        optional("tolerations", List(&Record(&TOLERATION))),
        optional("topologySpreadConstraints", List(&Record(&TOPOLOGY_SPREAD_CONSTRAINT))),
        optional("volumes", List(&Record(&machine::VOLUME))),
    ],
    known: &["resourceClaims", "utilityVolumes"],
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
        optional("dataVolumeTemplates", List(&Record(&DATA_VOLUME_TEMPLATE_SPEC))),
        optional("instancetype", Record(&INSTANCETYPE_MATCHER)),
        optional("preference", Record(&PREFERENCE_MATCHER)),
        optional("runStrategy", OneOf(&["Always", "Halted", "Manual", "RerunOnFailure", "Once"])),
        optional("running", Boolean),
        required("template", Record(&VIRTUAL_MACHINE_INSTANCE_TEMPLATE_SPEC)),
    ],
    known: &["updateVolumesStrategy"],
};

pub(crate) static VIRTUAL_MACHINE_INSTANCE_MIGRATION_SPEC: Fields = Fields {
    supported: &[
        optional("addedNodeSelector", Map(&String)),
        optional("priority", OneOf(&["system-critical", "user-triggered", "system-maintenance"])),
        optional("vmiName", String),
    ],
    known: &["receive", "sendTo"],
};

pub(crate) static VIRTUAL_MACHINE_INSTANCE_REPLICA_SET_SPEC: Fields = Fields {
    supported: &[
        optional("paused", Boolean),
        optional("replicas", COUNT),
        required("selector", Record(&LABEL_SELECTOR)),
        required("template", Record(&VIRTUAL_MACHINE_INSTANCE_TEMPLATE_SPEC)),
    ],
    known: &[],
};

pub(crate) static CERT_CONFIG: Fields = Fields {
    supported: &[
        optional("duration", String),
        optional("renewBefore", String),
    ],
    known: &[],
};

pub(crate) static KUBE_VIRT_SELF_SIGN_CONFIGURATION: Fields = Fields {
    supported: &[
        optional("ca", Record(&CERT_CONFIG)),
        optional("server", Record(&CERT_CONFIG)),
    ],
    known: &["caOverlapInterval", "caRotateInterval", "certRotateInterval"],
};

pub(crate) static KUBE_VIRT_CERTIFICATE_ROTATE_STRATEGY: Fields = Fields {
    supported: &[
        optional("selfSigned", Record(&KUBE_VIRT_SELF_SIGN_CONFIGURATION)),
    ],
    known: &[],
};

pub(crate) static DEVELOPER_CONFIGURATION: Fields = Fields {
    supported: &[
        optional("cpuAllocationRatio", COUNT),
        optional("disabledFeatureGates", List(&String)),
        optional("featureGates", List(&String)),
        optional("memoryOvercommit", COUNT),
        optional("nodeSelectors", Map(&String)),
    ],
    known: &["clusterProfiler", "diskVerification", "logVerbosity", "minimumClusterTSCFrequency", "minimumReservePVCBytes", "pvcTolerateLessSpaceUpToPercent", "useEmulation"],
};

pub(crate) static INSTANCETYPE_CONFIGURATION: Fields = Fields {
    supported: &[
        optional("referencePolicy", OneOf(&["reference", "expand", "expandAll"])),
    ],
    known: &[],
};

pub(crate) static KSM_CONFIGURATION: Fields = Fields {
    supported: &[
        optional("nodeLabelSelector", Record(&LABEL_SELECTOR)),
    ],
    known: &[],
};

pub(crate) static MIGRATION_CONFIGURATION: Fields = Fields {
    supported: &[
        optional("allowAutoConverge", Boolean),
        optional("allowPostCopy", Boolean),
        optional("allowWorkloadDisruption", Boolean),
        optional("bandwidthPerMigration", Quantity),
        optional("completionTimeoutPerGiB", COUNT),
        optional("maxDowntimeMs", COUNT),
        optional("network", String),
        optional("parallelMigrationsPerCluster", COUNT),
        optional("parallelOutboundMigrationsPerNode", COUNT),
        optional("progressTimeout", COUNT),
        optional("unsafeMigrationOverride", Boolean),
    ],
    known: &["disableTLS", "matchSELinuxLevelOnMigration", "nodeDrainTaintKey", "utilityVolumesTimeout"],
};

pub(crate) static NETWORK_CONFIGURATION: Fields = Fields {
    supported: &[
        optional("defaultNetworkInterface", OneOf(&["bridge", "masquerade"])),
        optional("permitBridgeInterfaceOnPodNetwork", Boolean),
    ],
    known: &["binding", "permitSlirpInterface"],
};

pub(crate) static MEDIATED_HOST_DEVICE: Fields = Fields {
    supported: &[
        optional("externalResourceProvider", Boolean),
        required("mdevNameSelector", String),
        required("resourceName", String),
    ],
    known: &[],
};

pub(crate) static PCI_HOST_DEVICE: Fields = Fields {
    supported: &[
        optional("externalResourceProvider", Boolean),
        required("pciVendorSelector", String),
        required("resourceName", String),
    ],
    known: &[],
};

pub(crate) static PERMITTED_HOST_DEVICES: Fields = Fields {
    supported: &[
        optional("mediatedDevices", List(&Record(&MEDIATED_HOST_DEVICE))),
        optional("pciHostDevices", List(&Record(&PCI_HOST_DEVICE))),
    ],
    known: &["usb"],
};

pub(crate) static TLS_CONFIGURATION: Fields = Fields {
    supported: &[
        optional("ciphers", List(&String)),
        optional("minTLSVersion", OneOf(&["VersionTLS12", "VersionTLS13"])),
    ],
    known: &[],
};

pub(crate) static KUBE_VIRT_CONFIGURATION: Fields = Fields {
    supported: &[
        optional("cpuModel", String),
        optional("cpuRequest", Quantity),
        optional("developerConfiguration", Record(&DEVELOPER_CONFIGURATION)),
        optional("evictionStrategy", OneOf(&["None", "LiveMigrate", "LiveMigrateIfPossible", "External"])),
        optional("imagePullPolicy", OneOf(&["Always", "IfNotPresent", "Never"])),
        optional("instancetype", Record(&INSTANCETYPE_CONFIGURATION)),
        optional("ksmConfiguration", Record(&KSM_CONFIGURATION)),
        optional("migrations", Record(&MIGRATION_CONFIGURATION)),
        optional("network", Record(&NETWORK_CONFIGURATION)),
        optional("permittedHostDevices", Record(&PERMITTED_HOST_DEVICES)),
        optional("roleAggregationStrategy", OneOf(&["AggregateToDefault", "Manual"])),
        optional("tlsConfiguration", Record(&TLS_CONFIGURATION)),
        optional("virtualMachineInstancesPerNode", COUNT),
        optional("vmRolloutStrategy", OneOf(&["Stage", "LiveUpdate"])),
    ],
    known: &["additionalGuestMemoryOverheadRatio", "apiConfiguration", "architectureConfiguration", "autoCPULimitNamespaceLabelSelector", "changedBlockTrackingLabelSelectors", "commonInstancetypesDeployment", "confidentialCompute", "controllerConfiguration", "defaultRuntimeClass", "emulatedMachines", "handlerConfiguration", "hypervisors", "liveUpdateConfiguration", "machineType", "mediatedDevicesConfiguration", "memBalloonStatsPeriod", "minCPUModel", "obsoleteCPUModels", "ovmfPath", "persistentReservationConfiguration", "seccompConfiguration", "selinuxLauncherType", "smbios", "supportContainerResources", "supportedGuestAgentVersions", "virtTemplateDeployment", "virtualMachineOptions", "vmStateStorageClass", "webhookConfiguration"],
};

pub(crate) static LOCAL_OBJECT_REFERENCE: Fields = Fields {
    supported: &[
        required("name", String),
    ],
    known: &[],
};

pub(crate) static NODE_PLACEMENT: Fields = Fields {
    supported: &[
        optional("affinity", Record(&AFFINITY)),
        optional("nodeSelector", Map(&String)),
        optional("tolerations", List(&Record(&TOLERATION))),
    ],
    known: &[],
};

pub(crate) static COMPONENT_CONFIG: Fields = Fields {
    supported: &[
        optional("nodePlacement", Record(&NODE_PLACEMENT)),
        optional("replicas", COUNT),
    ],
    known: &[],
};

pub(crate) static KUBE_VIRT_WORKLOAD_UPDATE_STRATEGY: Fields = Fields {
    supported: &[
        optional("batchEvictionInterval", String),
        optional("batchEvictionSize", COUNT),
        optional("workloadUpdateMethods", List(&OneOf(&["LiveMigrate", "Evict"]))),
    ],
    known: &[],
};

pub(crate) static KUBE_VIRT_SPEC: Fields = Fields {
    supported: &[
        optional("certificateRotateStrategy", Record(&KUBE_VIRT_CERTIFICATE_ROTATE_STRATEGY)),
        optional("configuration", Record(&KUBE_VIRT_CONFIGURATION)),
        optional("imagePullPolicy", OneOf(&["Always", "IfNotPresent", "Never"])),
        optional("imagePullSecrets", List(&Record(&LOCAL_OBJECT_REFERENCE))),
        optional("imageRegistry", String),
        optional("imageTag", String),
        optional("infra", Record(&COMPONENT_CONFIG)),
        optional("monitorAccount", String),
        optional("monitorNamespace", String),
        optional("productComponent", String),
        optional("productName", String),
        optional("productVersion", String),
        optional("uninstallStrategy", OneOf(&["RemoveWorkloads", "BlockUninstallIfWorkloadsExist"])),
        optional("workloadUpdateStrategy", Record(&KUBE_VIRT_WORKLOAD_UPDATE_STRATEGY)),
        optional("workloads", Record(&COMPONENT_CONFIG)),
    ],
    known: &["customizeComponents", "serviceMonitorNamespace", "synchronizationPort"],
};

pub(crate) static CPU_INSTANCETYPE: Fields = Fields {
    supported: &[
        optional("dedicatedCPUPlacement", Boolean),
        required("guest", COUNT),
        optional("isolateEmulatorThread", Boolean),
        optional("model", String),
    ],
    known: &["maxSockets", "numa", "realtime"],
};

pub(crate) static MEMORY_INSTANCETYPE: Fields = Fields {
    supported: &[
        required("guest", Quantity),
        optional("hugepages", Record(&machine::HUGEPAGES)),
        optional("overcommitPercent", COUNT),
    ],
    known: &["maxGuest"],
};

pub(crate) static VIRTUAL_MACHINE_INSTANCETYPE_SPEC: Fields = Fields {
    supported: &[
        optional("annotations", Map(&String)),
        required("cpu", Record(&CPU_INSTANCETYPE)),
        required("memory", Record(&MEMORY_INSTANCETYPE)),
        optional("nodeSelector", Map(&String)),
        optional("schedulerName", String),
    ],
    known: &["gpus", "hostDevices", "ioThreads", "ioThreadsPolicy", "launchSecurity"],
};

pub(crate) static SPREAD_OPTIONS: Fields = Fields {
    supported: &[
        optional("across", OneOf(&["SocketsCores", "SocketsCoresThreads", "CoresThreads"])),
        optional("ratio", COUNT),
    ],
    known: &[],
};

pub(crate) static CPU_PREFERENCES: Fields = Fields {
    supported: &[
        optional("preferredCPUFeatures", List(&Record(&machine::CPU_FEATURE))),
        optional("preferredCPUTopology", OneOf(&["sockets", "cores", "threads", "spread", "any", "preferSockets", "preferCores", "preferThreads", "preferSpread", "preferAny"])),
        optional("spreadOptions", Record(&SPREAD_OPTIONS)),
    ],
    known: &[],
};

pub(crate) static DEVICE_PREFERENCES: Fields = Fields {
    supported: &[
        optional("preferredAutoattachGraphicsDevice", Boolean),
        optional("preferredAutoattachMemBalloon", Boolean),
        optional("preferredAutoattachPodInterface", Boolean),
        optional("preferredAutoattachSerialConsole", Boolean),
        optional("preferredBlockMultiQueue", Boolean),
        optional("preferredCdromBus", String),
        optional("preferredDiskBlockSize", Record(&machine::BLOCK_SIZE)),
        optional("preferredDiskBus", String),
        optional("preferredDiskCache", String),
        optional("preferredDiskDedicatedIoThread", Boolean),
        optional("preferredDiskIO", String),
        optional("preferredInterfaceMasquerade", Record(&machine::INTERFACE_MASQUERADE)),
        optional("preferredInterfaceModel", String),
        optional("preferredNetworkInterfaceMultiQueue", Boolean),
        optional("preferredRng", Record(&machine::RNG)),
    ],
    known: &["preferredAutoattachInputDevice", "preferredDisableHotplug", "preferredInputBus", "preferredInputType", "preferredLunBus", "preferredPanicDeviceModel", "preferredSoundModel", "preferredTPM", "preferredUseVirtioTransitional", "preferredVideoType", "preferredVirtualGPUOptions"],
};

pub(crate) static FEATURE_PREFERENCES: Fields = Fields {
    supported: &[
        optional("preferredKvm", Record(&machine::FEATURE_KVM)),
    ],
    known: &["preferredAcpi", "preferredApic", "preferredHyperv", "preferredPvspinlock", "preferredSmm"],
};

pub(crate) static FIRMWARE_PREFERENCES: Fields = Fields {
    supported: &[
        optional("preferredEfi", Record(&machine::EFI)),
        optional("preferredUseBios", Boolean),
        optional("preferredUseBiosSerial", Boolean),
        optional("preferredUseEfi", Boolean),
        optional("preferredUseSecureBoot", Boolean),
    ],
    known: &[],
};

pub(crate) static CPU_PREFERENCE_REQUIREMENT: Fields = Fields {
    supported: &[
        required("guest", COUNT),
    ],
    known: &[],
};

pub(crate) static MEMORY_PREFERENCE_REQUIREMENT: Fields = Fields {
    supported: &[
        required("guest", Quantity),
    ],
    known: &[],
};

pub(crate) static PREFERENCE_REQUIREMENTS: Fields = Fields {
    supported: &[
        optional("architecture", String),
        optional("cpu", Record(&CPU_PREFERENCE_REQUIREMENT)),
        optional("memory", Record(&MEMORY_PREFERENCE_REQUIREMENT)),
    ],
    known: &[],
};

pub(crate) static VOLUME_PREFERENCES: Fields = Fields {
    supported: &[
        optional("preferredStorageClassName", String),
    ],
    known: &[],
};

pub(crate) static VIRTUAL_MACHINE_PREFERENCE_SPEC: Fields = Fields {
    supported: &[
        optional("annotations", Map(&String)),
        optional("cpu", Record(&CPU_PREFERENCES)),
        optional("devices", Record(&DEVICE_PREFERENCES)),
        optional("features", Record(&FEATURE_PREFERENCES)),
        optional("firmware", Record(&FIRMWARE_PREFERENCES)),
        optional("preferSpreadSocketToCoreRatio", COUNT),
        optional("preferredArchitecture", String),
        optional("preferredSubdomain", String),
        optional("preferredTerminationGracePeriodSeconds", COUNT),
        optional("requirements", Record(&PREFERENCE_REQUIREMENTS)),
        optional("volumes", Record(&VOLUME_PREFERENCES)),
    ],
    known: &["clock", "machine", "preferredLaunchSecurity"],
};

pub(crate) static SELECTORS: Fields = Fields {
    supported: &[
        optional("namespaceSelector", Map(&String)),
        optional("virtualMachineInstanceSelector", Map(&String)),
    ],
    known: &[],
};

pub(crate) static MIGRATION_POLICY_SPEC: Fields = Fields {
    supported: &[
        optional("allowAutoConverge", Boolean),
        optional("allowPostCopy", Boolean),
        optional("allowWorkloadDisruption", Boolean),
        optional("bandwidthPerMigration", Quantity),
        optional("completionTimeoutPerGiB", COUNT),
        optional("maxDowntimeMs", COUNT),
        required("selectors", Record(&SELECTORS)),
    ],
    known: &["experimental"],
};
