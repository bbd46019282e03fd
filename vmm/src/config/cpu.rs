//! The machine's processors: how many of what, and which features they have.

use serde::{Deserialize, Serialize};

use super::check::{ConfigError, MAX_VCPUS, wrong};

/// The most features that a config may name.
pub const MAX_FEATURES: usize = 256;
/// The longest name of a model or feature, bytes.
const MAX_CPU_NAME: usize = 64;
/// The highest host CPU that a vCPU may be bound to: `CPU_SETSIZE` of libc bounds its sets.
const MAX_HOST_CPU: u16 = 1023;

/// What can be wrong with processors.
#[derive(Debug, thiserror::Error)]
pub enum CpuProblem {
    /// Counts out of range.
    #[error("{} sockets of {} cores of {} threads: each count is 1 to {MAX_VCPUS}", .0.sockets, .0.cores, .0.threads)]
    Topology(TopologyConfig),
    /// A layout whose APIC ids don't fit.
    #[error(
        "{} sockets of {} cores of {} threads: APIC ids go up to {highest}, and 254 is the highest there is; choose powers of two",
        .topology.sockets, .topology.cores, .topology.threads
    )]
    ApicIds {
        /// The layout.
        topology: TopologyConfig,
        /// Its highest APIC id.
        highest: u32,
    },
    /// A layout of other vCPUs than there are.
    #[error(
        "{} sockets of {} cores of {} threads are not {vcpus} vCPUs",
        .topology.sockets, .topology.cores, .topology.threads
    )]
    TopologyCount {
        /// The layout.
        topology: TopologyConfig,
        /// The vCPUs there are.
        vcpus: u8,
    },
    /// A name of a CPU model or feature that can't be one.
    #[error("{0:?} is no name of a CPU model or feature")]
    CpuName(String),
    /// Too many features.
    #[error("{0} features; at most {MAX_FEATURES} may be named")]
    Features(usize),
    /// Host CPUs, but not one for each vCPU.
    #[error("{pins} host CPUs for {vcpus} vCPUs; one for each is needed")]
    Pins {
        /// Host CPUs named.
        pins: usize,
        /// vCPUs there are.
        vcpus: u8,
    },
    /// A host CPU that can't be.
    #[error("{0} is another vCPU's host CPU already, or higher than any")]
    Pin(u16),
}

/// The processors as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CpuConfig {
    /// How the vCPUs are laid out; `None` is one socket of single-threaded cores.
    pub topology: Option<TopologyConfig>,
    /// What they are.
    pub model: CpuModel,
    /// Features that differ from the model's, in order.
    pub features: Vec<CpuFeature>,
    /// The guest can't tell that KVM runs it; it has no paravirtual clock then.
    pub hide_kvm: bool,
    /// The host CPU that each vCPU is bound to, by index; empty binds none.
    pub pins: Vec<u16>,
}

/// The layout of the vCPUs; the product is their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyConfig {
    /// Sockets.
    pub sockets: u32,
    /// Cores in a socket.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

/// What the vCPUs are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CpuModel {
    /// All that KVM offers on this host and another host can offer, too.
    #[default]
    HostModel,
    /// All that KVM offers on this host.
    HostPassthrough,
    /// A model that is the same on every host.
    Named(String),
}

/// One feature, and what is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuFeature {
    /// libvirt's name.
    pub name: String,
    /// What is to be done.
    pub policy: FeaturePolicy,
}

/// What is to be done about a feature (libvirt's policies).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FeaturePolicy {
    /// The guest is told that it is there, whether or not it is.
    Force,
    /// The machine needs it.
    Require,
    /// Offered if the host has it.
    Optional,
    /// Not offered.
    Disable,
    /// The machine doesn't run where the host has it.
    Forbid,
}

