//! What commands write: data on standard output, talk on standard error, as a table, as JSON or as bare names.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use byname_api::Error;
use byname_api::request::Problem;
use byname_api::service::{Health, State};

use crate::environment::Environment;
use crate::failure::{Failure, Mistake};

/// The form of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// The replies of the interface as JSON: stable and documented.
    Json,
    /// One bare name (or address) a line, for scripts.
    Name,
}

/// A colour or weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Paint {
    /// None.
    #[default]
    Plain,
    /// For headings.
    Bold,
    /// For what matters less.
    Dim,
    /// For what is well.
    Green,
    /// For what is on its way.
    Yellow,
    /// For what is not well.
    Red,
    /// For names that lead elsewhere.
    Cyan,
}

impl Paint {
    /// The colour of a state.
    pub(crate) fn of(state: State) -> Self {
        match state {
            State::Running => Paint::Green,
            State::Starting | State::Stopping => Paint::Yellow,
            State::Unhealthy | State::Failed => Paint::Red,
            State::Stopped => Paint::Dim,
        }
    }

    /// The colour of a copy's health.
    pub(crate) fn of_health(health: Health) -> Self {
        match health {
            Health::Passing => Paint::Green,
            Health::Warning => Paint::Yellow,
            Health::Critical => Paint::Red,
        }
    }

    fn codes(self) -> Option<&'static str> {
        Some(match self {
            Paint::Plain => return None,
            Paint::Bold => "1",
            Paint::Dim => "2",
            Paint::Green => "32",
            Paint::Yellow => "33",
            Paint::Red => "31",
            Paint::Cyan => "36",
        })
    }
}

/// The two outputs of a command.
pub(crate) struct Screen {
    /// The form of the data.
    pub format: Format,
    out: Box<dyn Write + Send>,
    talk: Box<dyn Write + Send>,
    out_colour: bool,
    talk_colour: bool,
    pretty: bool,
}

impl Screen {
    /// Standard output and standard error of this process.
    pub(crate) fn standard(format: Format, env: &Environment) -> Self {
        let colour = !env.no_color && !env.dumb_terminal;
        let terminal = io::stdout().is_terminal();
        Screen {
            format,
            out: Box::new(io::BufWriter::new(io::stdout())),
            talk: Box::new(io::stderr()),
            out_colour: colour && terminal,
            talk_colour: colour && io::stderr().is_terminal(),
            pretty: terminal,
        }
    }

    /// Writes data as it is.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Writes a line of data.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.raw(text.as_bytes())?;
        self.raw(b"\n")
    }

    /// Writes a value as JSON: indented on a terminal, one line elsewhere.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        if self.pretty {
            serde_json::to_writer_pretty(&mut self.out, value)?;
        } else {
            serde_json::to_writer(&mut self.out, value)?;
        }
        self.raw(b"\n")
    }

    /// Writes a value as JSON on one line, for streams of them.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.raw(b"\n")
    }

    /// Writes keys and values, aligned, beneath a title.
    pub(crate) fn pairs(&mut self, title: &str, lines: &[(String, String)]) -> io::Result<()> {
        let title = self.paint(Paint::Bold, title);
        self.line(&title)?;
        let width = lines.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
        for (key, value) in lines {
            let pad = " ".repeat(width - key.chars().count());
            let key = self.paint(Paint::Dim, key);
            self.line(&format!("  {key}{pad}  {value}"))?;
        }
        Ok(())
    }

    /// Text of standard output in a colour.
    pub(crate) fn paint(&self, paint: Paint, text: &str) -> String {
        painted(self.out_colour, paint, text)
    }

    /// Says something on standard error.
    pub(crate) fn say(&mut self, text: &str) {
        // Nobody can be told that standard error is gone.
        let _ = writeln!(self.talk, "{text}");
    }

    /// Hands everything that was written over to whoever reads it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Tells why the command stops and gives the exit status.
    pub(crate) fn tell(&mut self, failure: &Failure) -> u8 {
        let flushed = self.flush();
        match failure {
            Failure::Error(error) => self.tell_error(error),
            Failure::Files(mistakes) => self.tell_mistakes(mistakes),
            Failure::System(message) if self.format == Format::Json => {
                self.say(
                    &serde_json::json!({ "title": "The command failed", "status": 500, "detail": message }).to_string(),
                );
            }
            Failure::System(message) => self.say_error("error", message),
            Failure::Pipe | Failure::Told(_) => {}
        }
        match (failure.exit_status(), flushed) {
            (0, Err(e)) if e.kind() != io::ErrorKind::BrokenPipe => 1,
            (status, _) => status,
        }
    }

    /// Tells an error on standard error: a sentence, or with JSON a problem object (RFC 9457).
    pub(crate) fn tell_error(&mut self, error: &Error) {
        if self.format == Format::Json {
            self.say(&problem_json(error).to_string());
        } else {
            let message = match error.at_field() {
                Some(field) => format!("{field}: {}", error.message()),
                None => error.message().to_owned(),
            };
            self.say_error(error.code().as_str(), &message);
        }
    }

    fn tell_mistakes(&mut self, mistakes: &[Mistake]) {
        if self.format == Format::Json {
            let Some(first) = mistakes.first() else { return };
            let mut object = problem_json(&Error::from(first.problem.clone()).within(format!(
                "{}:{}:{}",
                first.file.display(),
                first.line,
                first.column
            )));
            object["mistakes"] = serde_json::json!(mistakes);
            self.say(&object.to_string());
            return;
        }
        for mistake in mistakes {
            self.say_error(mistake.problem.code.as_str(), &mistake.to_string());
        }
    }

    fn say_error(&mut self, code: &str, message: &str) {
        let code = painted(self.talk_colour, Paint::Red, code);
        // The last lines of a program may be part of a message: they keep their lines and lose what steers terminals.
        let message = printable(message);
        self.say(&format!("byname: {code}: {message}"));
    }
}

