//! The machine's rate limits: those of the command line, else those that the manifest's template is annotated with.

use anyhow::{Context, Result, bail};
use vireo_runtimeclass::kubevirt::v1::VirtualMachine;
use vireo_runtimeclass::pod::{ANNOTATION_PREFIX, ANNOTATION_RATE_LIMITS};
use vireo_runtimeclass::{RateLimits, parse_rate_limits};

/// `option` is what the command line says.
pub(super) fn of(vm: &VirtualMachine, option: Option<&str>) -> Result<RateLimits> {
    let annotations = &vm.spec.template.metadata.annotations;
    let mut limits = RateLimits::default();
    for (name, value) in annotations.iter().filter(|(name, _)| name.starts_with(ANNOTATION_PREFIX)) {
        let path = || format!("spec.template.metadata.annotations.{name}");
        if name != ANNOTATION_RATE_LIMITS {
            bail!("{}: not supported by vireo run; {ANNOTATION_RATE_LIMITS} is", path());
        }
        limits = parse_rate_limits(value).with_context(path)?;
    }
    option.map_or(Ok(limits), |option| parse_rate_limits(option).context("--rate-limits"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn limits(annotations: &Value, option: Option<&str>) -> Result<RateLimits, String> {
        let vm = json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "spec": {"runStrategy": "Always", "template": {
                "metadata": {"annotations": annotations},
                "spec": {"domain": {"devices": {}}},
            }},
        });
        of(&vireo_runtimeclass::parse_virtual_machine(vm).unwrap(), option).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_command_line_goes_before_the_manifest() {
        let text = |name| format!(r#"{{"disks": {{"{name}": {{"operationsPerSecond": 5}}}}}}"#);
        let disks = |limits: Result<RateLimits, String>| limits.unwrap().disks.into_keys().collect::<Vec<_>>();
        let annotated = json!({"vireo.dev/rate-limits": text("a"), "other": "x"});
        assert_eq!(disks(limits(&json!({}), None)), [""; 0]);
        assert_eq!(disks(limits(&annotated, None)), ["a"]);
        assert_eq!(disks(limits(&annotated, Some(&text("b")))), ["b"]);
    }

    #[test]
    fn refusals() {
        let at = "spec.template.metadata.annotations.vireo.dev";
        let wrong = json!({"vireo.dev/rate-limits": r#"{"disk": {}}"#});
        assert_eq!(limits(&wrong, None).unwrap_err(), format!("{at}/rate-limits: disk: unknown field"));
        let unknown = limits(&json!({"vireo.dev/vmi": "{}"}), None).unwrap_err();
        assert_eq!(unknown, format!("{at}/vmi: not supported by vireo run; vireo.dev/rate-limits is"));
        assert_eq!(limits(&json!({}), Some(r#"{"disk": {}}"#)).unwrap_err(), "--rate-limits: disk: unknown field");
    }
}
