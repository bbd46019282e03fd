//! A virtual CPU: what it says it is ([`cpuid`]), the state it starts in ([`state`]), the thread that runs it
//! ([`run`]), and where that stands while the machine is paused ([`gate`]).

pub mod cpuid;
pub mod gate;
pub mod kick;
pub mod run;
pub mod state;
