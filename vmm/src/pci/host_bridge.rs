//! The host bridge in slot 0: what firmware and kernels look for to see that there is a PCI bus at all.

use std::sync::{Mutex, PoisonError};

use super::PciFunction;
use super::config_space::{ConfigSpace, Identity};

/// A bridge that owns nothing but its header: the generic PCI Express host bridge that Red Hat has given an id to.
#[derive(Debug)]
pub struct HostBridge(Mutex<ConfigSpace>);

impl Default for HostBridge {
    fn default() -> Self {
        Self(Mutex::new(ConfigSpace::new(Identity {
            vendor: 0x1B36,
            device: 0x0008,
            revision: 0,
            class: 0x06_00_00,
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        })))
    }
}

impl PciFunction for HostBridge {
    fn read_config(&self, offset: u8, data: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
    }

    fn write_config(&self, offset: u8, data: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
    }
}
