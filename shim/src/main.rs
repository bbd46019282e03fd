//! `containerd-shim-vireo-v2`: wiring only.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    vireo_shim::bootstrap::main()
}
