//! What a pod asks of its node. The guest's size is in its spec; what else its node spends on a pod the RuntimeClass' overhead
//! says. A container's memory limit also has to hold the VMM ([`memory_reserve`]), which the user's limit, the guest's, doesn't.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use vireo_runtimeclass::cluster::KubeVirtConfiguration;
use vireo_runtimeclass::kubevirt::v1::DomainSpec;
use vireo_runtimeclass::pod::{DEFAULT_MEMORY, memory_reserve};
use vireo_runtimeclass::validate::huge_page_size;

/// vCPUs for each CPU that a pod asks for (KubeVirt's default).
const CPU_RATIO: u32 = 10;

pub(super) fn resources(domain: &DomainSpec, configuration: &KubeVirtConfiguration) -> ResourceRequirements {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    cpu(domain, configuration, (&mut requests, &mut limits));
    memory(domain, configuration, (&mut requests, &mut limits));
    let limits = (!limits.is_empty()).then_some(limits);
    ResourceRequirements { requests: Some(requests), limits, claims: None }
}

type Amounts = BTreeMap<String, Quantity>;

fn is_dedicated(domain: &DomainSpec) -> bool {
    domain.cpu.as_ref().and_then(|cpu| cpu.dedicated_cpu_placement) == Some(true)
}

fn cpu(domain: &DomainSpec, configuration: &KubeVirtConfiguration, (requests, limits): (&mut Amounts, &mut Amounts)) {
    let put = |amounts: &mut Amounts, milli: u64| drop(amounts.insert("cpu".to_owned(), cpus(milli)));
    let vcpus = domain.vcpus().unwrap_or(1).max(1);
    if is_dedicated(domain) {
        let isolated = domain.cpu.as_ref().and_then(|cpu| cpu.isolate_emulator_thread) == Some(true);
        let milli = vcpus.saturating_add(isolated.into()).saturating_mul(1000);
        put(requests, milli);
        put(limits, milli);
        return;
    }
    let ratio = configuration.developer_configuration.as_ref().and_then(|switches| switches.cpu_allocation_ratio);
    let ratio = u64::from(ratio.filter(|ratio| *ratio > 0).unwrap_or(CPU_RATIO));
    let given = domain.resources.requests.get("cpu").filter(|cpu| !cpu.is_zero());
    put(requests, given.map_or(vcpus.saturating_mul(1000).div_ceil(ratio), vireo_runtimeclass::Quantity::milli));
    if let Some(limit) = domain.resources.limits.get("cpu").filter(|cpu| !cpu.is_zero()) {
        put(limits, limit.milli());
    }
}

fn memory(
    domain: &DomainSpec,
    configuration: &KubeVirtConfiguration,
    (requests, limits): (&mut Amounts, &mut Amounts),
) {
    let resources = &domain.resources;
    let given = |amounts: &BTreeMap<String, vireo_runtimeclass::Quantity>| {
        amounts.get("memory").filter(|memory| !memory.is_zero()).map(vireo_runtimeclass::Quantity::value)
    };
    let (request, limit) = (given(&resources.requests), given(&resources.limits));
    let guest = domain.guest_memory().unwrap_or(DEFAULT_MEMORY);
    let hugepages = domain.memory.as_ref().and_then(|memory| memory.hugepages.as_ref());
    let hugepages = hugepages.and_then(|pages| huge_page_size(&pages.page_size));
    let dedicated = is_dedicated(domain);
    let whole = dedicated || hugepages.is_some();
    let request = request.or(limit).unwrap_or_else(|| if whole { guest } else { overcommitted(guest, configuration) });
    // A pod with CPUs of its own is Guaranteed: its limits are what it requests.
    let limit = if dedicated { Some(request.max(guest)) } else { limit };
    let request = if dedicated { request.max(guest) } else { request };
    let reserve = memory_reserve(guest);
    let put = |amounts: &mut Amounts, name: &str, bytes: u64| drop(amounts.insert(name.to_owned(), amount(bytes)));
    if let Some(page_size) = hugepages {
        let name = if page_size == 1 << 30 { "hugepages-1Gi" } else { "hugepages-2Mi" };
        put(requests, name, guest);
        put(limits, name, guest);
        put(requests, "memory", request.saturating_sub(guest).saturating_add(reserve));
        if let Some(limit) = limit {
            put(limits, "memory", limit.saturating_sub(guest).saturating_add(reserve));
        }
        return;
    }
    match limit {
        None => put(requests, "memory", request),
        Some(limit) => {
            put(requests, "memory", request.saturating_add(reserve));
            put(limits, "memory", limit.saturating_add(reserve));
        }
    }
}

/// What a pod asks for instead of its guest's memory, by `memoryOvercommit`.
fn overcommitted(guest: u64, configuration: &KubeVirtConfiguration) -> u64 {
    let percent = configuration.developer_configuration.as_ref().and_then(|switches| switches.memory_overcommit);
    match percent.filter(|percent| *percent > 0) {
        None | Some(100) => guest,
        Some(percent) => u64::try_from(u128::from(guest) * 100 / u128::from(percent)).unwrap_or(guest),
    }
}

fn cpus(milli: u64) -> Quantity {
    Quantity(if milli.is_multiple_of(1000) { (milli / 1000).to_string() } else { format!("{milli}m") })
}

fn amount(bytes: u64) -> Quantity {
    const MIB: u64 = 1 << 20;
    Quantity(if bytes.is_multiple_of(MIB) { format!("{}Mi", bytes / MIB) } else { bytes.to_string() })
}
