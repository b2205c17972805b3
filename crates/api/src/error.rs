//! One error for every operation and every front end: a stable code, a sentence for the client that says what to do,
//! and a line for the operator that never leaves the server.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $http:literal, $title:literal;)*) => {
        /// The stable code of an error (DESIGN section 4). The text form is what clients may depend on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// The stable text form.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text),* }
            }

            /// The HTTP status that carries this code.
            pub const fn http_status(self) -> u16 {
                match self { $(Code::$variant => $http),* }
            }

            /// A short title for people, the same for every occurrence (RFC 9457 section 3.1.3).
            pub const fn title(self) -> &'static str {
                match self { $(Code::$variant => $title),* }
            }

            /// Reads the text form.
            pub fn parse(text: &str) -> Option<Code> {
                match text { $($text => Some(Code::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    /// No such name.
    NotFound = "not-found", 404, "No such name";
    /// The name is taken.
    AlreadyExists = "already-exists", 409, "The name is taken";
    /// The object is not as the caller expected: another version, children, running copies, a reused request id.
    Conflict = "conflict", 409, "The object is not as expected";
    /// The caller may not do this.
    Denied = "denied", 403, "Not allowed";
    /// The caller has not proved who it is.
    Unauthenticated = "unauthenticated", 401, "Not authenticated";
    /// The text is not a name or a pattern.
    InvalidName = "invalid-name", 400, "Not a name";
    /// A field of the request is wrong; the message names it.
    InvalidArgument = "invalid-argument", 400, "A field is wrong";
    /// Following aliases leads back to where it began.
    AliasLoop = "alias-loop", 508, "The aliases form a loop";
    /// The service does not run, and asking for it may not start it.
    NotRunning = "not-running", 409, "The service is not running";
    /// The program was started and ended, or could not be started.
    StartFailed = "start-failed", 502, "The start failed";
    /// The program was started and did not become ready in time.
    StartTimeout = "start-timeout", 504, "The start took too long";
    /// No host may or can run the service.
    NoHost = "no-host", 503, "No host for the service";
    /// The service's restart budget is spent.
    CrashLooping = "crash-looping", 503, "The service keeps failing";
    /// The server cannot do this at the moment; the same request may be tried again.
    Unavailable = "unavailable", 503, "Not available at the moment";
    /// The answer did not come within the caller's bound.
    Timeout = "timeout", 504, "It took too long";
    /// A value or a request exceeds a limit.
    TooLarge = "too-large", 413, "Too large";
    /// Too many requests from this caller.
    RateLimited = "rate-limited", 429, "Too many requests";
    /// The object's kind has no such operation.
    Unsupported = "unsupported", 422, "Not supported for this object";
    /// A defect of ours; the log has the details.
    Internal = "internal", 500, "An internal error";
}

impl Code {
    /// The exit status of the command line for this code (DESIGN section 4).
    pub const fn exit_status(self) -> u8 {
        match self {
            Code::InvalidName | Code::InvalidArgument => 2,
            Code::NotFound => 3,
            Code::Denied | Code::Unauthenticated => 4,
            Code::Unavailable | Code::Timeout | Code::StartTimeout | Code::NoHost | Code::RateLimited => 5,
            Code::Conflict | Code::AlreadyExists => 6,
            Code::AliasLoop
            | Code::NotRunning
            | Code::StartFailed
            | Code::CrashLooping
            | Code::TooLarge
            | Code::Unsupported
            | Code::Internal => 1,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The field of an `unavailable` that says: this server knows no primary at the moment, and nothing was done. The same
/// request, with the same request id, may be sent to another server, and to this one again.
pub const NO_PRIMARY: &str = "primary";

/// Shorthand for results of operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Boxed, so that results stay small.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error(Box<Parts>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Parts {
    code: Code,
    message: String,
    field: Option<String>,
    log: Option<String>,
}

impl Error {
    /// An error with its code and a sentence for the client.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error(Box::new(Parts { code, message: message.into(), field: None, log: None }))
    }

    /// Names the request's field that is at fault, as the client wrote it (`launch.ready`).
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// Adds what only the operator should see.
    pub fn log(mut self, line: impl Into<String>) -> Self {
        self.0.log = Some(line.into());
        self
    }

    /// A defect of ours: the client learns nothing but that.
    pub fn internal(log: impl Into<String>) -> Self {
        Error::new(Code::Internal, "something went wrong in the server; its log has the details").log(log)
    }

    /// A wrong field.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Error::new(Code::InvalidArgument, message).field(field)
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The sentence for the client.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The field at fault, when one is.
    pub fn at_field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// The line for the operator, when it differs from the message.
    pub fn log_line(&self) -> &str {
        self.0.log.as_deref().unwrap_or(&self.0.message)
    }

    /// The same error with the message put behind an introduction (`line 3: …`).
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.field {
            Some(field) => write!(f, "{}: {field}: {}", self.0.code, self.0.message),
            None => write!(f, "{}: {}", self.0.code, self.0.message),
        }
    }
}

impl std::error::Error for Error {}

impl From<byname_name::NameError> for Error {
    fn from(error: byname_name::NameError) -> Self {
        Error::new(Code::InvalidName, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_has_a_status() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
            assert!((400..600).contains(&code.http_status()), "{code}");
            assert!((1..=6).contains(&code.exit_status()), "{code}");
        }
        assert_eq!(Code::ALL.len(), 19);
    }
}
