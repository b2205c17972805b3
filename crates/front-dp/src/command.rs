//! The table of commands: what a message may be. A message is one list and is looked up here; nothing is evaluated, so
//! `ns_AreYouAlive; expr 40+2` is a command called `ns_AreYouAlive;`, which there is not.

use crate::list;

/// The most words of a message.
const MAX_WORDS: usize = 16;

/// What a peer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `ns_AreYouAlive`.
    AreYouAlive,
    /// `ns_ListServices pattern`.
    List(String),
    /// `ns_FindServices pattern`.
    Find(String),
    /// `ns_LaunchServices pattern`.
    Launch(String),
    /// `ns_KillServices pattern`.
    Kill(String),
    /// `ns_ServiceState pattern ?dead?`.
    State {
        /// Which.
        pattern: String,
        /// The client found it dead.
        dead: bool,
    },
    /// `ns_IncrConnection pattern` and `ns_DecrConnection pattern`.
    Use {
        /// Which.
        pattern: String,
        /// One more, or one less.
        more: bool,
    },
    /// `ns_AdvertiseService name host port ?pid? ?ticket?`.
    Advertise {
        /// The service.
        name: String,
        /// Its host, as it calls itself.
        host: String,
        /// Its port.
        port: u16,
        /// Its process.
        pid: Option<u32>,
        /// Its half of the pair.
        ticket: Option<String>,
    },
    /// `ns_UnadvertiseService name ?ticket?`.
    Unadvertise {
        /// The service.
        name: String,
        /// Its half of the pair.
        ticket: Option<String>,
    },
    /// `ns_Register …`.
    Register(Register),
    /// `ns_AuthenticateService name`.
    Authenticate(String),
    /// `ns_WhoIsPrimary`.
    WhoIsPrimary,
    /// `ns_GetServerID`.
    ServerId,
    /// `ns_IsPrimary`.
    IsPrimary,
    /// `ns_Identify token`: who speaks on this connection from now on; not of the original.
    Identify(String),
    /// `dp_CloseRPCFile`: the peer closes the connection.
    Close,
}

/// The administration of services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Register {
    /// `addService name host command`.
    Add {
        /// The service.
        name: String,
        /// Where it runs.
        host: String,
        /// What is run: a list.
        command: String,
    },
    /// `editService name host command`.
    Edit {
        /// The service.
        name: String,
        /// Where it runs.
        host: String,
        /// What is run: a list.
        command: String,
    },
    /// `deleteService name`.
    Delete(String),
    /// `aliasService name alias`.
    Alias {
        /// The service.
        name: String,
        /// Its other name.
        alias: String,
    },
    /// `infoService name`.
    Info(String),
}

/// How each command is called, for the message about wrong arguments; the first word is its name.
const TABLE: &[&str] = &[
    "ns_AreYouAlive",
    "ns_ListServices pattern",
    "ns_FindServices pattern",
    "ns_LaunchServices pattern",
    "ns_KillServices pattern",
    "ns_ServiceState pattern ?dead?",
    "ns_IncrConnection pattern",
    "ns_DecrConnection pattern",
    "ns_AdvertiseService name host port ?pid? ?ticket?",
    "ns_UnadvertiseService name ?ticket?",
    "ns_Register option ?arg ...?",
    "ns_AuthenticateService name",
    "ns_WhoIsPrimary",
    "ns_GetServerID",
    "ns_IsPrimary",
    "ns_Identify token",
    "dp_CloseRPCFile",
];

/// What the servers of the original told each other, unchecked and in part evaluated.
const OF_SERVERS: [&str; 4] = ["ns_UpdateState", "ns_SetPrimarySID", "ns_Exit", "ns_ExitAll"];

/// The name of the command, as it is counted: one of a table, so that a peer cannot make up others.
pub fn known(message: &str) -> &'static str {
    let first = list::split(message, MAX_WORDS).ok().and_then(|words| words.into_iter().next());
    let names = TABLE.iter().filter_map(|usage| usage.split(' ').next());
    first.and_then(|word| names.into_iter().find(|name| *name == word)).unwrap_or("other")
}

