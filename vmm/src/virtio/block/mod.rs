//! virtio-blk (virtio 1.3 §5.2): a disk. Serves each queue on a thread of its own, straight between the image and the
//! guest's memory.

pub mod device;
pub mod request;
mod ringed;
pub mod worker;

#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;

pub use device::{Block, Traits};
pub use request::Serial;
