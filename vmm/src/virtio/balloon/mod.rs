//! virtio-balloon (virtio 1.3 §5.5): RAM that the guest doesn't need goes back to the host.
//!
//! Pages in the balloon, and free pages that the guest reports, are holes in the RAM's memory file: they cost nothing until they
//! are touched again, and then read as zeros. A guest short of memory takes pages out of the balloon by itself
//! (DEFLATE_ON_OOM). Its statistics are those of its own kernel, asked for one at a time.
//!
//! One thread serves all queues: giving back a lot of RAM takes a while. There is no balloon over huge pages, of which a guest
//! would hardly ever free a whole one.

mod device;
mod discard;
pub mod request;
pub mod statistics;
#[cfg(test)]
mod tests;
mod worker;

pub use device::{Balloon, BalloonControl, Report};
pub use statistics::Statistics;
