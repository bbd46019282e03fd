//! Debian packages without installing them: which versions a list of packages means today, their files, unpacked.

mod apt;
mod kernel;
mod source;
mod unpack;

pub use apt::{Resolved, Suite, resolve};
pub use kernel::{Kernel, kernel};
pub use source::unpack_source;
pub use unpack::unpack;
