//! What containerd calls, and what it is told.

pub mod events;
pub mod machine;
mod rpc;
pub mod sandbox;
pub mod task;
