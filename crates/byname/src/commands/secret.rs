//! `secret`: values that are never shown.

use byname_api::object::{Kind, MAX_SECRET_BYTES, Spec};
use byname_api::request::Op;

use super::{Session, change};
use crate::cli::trust::SecretCommand;
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::prompt;

/// Runs it.
pub(crate) async fn run(session: &mut Session, command: SecretCommand, env: &Environment) -> Outcome {
    let SecretCommand::Set { name, file } = command;
    let name = session.name(&name)?;
    let value = match file {
        Some(file) => prompt::whole(&file, MAX_SECRET_BYTES, "value")?,
        None => prompt::asked(env, "value", true, "--file FILE, or - for standard input")?,
    };
    if value.is_empty() {
        return Err(Failure::usage("the value is empty"));
    }
    let spec = Spec { value: Some(value), ..Spec::of(Kind::Secret) };
    change::change(session, vec![Op::Declare { name, spec }]).await
}
