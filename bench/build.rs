//! Generates the gRPC code: clients of Byname and etcd, client and server of the empty call. Needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (folder, files, server) in [
        ("../crates/api/proto", &["byname/v1/byname.proto", "byname/v1/identity.proto"][..], false),
        ("proto", &["etcd.proto"], false),
        ("proto", &["empty.proto"], true),
    ] {
        for file in files {
            println!("cargo:rerun-if-changed={folder}/{file}");
        }
        let mut compiler = protox::Compiler::new([folder])?;
        compiler.include_source_info(true).include_imports(true).open_files(files)?;
        tonic_prost_build::configure()
            .build_server(server)
            .build_client(true)
            .compile_fds(compiler.file_descriptor_set())?;
    }
    Ok(())
}
