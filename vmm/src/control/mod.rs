//! The socket between the VMM and whoever started it: commands in, events out.

pub mod client;
pub mod message;
mod requests;
pub mod serve;
pub mod server;
mod socket;

pub use client::Client;
pub use server::Server;
pub use socket::Error;

#[cfg(test)]
mod tests;
