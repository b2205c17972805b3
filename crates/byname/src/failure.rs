//! How a command ends when it does not end well.

use std::io;
use std::path::PathBuf;

use byname_api::request::Problem;
use byname_api::{Code, Error};

/// Why a command stops.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error to tell; its code decides the exit status.
    Error(Error),
    /// Mistakes in files, each with its place.
    Files(Vec<Mistake>),
    /// Something outside of Byname failed (a file, the terminal): exit status 1.
    System(String),
    /// Whoever read the output has gone: nothing to say.
    Pipe,
    /// Everything was said already; this is the exit status.
    Told(u8),
}

/// A mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Mistake {
    /// The file; `-` for standard input.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    #[serde(flatten)]
    pub problem: Problem,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}: ", self.file.display(), self.line, self.column)?;
        if let Some(field) = &self.problem.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.problem.message)
    }
}

impl Failure {
    /// The exit status (DESIGN section 4).
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Failure::Error(error) => error.code().exit_status(),
            Failure::Files(mistakes) => mistakes.first().map_or(2, |m| m.problem.code.exit_status()),
            Failure::System(_) => 1,
            Failure::Pipe => 0,
            Failure::Told(status) => *status,
        }
    }

    /// A wrong use of the command line that clap cannot see.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::Error(Error::new(Code::InvalidArgument, message))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Pipe,
            _ => Failure::System(error.to_string()),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Failure::System(error.to_string())
    }
}

/// What commands return.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;
