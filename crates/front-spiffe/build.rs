//! Generates messages and services from `proto/`. Needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(["workload.proto", "envoy/secret.proto", "envoy/tls.proto"])?;
    tonic_prost_build::configure()
        .build_server(true)
        // Clients are of others; the tests of the secrets need one.
        .build_client(true)
        .build_transport(false)
        // Keys must not come into a log with `{:?}`.
        .skip_debug([
            "X509SVID",
            "X509SVIDResponse",
            "JWTSVID",
            "JWTSVIDResponse",
            "ValidateJWTSVIDRequest",
            ".envoy.extensions.transport_sockets.tls.v3",
            ".envoy.service.discovery.v3.DiscoveryResponse",
        ])
        .include_file("spiffe.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
