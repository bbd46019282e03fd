//! What a guest asks for.
//!
//! A guest with an instancetype is as large as its instance, which has the whole size written out; without an instance it
//! isn't known here how large it will be, and nothing is said.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use vireo_runtimeclass::Quantity;
use vireo_runtimeclass::cluster::{VirtualMachine, VirtualMachineInstance};
use vireo_runtimeclass::kubevirt::v1::DomainSpec;

use super::super::sample::{Labels, Value};
use super::{Name, name};

/// One amount.
pub(super) struct Amount {
    resource: &'static str,
    unit: &'static str,
    /// Whose word it is; none for limits.
    source: &'static str,
    value: Value,
}

impl Amount {
    pub(super) fn of<'a>(&self, labels: &Labels<'a>) -> (Labels<'a>, Value) {
        (labels.and([("resource", self.resource), ("unit", self.unit), ("source", self.source)]), self.value)
    }
}

/// A guest's size, as far as a domain says it.
pub(super) struct Size(DomainSpec);

/// The size of a guest, where it is known.
pub(super) fn of(vm: &VirtualMachine, instances: &HashMap<Name<'_>, &VirtualMachineInstance>) -> Option<Size> {
    let spec = vm.unread.value();
    if spec.get("instancetype").is_none_or(Json::is_null) {
        return Some(Size::read(spec.pointer("/template/spec/domain")?));
    }
    let instance = instances.get(&name(&vm.metadata))?;
    Some(Size::read(instance.unread.value().get("domain")?))
}

impl Size {
    /// What can't be read says nothing.
    fn read(domain: &Json) -> Self {
        fn part<T: DeserializeOwned + Default>(domain: &Json, name: &str) -> T {
            domain.get(name).and_then(|part| T::deserialize(part).ok()).unwrap_or_default()
        }
        Self(DomainSpec {
            cpu: part(domain, "cpu"),
            memory: part(domain, "memory"),
            resources: part(domain, "resources"),
            ..DomainSpec::default()
        })
    }

    /// What it requests, in each of the ways in which that can be said, and what comes of them.
    pub(super) fn requests(&self) -> impl Iterator<Item = Amount> {
        let Self(domain) = self;
        let mut amounts = Vec::new();
        let mut bytes = |source, bytes: u64| {
            if bytes > 0 {
                amounts.push(Amount { resource: "memory", unit: "bytes", source, value: bytes.into() });
            }
        };
        bytes("domain", domain.resources.requests.get("memory").map_or(0, Quantity::value));
        if let Some(memory) = &domain.memory {
            bytes("guest", memory.guest.as_ref().map_or(0, Quantity::value));
            let page = memory.hugepages.as_ref().and_then(|pages| pages.page_size.parse::<Quantity>().ok());
            bytes("hugepages", page.as_ref().map_or(0, Quantity::value));
        }
        bytes("guest_effective", domain.guest_memory().unwrap_or(0));
        let mut processors = |unit, source, value| amounts.push(Amount { resource: "cpu", unit, source, value });
        let requested = domain.resources.requests.get("cpu").filter(|requested| !requested.is_zero());
        if let Some(requested) = requested {
            processors("cores", "requests", cores(requested));
        }
        match &domain.cpu {
            Some(cpu) => {
                for (unit, count) in [("cores", cpu.cores), ("threads", cpu.threads), ("sockets", cpu.sockets)] {
                    if let Some(count) = count.filter(|count| *count > 0) {
                        processors(unit, "domain", Value::Whole(count.into()));
                    }
                }
            }
            None if requested.is_none() => {
                for unit in ["cores", "threads", "sockets"] {
                    processors(unit, "default", Value::Whole(1));
                }
            }
            None => {}
        }
        processors("cores", "guest_effective", domain.vcpus().unwrap_or(1).into());
        amounts.into_iter()
    }

    /// What it is limited to, where it is.
    pub(super) fn limits(&self) -> impl Iterator<Item = Amount> {
        let limits = &self.0.resources.limits;
        let of = |name| limits.get(name).filter(|limit: &&Quantity| !limit.is_zero());
        let memory = of("memory").map(|limit| ("memory", "bytes", limit.value().into()));
        let processors = of("cpu").map(|limit| ("cpu", "cores", cores(limit)));
        let amounts = [memory, processors].into_iter().flatten();
        amounts.map(|(resource, unit, value)| Amount { resource, unit, source: "", value })
    }
}

/// Cores, of which there may be parts.
fn cores(amount: &Quantity) -> Value {
    // No cluster has so many that a part of one would be lost.
    u32::try_from(amount.milli()).map_or_else(|_| amount.value().into(), |milli| Value::Real(f64::from(milli) / 1000.0))
}
