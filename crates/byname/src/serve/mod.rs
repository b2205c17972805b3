//! The commands that serve.

use byname_api::{Code, Error};

use crate::cli::serve::{AgentArgs, DevArgs, ServerArgs};
use crate::failure::Outcome;

/// `byname dev`.
pub(crate) async fn dev(_args: DevArgs) -> Outcome {
    Err(not_yet())
}

/// `byname server`.
pub(crate) async fn server(_args: ServerArgs) -> Outcome {
    Err(not_yet())
}

/// `byname agent`.
pub(crate) async fn agent(_args: AgentArgs) -> Outcome {
    Err(not_yet())
}

fn not_yet() -> crate::failure::Failure {
    Error::new(Code::Unsupported, "serving is not in this build yet").into()
}
