//! `context`: what relative names are read against.

use byname_api::Error;
use byname_name::Name;

use crate::cli::ContextArgs;
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::reach::{self, Places, Said};
use crate::screen::{Format, Paint, Screen};

/// Runs it: sets or forgets the noted one, then shows the one that counts.
pub(crate) fn run(
    screen: &mut Screen,
    env: &Environment,
    places: &Places,
    root: Option<&str>,
    args: &ContextArgs,
) -> Outcome {
    let written = |e: std::io::Error| Failure::System(format!("cannot note the context: {e}"));
    if args.unset {
        reach::note_context(env, None).map_err(written)?;
    }
    if let Some(text) = &args.name {
        let (now, _) = reach::context(env, places, root)?;
        let name =
            Name::resolve(&now, text).map_err(|e| Error::from(e).within(format!("`{}`", text.escape_debug())))?;
        reach::note_context(env, Some(&name)).map_err(written)?;
        if root.is_some() || env.root.is_some() {
            let stronger = if root.is_some() { "--root" } else { "BYNAME_ROOT" };
            screen.say(&format!("byname: note: {stronger} counts more than this, as long as it is given"));
        }
    }
    let (name, said) = reach::context(env, places, root)?;
    match screen.format {
        Format::Json => screen.json(&serde_json::json!({ "context": name, "said_by": said.as_str() }))?,
        Format::Name => screen.line(name.as_str())?,
        Format::Table => {
            let by = match said {
                Said::Flag => "--root",
                Said::Environment => "BYNAME_ROOT",
                Said::Context => "byname context",
                Said::File => "client.toml",
                Said::Nobody => "nothing else is said",
            };
            let by = screen.paint(Paint::Dim, &format!("({by})"));
            screen.line(&format!("{name} {by}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_set_relative_to_itself_and_beaten_by_flag_and_environment() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::within(dir.path());
        let mut env = Environment::with_state(&dir.path().join("state"));
        let ask = |env: &Environment, root: Option<&str>, name: Option<&str>, unset: bool| {
            let (mut screen, out, _) = Screen::captured(Format::Table, false);
            let args = ContextArgs { name: name.map(Into::into), unset };
            run(&mut screen, env, &places, root, &args).map(|()| out.take()).map_err(|e| e.exit_status())
        };
        assert_eq!(ask(&env, None, None, false).unwrap(), "/ (nothing else is said)\n");
        std::fs::write(dir.path().join("client.toml"), "root = '/file'").unwrap();
        assert_eq!(ask(&env, None, None, false).unwrap(), "/file (client.toml)\n");
        assert_eq!(ask(&env, None, Some("/a"), false).unwrap(), "/a (byname context)\n");
        assert_eq!(ask(&env, None, Some("b"), false).unwrap(), "/a/b (byname context)\n");
        assert_eq!(ask(&env, None, Some("x//y"), false), Err(2));
        env.root = Some("/env".into());
        assert_eq!(ask(&env, None, None, false).unwrap(), "/env (BYNAME_ROOT)\n");
        assert_eq!(ask(&env, Some("/flag"), None, false).unwrap(), "/flag (--root)\n");
        env.root = None;
        assert_eq!(ask(&env, None, None, false).unwrap(), "/a/b (byname context)\n");
        assert_eq!(ask(&env, None, None, true).unwrap(), "/file (client.toml)\n");
        assert_eq!(ask(&env, None, None, true).unwrap(), "/file (client.toml)\n", "twice is no error");
    }

    #[test]
    fn a_note_that_does_not_read_says_how_to_be_rid_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::with_state(dir.path());
        std::fs::create_dir(dir.path().join("byname")).unwrap();
        std::fs::write(dir.path().join("byname/context"), "a//b\n").unwrap();
        let error = reach::context(&env, &Places::within(dir.path()), None).unwrap_err();
        assert!(error.message().contains("byname context --unset"), "{error}");
        let (mut screen, ..) = Screen::captured(Format::Table, false);
        run(&mut screen, &env, &Places::within(dir.path()), None, &ContextArgs { name: None, unset: true }).unwrap();
    }
}
