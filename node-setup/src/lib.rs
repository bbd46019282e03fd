//! What the command `vireo` and the agent have in common: what a check of a node says.
#![forbid(unsafe_code)]

pub mod findings;
