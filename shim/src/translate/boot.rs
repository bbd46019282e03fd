//! What the machine boots, and with which command line.

use std::fs::File;

use vireo_runtimeclass::kubevirt::v1::{KernelBoot, KernelBootContainer};
use vireo_vmm::config::{BootConfig, ConsoleKind, DiskConfig};

use super::{Fds, FileSource, Source, TranslateError, firmware};
use crate::volume::{Purpose, open_local};

/// Where the guest's root file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    /// In the initial RAM disk.
    None,
    /// On the whole first disk.
    Whole { readonly: bool },
    /// On the first partition of the first disk.
    Partition { readonly: bool },
}

/// What to boot.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) config: BootConfig,
    pub(super) console: ConsoleKind,
}

pub(super) fn boot(
    source: &Source<'_>,
    files: &FileSource<'_>,
    root: Root,
    disks: &[DiskConfig],
    fds: &mut Fds,
) -> Result<Boot, TranslateError> {
    let firmware = source.spec.and_then(|spec| spec.domain.firmware.as_ref());
    let kernel_boot = firmware.and_then(|firmware| firmware.kernel_boot.as_ref());
    let bootloader = firmware.and_then(|firmware| firmware.bootloader.as_ref());
    let kernel = match kernel_boot {
        Some(KernelBoot { container: Some(container), .. }) => Some(from_spec(container, files)?),
        _ if bootloader.is_some() => None,
        _ => match from_image(files)? {
            Some(pair) => Some(pair),
            None => from_node(source)?,
        },
    };
    let Some((kernel, initrd)) = kernel else {
        if disks.is_empty() {
            return Err(TranslateError::NoKernel);
        }
        let config = firmware::firmware(source, bootloader, disks, fds)?;
        return Ok(Boot { config, console: ConsoleKind::Serial });
    };
    let cmdline = match kernel_boot.and_then(|boot| boot.kernel_args.as_deref()) {
        Some(args) => args.to_owned(),
        None => compose_cmdline(root, source.nics.first().and_then(|nic| nic.ip_argument.as_deref())),
    };
    let console = console_of(&cmdline);
    let kernel = fds.add(kernel)?;
    let initrd = initrd.map(|initrd| fds.add(initrd)).transpose()?;
    Ok(Boot { config: BootConfig::Kernel { kernel, initrd, cmdline }, console })
}

/// The kernel that the spec names.
fn from_spec(container: &KernelBootContainer, files: &FileSource<'_>) -> Result<(File, Option<File>), TranslateError> {
    if let (FileSource::Local(_), Some(image)) = (files, container.image.as_deref())
        && image != "local"
    {
        return Err(TranslateError::Field {
            path: files.field("domain.firmware.kernelBoot.container.image"),
            what: "vireo run pulls no images; leave it out (or write local) and name files of this machine",
        });
    }
    let open = |path: &str, field| {
        match files {
            FileSource::Image(root) => root.file(path, Purpose::Boot),
            FileSource::Local(folder) => open_local(&folder.join(path), Purpose::Boot),
        }
        .map_err(|source| TranslateError::Boot { what: files.field(field), source })
    };
    let kernel = container.kernel_path.as_deref().ok_or(TranslateError::NoKernel)?;
    let kernel = open(kernel, "domain.firmware.kernelBoot.container.kernelPath")?;
    let initrd = container.initrd_path.as_deref();
    let initrd = initrd.map(|path| open(path, "domain.firmware.kernelBoot.container.initrdPath")).transpose()?;
    Ok((kernel, initrd))
}

/// The kernel beside a containerDisk: `/boot/vmlinuz`, and one `/boot/initrd*` if there is any.
fn from_image(files: &FileSource<'_>) -> Result<Option<(File, Option<File>)>, TranslateError> {
    let FileSource::Image(root) = files else { return Ok(None) };
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| TranslateError::Boot { what, source }
    };
    let Some(kernel) = root.file_if_any("/boot/vmlinuz", Purpose::Boot).map_err(failed("kernel of the image"))? else {
        return Ok(None);
    };
    let what = "initial RAM disk of the image";
    let initrds = root.starting_with("/boot", "initrd").map_err(failed(what))?;
    let initrd = match &initrds[..] {
        [] => None,
        [path] => Some(root.file(path, Purpose::Boot).map_err(failed(what))?),
        many => return Err(TranslateError::ManyInitrds(many.len())),
    };
    Ok(Some((kernel, initrd)))
}

/// The node's kernel for guests that bring none.
fn from_node(source: &Source<'_>) -> Result<Option<(File, Option<File>)>, TranslateError> {
    let Some(kernel) = source.node.guest_kernel.as_deref() else { return Ok(None) };
    let open = |path, what: &str| {
        let what = what.to_owned();
        open_local(path, Purpose::Boot).map_err(|source| TranslateError::Boot { what, source })
    };
    let kernel = open(kernel, "the node's guestKernel")?;
    let initrd = source.node.guest_initrd.as_deref();
    let initrd = initrd.map(|path| open(path, "the node's guestInitrd")).transpose()?;
    Ok(Some((kernel, initrd)))
}

/// The command line where nobody wrote one. The guest's address stands in it for guests that don't ask for one.
fn compose_cmdline(root: Root, address: Option<&str>) -> String {
    let mut words = vec!["console=ttyS0"];
    let device = match root {
        Root::None => None,
        Root::Whole { readonly } => Some(("root=/dev/vda", readonly)),
        Root::Partition { readonly } => Some(("root=/dev/vda1", readonly)),
    };
    if let Some((root, readonly)) = device {
        words.extend([root, if readonly { "ro" } else { "rw" }]);
    }
    words.extend(address);
    words.join(" ")
}

/// The console is where the kernel's `/dev/console` is: its last `console=`.
fn console_of(cmdline: &str) -> ConsoleKind {
    let last = cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix("console=")).next_back();
    match last.map(|console| console.split(',').next().unwrap_or_default()) {
        Some("hvc0") => ConsoleKind::Virtio,
        _ => ConsoleKind::Serial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_console_is_the_console() {
        for (cmdline, console) in [
            ("", ConsoleKind::Serial),
            ("console=hvc0", ConsoleKind::Virtio),
            ("console=ttyS0 console=hvc0,115200 quiet", ConsoleKind::Virtio),
            ("console=hvc0 console=ttyS0", ConsoleKind::Serial),
            ("noconsole=hvc0", ConsoleKind::Serial),
        ] {
            assert_eq!(console_of(cmdline), console, "{cmdline}");
        }
    }
}
