//! From a VM spec, or a mere container, to a machine: the one place where KubeVirt's words become the VMM's.
//!
//! Pure but for opening files: each file is opened here, once, and the machine names it by index. What the spec leaves out
//! is taken from the container (`docs/pods.md` lists the rules).

mod annotations;
mod boot;
mod cpu;
mod disks;
mod firmware;
mod identity;
mod size;
mod small_disks;
#[cfg(test)]
mod tests;
mod volumes;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{Process, Spec, User};
use uuid::Uuid;
use vireo_runtimeclass::kubevirt::v1::VirtualMachineInstanceSpec;
use vireo_runtimeclass::machine_service::token::KeyError;
use vireo_runtimeclass::pod::{ANNOTATION_CLAIMS, ANNOTATION_RATE_LIMITS, ANNOTATION_VMI, DEFAULT_ID};
use vireo_runtimeclass::{Claims, ParseError, RateLimits};
use vireo_vmm::config::{AutoconfConfig, FdIndex, JailConfig, MachineConfig, MemoryConfig, NicConfig, VsockConfig};

use crate::cpuset::Placement;
use crate::credentials::{Credential, CredentialError, by_agent};
use crate::network::PlannedNic;
use crate::node_config::NodeConfig;
use crate::volume::{ImageRoot, VolumeError};

/// What a machine is made from.
#[derive(Debug)]
pub struct Source<'a> {
    /// For messages: the pod's, or the machine's, name.
    pub name: &'a str,
    /// The pod's host name, which is the guest's; without, it is made of `name`.
    pub hostname: Option<&'a str>,
    /// The VM spec, if there is one.
    pub spec: Option<&'a VirtualMachineInstanceSpec>,
    /// What its devices may do in a second.
    pub limits: &'a RateLimits,
    /// Where it runs, and where its files are.
    pub place: Place<'a>,
    /// The node's configuration.
    pub node: &'a NodeConfig,
    /// Its interfaces, plugged in already.
    pub nics: Vec<PlannedNic>,
}

/// Where a machine runs, and where its files are.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// In a pod: files are those of the container's image.
    Pod {
        /// The container.
        oci: &'a Spec,
        /// Its root file system, mounted.
        rootfs: &'a Path,
        /// What is to become of claims without a disk image.
        claims: &'a Claims,
    },
    /// On this machine, for its admin: files are this machine's own, relative paths start at `folder`.
    Local {
        /// The manifest's folder.
        folder: &'a Path,
        /// Volumes that stay as they are, whatever the guest writes.
        ephemeral: &'a [String],
        /// Whom the VMM becomes.
        jail: JailConfig,
    },
}

