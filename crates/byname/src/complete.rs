//! Completion on a tab, with what the server knows: names, label by label, instances, hosts and attributes.
//!
//! The scripts of `byname completions` run `byname` again with BYNAME_COMPLETE set. One question is asked, with a bound
//! on the answer and on the time; whatever goes wrong, nothing is offered and nothing is said.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::time::Duration;

use clap::{Arg, FromArgMatches};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, ValueHint};

use byname_api::caller::Right;
use byname_api::object::Kind;
use byname_api::request::{ListRequest, SearchRequest};
use byname_api::{NameService, Result};
use byname_client::{Clerk, Options};
use byname_name::{Name, Pattern};

use crate::cli::{self, Cli};
use crate::environment::{COMPLETE, Environment};
use crate::reach;

/// How long all of it may take.
const BOUND: Duration = Duration::from_millis(500);
/// The most candidates that are asked for.
const LIMIT: u32 = 500;

/// Whether this run is a completion; then it was answered.
pub(crate) fn answered(env: &Environment) -> bool {
    // Bash gives and takes words as they are typed; the others quote by themselves.
    let typed = env.completes.as_deref() == Some("bash");
    let complete = CompleteEnv::with_factory(|| command(typed)).var(COMPLETE).bin("byname");
    // A wrong use by a script is nothing that could be said while somebody types.
    env.completes.is_some()
        && complete.try_complete(std::env::args_os(), std::env::current_dir().ok().as_deref()).unwrap_or(true)
}

/// The script for a shell.
pub(crate) fn script(shell: &str) -> Option<Vec<u8>> {
    let mut script = Vec::new();
    let shells = Shells::builtins();
    shells.completer(shell)?.write_registration(COMPLETE, "byname", "byname", "byname", &mut script).ok()?;
    Some(script)
}

/// What an argument stands for.
#[derive(Clone, Copy)]
enum Asks {
    /// A name, or a pattern of names.
    Name,
    /// A new name: only where it could go.
    Parent,
    Instance,
    Attribute,
    /// An attribute, and a value to follow.
    Comparison,
    Computer,
}

/// The command line with completers for what only a server knows.
fn command(typed: bool) -> clap::Command {
    let mut command = cli::command();
    command = command.mut_args(|arg| completing("", arg, typed));
    for sub in subcommands(&command) {
        command = command.mut_subcommand(&sub, |c| within(&sub, c, typed));
    }
    command
}

fn subcommands(command: &clap::Command) -> Vec<String> {
    command.get_subcommands().map(|c| c.get_name().to_owned()).collect()
}

/// The same for a command, and for the commands within it.
fn within(path: &str, command: clap::Command, typed: bool) -> clap::Command {
    let mut command = command.mut_args(|arg| completing(path, arg, typed));
    for sub in subcommands(&command) {
        let path = format!("{path} {sub}");
        command = command.mut_subcommand(&sub, |c| within(&path, c, typed));
    }
    command
}

fn completing(command: &str, arg: Arg, typed: bool) -> Arg {
    let asks = match (command, arg.get_id().as_str()) {
        ("help", "command") => {
            let words = subcommands(&cli::command());
            let words = move |current: &OsStr| fitting(words.iter().map(String::as_str), current);
            return arg.add(ArgValueCompleter::new(words));
        }
        ("acl grant" | "acl deny", "rights") | ("acl explain", "right") => {
            let words =
                Right::ALL.iter().map(ToString::to_string).chain((command != "acl explain").then(|| "all".into()));
            let words: Vec<String> = words.collect();
            return arg.add(ArgValueCompleter::new(move |current: &OsStr| listed(&words, current)));
        }
        ("validate", "paths")
        | ("ca show" | "cert show" | "ca sign" | "ca certify", "file" | "path" | "request")
        | ("secret set", "file")
        | ("ticket verify", "credential")
        | (
            _,
            "files" | "value_file" | "token_file" | "password_file" | "config" | "ca" | "cert" | "key"
            | "certified_file" | "credential_file",
        ) => {
            return arg.add(ArgValueCompleter::new(PathCompleter::file()));
        }
        ("cert get" | "cert renew" | "cert request", "out") | ("ca init" | "ca sign" | "ca certify", "dir") => {
            return arg.add(ArgValueCompleter::new(PathCompleter::dir()));
        }
        (_, "data" | "programs" | "directory") if arg.get_value_hint() == ValueHint::Unknown => {
            return arg.add(ArgValueCompleter::new(PathCompleter::dir()));
        }
        ("add" | "principal add", "name") | ("alias", "newname") => Asks::Parent,
        (_, "failed" | "instance") => Asks::Instance,
        (_, "index" | "public") => Asks::Attribute,
        (_, "attributes" | "filter") => Asks::Comparison,
        (_, "hosts" | "host") | ("cluster invite", "computer") => Asks::Computer,
        (
            _,
            "name" | "names" | "pattern" | "patterns" | "target" | "members" | "servers" | "root" | "start_by" | "who"
            | "entry" | "principal" | "principal_as" | "group" | "by" | "owner" | "of" | "under",
        ) => Asks::Name,
        _ => return arg,
    };
    arg.add(ArgValueCompleter::new(Live { asks, typed }))
}

