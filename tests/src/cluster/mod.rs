//! The cluster layer: a real API server with Vireo's controller at work on it.
//!
//! ```text
//!   catalogue    every test
//!   runner       runs them: those that may at once, those that want the cluster for themselves, those on a real node
//!   suite        what they run on: a control plane, nodes that run nothing, a controller
//!   account      who the controller is, and what it may do
//!   front        how the API server finds what Vireo serves
//!   scope        what a test works with: a namespace of its own, and the suite
//! ```
//!
//! A test is an async function of a [`Scope`]; it fails by an error or a panic. Whatever it leaves in its namespace goes with
//! that, and a namespace that doesn't go, for a finalizer that nobody takes off, say, is a failure too.

mod account;
mod admission;
mod catalogue;
mod front;
mod objects;
mod runner;
mod scope;
mod subresources;
mod suite;

mod cells;
mod data_volumes;
mod faults;
mod guests;
mod harness;
mod heartbeats;
mod instances;
mod kubectl;
mod limits;
mod machines;
mod metrics;
mod monitoring;
mod node;
mod operator;
mod ports;
mod replica_sets;
mod requests;
mod sizes;
mod whole_path;

pub use runner::{demo, names, run};
pub use scope::Scope;
pub use suite::Suite;

use std::pin::Pin;

use anyhow::Result;

/// What a test's function gives back.
type Running = Pin<Box<dyn Future<Output = Result<()>>>>;

/// When a test may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Beside others.
    Together,
    /// By itself, for it does something to the cluster that others would notice.
    Alone,
    /// By itself, and after those, with a virtual node in place of the ones that run nothing.
    Node,
    /// By itself, on a cluster where Vireo's operator is applied and nothing else of Vireo.
    Operator,
}

/// One thing that must hold.
#[derive(Debug, Clone, Copy)]
struct Test {
    /// What holds, as an identifier.
    name: &'static str,
    when: When,
    run: fn(Scope) -> Running,
}

/// The tests of a file: `tests![Together: one, another]`, with the names of `async fn(Scope) -> Result<()>`.
macro_rules! tests {
    ($when:ident: $($name:ident),+ $(,)?) => {
        &[$($crate::cluster::Test {
            name: stringify!($name),
            when: $crate::cluster::When::$when,
            run: |scope| Box::pin($name(scope)),
        }),+]
    };
}
use tests;
