//! A virtual CPU: what it says it is ([`cpuid`]), the state it starts in ([`state`]), and the thread that runs it
//! ([`run`]).

pub mod cpuid;
pub mod kick;
pub mod run;
pub mod state;
