use std::error::Error;

/// protox compiles the protos without an installed protoc.
fn main() -> Result<(), Box<dyn Error>> {
    const PROTOS: &str = "../../../protos";
    let descriptors = protox::compile(["jobstatus/v1/job_status.proto"], [PROTOS])?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed={PROTOS}");
    Ok(())
}
