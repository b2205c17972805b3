//! What the process's environment says. Nothing else in the workspace reads it.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// The variables that launched programs inherit from the agent.
const INHERITED: [&str; 12] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "LD_LIBRARY_PATH",
];

/// The variable that the scripts of `byname completions` set.
pub(crate) const COMPLETE: &str = "BYNAME_COMPLETE";

/// Everything that Byname takes from the environment, read once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    /// BYNAME_SERVER: where to ask.
    pub server: Option<String>,
    /// BYNAME_ROOT: the context of relative names and patterns.
    pub root: Option<String>,
    /// BYNAME_TOKEN: the bearer token.
    pub token: Option<String>,
    /// BYNAME_TOKEN_FILE: a file that holds the bearer token.
    pub token_file: Option<PathBuf>,
    /// BYNAME_CA: a file with the root certificates of the server's trust domain.
    pub ca: Option<PathBuf>,
    /// BYNAME_IDENTITY: a folder with a client certificate and its key.
    pub identity: Option<PathBuf>,
    /// BYNAME_AS: whose session is used.
    pub principal: Option<String>,
    /// BYNAME_OUTPUT: the default of `--output`.
    pub output: Option<String>,
    /// BYNAME_NAME: in a launched program, the name of its service.
    pub own_name: Option<String>,
    /// BYNAME_INSTANCE: in a launched program, its instance.
    pub own_instance: Option<String>,
    /// BYNAME_CREDENTIAL_FILE: in a launched program, the file where it keeps what its ticket was exchanged for.
    pub own_credential_file: Option<PathBuf>,
    /// BYNAME_TICKET_FD: in a launched program, the descriptor that holds its ticket.
    pub ticket_fd: Option<u32>,
    /// NO_COLOR: no colours, whatever the terminal can do (https://no-color.org).
    pub no_color: bool,
    /// TERM is `dumb`.
    pub dumb_terminal: bool,
    /// BYNAME_LOG: what a server or agent logs.
    pub log: Option<String>,
    /// What launched programs inherit: where programs are, who and in which language; nothing of Byname's own.
    pub for_programs: Vec<(OsString, OsString)>,
    /// VISUAL, else EDITOR: a line for the shell that edits a file.
    pub editor: Option<String>,
    /// Somebody sits at a terminal: standard input and output are one.
    pub terminal: bool,
    /// Somebody can type on standard input.
    pub keyboard: bool,
    /// DISPLAY or WAYLAND_DISPLAY is set: a page can be opened.
    pub desktop: bool,
    /// BYNAME_COMPLETE: this shell asks what could stand at the cursor.
    pub completes: Option<String>,
    /// HOME.
    pub home: Option<PathBuf>,
    /// XDG_STATE_HOME, when it is absolute as its specification asks.
    pub state_home: Option<PathBuf>,
}

impl Environment {
    /// Reads the environment of this process.
    pub(crate) fn read() -> Self {
        let keyboard = std::io::stdin().is_terminal();
        let terminal = keyboard && std::io::stdout().is_terminal();
        Environment { terminal, keyboard, ..Self::from(&|name| std::env::var_os(name)) }
    }

    fn from(get: &dyn Fn(&str) -> Option<OsString>) -> Self {
        // An empty variable is an unset one.
        let value = |name: &str| get(name).filter(|v| !v.is_empty());
        let text = |name: &str| value(name).and_then(|v| v.into_string().ok());
        let folder = |name: &str| value(name).map(PathBuf::from).filter(|p| p.is_absolute());
        Environment {
            server: text("BYNAME_SERVER"),
            root: text("BYNAME_ROOT"),
            token: text("BYNAME_TOKEN"),
            token_file: value("BYNAME_TOKEN_FILE").map(PathBuf::from),
            ca: value("BYNAME_CA").map(PathBuf::from),
            identity: value("BYNAME_IDENTITY").map(PathBuf::from),
            principal: text("BYNAME_AS"),
            output: text("BYNAME_OUTPUT"),
            own_name: text("BYNAME_NAME"),
            own_instance: text("BYNAME_INSTANCE"),
            own_credential_file: value("BYNAME_CREDENTIAL_FILE").map(PathBuf::from),
            ticket_fd: text("BYNAME_TICKET_FD").and_then(|v| v.parse().ok()),
            no_color: value("NO_COLOR").is_some(),
            dumb_terminal: text("TERM").is_some_and(|v| v == "dumb"),
            log: text("BYNAME_LOG"),
            for_programs: INHERITED.iter().filter_map(|name| Some((OsString::from(name), value(name)?))).collect(),
            editor: text("VISUAL").or_else(|| text("EDITOR")),
            terminal: false,
            keyboard: false,
            desktop: value("DISPLAY").or_else(|| value("WAYLAND_DISPLAY")).is_some(),
            completes: text(COMPLETE),
            home: folder("HOME"),
            state_home: folder("XDG_STATE_HOME"),
        }
    }

    /// Where this user's Byname keeps what may be lost: `$XDG_STATE_HOME/byname` or `~/.local/state/byname`.
    pub(crate) fn state_dir(&self) -> Option<PathBuf> {
        let base = self.state_home.clone().or_else(|| Some(self.home.as_ref()?.join(".local/state")))?;
        Some(base.join("byname"))
    }

    /// The data directory of `byname dev` when none is given.
    pub(crate) fn dev_dir(&self) -> Option<PathBuf> {
        Some(self.state_dir()?.join("dev"))
    }

    /// An environment that knows nothing but this state folder.
    #[cfg(test)]
    pub(crate) fn with_state(folder: &Path) -> Self {
        Environment { state_home: Some(folder.to_owned()), ..Environment::default() }
    }
}

/// The folder of configuration for the whole host.
pub(crate) fn system_config_dir() -> &'static Path {
    Path::new("/etc/byname")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_is_unset_and_relative_folders_are_ignored() {
        let env = Environment::from(&|name| match name {
            "BYNAME_SERVER" => Some("".into()),
            "XDG_STATE_HOME" => Some("relative".into()),
            "HOME" => Some("/home/a".into()),
            "NO_COLOR" => Some("1".into()),
            _ => None,
        });
        assert_eq!(env.server, None);
        assert!(env.no_color);
        assert_eq!(env.dev_dir(), Some(PathBuf::from("/home/a/.local/state/byname/dev")));
    }
}