/// The processors, checked. Models and features are judged where the host's KVM is known, in [`crate::vcpu::cpuid`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuPlan {
    /// Their layout.
    pub topology: Topology,
    /// What they are.
    pub model: CpuModel,
    /// Features that differ from the model's.
    pub features: Vec<CpuFeature>,
    /// No trace of KVM.
    pub hide_kvm: bool,
    /// A host CPU for each vCPU, or none.
    pub pins: Vec<u16>,
}

/// A layout of 1 to [`MAX_VCPUS`] vCPUs whose APIC ids fit a byte.
///
/// An APIC id is socket, core and thread side by side, each in as many bits as its count takes (Intel SDM vol. 3A §9.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    sockets: u8,
    cores: u8,
    threads: u8,
}

impl Topology {
    /// One socket of `cores` single-threaded cores; at least one.
    pub const fn cores(cores: u8) -> Self {
        Self { sockets: 1, cores: if cores == 0 { 1 } else { cores }, threads: 1 }
    }

    /// A layout, if its counts are not 0 and its APIC ids fit.
    pub fn new(config: TopologyConfig) -> Result<Self, CpuProblem> {
        let TopologyConfig { sockets, cores, threads } = config;
        let byte = |count: u32| u8::try_from(count).ok().filter(|count| (1..=MAX_VCPUS).contains(count));
        let (Some(s), Some(c), Some(t)) = (byte(sockets), byte(cores), byte(threads)) else {
            return Err(CpuProblem::Topology(config));
        };
        let topology = Self { sockets: s, cores: c, threads: t };
        let highest = (sockets - 1) << topology.socket_shift() | (cores - 1) << topology.core_shift() | (threads - 1);
        if highest >= u32::from(u8::MAX) {
            return Err(CpuProblem::ApicIds { topology: config, highest });
        }
        Ok(topology)
    }

    /// How many vCPUs there are. Never more than there are APIC ids.
    pub fn vcpus(self) -> u8 {
        self.sockets.saturating_mul(self.cores).saturating_mul(self.threads)
    }

    /// vCPUs in a socket.
    pub fn per_socket(self) -> u32 {
        u32::from(self.cores) * u32::from(self.threads)
    }

    /// Threads in a core.
    pub fn threads(self) -> u32 {
        self.threads.into()
    }

    /// Cores in a socket.
    pub fn cores_per_socket(self) -> u32 {
        self.cores.into()
    }

    /// Bits of an APIC id below the core's.
    pub fn core_shift(self) -> u32 {
        bits(self.threads)
    }

    /// Bits of an APIC id below the socket's.
    pub fn socket_shift(self) -> u32 {
        bits(self.threads) + bits(self.cores)
    }

    /// Where vCPU `index` sits: its socket, core and thread.
    pub fn place(self, index: u8) -> (u8, u8, u8) {
        (index / self.threads / self.cores, index / self.threads % self.cores, index % self.threads)
    }

    /// The APIC id of vCPU `index`.
    pub fn apic_id(self, index: u8) -> u8 {
        let (socket, core, thread) = self.place(index);
        let id = u32::from(socket) << self.socket_shift() | u32::from(core) << self.core_shift() | u32::from(thread);
        // The highest has been checked.
        u8::try_from(id).unwrap_or(u8::MAX)
    }
}

/// Bits that ids of `count` things take.
fn bits(count: u8) -> u32 {
    u32::from(count).next_power_of_two().trailing_zeros()
}

fn at(path: impl Into<String>, problem: CpuProblem) -> ConfigError {
    wrong(path, problem.into())
}

