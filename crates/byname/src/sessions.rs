//! What `byname login` gave this user: one file a server, in `~/.local/state/byname/sessions`, for its owner only.
//!
//! A file holds the session of each principal that signed in, the last one first: that is the one that commands over TCP
//! use by themselves. Over the unix socket none is used unless `--as` asks for it, so that the admin of a host stays the
//! admin there.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use byname_api::identity::Session;
use byname_api::span::Timestamp;
use byname_name::Name;

use crate::environment::Environment;
use crate::reach::write_note;

/// The file of one server.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// The server's address: two addresses may share the name of a file.
    server: String,
    /// The last one first.
    sessions: Vec<Session>,
}

/// What is kept for a server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// A session that has not ended.
    Session(Session),
    /// One that has, and of whom.
    Ended(Name),
    /// None.
    Nothing,
}

/// The session of this principal, or the last one, at one of these servers.
pub(crate) fn find(env: &Environment, servers: &str, of: Option<&Name>, now: Timestamp) -> Found {
    let mut ended = None;
    for server in each(servers) {
        let fits = |session: &Session| of.is_none_or(|name| same(name, &session.principal));
        let Some(session) = read(env, &server).sessions.into_iter().find(fits) else { continue };
        if session.expires > now {
            return Found::Session(session);
        }
        ended.get_or_insert(session.principal);
    }
    ended.map_or(Found::Nothing, Found::Ended)
}

/// Everybody who has a session at one of these servers, the last first.
pub(crate) fn principals(env: &Environment, servers: &str) -> Vec<Name> {
    let mut names: Vec<Name> = Vec::new();
    for session in each(servers).flat_map(|server| read(env, &server).sessions) {
        if !names.iter().any(|name| same(name, &session.principal)) {
            names.push(session.principal);
        }
    }
    names
}

/// Keeps a session, before those of other principals and instead of an earlier one of the same.
///
/// # Errors
///
/// The user's state folder cannot be written, or is not known.
pub(crate) fn keep(env: &Environment, servers: &str, session: &Session) -> io::Result<()> {
    for server in each(servers) {
        let mut kept = read(env, &server);
        kept.sessions.retain(|other| !same(&other.principal, &session.principal));
        kept.sessions.insert(0, session.clone());
        write(env, &server, kept)?;
    }
    Ok(())
}

/// Forgets the session of a principal. Tells whether there was one.
///
/// # Errors
///
/// The user's state folder cannot be written.
pub(crate) fn forget(env: &Environment, servers: &str, principal: &Name) -> io::Result<bool> {
    let mut found = false;
    for server in each(servers) {
        let mut kept = read(env, &server);
        let before = kept.sessions.len();
        kept.sessions.retain(|session| !same(&session.principal, principal));
        if kept.sessions.len() == before {
            continue;
        }
        found = true;
        if kept.sessions.is_empty() {
            path(env, &server).map_or(Ok(()), fs::remove_file)?;
        } else {
            write(env, &server, kept)?;
        }
    }
    Ok(found)
}

fn same(a: &Name, b: &Name) -> bool {
    a.key() == b.key()
}

/// The addresses of a list, each in one form.
fn each(servers: &str) -> impl Iterator<Item = String> {
    let form = |one: &str| one.trim().trim_end_matches('/').to_owned();
    servers.split(',').map(form).filter(|one| !one.is_empty())
}

/// A file that does not read is one that says nothing: signing in writes it anew.
fn read(env: &Environment, server: &str) -> Kept {
    let bytes = path(env, server).and_then(|path| fs::read(path).ok());
    let kept = bytes.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
    kept.filter(|kept| kept.server == server).unwrap_or_default()
}

fn write(env: &Environment, server: &str, kept: Kept) -> io::Result<()> {
    let unknown = || io::Error::other("neither HOME nor XDG_STATE_HOME is set");
    let path = path(env, server).ok_or_else(unknown)?;
    write_note(&path, &serde_json::to_vec(&Kept { server: server.to_owned(), ..kept })?)
}

/// Where the sessions of a server are: its address, with what a file's name should not hold as `_`.
fn path(env: &Environment, server: &str) -> Option<PathBuf> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
    let mut name: String = server.chars().map(plain).collect();
    // A socket's path may be longer than the name of a file, and its end tells more.
    let cut = name.len().saturating_sub(200);
    Some(env.state_dir()?.join("sessions").join(name.split_off(cut)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use byname_api::identity::Secret;

    use super::*;

    fn session(principal: &str, token: &str, expires: u64) -> Session {
        Session { token: Secret(token.into()), principal: principal.parse().unwrap(), expires: Timestamp(expires) }
    }

    #[test]
    fn the_last_session_counts_unless_another_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::with_state(dir.path());
        let (server, now) = ("https://names.example:7600", Timestamp(1_000));
        let found = |of: Option<&str>| find(&env, server, of.map(|n| n.parse().unwrap()).as_ref(), now);
        assert_eq!(found(None), Found::Nothing);
        let (liu, ann) = (session("/people/liu", "a", 2_000), session("/people/ann", "b", 500));
        keep(&env, server, &liu).unwrap();
        keep(&env, server, &ann).unwrap();
        assert_eq!(found(None), Found::Ended(ann.principal.clone()));
        assert_eq!(found(Some("/People/Liu")), Found::Session(liu.clone()));
        assert_eq!(found(Some("/people/bob")), Found::Nothing);
        assert_eq!(find(&env, "http://other:1, https://names.example:7600/", None, now), found(None));
        assert_eq!(find(&env, "http://names.example:7600", None, now), Found::Nothing, "plain TCP is another server");
        assert!(forget(&env, server, &ann.principal).unwrap());
        assert_eq!(found(None), Found::Session(liu.clone()));
        assert!(!forget(&env, server, &ann.principal).unwrap());
        assert!(forget(&env, server, &liu.principal).unwrap());
        assert_eq!(fs::read_dir(env.state_dir().unwrap().join("sessions")).unwrap().count(), 0);
    }

    #[test]
    fn a_session_is_its_owner_s_only() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::with_state(dir.path());
        let server = format!("unix://{}/byname.sock", "/a".repeat(150));
        keep(&env, &server, &session("/people/liu", "a", 1)).unwrap();
        let file = fs::read_dir(env.state_dir().unwrap().join("sessions")).unwrap().next().unwrap().unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(file.path(), "nonsense").unwrap();
        assert_eq!(find(&env, &server, None, Timestamp(0)), Found::Nothing);
    }
}
