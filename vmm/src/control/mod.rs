//! The socket between the VMM and whoever started it: commands in, events out.

pub mod message;