pub(super) fn check(cpu: CpuConfig, vcpus: u8) -> Result<CpuPlan, ConfigError> {
    let CpuConfig { topology, model, features, hide_kvm, pins } = cpu;
    let topology = match topology {
        None => Topology::cores(vcpus),
        Some(config) => {
            let topology = Topology::new(config).map_err(|problem| at("cpu.topology", problem))?;
            if topology.vcpus() != vcpus {
                return Err(at("cpu.topology", CpuProblem::TopologyCount { topology: config, vcpus }));
            }
            topology
        }
    };
    if let CpuModel::Named(name) = &model {
        check_name("cpu.model", name)?;
    }
    if features.len() > MAX_FEATURES {
        return Err(at("cpu.features", CpuProblem::Features(features.len())));
    }
    for (i, feature) in features.iter().enumerate() {
        check_name(&format!("cpu.features[{i}].name"), &feature.name)?;
    }
    if !pins.is_empty() && pins.len() != usize::from(vcpus) {
        return Err(at("cpu.pins", CpuProblem::Pins { pins: pins.len(), vcpus }));
    }
    for (i, pin) in pins.iter().enumerate() {
        if *pin > MAX_HOST_CPU || pins[..i].contains(pin) {
            return Err(at(format!("cpu.pins[{i}]"), CpuProblem::Pin(*pin)));
        }
    }
    Ok(CpuPlan { topology, model, features, hide_kvm, pins })
}

fn check_name(path: &str, name: &str) -> Result<(), ConfigError> {
    if name.is_empty() || name.len() > MAX_CPU_NAME || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(at(path, CpuProblem::CpuName(name.chars().take(MAX_CPU_NAME).collect())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(sockets: u32, cores: u32, threads: u32) -> Result<Topology, CpuProblem> {
        Topology::new(TopologyConfig { sockets, cores, threads })
    }

    #[test]
    fn apic_ids_leave_room_for_powers_of_two() {
        let ids = |topology: Topology| (0..topology.vcpus()).map(|i| topology.apic_id(i)).collect::<Vec<_>>();
        assert_eq!(ids(Topology::cores(4)), [0, 1, 2, 3]);
        assert_eq!(ids(topology(2, 3, 2).unwrap()), [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
        assert_eq!(ids(topology(3, 1, 1).unwrap()), [0, 1, 2]);
        assert_eq!(topology(2, 3, 2).unwrap().place(7), (1, 0, 1));
        assert_eq!(ids(Topology::cores(254)).last(), Some(&253));
    }

    #[test]
    fn layouts_that_can_t_be_numbered_are_refused() {
        assert!(topology(63, 3, 1).is_ok());
        assert!(matches!(topology(65, 3, 1), Err(CpuProblem::ApicIds { highest: 258, .. })));
        for (sockets, cores, threads) in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 255, 1), (u32::MAX, 1, 1)] {
            assert!(matches!(topology(sockets, cores, threads), Err(CpuProblem::Topology(_))));
        }
        assert!(matches!(topology(254, 254, 254), Err(CpuProblem::ApicIds { .. })));
    }

    #[test]
    fn each_wrong_value_is_named() {
        let text = |change: fn(&mut CpuConfig)| {
            let mut cpu = CpuConfig::default();
            change(&mut cpu);
            check(cpu, 2).map_or_else(|error| error.to_string(), |_| "fine".to_owned())
        };
        assert_eq!(text(|_| ()), "fine");
        assert_eq!(
            text(|cpu| cpu.topology = Some(TopologyConfig { sockets: 1, cores: 3, threads: 1 })),
            "cpu.topology: 1 sockets of 3 cores of 1 threads are not 2 vCPUs"
        );
        assert_eq!(text(|cpu| cpu.pins = vec![3]), "cpu.pins: 1 host CPUs for 2 vCPUs; one for each is needed");
        assert!(text(|cpu| cpu.pins = vec![3, 3]).starts_with("cpu.pins[1]: 3 "));
        assert!(text(|cpu| cpu.model = CpuModel::Named("a\nb".into())).starts_with("cpu.model: "));
        assert!(
            text(|cpu| {
                cpu.features = vec![CpuFeature { name: String::new(), policy: FeaturePolicy::Force }];
            })
            .starts_with("cpu.features[0].name: ")
        );
    }
}
