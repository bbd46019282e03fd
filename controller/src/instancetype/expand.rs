//! A template with its instancetype and its preference.

use vireo_runtimeclass::cluster::{InstanceTemplate, InstancetypeSpec, PreferenceSpec};
use vireo_runtimeclass::kubevirt::v1::Disk;
use vireo_runtimeclass::validate::Problem;

use super::{prefer, requirements, size, topology};

/// Makes of `template` what runs: every volume has a disk, the instancetype sizes the machine, and the preference fills in.
/// Paths of problems start with `path`, which leads to the template's spec.
///
/// # Errors
/// Everything that the template says itself though its instancetype does, and what a preference requires in vain.
/// `template` is of no use then.
pub fn expand(
    template: &mut InstanceTemplate,
    instancetype: Option<&InstancetypeSpec>,
    preference: Option<&PreferenceSpec>,
    path: &str,
) -> Result<(), Vec<Problem>> {
    let mut problems = requirements::check(&template.spec.machine, instancetype, preference, path);
    problems.extend(topology::check(instancetype, preference));
    attach_volumes(template);
    if let Some(instancetype) = instancetype {
        problems.extend(size::apply(template, instancetype, preference, path));
    }
    if let Some(preference) = preference {
        prefer::apply(template, preference);
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// A volume that no disk shows gets one.
fn attach_volumes(template: &mut InstanceTemplate) {
    let machine = &mut template.spec.machine;
    let disks = &mut machine.domain.devices.disks;
    for volume in &machine.volumes {
        if disks.iter().all(|disk| disk.name != volume.name) {
            disks.push(Disk { name: volume.name.clone(), ..Disk::default() });
        }
    }
}
