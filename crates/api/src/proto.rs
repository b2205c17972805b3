//! Version 1 of the gRPC interface: the messages generated from `proto/byname/v1/`, and the way between
//! them and the domain's types.
//!
//! A domain value becomes a message by `From`, which cannot fail. A message becomes a domain value by `TryFrom`, which
//! trusts nothing: an error names the field at fault by its path in the message (`spec.launch.ready`,
//! `ops[3].if_version`). Unknown numbers of enums are `invalid-argument`, unknown fields are ignored.
//!
//! What is checked here is the shape. Limits and what belongs to which kind are the server's business
//! ([`Spec::check`](crate::object::Spec::check)), whichever front end a request came through.

mod access;
mod audit;
mod change;
mod field;
mod find;
mod hidden;
mod host;
mod identity;
mod launch;
mod object;
mod run;
mod spec;
mod status;
#[cfg(test)]
mod tests;
mod word;

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/byname.v1.rs"));
}

include!(concat!(env!("OUT_DIR"), "/methods.rs"));

pub use generated::*;
pub use run::act_request;
pub use status::{CODE_METADATA, FIELD_METADATA, REQUEST_ID_METADATA, StatusParts, code_of_status};

/// The descriptors of this interface as an encoded `google.protobuf.FileDescriptorSet`, for reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/byname.v1.bin"));
