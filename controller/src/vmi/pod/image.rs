//! Which image a pod's container has, and how its node gets it. The shim reads the files of one: a machine's disks and kernel
//! come from that.

use vireo_runtimeclass::kubevirt::v1::{PullPolicy, VirtualMachineInstanceSpec};

use super::PodError;

/// What an instance says of its pod's image.
#[derive(Debug, Default)]
pub struct Image<'a> {
    /// Its name.
    pub name: Option<&'a str>,
    /// When it is pulled: the most eager of what is said.
    pub pull_policy: Option<PullPolicy>,
    /// The secrets that it is pulled with, each once.
    pub pull_secrets: Vec<&'a str>,
}

/// The one image that an instance names, if it names any.
///
/// # Errors
/// It names several: their files are not in one container.
pub fn image(spec: &VirtualMachineInstanceSpec) -> Result<Image<'_>, PodError> {
    let mut image = Image::default();
    let mut first: Option<(String, &str)> = None;
    for (path, name, policy, secret) in disks(spec).chain(kernel(spec)) {
        image.pull_policy = image.pull_policy.into_iter().chain(policy).min();
        if let Some(secret) = secret.filter(|secret| !secret.is_empty() && !image.pull_secrets.contains(secret)) {
            image.pull_secrets.push(secret);
        }
        match (name, &first) {
            (None, _) => {}
            (Some(name), None) => first = Some((path, name)),
            (Some(name), Some((_, other))) if name == *other => {}
            (Some(name), Some((first, other))) => {
                let what = format!(
                    "{name:?} is another image than {other:?} ({first}.image); a pod of Vireo's has one, so that all of them \
                     have to be files of it (containerDisk.path)"
                );
                return Err(PodError::unsupported(path + ".image", what));
            }
        }
    }
    image.name = first.map(|(_, name)| name);
    Ok(image)
}

/// Where an image is named, its name, and how it is pulled.
type Named<'a> = (String, Option<&'a str>, Option<PullPolicy>, Option<&'a str>);

fn disks(spec: &VirtualMachineInstanceSpec) -> impl Iterator<Item = Named<'_>> {
    spec.volumes.iter().enumerate().filter_map(|(index, volume)| {
        let disk = volume.container_disk.as_ref()?;
        let path = format!("spec.volumes[{index}].containerDisk");
        Some((path, Some(disk.image.as_str()), disk.image_pull_policy, disk.image_pull_secret.as_deref()))
    })
}

fn kernel(spec: &VirtualMachineInstanceSpec) -> Option<Named<'_>> {
    let container = spec.domain.firmware.as_ref()?.kernel_boot.as_ref()?.container.as_ref()?;
    let image = container.image.as_deref().filter(|image| !image.is_empty());
    let path = "spec.domain.firmware.kernelBoot.container".to_owned();
    Some((path, image, container.image_pull_policy, container.image_pull_secret.as_deref()))
}
