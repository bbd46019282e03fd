//! Virtual nodes, real containerd, real guests.
//!
//! The host side builds what a node needs from Debian packages ([`debian`], [`archive`], [`guest`]), keeps it in a
//! cache ([`cache`]) and boots it in QEMU ([`node`]). The node side speaks CRI ([`cri`]) and runs the
//! [`scenarios`], looks at VMMs from outside ([`jail`]) and measures them ([`bench`]). A [`kubernetes`] of its own, with
//! virtual nodes or with none, is what the [`cluster`] layer runs on. Nothing here is part of the
//! product.
#![forbid(unsafe_code)]

pub mod archive;
pub mod bench;
pub mod cache;
pub mod cluster;
pub mod cri;
pub mod debian;
pub mod guest;
pub mod images;
pub mod jail;
pub mod kubernetes;
pub mod layers;
pub mod node;
pub mod progress;
pub mod scenarios;
pub mod smaps;
