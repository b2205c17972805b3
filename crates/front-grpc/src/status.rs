//! Errors as gRPC statuses.

use byname_api::proto::{CODE_METADATA, FIELD_METADATA, StatusParts};
use byname_api::{Code, Error};
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

/// The status for an error. What only the operator should see goes to the log here, once.
pub(crate) fn status(error: &Error) -> Status {
    if error.code() == Code::Internal {
        tracing::error!(detail = error.log_line(), "a gRPC call ended with an internal error");
    }
    let parts = StatusParts::from(error);
    let mut metadata = MetadataMap::with_capacity(2);
    metadata.insert(CODE_METADATA, MetadataValue::from_static(parts.code));
    if let Some(field) = parts.field.and_then(|field| MetadataValue::try_from(field).ok()) {
        metadata.insert(FIELD_METADATA, field);
    }
    Status::with_metadata(parts.number.into(), parts.message, metadata)
}
