//! What a pod's annotations say of its machine.

use oci_spec::runtime::{Mount, Process, Spec};
use vireo_runtimeclass::kubevirt::v1::VirtualMachineInstanceSpec;
use vireo_runtimeclass::machine_service::token::Key;
use vireo_runtimeclass::pod::{
    ANNOTATION_CLAIMS, ANNOTATION_CONTROLLER_KEY, ANNOTATION_PREFIX, ANNOTATION_RATE_LIMITS, ANNOTATION_VMI, DESCRIBED,
    PRIVATE_DIR,
};
use vireo_runtimeclass::rate_limits::RateLimit as Wanted;
use vireo_runtimeclass::{Claims, Quantity, RateLimits, parse_claims, parse_rate_limits, parse_vmi};
use vireo_vmm::config::{DiskConfig, NicConfig, Rate, RateLimit};

use super::TranslateError;

/// The annotations that Vireo reads.
#[derive(Debug, Default)]
pub struct Annotated {
    /// [`ANNOTATION_VMI`].
    pub spec: Option<VirtualMachineInstanceSpec>,
    /// [`ANNOTATION_RATE_LIMITS`].
    pub limits: RateLimits,
    /// [`ANNOTATION_CLAIMS`].
    pub claims: Claims,
}

/// Reads a container's annotations.
///
/// # Errors
/// The first that can't be read, any that nobody reads although its name says that it is for Vireo, and a spec that has not come
/// although the container tells of one.
pub fn annotated(oci: &Spec) -> Result<Annotated, TranslateError> {
    let mut annotated = Annotated::default();
    for (name, value) in oci.annotations().iter().flatten() {
        let refused = |source| TranslateError::Annotation { name: name.clone(), source };
        match name.as_str() {
            ANNOTATION_VMI => annotated.spec = Some(parse_vmi(value).map_err(refused)?),
            ANNOTATION_RATE_LIMITS => annotated.limits = parse_rate_limits(value).map_err(refused)?,
            ANNOTATION_CLAIMS => annotated.claims = parse_claims(value).map_err(refused)?,
            // Whoever answers for the machine reads it again; here it is only looked at.
            ANNOTATION_CONTROLLER_KEY => {
                Key::parse(value).map_err(|source| TranslateError::ControllerKey { name: name.clone(), source })?;
            }
            other if other.starts_with(ANNOTATION_PREFIX) => {
                return Err(TranslateError::UnknownAnnotation(other.to_owned()));
            }
            _ => {}
        }
    }
    match (&annotated.spec, told_of(oci)) {
        (None, Some(sign)) => Err(TranslateError::NotHandedOn(sign)),
        _ => Ok(annotated),
    }
}

/// What of a container says that its machine is described: containerd hands annotations on only where it is told to, and a
/// machine made without them would be another one.
fn told_of(oci: &Spec) -> Option<String> {
    let marker = format!("{}={}", DESCRIBED.0, DESCRIBED.1);
    let environment = oci.process().as_ref().map(Process::env).and_then(Option::as_ref);
    if environment.is_some_and(|variables| variables.contains(&marker)) {
        return Some(format!("has {marker}"));
    }
    let mut places = oci.mounts().iter().flatten().map(Mount::destination);
    places.find(|place| place.starts_with(PRIVATE_DIR)).map(|place| format!("mounts {}", place.display()))
}

/// Puts devices under their limits, each of which has to have one of that name.
pub(super) fn limit(
    limits: &RateLimits,
    disks: &mut [DiskConfig],
    nics: &mut [NicConfig],
) -> Result<(), TranslateError> {
    let nameless = |kind: &'static str, name: &String| TranslateError::LimitOfNothing { kind, name: name.clone() };
    for (name, limit) in &limits.disks {
        let disk = disks.iter_mut().find(|disk| disk.name == *name);
        disk.ok_or_else(|| nameless("disks", name))?.limit = rate_limit(limit);
    }
    for (name, sides) in &limits.interfaces {
        let nic = nics.iter_mut().find(|nic| nic.name == *name).ok_or_else(|| nameless("interfaces", name))?;
        nic.receive_limit = sides.receive.as_ref().map(rate_limit).unwrap_or_default();
        nic.transmit_limit = sides.transmit.as_ref().map(rate_limit).unwrap_or_default();
    }
    Ok(())
}

fn rate_limit(wanted: &Wanted) -> RateLimit {
    RateLimit {
        bytes: rate(wanted.bytes_per_second.as_ref(), wanted.burst_bytes.as_ref()),
        operations: rate(wanted.operations_per_second.as_ref(), wanted.burst_operations.as_ref()),
    }
}

