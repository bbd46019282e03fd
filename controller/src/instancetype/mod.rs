//! Instancetypes and preferences: what sizes a guest in the place of its template, and what fills in where that says
//! nothing.
//!
//! ```text
//!   spec.instancetype, spec.preference ──> infer (a volume names it) ──> find (revision, else object) ──> revision (first use)
//!                                                                          └──> expand: what runs
//! ```
//!
//! [`expand`] is pure, and the only place where they meet a template: the controller makes instances by it, admission
//! judges by it, `expand-spec` shows what it makes. Names and rules are KubeVirt's (`pkg/instancetype`).

mod expand;
mod find;
mod infer;
mod prefer;
mod requirements;
mod resolve;
mod revision;
mod size;
#[cfg(test)]
mod tests;
mod topology;

pub use expand::expand;
pub use find::{FindError, instancetype, preference};
pub use resolve::{Resolved, Sizing, resolve};