impl Command {
    /// Reads a message.
    ///
    /// # Errors
    ///
    /// The sentence for the peer, in the manner of Tcl.
    pub fn parse(message: &str) -> Result<Command, String> {
        let words = list::split(message, MAX_WORDS).map_err(|error| error.to_string())?;
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let Some((&name, args)) = words.split_first() else { return Err("the message is empty".into()) };
        if OF_SERVERS.contains(&name) {
            return Err(format!("{name} is refused: name servers speak to each other in another way"));
        }
        let Some(usage) = TABLE.iter().find(|usage| usage.split(' ').next() == Some(name)) else {
            return Err(format!("invalid command name \"{}\"", shortened(name)));
        };
        let wrong = || format!("wrong # args: should be \"{usage}\"");
        let command = match (name, args) {
            ("ns_AreYouAlive", []) => Command::AreYouAlive,
            ("ns_ListServices", [pattern]) => Command::List((*pattern).into()),
            ("ns_FindServices", [pattern]) => Command::Find((*pattern).into()),
            ("ns_LaunchServices", [pattern]) => Command::Launch((*pattern).into()),
            ("ns_KillServices", [pattern]) => Command::Kill((*pattern).into()),
            ("ns_ServiceState", [pattern]) => Command::State { pattern: (*pattern).into(), dead: false },
            ("ns_ServiceState", [pattern, "dead"]) => Command::State { pattern: (*pattern).into(), dead: true },
            ("ns_ServiceState", [_, other]) => {
                return Err(format!("bad state \"{}\": must be dead", shortened(other)));
            }
            ("ns_IncrConnection", [pattern]) => Command::Use { pattern: (*pattern).into(), more: true },
            ("ns_DecrConnection", [pattern]) => Command::Use { pattern: (*pattern).into(), more: false },
            ("ns_AdvertiseService", [name, host, port, rest @ ..]) if rest.len() <= 2 => {
                advertise(name, host, port, rest)?
            }
            ("ns_UnadvertiseService", [name]) => Command::Unadvertise { name: (*name).into(), ticket: None },
            ("ns_UnadvertiseService", [name, ticket]) => {
                Command::Unadvertise { name: (*name).into(), ticket: given(ticket) }
            }
            ("ns_Register", [option, args @ ..]) => Command::Register(register(option, args)?),
            ("ns_AuthenticateService", [name]) => Command::Authenticate((*name).into()),
            ("ns_WhoIsPrimary", []) => Command::WhoIsPrimary,
            ("ns_GetServerID", []) => Command::ServerId,
            ("ns_IsPrimary", []) => Command::IsPrimary,
            ("ns_Identify", [token]) => Command::Identify((*token).into()),
            ("dp_CloseRPCFile", _) => Command::Close,
            _ => return Err(wrong()),
        };
        Ok(command)
    }
}

/// The paper's own example has no pid, so a single word more is one when it looks like it, and a ticket otherwise.
fn advertise(name: &str, host: &str, port: &str, rest: &[&str]) -> Result<Command, String> {
    let number = port.parse().ok().filter(|port| *port > 0);
    let port = number.ok_or_else(|| format!("bad port \"{}\": must be a number from 1 to 65535", shortened(port)))?;
    let (pid, ticket) = match rest {
        [] => (None, None),
        [one] => match one.parse::<u32>() {
            Ok(pid) => (Some(pid), None),
            Err(_) => (None, given(one)),
        },
        [pid, ticket, ..] => {
            let number = if pid.is_empty() { Ok(None) } else { pid.parse().map(Some) };
            (number.map_err(|_| format!("expected integer but got \"{}\"", shortened(pid)))?, given(ticket))
        }
    };
    Ok(Command::Advertise { name: name.into(), host: host.into(), port, pid, ticket })
}

