//! The processors that a spec asks for, judged by what this node's KVM has.

use std::fs::File;

use oci_spec::runtime::LinuxCpu;
use vireo_runtimeclass::kubevirt::v1::{Cpu, VirtualMachineInstanceSpec};
use vireo_vmm::config::{CpuConfig, CpuFeature, CpuModel, FeaturePolicy, Topology, TopologyConfig};
use vireo_vmm::vcpu::cpuid;

use super::{FileSource, Place, TranslateError};

/// CPUs of a list are numbered below this.
const MAX_HOST_CPUS: u16 = 1024;

/// `kvm` is only asked where the spec names a model or features.
pub(super) fn cpu(
    spec: Option<&VirtualMachineInstanceSpec>,
    place: &Place<'_>,
    files: &FileSource<'_>,
    (vcpus, kvm): (u32, &File),
) -> Result<CpuConfig, TranslateError> {
    let wrong = |field: &str, what: String| TranslateError::Cpu { path: files.field(field), what };
    let Some(domain) = spec.map(|spec| &spec.domain) else { return Ok(CpuConfig::default()) };
    let hide_kvm = domain.features.and_then(|features| features.kvm?.hidden) == Some(true);
    let Some(cpu) = &domain.cpu else { return Ok(CpuConfig { hide_kvm, ..CpuConfig::default() }) };
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
    let pins = match cpu.dedicated_cpu_placement {
        Some(true) => own_cpus(place, vcpus).map_err(|what| wrong("domain.cpu.dedicatedCpuPlacement", what))?,
        _ => Vec::new(),
    };
    Ok(CpuConfig { topology, model, features, hide_kvm, pins })
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
fn own_cpus(place: &Place<'_>, vcpus: u32) -> Result<Vec<u16>, String> {
    let Place::Pod { oci, .. } = place else {
        return Err("not supported by vireo run, which is given no CPUs; leave it out".to_owned());
    };
    let resources = oci.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let cpus = resources.and_then(|resources| resources.cpu().as_ref()).and_then(|cpu| LinuxCpu::cpus(cpu).as_deref());
    let mut list =
        parse_list(cpus.unwrap_or_default()).ok_or_else(|| format!("the container's CPU list is {cpus:?}"))?;
    let wanted = usize::try_from(vcpus).unwrap_or(usize::MAX);
    if list.len() < wanted {
        return Err(format!(
            "the container has {} CPUs of its own for {vcpus} vCPUs; it takes a node whose kubelet has cpuManagerPolicy static, and \
             equal CPU requests and limits of at least {vcpus}",
            list.len()
        ));
    }
    list.truncate(wanted);
    Ok(list)
}

/// `0-3,8` (Linux, cpuset(7), "List format").
fn parse_list(text: &str) -> Option<Vec<u16>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MAX_HOST_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_list("0-2,8\n"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse_list("5,3,3-5"), Some(vec![3, 4, 5]));
        assert_eq!(parse_list(""), Some(vec![]));
        for wrong in ["a", "3-1", "0-4294967295", "-1", "1024"] {
            assert_eq!(parse_list(wrong), None, "{wrong}");
        }
    }
}
