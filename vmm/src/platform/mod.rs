//! The board's own devices, behind I/O ports.

pub mod acpi_pm;
pub mod cmos;
pub mod debug_port;
pub mod fw_cfg;
pub mod generation_id;
pub mod pflash;
pub mod pvpanic;
pub mod reset;
pub mod rtc;
pub mod serial;
pub mod smi;
