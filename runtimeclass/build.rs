//! Generates the machine service from its proto.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/vireo/v1/machine.proto");
    let descriptors = protox::compile(["vireo/v1/machine.proto"], ["proto"])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
