//! The archive formats that guests and containerd take, written without outside tools.

pub mod cpio;
pub mod oci;
pub mod tar;
