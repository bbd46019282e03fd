//! Configs, with files of every kind, through the check: a plan or an error that names a path, and nothing that a plan promises
//! is broken.
#![no_main]

use std::fs::File;
use std::os::fd::OwnedFd;

use libfuzzer_sys::fuzz_target;
use vireo_vmm::config::{self, BootPlan, MachineConfig, check};

/// `/dev/kvm` if there is one, a file that can do everything, one that can't, a directory, a device, a pipe.
fn files() -> Vec<OwnedFd> {
    let open = |path: &str, write: bool| File::options().read(true).write(write).open(path).map(OwnedFd::from);
    let image = tempfile::NamedTempFile::new().expect("a temporary file");
    image.as_file().set_len(4096).expect("4 KiB");
    let path = image.path().to_str().expect("a name in UTF-8");
    [open("/dev/kvm", true), open(path, true), open(path, false), open("/", false), open("/dev/null", true)]
        .into_iter()
        .flatten()
        .chain([std::io::pipe().expect("a pipe").0.into()])
        .collect()
}

fuzz_target!(|input: &[u8]| {
    let Ok(config) = postcard::from_bytes::<MachineConfig>(input) else { return };
    match config::check(config, files()) {
        Ok(plan) => {
            assert!((1..=check::MAX_VCPUS).contains(&plan.vcpus));
            assert!((check::MIN_MEMORY..=check::MAX_MEMORY).contains(&plan.memory.size));
            if let BootPlan::Kernel(kernel) = &plan.boot {
                assert!(kernel.cmdline.len() <= check::MAX_CMDLINE);
            }
            assert!(plan.vsock.is_none_or(|cid| (3..u64::from(u32::MAX)).contains(&cid)));
            assert!(!plan.balloon || plan.memory.hugepages.is_none());
            assert!(plan.disks.iter().all(|disk| disk.queues > 0 && !(disk.readonly && disk.overlay.is_some())));
            assert!(plan.nics.iter().all(|nic| nic.mac[0] & 1 == 0 && nic.mac != [0; 6]));
        }
        Err(error) => {
            assert!(!error.path.is_empty());
            assert!(error.to_string().len() < 4096);
        }
    }
});
