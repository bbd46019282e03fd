//! vireo.
fn main() {}
