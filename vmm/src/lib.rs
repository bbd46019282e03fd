//! One process, one guest: a KVM virtual machine monitor on the rust-vmm crates.
//!
//! The process is started with one inherited socket ([`control`]). Over it comes a [`config::MachineConfig`] and the
//! open files that it names by index; the machine is checked, jailed, built and run, and how it ended is told the same
//! way. Nothing here knows of pods, paths or containerd.
//!
//! Floors, from the ground up; arrows only run down:
//!
//! ```text
//! control
//! machine
//! acpi boot smbios vcpu platform
//! virtio pci disk console autoconf
//! memory bus interrupts event_loop worker rate_limiter ending pausing config jail random tap
//! ```

pub mod acpi;
pub mod autoconf;
pub mod boot;
pub mod bus;
pub mod config;
pub mod console;
pub mod control;
pub mod disk;
pub mod ending;
pub mod event_loop;
pub mod interrupts;
pub mod jail;
pub mod machine;
pub mod memory;
pub mod pausing;
pub mod pci;
pub mod platform;
pub mod random;
pub mod rate_limiter;
pub mod smbios;
pub mod tap;
pub mod vcpu;
pub mod virtio;
pub mod worker;
