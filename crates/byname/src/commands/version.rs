//! `version`: of this command and of the server.

use byname_api::Result;
use byname_api::request::ServerInfo;
use serde::Serialize;

use crate::failure::Outcome;
use crate::screen::{Format, Screen};

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Serialize)]
struct Versions {
    client: Client,
    /// Absent when no server can be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<ServerInfo>,
}

#[derive(Serialize)]
struct Client {
    version: &'static str,
}

/// Prints both; a server that cannot be reached is no error.
pub(crate) fn print(screen: &mut Screen, server: Result<ServerInfo>) -> Outcome {
    match (screen.format, server) {
        (Format::Json, server) => {
            screen.json(&Versions { client: Client { version: VERSION }, server: server.ok() })?;
        }
        (Format::Name, _) => screen.line(VERSION)?,
        (Format::Table, server) => {
            screen.line(&format!("client  {VERSION}"))?;
            match server {
                Ok(info) => {
                    let role = if info.primary { "primary" } else { "backup" };
                    screen.line(&format!(
                        "server  {} ({role}, {} objects, revision {})",
                        info.version, info.objects, info.revision
                    ))?;
                    if let Some(why) = &info.stalled {
                        screen.say(&format!("byname: note: writes wait: {why}"));
                    }
                }
                Err(e) => {
                    screen.flush()?;
                    screen.say(&format!("server  not reached: {e}"));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use byname_api::{Code, Error};

    #[test]
    fn a_server_out_of_reach_is_told_and_is_no_error() {
        for (format, out, talk) in [
            (Format::Table, format!("client  {VERSION}\n"), "server  not reached: unavailable: gone\n"),
            (Format::Json, format!("{{\"client\":{{\"version\":\"{VERSION}\"}}}}\n"), ""),
        ] {
            let (mut screen, shown, said) = Screen::captured(format, false);
            print(&mut screen, Err(Error::new(Code::Unavailable, "gone"))).unwrap();
            assert_eq!((shown.take(), said.take().as_str()), (out, talk));
        }
    }

    #[tokio::test]
    async fn the_server_s_version_is_shown() {
        let done = crate::fake::run("version").await;
        assert_eq!(done.out, format!("client  {VERSION}\nserver  9.9.9 (primary, 12 objects, revision 34)\n"));
    }
}
