//! Nodes whose agents are silent: they take no more guests, until an agent says that it lives.
//!
//! `hearts` is pure; `watch` alone speaks to the API server. What is watched is the nodes that take guests, and what is waited for is
//! the end of the first one's patience: no node is asked for. A node without a heartbeat is one that somebody set up and labelled by
//! hand, and is left alone. Guests that run on a silent node are not touched: the silence is the agent's, not theirs.

mod hearts;
mod watch;

pub use watch::run;
