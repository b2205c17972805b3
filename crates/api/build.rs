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

    std::fs::write(Path::new(&out).join("methods.rs"), methods(&descriptors))?;

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

/// An enum of every method, so that a table that must have a row for each of them does not compile without.
fn methods(descriptors: &prost_types::FileDescriptorSet) -> String {
    let mut names = Vec::new();
    for service in descriptors.file.iter().flat_map(|file| &file.service) {
        names.extend(service.method.iter().map(|method| (service.name().to_owned(), method.name().to_owned())));
    }
    let lines = |line: &dyn Fn(&str, &str) -> String| -> String {
        names.iter().map(|(service, method)| line(service, method)).collect()
    };
    format!(
        "/// Every method of the gRPC interface.\n\
         #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]\n\
         pub enum Method {{\n{}}}\n\n\
         impl Method {{\n    /// All of them, in the order of the .proto.\n    pub const ALL: &'static [Method] = &[{}];\n\n    \
         /// `Service.Method`.\n    pub const fn as_str(self) -> &'static str {{\n        match self {{\n{}        }}\n    }}\n}}\n",
        lines(&|service, method| format!("    /// `{service}.{method}`\n    {service}{method},\n")),
        lines(&|service, method| format!("Method::{service}{method}, ")),
        lines(&|service, method| format!("            Method::{service}{method} => \"{service}.{method}\",\n")),
    )
}
