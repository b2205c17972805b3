//! Generates the messages of `proto/` and writes the descriptor set that gRPC reflection serves. Needs no protoc.

use std::path::Path;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(["byname/v1/byname.proto", "byname/v1/identity.proto"])?;
    let descriptors = compiler.file_descriptor_set();

    // Reflection has no use for the comments.
    let mut served = descriptors.clone();
    for file in &mut served.file {
        file.source_code_info = None;
    }
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(Path::new(&out).join("byname.v1.bin"), served.encode_to_vec())?;

    let hidden = HIDDEN.map(|message| format!(".byname.v1.{message}"));
    prost_build::Config::new().bytes(["."]).btree_map(["."]).skip_debug(hidden).compile_fds(descriptors)?;
    Ok(())
}

/// Messages that hold a secret, with what is nested in them: `src/proto/hidden.rs` shows them instead.
const HIDDEN: [&str; 19] = [
    "AdvertiseReply",
    "AdvertiseRequest",
    "CertifyReply",
    "EnrolReply",
    "EnrolRequest",
    "IntroduceReply",
    "InviteReply",
    "JoinReply",
    "JoinRequest",
    "LockReply",
    "LockRequest",
    "LoginReply",
    "LoginRequest",
    "ReportRequest",
    "Spec",
    "UnlockRequest",
    "VerifyReply",
    "VerifyRequest",
    "WithdrawRequest",
];