struct Live {
    asks: Asks,
    /// Words come and go with the backslashes of a shell.
    typed: bool,
}

impl ValueCompleter for Live {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        let Some(text) = current.to_str() else { return Vec::new() };
        let text = if self.typed { without_escapes(text) } else { text.to_owned() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return Vec::new() };
        let answer = async { tokio::time::timeout(BOUND, ask(self.asks, &text)).await };
        let found = runtime.block_on(answer).ok().and_then(Result::ok).unwrap_or_default();
        // A look-up of a host's name may still be under way.
        runtime.shutdown_background();
        found.into_iter().map(|word| CompletionCandidate::new(if self.typed { escaped(&word) } else { word })).collect()
    }
}

/// A word with a backslash before what means something to a shell.
fn escaped(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || !c.is_ascii() || "/._-+,:=@%".contains(c);
    word.chars().flat_map(|c| (!plain(c)).then_some('\\').into_iter().chain([c])).collect()
}

fn without_escapes(word: &str) -> String {
    let mut chars = word.chars();
    let mut plain = String::new();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    plain
}

/// Asks the server that the words so far mean.
async fn ask(asks: Asks, text: &str) -> Result<Vec<String>> {
    let env = Environment::read();
    let places = reach::Places::default();
    let (global, first) = words();
    let target = crate::target(&env, &global, reach::Sessions::Tcp)?;
    let options =
        Options { connect_timeout: BOUND, answer_timeout: BOUND, patience: Duration::ZERO, ..crate::options(&target)? };
    let clerk = Clerk::connect(&target.servers, options)?;
    let context = reach::context(&env, &places, global.root.as_deref())?.0;
    candidates(&clerk, asks, text, &context, first.as_deref()).await
}

/// The options of every command that stand among the words so far, and the name that the command is about.
fn words() -> (cli::GlobalArgs, Option<String>) {
    let words: Vec<_> = std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
    // The line is not finished, so the rest of it may well be wrong.
    let matches = cli::command().ignore_errors(true).try_get_matches_from(&words);
    let global = matches.ok().and_then(|m| Some(Cli::from_arg_matches(&m).ok()?.global)).unwrap_or_else(|| {
        let after = |flag: &str| {
            let at = words.iter().position(|w| w == flag)?;
            words.get(at + 1).and_then(|w| w.to_str()).map(str::to_owned)
        };
        cli::GlobalArgs {
            server: after("--server"),
            token_file: after("--token-file").map(Into::into),
            principal_as: after("--as"),
            ca: after("--ca").map(Into::into),
            cert: after("--cert").map(Into::into),
            key: after("--key").map(Into::into),
            root: after("--root"),
            output: None,
        }
    });
    let name = name_among(words.iter().skip(2).filter_map(|w| w.to_str()), words.get(1).and_then(|w| w.to_str()));
    (global, name.map(str::to_owned))
}

/// The first word behind a command that is neither an option nor a command within it.
fn name_among<'w>(words: impl Iterator<Item = &'w str>, command: Option<&str>) -> Option<&'w str> {
    let inner = command.and_then(|c| cli::command().find_subcommand(c).map(subcommands)).unwrap_or_default();
    let mut words = words.filter(|w| !w.is_empty() && !w.starts_with('-'));
    let first = words.next()?;
    if inner.iter().any(|name| name == first) { words.next() } else { Some(first) }
}

/// What could stand there.
async fn candidates(
    service: &dyn NameService,
    asks: Asks,
    text: &str,
    context: &Name,
    first: Option<&str>,
) -> Result<Vec<String>> {
    let cx = crate::commands::anyone();
    match asks {
        Asks::Name | Asks::Parent => {
            let (base, part) = text.rfind('/').map_or(("", text), |at| text.split_at(at + 1));
            let Some(part_pattern) = beginning(part) else { return Ok(Vec::new()) };
            let Ok(pattern) = Pattern::resolve(context, &format!("{base}{part_pattern}")) else {
                return Ok(Vec::new());
            };
            // A bare `*` is every name, and here only the next labels are meant.
            let pattern = if base.is_empty() && part.is_empty() { beneath(context) } else { pattern.to_string() };
            let request = ListRequest { limit: Some(LIMIT), ..ListRequest::new(pattern) };
            let entries = service.list(&cx, request).await?.entries;
            let only = entries.len() == 1;
            let mut found = Vec::new();
            for entry in entries {
                let Some(leaf) = entry.name.leaf() else { continue };
                let goes_on = entry.kind == Kind::Directory || matches!(asks, Asks::Parent);
                // A lone directory is a name of its own, and the way to those beneath it.
                if !goes_on || (only && !matches!(asks, Asks::Parent)) {
                    found.push(format!("{base}{leaf}"));
                }
                if goes_on {
                    found.push(format!("{base}{leaf}/"));
                }
            }
            Ok(found)
        }
        Asks::Computer => {
            let Some(part) = beginning(text) else { return Ok(Vec::new()) };
            let request = ListRequest { limit: Some(LIMIT), ..ListRequest::new(format!("/computers/{part}")) };
            let entries = service.list(&cx, request).await?.entries;
            Ok(entries.iter().filter_map(|e| e.name.leaf()).map(str::to_owned).collect())
        }
        Asks::Instance => {
            let Some(Ok(name)) = first.map(|name| Name::resolve(context, name)) else { return Ok(Vec::new()) };
            let status = service.status(&cx, ListRequest::new(name.as_str())).await?;
            let ids = status.services.iter().flat_map(|s| &s.instances).map(|i| i.id.to_string());
            Ok(ids.filter(|id| id.starts_with(text)).collect())
        }
        Asks::Attribute | Asks::Comparison => {
            let request =
                SearchRequest { under: context.clone(), limit: Some(LIMIT), ..SearchRequest::new("(name=*)") };
            let objects = service.search(&cx, request).await?.objects;
            let named: BTreeSet<String> =
                objects.into_iter().flat_map(|o| o.spec.attributes.unwrap_or_default().into_keys()).collect();
            let sign = if matches!(asks, Asks::Comparison) { "=" } else { "" };
            Ok(named.into_iter().filter(|name| name.starts_with(text)).map(|name| name + sign).collect())
        }
    }
}