/// What the launcher needs.
#[derive(Debug)]
pub struct LaunchPlan {
    /// The machine.
    pub machine: MachineConfig,
    /// The files it names by index.
    pub fds: Vec<OwnedFd>,
    /// Whom the VMM becomes.
    pub jail: JailConfig,
    /// It is to be paused before its first instruction.
    pub start_paused: bool,
    /// The CPUs that its threads keep to.
    pub placement: Option<Placement>,
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum TranslateError {
    /// The annotation can't be read.
    #[error("annotation {name}")]
    Annotation {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: ParseError,
    },
    /// The annotation holds no key.
    #[error("annotation {name}")]
    ControllerKey {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// The annotation means nothing to Vireo.
    #[error("annotation {0}: unknown; vireo.dev/vmi, rate-limits, claims and controller-key are supported")]
    UnknownAnnotation(String),
    /// The annotation got lost on its way; what of the container tells of it.
    #[error(
        "annotation {ANNOTATION_VMI} has not reached this node's runtime, though the container {0}: containerd hands it on only \
         where the runtime has pod_annotations = [\"vireo.dev/*\"]; run node-setup/install.sh on the node"
    )]
    NotHandedOn(String),
    /// A rate limit of a device that isn't there.
    #[error("{ANNOTATION_RATE_LIMITS}: {kind}.{name}: the machine has no disk or interface of this name")]
    LimitOfNothing {
        /// `disks` or `interfaces`.
        kind: &'static str,
        /// Whose.
        name: String,
    },
    /// The container's image can't be used.
    #[error("image")]
    Image(#[source] VolumeError),
    /// A disk's image can't be used.
    #[error("disk {name:?}")]
    Disk {
        /// The volume.
        name: String,
        /// Why.
        #[source]
        source: VolumeError,
    },
    /// What a field of the spec names can't be used.
    #[error("{path}")]
    Volume {
        /// The field.
        path: String,
        /// Why.
        #[source]
        source: VolumeError,
    },
    /// Access credentials can't be had.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// A claim's new image, and no such claim.
    #[error("{ANNOTATION_CLAIMS}: {0}: the machine has no persistentVolumeClaim or dataVolume of this name")]
    NoSuchClaim(String),
    /// A kernel or initial RAM disk can't be used.
    #[error("{what}")]
    Boot {
        /// Which one.
        what: String,
        /// Why.
        #[source]
        source: VolumeError,
    },
    /// The node's firmware can't be used.
    #[error("{what}; install the package {package} on the node, or name a file as {key} in /etc/vireo/config.json")]
    Firmware {
        /// Which file.
        what: &'static str,
        /// Debian's package that it comes in.
        package: &'static str,
        /// The key of the node's configuration.
        key: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is nothing to boot.
    #[error(
        "nothing to boot: there is no disk, and neither a kernel in the image's /boot/vmlinuz nor domain.firmware.kernelBoot"
    )]
    NoKernel,
    /// More than one initial RAM disk.
    #[error("the image has {0} files /boot/initrd*; leave one, or name it in domain.firmware.kernelBoot")]
    ManyInitrds(usize),
    /// A field of the spec that is right elsewhere but not here.
    #[error("{path}: {what}")]
    Field {
        /// The field.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Processors that this node can't give.
    #[error("{path}: {what}")]
    Cpu {
        /// The field.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The guest doesn't fit.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// `/dev/kvm` can't be used.
    #[error("/dev/kvm can't be opened; {}", kvm_hint(.0))]
    Kvm(#[source] io::Error),
    /// More files than one message carries.
    #[error("the machine needs more than {MAX_FILES} files")]
    ManyFiles,
}

pub use annotations::{Annotated, annotated};
pub use size::{SizeError, check_huge_pages};

/// Every guest's context id: it has the host's side of its vsock to itself, so that nobody else's matters.
const GUEST_CID: u64 = 3;

/// As many descriptors as cross the control socket at once.
const MAX_FILES: usize = vireo_vmm::control::message::MAX_FDS;

/// What to do about a `/dev/kvm` that doesn't open.
pub fn kvm_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "load the module kvm_intel or kvm_amd, and enable virtualization in the firmware",
        io::ErrorKind::PermissionDenied => "the user needs to be root or in the group kvm",
        _ => "see the kernel's log (dmesg) for what KVM says",
    }
}

/// Makes a machine of `source`.
///
/// # Errors
/// The first thing that stands in the way, by its path. Nothing is left behind.
pub fn translate(source: Source<'_>) -> Result<LaunchPlan, TranslateError> {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(TranslateError::Kvm)?;
    compose(source, kvm)
}

fn compose(source: Source<'_>, kvm: File) -> Result<LaunchPlan, TranslateError> {
    let files = match source.place {
        Place::Pod { rootfs, .. } => FileSource::Image(ImageRoot::open(rootfs).map_err(TranslateError::Image)?),
        Place::Local { folder, .. } => FileSource::Local(folder),
    };
    let jail = match source.place {
        Place::Pod { oci, .. } => pod_identity(oci),
        Place::Local { jail, .. } => jail,
    };
    let vsock = vsock(source.spec, &files)?;
    refuse_credentials(&source)?;
    let mut fds = Fds::default();
    let size = size::size(source.spec, &source.place)?;
    let (cpu, placement) = cpu::cpu(source.spec, &source.place, &files, (size.vcpus, &kvm))?;
    let kvm = fds.add(kvm)?;
    let identity = identity::identity(&source);
    let mut disks = disks::disks(&source, &files, (size.vcpus, Uuid::from_bytes(identity.uuid)), &mut fds)?;
    let root = match &disks[..] {
        [first, ..] if disks::is_partitioned(&fds, first) => boot::Root::Partition { readonly: first.readonly },
        [first, ..] => boot::Root::Whole { readonly: first.readonly },
        [] => boot::Root::None,
    };
    let boot = boot::boot(&source, &files, root, &disks, &mut fds)?;
    let nics = source.nics.into_iter().map(|nic| {
        let mut add = |files: Vec<File>| files.into_iter().map(|file| fds.add(file)).collect::<Result<_, _>>();
        let (taps, vhosts) = (add(nic.taps)?, add(nic.vhosts)?);
        let autoconf = nic.autoconf.map(|(socket, answers)| {
            Ok::<_, TranslateError>(AutoconfConfig { socket: fds.add(socket.into())?, answers })
        });
        let (link_up, mtu, autoconf) = (nic.link_up, nic.mtu, autoconf.transpose()?);
        Ok(NicConfig { vhosts, link_up, mtu, autoconf, ..NicConfig::new(nic.name, taps, nic.mac) })
    });
    let mut nics = nics.collect::<Result<Vec<_>, TranslateError>>()?;
    annotations::limit(source.limits, &mut disks, &mut nics)?;
    let machine = MachineConfig {
        name: source.name.to_owned(),
        kvm,
        vcpus: size.vcpus,
        cpu,
        memory: size.memory,
        console: boot.console,
        boot: boot.config,
        disks,
        nics,
        balloon: balloon(source.spec, size.memory),
        vsock,
        identity,
        // A machine that nobody described gets what every guest likes to have.
        rng: source.spec.is_none_or(|spec| spec.domain.devices.rng.is_some()),
    };
    // Validation allows no other strategy than Paused.
    let start_paused = source.spec.is_some_and(|spec| spec.start_strategy.is_some());
    Ok(LaunchPlan { machine, fds: fds.0, jail, start_paused, placement })
}

/// The credentials that the guest's agent is to set, of a machine that has been made of the same container.
///
/// # Errors
/// As [`translate`]'s.
pub fn agent_credentials(oci: &Spec) -> Result<Vec<Credential>, TranslateError> {
    let Some(spec) = annotated(oci)?.spec else { return Ok(Vec::new()) };
    let JailConfig { uid, gid } = pod_identity(oci);
    Ok(by_agent(&spec, oci, (uid, gid))?)
}

/// Secrets that can't be read are said before there is a machine; without a cluster there are none.
fn refuse_credentials(source: &Source<'_>) -> Result<(), TranslateError> {
    let Some(spec) = source.spec else { return Ok(()) };
    match source.place {
        Place::Pod { oci, .. } => {
            let JailConfig { uid, gid } = pod_identity(oci);
            by_agent(spec, oci, (uid, gid))?;
        }
        Place::Local { .. } if !spec.access_credentials.is_empty() => {
            let path = "spec.template.spec.accessCredentials".to_owned();
            let what = "vireo run has no cluster to take secrets from; cloudInitNoCloud's userData takes keys as well";
            return Err(TranslateError::Field { path, what });
        }
        Place::Local { .. } => {}
    }
    Ok(())
}

/// A socket device, where it is asked for. The host's side needs a folder that goes with the machine, which only a pod has.
fn vsock(
    spec: Option<&VirtualMachineInstanceSpec>,
    files: &FileSource<'_>,
) -> Result<Option<VsockConfig>, TranslateError> {
    let wanted = spec.and_then(|spec| spec.domain.devices.autoattach_vsock) == Some(true);
    if wanted && matches!(files, FileSource::Local(_)) {
        let path = files.field("domain.devices.autoattachVSOCK");
        return Err(TranslateError::Field { path, what: "vireo run has no place for its sockets; leave it out" });
    }
    Ok(wanted.then_some(VsockConfig { cid: GUEST_CID }))
}

/// As KubeVirt, unless it's told otherwise. Huge pages are never given back, so there it would be of no use.
fn balloon(spec: Option<&VirtualMachineInstanceSpec>, memory: MemoryConfig) -> bool {
    let wanted = spec.and_then(|spec| spec.domain.devices.autoattach_mem_balloon);
    wanted.unwrap_or(true) && memory.hugepages.is_none()
}

/// The pod's user and group. Root, which is also what an image that names nobody gives, is never what a VMM becomes.
fn pod_identity(oci: &Spec) -> JailConfig {
    let user = oci.process().as_ref().map(Process::user);
    let id = |id: Option<u32>| id.filter(|id| *id != 0).unwrap_or(DEFAULT_ID);
    JailConfig { uid: id(user.map(User::uid)), gid: id(user.map(User::gid)) }
}

/// Where files come from.
#[derive(Debug)]
enum FileSource<'a> {
    Image(ImageRoot),
    Local(&'a Path),
}

impl FileSource<'_> {
    /// The full path of a field of the instance's spec, in the object that the user wrote.
    fn field(&self, field: &str) -> String {
        match self {
            Self::Image(_) => format!("spec.{field}"),
            Self::Local(_) => format!("spec.template.spec.{field}"),
        }
    }
}

/// The files of a machine being composed.
#[derive(Debug, Default)]
struct Fds(Vec<OwnedFd>);

impl Fds {
    fn add(&mut self, file: File) -> Result<FdIndex, TranslateError> {
        let index = u16::try_from(self.0.len()).ok().filter(|index| usize::from(*index) < MAX_FILES);
        let index = index.ok_or(TranslateError::ManyFiles)?;
        self.0.push(file.into());
        Ok(FdIndex(index))
    }
}
