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

#[cfg(test)]
mod tests {
    use crate::fake::run;

    #[tokio::test]
    async fn a_value_comes_from_a_file_as_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "open\nsesame\n").unwrap();
        let done = run(&format!("secret set --root /x key --file {}", file.path().display())).await;
        let op = r#"{"op":"declare","name":"/x/key","spec":{"kind":"secret","value":"open\nsesame\n"}}"#;
        assert_eq!((done.log, done.out.as_str()), (vec![format!("batch {op}")], "created /x/key (v9)\n"));
        std::fs::write(file.path(), "x".repeat(65_537)).unwrap();
        assert_eq!(run(&format!("secret set /x/key --file {}", file.path().display())).await.status, 1);
        assert_eq!(run("secret set /x/key").await.status, 2);
    }

    #[tokio::test]
    async fn a_value_among_the_words_is_refused_with_advice() {
        for line in ["add /x/key --kind secret --value open", "edit /sealed --value open"] {
            let done = run(line).await;
            assert_eq!((done.status, done.log.len()), (2, 0), "{line}");
            assert!(done.talk.contains("byname secret set"), "{}", done.talk);
        }
    }

    #[tokio::test]
    async fn show_tells_the_fingerprint() {
        let shown = run("show /sealed").await.out;
        assert!(shown.contains("\n  fingerprint  5f3a00112233\n"), "{shown}");
        assert!(shown.contains("\n  certified    (fingerprint 2d711642b726)\n"), "{shown}");
    }
}
