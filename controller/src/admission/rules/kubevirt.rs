//! Rules on the cluster's configuration.

use jiff::SignedDuration;
use rustls::crypto::aws_lc_rs;
use vireo_runtimeclass::cluster::{
    ComponentConfig, DefaultInterface, KubeVirtConfiguration, KubeVirtSpec, MigrationConfiguration, TlsVersion,
};

use super::names::{label_value, labels};
use super::scheduling::tolerations;
use super::selectors::{affinity, label_selector};
use crate::admission::verdict::Found;
use crate::certificates::Lifetimes;

const CONFIGURATION: &str = "spec.configuration";
/// How long a guest may stand still while it moves, milliseconds.
const DOWNTIME: std::ops::RangeInclusive<u32> = 1..=2_000_000;
/// Feature gates that open something here. KubeVirt's others are warned of: what they are for is there anyway, or not at all.
const GATES: [&str; 3] = ["HostDisk", "ObjectGraph", "VSOCK"];

pub(crate) fn kubevirt(spec: &KubeVirtSpec, found: &mut Found) {
    if let Some(configuration) = &spec.configuration {
        self::configuration(configuration, found);
    }
    for (field, component) in [("infra", &spec.infra), ("workloads", &spec.workloads)] {
        if let Some(component) = component {
            placement(component, &format!("spec.{field}"), found);
        }
    }
    if spec.infra.as_ref().is_some_and(|infra| infra.replicas == Some(0)) {
        found.refuse("spec.infra.replicas", "0; at least 1 is needed");
    }
    for (field, label) in [
        ("productName", &spec.product_name),
        ("productVersion", &spec.product_version),
        ("productComponent", &spec.product_component),
    ] {
        found.refuse_if(format_args!("spec.{field}"), label.as_deref().and_then(label_value));
    }
    let update = spec.workload_update_strategy.as_ref();
    if let Some(interval) = update.and_then(|update| update.batch_eviction_interval.as_deref())
        && !interval.parse::<SignedDuration>().is_ok_and(|interval| interval.is_positive())
    {
        let what = format!("{interval:?} is no duration above zero, such as 1m30s");
        found.refuse("spec.workloadUpdateStrategy.batchEvictionInterval", what);
    }
    // It names the field and what is wrong with it.
    if let Err(error) = Lifetimes::of(spec.certificate_rotate_strategy.as_ref()) {
        let error = error.to_string();
        let (path, what) = error.split_once(": ").unwrap_or(("spec.certificateRotateStrategy", &error));
        found.refuse(path, what);
    }
}

fn configuration(configuration: &KubeVirtConfiguration, found: &mut Found) {
    if let Some(tls) = &configuration.tls_configuration
        && !tls.ciphers.is_empty()
    {
        let path = format!("{CONFIGURATION}.tlsConfiguration.ciphers");
        if tls.min_tls_version != Some(TlsVersion::Tls12) {
            found.refuse(&path, "only with minTLSVersion VersionTLS12: those of TLS 1.3 can't be chosen");
        }
        let suites = aws_lc_rs::default_provider().cipher_suites.into_iter().filter(|suite| suite.tls13().is_none());
        let known: Vec<&str> = suites.filter_map(|suite| suite.suite().as_str()).collect();
        for (index, cipher) in tls.ciphers.iter().enumerate() {
            if !known.contains(&cipher.as_str()) {
                let what = format!("{cipher:?} is not supported by vireo; {} are", known.join(", "));
                found.refuse(format_args!("{path}[{index}]"), what);
            }
        }
    }
    if let Some(developer) = &configuration.developer_configuration {
        let path = format!("{CONFIGURATION}.developerConfiguration");
        for (index, gate) in developer.feature_gates.iter().enumerate() {
            if developer.disabled_feature_gates.contains(gate) {
                found.refuse(
                    format_args!("{path}.featureGates[{index}]"),
                    format!("{gate} is in disabledFeatureGates too"),
                );
            } else if !GATES.contains(&gate.as_str()) {
                found.warn(format!("{path}.featureGates[{index}]: {gate} does nothing in vireo"));
            }
        }
        if developer.cpu_allocation_ratio == Some(0) {
            found.refuse(format_args!("{path}.cpuAllocationRatio"), "0; at least 1 is needed");
        }
        if developer.memory_overcommit.is_some_and(|percent| percent < 1) {
            found.refuse(format_args!("{path}.memoryOvercommit"), "0; at least 1 is needed");
        }
        labels(&developer.node_selectors, &format!("{path}.nodeSelectors"), found);
    }
    if let Some(network) = &configuration.network
        && network.default_network_interface == Some(DefaultInterface::Bridge)
        && network.permit_bridge_interface_on_pod_network == Some(false)
    {
        let what = "bridge isn't permitted: permitBridgeInterfaceOnPodNetwork is false";
        found.refuse(format_args!("{CONFIGURATION}.network.defaultNetworkInterface"), what);
    }
    if let Some(selector) = configuration.ksm_configuration.as_ref().and_then(|ksm| ksm.node_label_selector.as_ref()) {
        label_selector(selector, &format!("{CONFIGURATION}.ksmConfiguration.nodeLabelSelector"), found);
    }
    if let Some(migrations) = &configuration.migrations {
        self::migrations(migrations, found);
    }
    if let Some(devices) = &configuration.permitted_host_devices {
        let path = format!("{CONFIGURATION}.permittedHostDevices.pciHostDevices");
        for (index, device) in devices.pci_host_devices.iter().enumerate() {
            let is_id = |text: &str| text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !device.pci_vendor_selector.split_once(':').is_some_and(|(vendor, id)| is_id(vendor) && is_id(id)) {
                let what = format!("{:?} is not vendor:device, such as 10DE:1EB8", device.pci_vendor_selector);
                found.refuse(format_args!("{path}[{index}].pciVendorSelector"), what);
            }
        }
    }
}

fn migrations(migrations: &MigrationConfiguration, found: &mut Found) {
    let path = format!("{CONFIGURATION}.migrations");
    for (field, count) in [
        ("parallelMigrationsPerCluster", migrations.parallel_migrations_per_cluster),
        ("parallelOutboundMigrationsPerNode", migrations.parallel_outbound_migrations_per_node),
    ] {
        if count == Some(0) {
            found.refuse(format_args!("{path}.{field}"), "0; at least 1 is needed");
        }
    }
    downtime(migrations.max_downtime_ms, &path, found);
}

/// How long a guest may stand still.
pub(crate) fn downtime(milliseconds: Option<u32>, path: &str, found: &mut Found) {
    if let Some(wrong) = milliseconds.filter(|time| !DOWNTIME.contains(time)) {
        let what = format!("{wrong} is not within {} to {} milliseconds", DOWNTIME.start(), DOWNTIME.end());
        found.refuse(format_args!("{path}.maxDowntimeMs"), what);
    }
}

fn placement(component: &ComponentConfig, path: &str, found: &mut Found) {
    let Some(placement) = &component.node_placement else { return };
    let path = format!("{path}.nodePlacement");
    labels(&placement.node_selector, &format!("{path}.nodeSelector"), found);
    tolerations(&placement.tolerations, &format!("{path}.tolerations"), found);
    if let Some(one) = &placement.affinity {
        affinity(one, &format!("{path}.affinity"), found);
    }
}
