//! Controllers that die, freeze and hand over, and API servers that go away, at moments that a test names.
//!
//! ```text
//!   between   what stands between a controller and the API server: counts writes, holds them, withholds answers, deafens watches
//!   seen      every instance and pod that there ever was, and whether two were one
//!   guests    what is done to guests there, and what it comes to
//!   cuts      a controller that is killed before and after each of its writes
//!   handover  leaders that are killed, frozen and told to end
//!   outages   API servers and etcds that start anew, watches that expire
//! ```

mod between;
mod cuts;
mod guests;
mod handover;
mod outages;
mod seen;

use super::{Scope, Test, tests};

/// Every test of them.
pub(super) fn alone() -> Vec<Test> {
    [cuts::ALONE, handover::ALONE, outages::ALONE].concat()
}
