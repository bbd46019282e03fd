//! Firmware: its files are shown to the guest right below 4 GiB, where a CPU starts after a reset.
//!
//! A BIOS also lies below 1 MiB, where real mode gets at it: a copy of its last 128 KiB, in RAM. The variables of EFI come below
//! its code.

use std::sync::Arc;

use kvm_ioctls::VmFd;

use super::{Error, copy_to_ram};
use crate::config::FlashPlan;
use crate::memory::GuestRam;
use crate::memory::layout::{FLASH_END, low, slot};
use crate::memory::rom::RomSlot;

/// The part of a BIOS that lies below 1 MiB too, bytes.
const SHADOW: u64 = 128 << 10;

/// Firmware in place.
#[derive(Debug)]
pub struct Firmware {
    /// Code.
    pub code: RomSlot,
    /// EFI's variables, their GPA and bytes.
    pub variables: Option<(RomSlot, u64, u64)>,
}

/// Puts firmware where the CPU starts.
pub fn load(flash: &FlashPlan, vm: &Arc<VmFd>, ram: &GuestRam) -> Result<Firmware, Error> {
    let show = |slot, end: u64, file, size, write| {
        RomSlot::new(Arc::clone(vm), slot, end - size, file, size, write).map_err(Error::Rom)
    };
    match flash {
        FlashPlan::Bios { image, size, .. } => {
            let shadow = SHADOW.min(*size);
            copy_to_ram(image, "BIOS", (size - shadow, shadow), ram, low::HIGH - shadow)?;
            let code = show(slot::FIRMWARE, FLASH_END, image, *size, false)?;
            Ok(Firmware { code, variables: None })
        }
        FlashPlan::Efi { code, code_size, variables, variables_size } => {
            let end = FLASH_END - code_size;
            let code = show(slot::FIRMWARE, FLASH_END, code, *code_size, false)?;
            let rom = show(slot::VARIABLES, end, variables, *variables_size, true)?;
            Ok(Firmware { code, variables: Some((rom, end - variables_size, *variables_size)) })
        }
    }
}
