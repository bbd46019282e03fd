//! What the node itself must have.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use kvm_ioctls::Kvm;
use vireo_runtimeclass::pod::NODE_CONFIG;
use vireo_shim::cgroup::Folders;
use vireo_shim::node_config::{BIOS, EFI_CODE, EFI_VARIABLES, NodeConfig};
use vireo_shim::translate::kvm_hint;
use vireo_shim::volume::{Purpose, open_local};
use vireo_vmm::machine::check_kvm;

/// `CLOSE_RANGE_CLOEXEC`, by which a VMM gets no descriptor too many, came with this kernel; all else that Vireo uses is older.
const OLDEST_KERNEL: (u32, u32) = (5, 11);
/// The controllers that a pod's limits and statistics are made of; the last is one of its own in v1 only.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "cpuacct"];

type Checked = Result<String, (String, &'static str)>;

/// KVM is there, may be used, and can do what a machine needs.
pub(super) fn kvm() -> Checked {
    let kvm = Kvm::new().map_err(|error| {
        let error = std::io::Error::from_raw_os_error(error.errno());
        (format!("/dev/kvm can't be opened: {error}"), kvm_hint(&error))
    })?;
    check_kvm(&kvm, 1).map_err(|error| (error.to_string(), "update the kernel; nested KVM may need a newer host"))?;
    Ok(format!("/dev/kvm, up to {} vCPUs", kvm.get_max_vcpus()))
}

/// The kernel is new enough.
pub(super) fn kernel() -> Checked {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version_of(release) {
        Some(version) if version >= OLDEST_KERNEL => Ok(release.to_owned()),
        _ => Err((format!("{release:?}"), "update it to 5.11 or newer")),
    }
}

/// The first two numbers of a version.
pub(super) fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The hierarchies of either version, with the controllers.
pub(super) fn cgroups() -> Checked {
    let root = Folders::at(Path::new("")).map_err(|error| (error.to_string(), "mount cgroup v2 at /sys/fs/cgroup"))?;
    let v2 = root.is_unified();
    let wanted = CONTROLLERS.into_iter().filter(|name| !v2 || *name != "cpuacct");
    let missing: Vec<_> = wanted.filter(|name| !root.have(name)).collect();
    if missing.is_empty() {
        return Ok(if v2 { "v2" } else { "v1" }.to_owned());
    }
    Err((
        format!("without {}", missing.join(", ")),
        "enable them (cgroup_disable= on the kernel's command line turns them off)",
    ))
}

/// Taps can be made.
pub(super) fn tun() -> Checked {
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Ok("/dev/net/tun".to_owned()),
        Err(error) => Err((format!("/dev/net/tun can't be opened: {error}"), "load the module tun (modprobe tun)")),
    }
}

/// Whether the kernel can move guests' packets. It need not.
pub(super) fn vhost_net() -> String {
    match OpenOptions::new().read(true).write(true).open("/dev/vhost-net") {
        Ok(_) => "/dev/vhost-net".to_owned(),
        Err(error) => format!("none, the VMM moves packets itself ({error}; modprobe vhost_net may help)"),
    }
}

/// The pod's NAT can be made.
pub(super) fn nft() -> Checked {
    let remedy = "install the package nftables";
    match Command::new("nft").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Ok(output) => Err((String::from_utf8_lossy(&output.stderr).trim().to_owned(), remedy)),
        Err(error) => Err((format!("can't be run: {error}"), remedy)),
    }
}

/// The shim is where containerd finds it, the VMM beside it.
pub(super) fn binaries() -> Checked {
    let remedy = "run node-setup/install.sh";
    let shim = find_in_path("containerd-shim-vireo-v2")
        .ok_or_else(|| ("containerd-shim-vireo-v2 is not in PATH".to_owned(), remedy))?;
    let vmm = shim.with_file_name("vireo-vmm");
    if !vmm.is_file() {
        return Err((format!("{} is missing", vmm.display()), remedy));
    }
    Ok(format!("{}, {}", shim.display(), vmm.display()))
}

fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The node's configuration is well-formed, and what it names is there.
pub(super) fn node_config() -> Checked {
    let remedy = "correct it, or let node-setup/install.sh write it anew";
    let path = Path::new(NODE_CONFIG);
    let refuse = |error: &dyn std::error::Error| (vireo_vmm::control::serve::chain(error), remedy);
    let config = NodeConfig::read(path).map_err(|error| refuse(&error))?;
    for file in [&config.guest_kernel, &config.guest_initrd].into_iter().flatten() {
        open_local(file, Purpose::Boot).map_err(|error| refuse(&error))?;
    }
    if let Some(vmm) = config.vmm.filter(|vmm| !vmm.is_file()) {
        return Err((format!("{NODE_CONFIG}: vmm {} is no file", vmm.display()), remedy));
    }
    let kernel = match config.guest_kernel {
        Some(kernel) => format!("guest kernel {}", kernel.display()),
        None => "no guest kernel; images bring their own".to_owned(),
    };
    Ok(if path.exists() { format!("{NODE_CONFIG}: {kernel}") } else { format!("no {NODE_CONFIG}: {kernel}") })
}

/// SeaBIOS and OVMF are there, where the node's configuration or Debian's packages have them.
pub(super) fn firmware() -> Checked {
    let config = NodeConfig::read(Path::new(NODE_CONFIG)).unwrap_or_default();
    for (configured, default, remedy) in [
        (config.bios, BIOS, "install the package seabios; images without a kernel boot by it"),
        (config.efi_code, EFI_CODE, "install the package ovmf; machines that ask for EFI boot by it"),
        (config.efi_variables, EFI_VARIABLES, "install the package ovmf; machines that ask for EFI boot by it"),
    ] {
        let path = configured.unwrap_or_else(|| default.into());
        open_local(&path, Purpose::Boot).map_err(|error| (vireo_vmm::control::serve::chain(&error), remedy))?;
    }
    Ok("SeaBIOS and OVMF".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version_of("6.1.0-56-cloud-amd64"), Some((6, 1)));
        assert_eq!(version_of("v1.7.24"), Some((1, 7)));
        assert_eq!(version_of("1.6.20~ds1"), Some((1, 6)));
        for text in ["", "6", "x.y", "six.one"] {
            assert_eq!(version_of(text), None, "{text}");
        }
    }
}
