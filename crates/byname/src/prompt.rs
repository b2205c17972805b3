//! Secrets that somebody types, or that a file holds. They come from nowhere else: everybody on the host can read the
//! words of a command.

use std::io::{self, Read, Write};
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use byname_api::{Code, Error};

use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::tree_files::is_stdin;

/// The longest password, in bytes.
const MAX_PASSWORD_BYTES: usize = 1_024;

/// A password: the first line of a file, or what somebody types.
///
/// # Errors
///
/// The file cannot be read or says nothing; nobody sits at a terminal; the two texts differ, where it is asked twice.
pub(crate) fn password(env: &Environment, file: Option<&Path>, what: &str, twice: bool) -> Outcome<String> {
    let password = match file {
        Some(file) => first_line(file)?,
        None => asked(env, what, twice, "--password-file FILE, or - for standard input")?,
    };
    match password.len() {
        0 => Err(Failure::usage("the password is empty")),
        1..=MAX_PASSWORD_BYTES => Ok(password),
        _ => Err(Error::new(Code::TooLarge, format!("a password is {MAX_PASSWORD_BYTES} bytes at most")).into()),
    }
}

/// What somebody types without seeing it; `instead` says how else to give it.
///
/// # Errors
///
/// Nobody sits at a terminal, or the two texts differ, where it is asked twice.
pub(crate) fn asked(env: &Environment, what: &str, twice: bool, instead: &str) -> Outcome<String> {
    if !env.keyboard {
        return Err(Failure::usage(format!("there is no terminal to ask for the {what}: give {instead}")));
    }
    let text = hidden(&format!("{}: ", capital(what)))?;
    if twice && hidden("Again: ")? != text {
        return Err(Failure::usage("the two are not the same; nothing was changed"));
    }
    Ok(text)
}

/// A line that somebody types and sees.
///
/// # Errors
///
/// Nobody sits at a terminal.
pub(crate) fn line(env: &Environment, what: &str, instead: &str) -> Outcome<String> {
    if !env.keyboard {
        return Err(Failure::usage(format!("{what}? give {instead}")));
    }
    say(&format!("{what}: "))?;
    Ok(typed()?.trim().to_owned())
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Asks with the terminal's echo off, and puts the terminal back whatever happens: keys are read one by one, so that an
/// interrupt is seen here and never leaves a terminal that shows nothing.
fn hidden(prompt: &str) -> Outcome<String> {
    struct Restore(Termios);
    impl Drop for Restore {
        fn drop(&mut self) {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
        }
    }
    let before = tcgetattr(io::stdin()).map_err(io::Error::from)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    silent.special_codes[SpecialCodeIndex::VMIN] = 1;
    silent.special_codes[SpecialCodeIndex::VTIME] = 0;
    let restore = Restore(before);
    // What was typed before is no answer; what is typed from the prompt on is.
    tcsetattr(io::stdin(), OptionalActions::Flush, &silent).map_err(io::Error::from)?;
    say(prompt)?;
    let text = keys(&mut io::stdin().lock());
    drop(restore);
    say("\n")?;
    text
}

/// A line made of keys.
fn keys(input: &mut impl Read) -> Outcome<String> {
    let mut line = Vec::new();
    loop {
        let mut key = [0];
        if input.read(&mut key)? == 0 {
            return Err(Failure::usage("nothing was typed"));
        }
        match key[0] {
            b'\n' | b'\r' => {
                return String::from_utf8(line).map_err(|_| Failure::usage("what was typed is no UTF-8 text"));
            }
            // Interrupt and quit, as a shell tells them.
            0x03 | 0x1c => return Err(Failure::Told(130)),
            0x04 if line.is_empty() => return Err(Failure::usage("nothing was typed")),
            0x08 | 0x7f => {
                // A character is a byte that begins one and those that go on with it.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            0x15 => line.clear(),
            byte => line.push(byte),
        }
    }
}

fn say(prompt: &str) -> io::Result<()> {
    let mut talk = io::stderr();
    talk.write_all(prompt.as_bytes())?;
    talk.flush()
}

fn typed() -> Outcome<String> {
    let mut text = String::new();
    if io::stdin().read_line(&mut text)? == 0 {
        return Err(Failure::usage("nothing was typed"));
    }
    Ok(without_end(text))
}

fn without_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
    }
    if text.ends_with('\r') {
        text.pop();
    }
    text
}

/// All of a file, or of standard input, as text: at most so many bytes.
///
/// # Errors
///
/// It cannot be read, is too large, or is no UTF-8 text.
pub(crate) fn whole(file: &Path, limit: usize, field: &str) -> byname_api::Result<String> {
    // One byte more than it may have, so that the limit is told without reading all of a large file.
    let most = limit as u64 + 1;
    let mut bytes = Vec::new();
    let read = match is_stdin(file) {
        true => io::stdin().lock().take(most).read_to_end(&mut bytes),
        false => std::fs::File::open(file).and_then(|f| f.take(most).read_to_end(&mut bytes)),
    };
    read.map_err(|e| Error::invalid(field, format!("cannot read {}: {e}", file.display())))?;
    if bytes.len() as u64 == most {
        return Err(
            Error::new(Code::TooLarge, format!("{} holds more than {limit} bytes", file.display())).field(field)
        );
    }
    String::from_utf8(bytes).map_err(|_| Error::invalid(field, format!("{} is not UTF-8 text", file.display())))
}

/// The first line of a file, or of standard input.
fn first_line(file: &Path) -> Outcome<String> {
    let text = whole(file, 64 << 10, "password")?;
    Ok(without_end(text.split_inclusive('\n').next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_of_its_file_and_never_empty() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let env = Environment::default();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            password(&env, Some(file.path()), "password", false).map_err(|e| e.exit_status())
        };
        assert_eq!(read("open sesame \r\nmore\n").unwrap(), "open sesame ");
        assert_eq!(read("ß").unwrap(), "ß");
        assert_eq!(read("\n"), Err(2));
        assert_eq!(read(&"x".repeat(1_025)), Err(1));
    }

    #[test]
    fn keys_make_a_line_that_can_be_mended_and_given_up() {
        let read = |bytes: &[u8]| keys(&mut &*bytes).map_err(|e| e.exit_status());
        assert_eq!(read("aß\u{7f}b\r".as_bytes()).unwrap(), "ab");
        assert_eq!(read(b"abc\x15d\x04\n").unwrap(), "d\u{4}");
        assert_eq!(read(b"\x7f\n").unwrap(), "");
        assert_eq!(read(b"ab\x03c\n"), Err(130));
        assert_eq!(read(b"\x04"), Err(2));
        assert_eq!(read(b"\xff\n"), Err(2));
    }

    #[test]
    fn without_a_terminal_it_says_what_to_do_instead() {
        let error = password(&Environment::default(), None, "new password", true).unwrap_err();
        let Failure::Error(error) = error else { panic!("{error:?}") };
        assert!(error.message().contains("the new password: give --password-file FILE"), "{error}");
    }
}
