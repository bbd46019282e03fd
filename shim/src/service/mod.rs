//! What containerd calls, and what it is told.

pub mod events;
pub mod machine;
pub mod task;
