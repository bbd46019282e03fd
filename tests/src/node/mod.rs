//! A virtual node: a QEMU machine that is a container host, with the freshly built binaries inside.
//!
//! [`Node::boot`] gives a node that answers; dropping it kills QEMU, and so does the death of this process. A kept
//! node ([`Node::keep`]) outlives both and is found again through its record in `target/`.

pub mod accel;
pub mod agent;
mod emulator;
pub mod image;
pub mod jump_labels;
pub mod protocol;
mod qemu;
mod record;
pub mod share;
pub mod terminal;

pub use agent::{Agent, Request, Stream};
pub use qemu::{Node, Options};
pub use record::{Record, start_time};
pub use share::Share;
