//! A `VirtualMachine`: when its instance exists, and what its status says.
//!
//! ```text
//!  start, stop, restart ──> command ──> spec.runStrategy, status.stateChangeRequests
//!                                                     │
//!  VirtualMachine + VirtualMachineInstance ──> Guest ─┴─> plan ──> Action (create, delete, wait)
//!                                                └──────> status: start_failure, printable_status, is_first_done
//!  spec.template ──> make: the instance;  rollout: what a change of it takes
//!
//!  watch: what is remembered ──> reconcile: reads, plans, applies;  revisions: specs as instances were made from them
//! ```
//!
//! A request stands in `status.stateChangeRequests` until it is done, the first of them is the one that is acted on, and
//! one that names another instance than the one there is was done long ago. So a controller that dies anywhere in between
//! finds what is left to do, and does nothing twice. Names, order and numbers are KubeVirt's (virt-controller's
//! `watch/vm/vm.go`, virt-api's `rest/lifecycle.go`, v1.10 development).

mod backoff;
mod carry_out;
mod command;
mod guest;
mod make;
mod plan;
mod printable;
mod reconcile;
mod revisions;
mod rollout;
#[cfg(test)]
mod samples;
mod status;
mod watch;

pub use backoff::{delay, start_failure, wait};
pub use command::{Command, Effect, Refusal, Want, command};
pub use guest::{Guest, Instance, strategy};
pub use make::{FINALIZER, instance, owner};
pub use plan::{Action, is_first_done, plan};
pub use printable::{Storage, printable_status};
pub use rollout::{live_update, restart_required};
pub use status::{Failure, Findings, status};
use watch::Guests;
pub use watch::run;
