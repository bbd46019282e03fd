//! Virtual nodes, real containerd, real guests.
//!
//! The host side builds what a node needs from Debian packages ([`debian`], [`archive`], [`guest`]), keeps it in a
//! cache ([`cache`]) and boots it in QEMU ([`node`]). The node side speaks CRI ([`cri`]) and runs the
//! [`scenarios`], looks at VMMs from outside ([`jail`]) and measures them ([`bench`]). Nothing here is part of the
//! product.
#![forbid(unsafe_code)]

pub mod archive;
pub mod bench;
pub mod cache;
pub mod cri;
pub mod debian;
pub mod guest;
pub mod jail;
pub mod layers;
pub mod node;
pub mod progress;
pub mod scenarios;
pub mod smaps;
