//! `kubevirt.io/v1`, as far as Vireo serves it: the types hold exactly the supported fields, [`fields`] also knows the
//! names of the others.

mod access_credentials;
mod cloud_init;
mod config_volumes;
mod cpu;
mod devices;
mod disks;
mod domain;
#[rustfmt::skip]
pub(crate) mod fields;
mod instance;
mod networks;
mod virtual_machine;
mod volume_source;
mod volumes;

pub use access_credentials::{
    AccessCredential, AgentUsers, CredentialSecret, CredentialSource, Propagation, SshPublicKeyCredential,
    SshPublicKeyPropagation, UserPasswordCredential, UserPasswordPropagation,
};
pub use cloud_init::{CloudInit, NoBase64};
pub use config_volumes::{
    ConfigMapVolume, DownwardApiFile, DownwardApiVolume, LocalReference, SecretVolume, ServiceAccountVolume,
    SysprepVolume,
};
pub use cpu::{Cpu, CpuFeature, FeatureApic, FeatureKvm, Features};
pub use devices::{Devices, Rng};
pub use disks::{BlockSize, CdromTarget, CustomBlockSize, Disk, DiskTarget, FeatureState};
pub use domain::{
    Bios, Bootloader, Chassis, DomainSpec, Efi, Firmware, Hugepages, KernelBoot, KernelBootContainer, Machine, Memory,
    ResourceRequirements,
};
pub use instance::VirtualMachineInstanceSpec;
pub use networks::{
    DEFAULT_CIDR, DEFAULT_IPV6_CIDR, DhcpOptions, DhcpPrivateOption, Interface, InterfaceBridge, InterfaceMasquerade,
    MultusNetwork, Network, PodNetwork, Port,
};
pub use virtual_machine::{ObjectMeta, VirtualMachine, VirtualMachineInstanceTemplateSpec, VirtualMachineSpec};
pub use volume_source::VolumeSource;
pub use volumes::{
    ClaimSource, ContainerDiskSource, DataVolumeSource, EmptyDiskSource, EphemeralSource, HostDisk, PullPolicy, Volume,
};