/// A pattern of the labels that begin so; none when the text is a pattern itself.
fn beginning(part: &str) -> Option<String> {
    (!part.contains(['*', '?', '[', ']', '{', '}'])).then(|| format!("{part}*"))
}

fn beneath(context: &Name) -> String {
    format!("{}/*", context.as_str().trim_end_matches('/'))
}

fn fitting<'a>(words: impl Iterator<Item = &'a str>, current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    words.filter(|word| word.starts_with(&*current)).map(CompletionCandidate::new).collect()
}

/// Words of a list with commas: the last one is completed.
fn listed(words: &[String], current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let (before, last) = current.rfind(',').map_or(("", &*current), |at| current.split_at(at + 1));
    let taken: Vec<&str> = before.split(',').collect();
    let open = words.iter().filter(|word| word.starts_with(last) && !taken.contains(&word.as_str()));
    open.map(|word| CompletionCandidate::new(format!("{before}{word}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    async fn found(asks: Asks, text: &str, context: &str, first: Option<&str>) -> Vec<String> {
        candidates(&Fake::default(), asks, text, &context.parse().unwrap(), first).await.unwrap()
    }

    #[tokio::test]
    async fn names_are_completed_label_by_label() {
        for (text, context, expected) in [
            ("/BVODS/", "/", &["/BVODS/CMS", "/BVODS/QS"][..]),
            ("/BVODS/Q", "/", &["/BVODS/QS"]),
            ("/BV", "/", &["/BVODS", "/BVODS/"]),
            ("/old/", "/", &["/old/dir/", "/old/kept/"]),
            ("", "/BVODS", &["CMS", "QS"]),
            ("Q", "/BVODS", &["QS"]),
            ("dir/", "/old", &["dir/x"]),
            ("/none/", "/", &[]),
            ("/BVODS/*", "/", &[]),
            ("//", "/", &[]),
        ] {
            assert_eq!(found(Asks::Name, text, context, None).await, expected, "{text} in {context}");
        }
        assert_eq!(found(Asks::Parent, "/BV", "/", None).await, ["/BVODS/"]);
    }

    #[tokio::test]
    async fn instances_are_those_of_the_name_and_attributes_those_in_use() {
        assert_eq!(found(Asks::Instance, "", "/BVODS", Some("QS")).await, ["i7"]);
        assert_eq!(found(Asks::Instance, "ix", "/", Some("/BVODS/QS")).await, [""; 0]);
        assert_eq!(found(Asks::Instance, "", "/", None).await, [""; 0]);
        assert_eq!(found(Asks::Attribute, "t", "/", None).await, ["team"]);
        assert_eq!(found(Asks::Comparison, "T", "/", None).await, ["Tier="]);
    }

    #[test]
    fn rights_are_completed_one_by_one_and_the_name_is_behind_the_inner_command() {
        let words = ["find", "list", "launch"].map(str::to_owned);
        let found = |text: &str| -> Vec<String> {
            let candidates = listed(&words, OsStr::new(text));
            candidates.iter().map(|c| c.get_value().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(found("l"), ["list", "launch"]);
        assert_eq!(found("list,"), ["list,find", "list,launch"]);
        assert_eq!(found("x,la"), ["x,launch"]);
        assert_eq!(name_among(["pair", "--instance", "/a"].into_iter(), Some("ticket")), Some("/a"));
        assert_eq!(name_among(["--all", "pair"].into_iter(), Some("find")), Some("pair"));
    }

    #[test]
    fn each_shell_has_a_script_and_the_definition_with_completers_is_consistent() {
        command(true).debug_assert();
        for shell in ["bash", "zsh", "fish"] {
            let script = String::from_utf8(script(shell).unwrap()).unwrap();
            assert!(script.contains(COMPLETE), "{shell}");
        }
        assert!(script("tcsh").is_none());
    }
}
