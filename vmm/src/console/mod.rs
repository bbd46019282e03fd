//! The machine's console: what the guest writes, kept and handed to whoever attaches, and what they type.

mod history;
pub mod hub;
pub mod line;