fn rate(per_second: Option<&Quantity>, burst: Option<&Quantity>) -> Option<Rate> {
    let rate = Rate::new(per_second?.value());
    Some(Rate { burst: burst.map_or(rate.burst, Quantity::value), ..rate })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use vireo_vmm::config::FdIndex;

    use super::*;
    use crate::translate::tests::chain;

    fn read(annotations: &Value) -> Result<Annotated, String> {
        let oci = json!({"ociVersion": "1.1.0", "annotations": annotations});
        annotated(&serde_json::from_value(oci).unwrap()).map_err(|error| chain(&error))
    }

    #[test]
    fn the_spec() {
        assert!(read(&json!({})).unwrap().spec.is_none());
        let spec = read(&json!({"vireo.dev/vmi": r#"{"domain": {"devices": {}}}"#, "other/vmi": "{"})).unwrap().spec;
        assert!(spec.is_some());
        let refused = read(&json!({"vireo.dev/vmi": r#"{"domain": {"devices": {"sound": {}}}}"#}));
        let expected = "annotation vireo.dev/vmi: spec.domain.devices.sound: not supported by vireo";
        assert_eq!(refused.unwrap_err(), expected);
        let malformed = read(&json!({"vireo.dev/vmi": "{"})).unwrap_err();
        assert!(malformed.starts_with("annotation vireo.dev/vmi: not valid JSON: EOF"), "{malformed}");
    }

    #[test]
    fn a_container_that_tells_of_a_spec_has_one() {
        let read = |annotations: &Value, oci: &Value| {
            let mut oci = oci.clone();
            oci["ociVersion"] = "1.1.0".into();
            oci["annotations"] = annotations.clone();
            annotated(&serde_json::from_value(oci).unwrap()).map_err(|error| chain(&error))
        };
        let marked =
            json!({"process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["A=b", "VIREO_VMI=annotation"]}});
        let mounts =
            json!({"mounts": [{"destination": "/etc/hosts"}, {"destination": "/var/run/kubevirt-private/secret/s"}]});
        for (oci, sign) in
            [(&marked, "has VIREO_VMI=annotation"), (&mounts, "mounts /var/run/kubevirt-private/secret/s")]
        {
            read(&json!({"vireo.dev/vmi": r#"{"domain": {"devices": {}}}"#}), oci).unwrap();
            let refused = read(&json!({}), oci).unwrap_err();
            let expected =
                format!("annotation vireo.dev/vmi has not reached this node's runtime, though the container {sign}");
            assert!(
                refused.starts_with(&expected) && refused.ends_with("run node-setup/install.sh on the node"),
                "{refused}"
            );
        }
        read(&json!({}), &json!({"mounts": [{"destination": "/var/run/kubevirt-privately"}]})).unwrap();
    }

    #[test]
    fn one_that_nobody_reads_is_refused() {
        let refused = read(&json!({"vireo.dev/rate-limit": "{}"})).unwrap_err();
        let expected = "annotation vireo.dev/rate-limit: unknown; vireo.dev/vmi, rate-limits, claims and controller-key are supported";
        assert_eq!(refused, expected);
    }

    #[test]
    fn a_controllers_key_is_one() {
        read(&json!({"vireo.dev/controller-key": "iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="})).unwrap();
        let refused = read(&json!({"vireo.dev/controller-key": "iojj"})).unwrap_err();
        assert!(refused.starts_with("annotation vireo.dev/controller-key: not an Ed25519 public key"), "{refused}");
    }

    #[test]
    fn limits_find_their_devices() {
        let limits = r#"{"disks": {"root": {"bytesPerSecond": "1Mi", "operationsPerSecond": 50, "burstOperations": 7}},
            "interfaces": {"default": {"receive": {"operationsPerSecond": 3}}}}"#;
        let limits = read(&json!({"vireo.dev/rate-limits": limits})).unwrap().limits;
        let mut disks = ["data", "root"].map(|name| DiskConfig::new(name, FdIndex(0)));
        let mut nics = [NicConfig::new("default", Vec::new(), [2; 6])];
        limit(&limits, &mut disks, &mut nics).unwrap();
        let bytes = Rate { per_second: 1 << 20, burst: (1 << 20) / 10 };
        let expected = RateLimit { bytes: Some(bytes), operations: Some(Rate { per_second: 50, burst: 7 }) };
        assert_eq!((disks[0].limit, disks[1].limit), (RateLimit::default(), expected));
        let slow = RateLimit { bytes: None, operations: Some(Rate { per_second: 3, burst: 1 }) };
        assert_eq!((nics[0].receive_limit, nics[0].transmit_limit), (slow, RateLimit::default()));

        let error = limit(&limits, &mut disks[..1], &mut nics).unwrap_err().to_string();
        assert_eq!(error, "vireo.dev/rate-limits: disks.root: the machine has no disk or interface of this name");
        let error = limit(&limits, &mut disks, &mut []).unwrap_err().to_string();
        assert_eq!(
            error,
            "vireo.dev/rate-limits: interfaces.default: the machine has no disk or interface of this name"
        );
        let refused =
            read(&json!({"vireo.dev/rate-limits": r#"{"disks": {"a": {"bytesPerSecond": 0}}}"#})).unwrap_err();
        assert!(refused.starts_with("annotation vireo.dev/rate-limits: disks.a.bytesPerSecond: 0 is not"), "{refused}");
    }
}
