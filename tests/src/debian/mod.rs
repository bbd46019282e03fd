//! Debian packages without installing them: which versions a list of packages means today, their files, unpacked.

mod apt;
mod kernel;
mod unpack;

pub use apt::{Resolved, Suite, resolve};
pub use kernel::{Kernel, kernel};
pub use unpack::unpack;
