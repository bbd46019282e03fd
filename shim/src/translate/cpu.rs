//! The processors that a spec asks for, judged by what this node's KVM has.

use std::fs::File;

use oci_spec::runtime::LinuxCpu;
use vireo_runtimeclass::kubevirt::v1::{Cpu, VirtualMachineInstanceSpec};
use vireo_vmm::config::{CpuConfig, CpuFeature, CpuModel, FeaturePolicy, Topology, TopologyConfig};
use vireo_vmm::vcpu::cpuid;

use super::{FileSource, Place, TranslateError};
use crate::cpuset::Placement;

/// `kvm` is only asked where the spec names a model or features.
pub(super) fn cpu(
    spec: Option<&VirtualMachineInstanceSpec>,
    place: &Place<'_>,
    files: &FileSource<'_>,
    (vcpus, kvm): (u32, &File),
) -> Result<(CpuConfig, Option<Placement>), TranslateError> {
    let wrong = |field: &str, what: String| TranslateError::Cpu { path: files.field(field), what };
    let Some(domain) = spec.map(|spec| &spec.domain) else { return Ok((CpuConfig::default(), None)) };
    let hide_kvm = domain.features.and_then(|features| features.kvm?.hidden) == Some(true);
    let Some(cpu) = &domain.cpu else { return Ok((CpuConfig { hide_kvm, ..CpuConfig::default() }, None)) };
    let topology = cpu.layout().map(|[sockets, cores, threads]| TopologyConfig { sockets, cores, threads });
    if let Some(topology) = topology {
        Topology::new(topology).map_err(|problem| wrong("domain.cpu", problem.to_string()))?;
    }
    let (model, features) = (model(cpu), features(cpu));
    if matches!(model, CpuModel::Named(_)) || !features.is_empty() {
        match cpuid::check(kvm, &model, &features) {
            Ok(()) => {}
            Err(cpuid::Error::Select(error)) => return Err(wrong(&format!("domain.cpu.{}", error.path), error.what)),
            Err(error) => return Err(wrong("domain.cpu", format!("{:#}", anyhow::Error::from(error)))),
        }
    }
    let isolated = cpu.isolate_emulator_thread == Some(true);
    let placement = match cpu.dedicated_cpu_placement {
        Some(true) => {
            Some(own_cpus(place, vcpus, isolated).map_err(|what| wrong("domain.cpu.dedicatedCpuPlacement", what))?)
        }
        _ => None,
    };
    let pins = placement.as_ref().map(|placement| placement.vcpus.clone()).unwrap_or_default();
    Ok((CpuConfig { topology, model, features, hide_kvm, pins }, placement))
}

fn model(cpu: &Cpu) -> CpuModel {
    match cpu.model.as_deref() {
        None | Some("" | "host-model") => CpuModel::HostModel,
        Some("host-passthrough") => CpuModel::HostPassthrough,
        Some(name) => CpuModel::Named(name.to_owned()),
    }
}

fn features(cpu: &Cpu) -> Vec<CpuFeature> {
    let feature = |feature: &vireo_runtimeclass::kubevirt::v1::CpuFeature| {
        // Validation allows no others.
        let policy = match feature.policy.as_deref() {
            Some("force") => FeaturePolicy::Force,
            Some("optional") => FeaturePolicy::Optional,
            Some("disable") => FeaturePolicy::Disable,
            Some("forbid") => FeaturePolicy::Forbid,
            _ => FeaturePolicy::Require,
        };
        CpuFeature { name: feature.name.clone(), policy }
    };
    cpu.features.iter().map(feature).collect()
}

/// A CPU for each vCPU, of those that the kubelet's CPU manager has given to the container alone.
fn own_cpus(place: &Place<'_>, vcpus: u32, isolated: bool) -> Result<Placement, String> {
    let Place::Pod { oci, .. } = place else {
        return Err("not supported by vireo run, which is given no CPUs; leave it out".to_owned());
    };
    let resources = oci.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let cpus = resources.and_then(|resources| resources.cpu().as_ref()).and_then(|cpu| LinuxCpu::cpus(cpu).as_deref());
    Placement::new(cpus.unwrap_or_default(), usize::try_from(vcpus).unwrap_or(usize::MAX - 1), isolated)
}
