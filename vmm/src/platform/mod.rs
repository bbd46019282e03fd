//! The board's own devices, behind I/O ports.

pub mod acpi_pm;
pub mod generation_id;
pub mod pvpanic;
pub mod reset;
pub mod rtc;
pub mod serial;
