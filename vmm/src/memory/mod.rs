//! Guest memory: where everything lies in the guest physical address space, and the RAM itself.

pub mod guest_buffers;
pub mod guest_ram;
pub mod layout;
pub mod prefault;
pub mod rom;

/// The guest's RAM as devices and loaders see it: cheap to clone, shared by all threads.
pub type GuestRam = std::sync::Arc<vm_memory::GuestMemoryMmap<()>>;