fn register(option: &str, args: &[&str]) -> Result<Register, String> {
    let wrong = |usage: &str| Err(format!("wrong # args: should be \"ns_Register {usage}\""));
    match (option, args) {
        ("addService", [name, host, command]) => {
            Ok(Register::Add { name: (*name).into(), host: (*host).into(), command: (*command).into() })
        }
        ("addService", _) => wrong("addService name host command"),
        ("editService" | "modifyService", [name, host, command]) => {
            Ok(Register::Edit { name: (*name).into(), host: (*host).into(), command: (*command).into() })
        }
        ("editService" | "modifyService", _) => wrong("editService name host command"),
        ("deleteService", [name]) => Ok(Register::Delete((*name).into())),
        ("deleteService", _) => wrong("deleteService name"),
        ("aliasService", [name, alias]) => Ok(Register::Alias { name: (*name).into(), alias: (*alias).into() }),
        ("aliasService", _) => wrong("aliasService name alias"),
        ("infoService" | "info", [name]) => Ok(Register::Info((*name).into())),
        ("infoService" | "info", _) => wrong("infoService name"),
        (other, _) => Err(format!(
            "bad option \"{}\": must be addService, aliasService, deleteService, editService, or infoService",
            shortened(other)
        )),
    }
}

/// The original passes an empty word where it has no ticket.
fn given(ticket: &str) -> Option<String> {
    (!ticket.is_empty()).then(|| ticket.to_owned())
}

/// A word of the peer's, short enough to repeat.
fn shortened(word: &str) -> String {
    word.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_command_is_never_run() {
        for message in [
            "ns_AreYouAlive; expr 40+2",
            "ns_AreYouAlive\nns_Exit",
            "ns_AreYouAlive [exec id]",
            "[ns_AreYouAlive]",
            "expr 40+2",
            "eval ns_AreYouAlive",
            "set mike rules",
            "ns_areyoualive",
            "",
            "   ",
            "{ns_AreYouAlive",
        ] {
            assert!(Command::parse(message).is_err(), "{message:?}");
        }
        assert_eq!(
            Command::parse("ns_AreYouAlive; expr 40+2").unwrap_err(),
            "invalid command name \"ns_AreYouAlive;\""
        );
        assert_eq!(Command::parse("{ns_AreYouAlive}").unwrap(), Command::AreYouAlive);
        assert_eq!(
            Command::parse("ns_ListServices [exec id]").unwrap_err(),
            "wrong # args: should be \"ns_ListServices pattern\""
        );
        assert_eq!(Command::parse("ns_ListServices {[exec id]}").unwrap(), Command::List("[exec id]".into()));
    }

    #[test]
    fn what_servers_told_each_other_is_refused() {
        for message in ["ns_UpdateState {exec id}", "ns_SetPrimarySID 3", "ns_Exit", "ns_ExitAll"] {
            assert!(Command::parse(message).unwrap_err().contains("is refused"), "{message}");
        }
    }

    #[test]
    fn an_advertisement_has_a_pid_or_a_ticket_or_both() {
        for (rest, pid, ticket) in [
            ("", None, None),
            (" 17", Some(17), None),
            (" ab12", None, Some("ab12")),
            (" {}", None, None),
            (" 17 ab", Some(17), Some("ab")),
            (" {} ab", None, Some("ab")),
            (" 17 {}", Some(17), None),
        ] {
            let told = Command::parse(&format!("ns_AdvertiseService /cms/bugs-bunny bugs-bunny 1234{rest}")).unwrap();
            let expect = Command::Advertise {
                name: "/cms/bugs-bunny".into(),
                host: "bugs-bunny".into(),
                port: 1234,
                pid,
                ticket: ticket.map(Into::into),
            };
            assert_eq!(told, expect, "{rest}");
        }
        for bad in ["x", "0", "65536", "-1"] {
            assert!(Command::parse(&format!("ns_AdvertiseService /a h {bad}")).is_err());
        }
    }

    #[test]
    fn both_spellings_are_taken() {
        for (one, other) in [
            ("ns_Register editService /a h {x y}", "ns_Register modifyService /a h {x y}"),
            ("ns_Register infoService /a", "ns_Register info /a"),
        ] {
            assert_eq!(Command::parse(one).unwrap(), Command::parse(other).unwrap());
        }
    }
}