fn problem_json(error: &Error) -> serde_json::Value {
    let mut object = serde_json::json!({
        "type": format!("/v1/errors/{}", error.code()),
        "title": error.code().title(),
        "status": error.code().http_status(),
        "detail": error.message(),
        "code": Problem::from(error).code,
    });
    if let Some(field) = error.at_field() {
        object["field"] = field.into();
    }
    object
}

fn painted(colour: bool, paint: Paint, text: &str) -> String {
    match paint.codes().filter(|_| colour) {
        Some(codes) => format!("\x1b[{codes}m{text}\x1b[0m"),
        None => text.to_owned(),
    }
}

/// Text with control characters, which could steer a terminal, shown as escapes; line ends and tabs stay.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !matches!(c, '\n' | '\t') {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// One cell of a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    /// Text in a colour.
    pub(crate) fn new(text: impl Into<String>, paint: Paint) -> Self {
        Cell { text: text.into(), paint }
    }
}

impl<T: std::fmt::Display> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        Cell::new(value.map_or_else(|| "-".into(), |v| v.to_string()), Paint::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::new(text, Paint::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::new(text, Paint::Plain)
    }
}

/// Aligned columns, written in portions: widths grow from portion to portion and never shrink.
pub(crate) struct Table {
    heads: Vec<String>,
    widths: Vec<usize>,
    headed: bool,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new<H: Into<String> + Clone>(heads: &[H]) -> Self {
        let heads: Vec<String> = heads.iter().cloned().map(Into::into).collect();
        let widths = heads.iter().map(|h| h.chars().count()).collect();
        Table { heads, widths, headed: false, rows: Vec::new() }
    }

    /// Adds a row; texts lose line ends and control characters.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut row: Vec<Cell> = cells.into_iter().collect();
        for (cell, width) in row.iter_mut().zip(&mut self.widths) {
            if cell.text.chars().any(char::is_control) {
                cell.text = cell
                    .text
                    .chars()
                    .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
                    .collect();
            }
            *width = (*width).max(cell.text.chars().count());
        }
        self.rows.push(row);
    }

    /// Writes the rows that were added since the last time; the headings come with the first row.
    pub(crate) fn print(&mut self, screen: &mut Screen) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        if !self.headed {
            self.headed = true;
            let heads = self.heads.iter().map(|h| Cell::new(h.as_str(), Paint::Bold)).collect();
            self.rows.insert(0, heads);
        }
        for row in std::mem::take(&mut self.rows) {
            let mut line = String::new();
            let mut pad = 0;
            for (cell, width) in row.iter().zip(&self.widths) {
                // Blanks are written when something follows, so that no line ends in them.
                if !cell.text.is_empty() {
                    line.extend(std::iter::repeat_n(' ', pad));
                    line.push_str(&screen.paint(cell.paint, &cell.text));
                    pad = 0;
                }
                pad += width + 2 - cell.text.chars().count();
            }
            screen.line(&line)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod capture {
    //! A screen that tests can read.

    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was written so far.
    #[derive(Clone, Default)]
    pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        /// Takes the text.
        pub(crate) fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Screen {
        /// A screen whose standard output and standard error are kept.
        pub(crate) fn captured(format: Format, colour: bool) -> (Self, Captured, Captured) {
            let (out, talk) = (Captured::default(), Captured::default());
            let screen = Screen {
                format,
                out: Box::new(out.clone()),
                talk: Box::new(talk.clone()),
                out_colour: colour,
                talk_colour: colour,
                pretty: false,
            };
            (screen, out, talk)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use byname_api::Code;

    #[test]
    fn columns_line_up_and_only_terminals_see_colours() {
        let mut table = Table::new(&["NAME", "STATE", "PID"]);
        table.row(["/a".into(), Cell::new("running", Paint::Green), Cell::from(Some(7))]);
        let (mut screen, out, _) = Screen::captured(Format::Table, true);
        table.print(&mut screen).unwrap();
        table.row(["/übung\u{7}".into(), Cell::new("failed", Paint::Red), Cell::from(None::<u32>)]);
        table.print(&mut screen).unwrap();
        assert_eq!(
            out.take(),
            "\x1b[1mNAME\x1b[0m  \x1b[1mSTATE\x1b[0m    \x1b[1mPID\x1b[0m\n\
             /a    \x1b[32mrunning\x1b[0m  7\n\
             /übung\\u{7}  \x1b[31mfailed\x1b[0m   -\n"
        );
    }

    #[test]
    fn errors_are_sentences_or_problem_objects() {
        let error = Error::invalid("launch.ready", "must be a word\x1b[2J");
        let (mut screen, _, talk) = Screen::captured(Format::Table, false);
        assert_eq!(screen.tell(&Failure::Error(error)), 2);
        assert_eq!(talk.take(), "byname: invalid-argument: launch.ready: must be a word\\u{1b}[2J\n");

        let (mut screen, _, talk) = Screen::captured(Format::Json, false);
        assert_eq!(screen.tell(&Error::new(Code::NotFound, "no such name").into()), 3);
        let object: serde_json::Value = serde_json::from_str(&talk.take()).unwrap();
        assert_eq!((&object["code"], &object["status"]), (&"not-found".into(), &404.into()));
    }

    #[test]
    fn a_reader_that_left_is_no_error() {
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit_status(), 0);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).exit_status(), 1);
    }
}
