//! Block devices that the kubelet gave to the pod's container: claims in block mode.
//!
//! A container's spec tells a device's numbers, and where it belongs in the container; the node it has in the node's `/dev` the
//! kernel knows. The kubelet gives a device to a container, and not to its user: nodes belong to root and the group `disk`,
//! and who runs VMs hands them over (KubeVirt's virt-handler changes their owner). Here they are opened for the machine
//! as the container's device rules say, for writing only if those allow it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::sys::stat::makedev;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Spec};

use super::{Purpose, VolumeError, open_checked};

/// Opens the device that the container has at `path`, if it has one.
pub(super) fn device(oci: &Spec, path: &Path, purpose: Purpose) -> Result<Option<File>, VolumeError> {
    let linux = oci.linux().as_ref();
    let mut devices = linux.and_then(|linux| linux.devices().as_ref()).into_iter().flatten();
    let Some(device) = devices.rfind(|device| device.path() == path) else { return Ok(None) };
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let rules = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    if purpose.writes() && !is_writable(device, rules) {
        return Err(VolumeError::ReadOnlyDevice { path: path.display().to_string() });
    }
    open(device, &path.display().to_string(), purpose).map(Some)
}

/// Whether the rules let the container write to a device: the last one that is about it counts.
fn is_writable(device: &LinuxDevice, rules: &[LinuxDeviceCgroup]) -> bool {
    let matches = |rule: &&LinuxDeviceCgroup| {
        let kind = rule.typ().is_none_or(|kind| kind == LinuxDeviceType::A || kind == device.typ());
        let number = |rule: Option<i64>, own: i64| rule.is_none_or(|number| number == own || number < 0);
        kind && number(rule.major(), device.major())
            && number(rule.minor(), device.minor())
            && rule.access().as_deref().is_none_or(|access| access.contains('w'))
    };
    rules.iter().rfind(matches).is_none_or(LinuxDeviceCgroup::allow)
}

fn open(device: &LinuxDevice, path: &str, purpose: Purpose) -> Result<File, VolumeError> {
    const NEEDED: &str = "a block device";
    if device.typ() != LinuxDeviceType::B {
        return Err(VolumeError::Kind { path: path.to_owned(), found: "a character device or FIFO", needed: NEEDED });
    }
    let failed = |source| VolumeError::Open { path: path.to_owned(), source };
    let (major, minor) = (device.major(), device.minor());
    let told = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).map_err(failed)?;
    let name = told.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let name = name.ok_or_else(|| failed(io::Error::other("the kernel has no name for it")))?;
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC | libc::O_NOFOLLOW)
        .open(Path::new("/dev").join(name))
        .map_err(failed)?;
    let found = handle.metadata().map_err(failed)?;
    let number = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
    if found.rdev() != makedev(number(major), number(minor)) {
        let found = "another device, or none";
        return Err(VolumeError::Kind { path: format!("{path} (/dev/{name})"), found, needed: NEEDED });
    }
    open_checked(&OwnedFd::from(handle), path, purpose, true)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(device: &Value, rules: &Value) -> Spec {
        let linux = json!({"devices": [device], "resources": {"devices": rules}});
        serde_json::from_value(json!({"ociVersion": "1.1.0", "linux": linux})).unwrap()
    }

    fn refusal(oci: &Spec, purpose: Purpose) -> String {
        device(oci, Path::new("/dev/data"), purpose).unwrap_err().to_string()
    }

    #[test]
    fn the_containers_rules_hold() {
        let block = json!({"path": "/dev/data", "type": "b", "major": 4000, "minor": 7});
        let deny = json!({"allow": false, "access": "rwm"});
        let allow = |access: &str| json!({"allow": true, "type": "b", "major": 4000, "minor": 7, "access": access});
        let read_only = spec(&block, &json!([deny, allow("r")]));
        let denied = "/dev/data may only be read by the pod's container; make the disk read-only";
        assert_eq!(refusal(&read_only, Purpose::Disk), denied);
        assert_eq!(refusal(&spec(&block, &json!([deny])), Purpose::Disk), denied);
        // Where they allow it, the kernel is asked, and has no such device.
        let missing = "/dev/data can't be opened";
        assert_eq!(refusal(&read_only, Purpose::ReadOnlyDisk), missing);
        assert_eq!(refusal(&spec(&block, &json!([deny, allow("rwm")])), Purpose::Disk), missing);
        assert_eq!(refusal(&spec(&block, &json!([])), Purpose::Disk), missing);
        assert!(device(&read_only, Path::new("/dev/other"), Purpose::Disk).unwrap().is_none());
    }

    #[test]
    fn only_block_devices_are_disks() {
        let oci = spec(&json!({"path": "/dev/data", "type": "c", "major": 1, "minor": 3}), &json!([]));
        let expected = "/dev/data is a character device or FIFO; a block device is needed";
        assert_eq!(refusal(&oci, Purpose::Disk), expected);
    }
}
