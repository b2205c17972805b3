//! Generates the client's side of the gRPC services; the messages are those of the api crate. Needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../api/proto");
    let mut compiler = protox::Compiler::new(["../api/proto"])?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(["byname/v1/byname.proto", "byname/v1/identity.proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_client(true)
        .build_transport(false)
        .extern_path(".byname.v1", "::byname_api::proto")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
