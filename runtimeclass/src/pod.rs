//! What a pod carries for its shim: the names that both sides use.

/// The runtime class, and the handler's name in containerd's configuration.
pub const RUNTIME_CLASS: &str = "vireo";

/// Annotation with a `kubevirt.io/v1` `VirtualMachineInstanceSpec` as JSON. Without it the pod's container alone describes
/// the machine.
///
/// containerd hands it on where the runtime's configuration says `pod_annotations = ["vireo.dev/*"]`.
pub const ANNOTATION_VMI: &str = "vireo.dev/vmi";

/// Environment variable of the machine's container, and its value, which say that the pod has [`ANNOTATION_VMI`]. Whoever writes the
/// annotation writes this as well: a node whose containerd doesn't hand annotations on would run another machine otherwise.
pub const DESCRIBED: (&str, &str) = ("VIREO_VMI", "annotation");

/// Annotation with the rate limits of the machine's devices ([`crate::RateLimits`]) as JSON.
pub const ANNOTATION_RATE_LIMITS: &str = "vireo.dev/rate-limits";

/// Annotation with what is to become of claims that have no disk image yet ([`crate::Claims`]) as JSON.
pub const ANNOTATION_CLAIMS: &str = "vireo.dev/claims";

/// Annotation with the controller's public key ([`crate::machine_service::token::Key`]): whose tokens change the machine over
/// `exec`. Without it none do.
pub const ANNOTATION_CONTROLLER_KEY: &str = "vireo.dev/controller-key";

/// What the names of Vireo's annotations start with; there are no others than those above.
pub const ANNOTATION_PREFIX: &str = "vireo.dev/";

/// Folder of a container image that holds its one disk image (KubeVirt's containerDisk).
pub const CONTAINER_DISK_DIR: &str = "/disk";

/// The node's configuration, written by `install.sh`.
pub const NODE_CONFIG: &str = "/etc/vireo/config.json";

/// User and group that the VMM runs as where the pod names none: KubeVirt's `qemu`, owner of the files in a containerDisk.
pub const DEFAULT_ID: u32 = 107;

/// Folder of a container in which everything is for its machine (KubeVirt's place).
pub const PRIVATE_DIR: &str = "/var/run/kubevirt-private";

/// Folder of a container where claims and folders of the node are mounted, each below its volume's name (KubeVirt's place).
pub const CLAIMS_DIR: &str = "/var/run/kubevirt-private/vmi-disks";

/// Name of the disk image in a claim with a file system (KubeVirt's and CDI's).
pub const CLAIM_IMAGE: &str = "disk.img";

/// Folder of a container where the claim with a machine's own state is mounted: EFI's variables (KubeVirt's place).
pub const VARIABLES_DIR: &str = "/var/lib/libvirt/qemu/nvram";

/// Name of the file with EFI's variables there. A claim has one machine.
pub const VARIABLES_FILE: &str = "VARS.fd";

/// Folder of a container where ConfigMaps are mounted, each below its volume's name (as those below, KubeVirt's place).
pub const CONFIG_MAPS_DIR: &str = "/var/run/kubevirt-private/config-map";

/// Folder of a container where Secrets are mounted, each below its volume's name, or, with access credentials in it, its own
/// with [`CREDENTIALS_SUFFIX`].
pub const SECRETS_DIR: &str = "/var/run/kubevirt-private/secret";

/// Folder of a container where the downward API's files are mounted.
pub const DOWNWARD_API_DIR: &str = "/var/run/kubevirt-private/downwardapi";

/// Folder of a container where the answers for Windows' set-up are mounted.
pub const SYSPREP_DIR: &str = "/var/run/kubevirt-private/sysprep";

/// Folder of a container where its service account's token is mounted, in every pod.
pub const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the name of a mounted Secret with access credentials ends with.
pub const CREDENTIALS_SUFFIX: &str = "-access-cred";

/// RAM of a guest for which neither spec nor container gives a size, bytes.
pub const DEFAULT_MEMORY: u64 = 512 << 20;

/// What the VMM itself, its thread stacks and the kernel's objects for it take of a container's memory limit, bytes.
pub const RESERVE_FIXED: u64 = 16 << 20;
/// The share of the guest's RAM that page tables take (KVM's and the VMM's, 1/512 each, and room for as much again).
pub const RESERVE_SHARE: u64 = 128;

/// What of a container's memory limit is not the guest's, bytes.
pub const fn memory_reserve(guest: u64) -> u64 {
    RESERVE_FIXED + guest / RESERVE_SHARE
}

/// The container that is the machine, in pods that have more than one, and in those of KubeVirt.
pub const MACHINE_CONTAINER: &str = "compute";
