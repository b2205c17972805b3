//! The pages of the error codes.

use super::Finding;
use super::tree::Tree;

const SOURCE: &str = "crates/api/src/error.rs";
const PAGES: &str = "docs/errors/";

/// A code as the source has it.
struct Code {
    line: usize,
    variant: String,
    text: String,
    http: String,
}

/// Every code has a page with its true statuses, and the index names it; every page has a code.
pub(super) fn pages(tree: &Tree) -> Vec<Finding> {
    let Some(source) = tree.file(SOURCE) else {
        return vec![Finding::new(SOURCE, 0, "is not there: where are the codes?")];
    };
    let codes = codes(&source.text);
    if codes.is_empty() {
        return vec![Finding::new(
            SOURCE,
            0,
            "has no codes that this rule can read: `Variant = \"code\", 404, \"Title\";`",
        )];
    }
    let mut findings = Vec::new();
    let index = format!("{PAGES}README.md");
    let index_text = tree.file(&index).map_or("", |file| file.text.as_str());
    for code in &codes {
        let path = format!("{PAGES}{}.md", code.text);
        let Some(page) = tree.file(&path) else {
            findings.push(Finding::new(SOURCE, code.line, format!("`{}` has no page {path}", code.text)));
            continue;
        };
        if !index_text.contains(&format!("({}.md)", code.text)) {
            findings.push(Finding::new(&index, 0, format!("does not lead to {}.md", code.text)));
        }
        let Some(exit) = exit_status(&source.text, &code.variant) else {
            findings.push(Finding::new(
                SOURCE,
                code.line,
                format!("`{}` has no exit status that this rule can read", code.text),
            ));
            continue;
        };
        for wanted in [format!("HTTP status {}", code.http), format!("exit status {exit}")] {
            if !page.text.contains(&wanted) {
                findings.push(Finding::new(&path, 0, format!("does not say `{wanted}`, and that is what is sent")));
            }
        }
    }
    for file in tree.ending(".md").filter(|file| file.path.starts_with(PAGES) && file.path != index) {
        let code = file.path.strip_prefix(PAGES).and_then(|name| name.strip_suffix(".md")).unwrap_or_default();
        if !codes.iter().any(|known| known.text == code) {
            findings.push(Finding::new(&file.path, 0, format!("there is no code `{code}`")));
        }
    }
    findings
}

/// The rows `Variant = "code", 404, "Title";`.
fn codes(source: &str) -> Vec<Code> {
    let row = |(at, line): (usize, &str)| {
        let (variant, rest) = line.trim().split_once(" = \"")?;
        let (text, rest) = rest.split_once("\", ")?;
        let (http, _) = rest.split_once(", \"")?;
        let good = variant.chars().all(char::is_alphanumeric) && http.parse::<u16>().is_ok();
        good.then(|| Code { line: at + 1, variant: variant.into(), text: text.into(), http: http.into() })
    };
    source.lines().enumerate().filter_map(row).collect()
}

/// The number behind the arm of `exit_status` that has the variant.
fn exit_status(source: &str, variant: &str) -> Option<String> {
    let body = source.split("fn exit_status").nth(1)?;
    let at = body.match_indices(&format!("Code::{variant}")).find(|(at, found)| {
        let rest = body.get(at + found.len()..).unwrap_or_default();
        !rest.starts_with(char::is_alphanumeric)
    })?;
    let number = body.get(at.0..)?.split("=>").nth(1)?.trim();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    (!digits.is_empty()).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::super::findings;
    use super::*;

    const CODES: &str = "NotFound = \"not-found\", 404, \"No such name\";\nTimeout = \"timeout\", 504, \"Late\";\n\
        fn exit_status(self) { match self { Code::NotFound => 3, Code::TimeoutX | Code::Timeout => 5, } }\n";

    #[test]
    fn a_code_without_a_page_or_with_an_untrue_one_is_found() {
        let found = findings(
            pages,
            &[
                (SOURCE, CODES),
                ("docs/errors/README.md", "[a](not-found.md)"),
                ("docs/errors/not-found.md", "HTTP status 404, exit status 1"),
                ("docs/errors/gone.md", ""),
            ],
        );
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("`exit status 3`"), "{found:?}");
        assert!(found[1].starts_with("crates/api/src/error.rs:2: `timeout` has no page"), "{found:?}");
        assert!(found[2].contains("no code `gone`"), "{found:?}");
    }

    #[test]
    fn true_pages_are_fine() {
        let files = [
            (SOURCE, CODES),
            ("docs/errors/README.md", "(not-found.md) (timeout.md)"),
            ("docs/errors/not-found.md", "HTTP status 404, exit status 3"),
            ("docs/errors/timeout.md", "HTTP status 504, exit status 5"),
        ];
        assert!(findings(pages, &files).is_empty());
    }

    #[test]
    fn codes_that_cannot_be_read_are_no_good_sign() {
        assert_eq!(findings(pages, &[]).len(), 1);
        assert_eq!(findings(pages, &[(SOURCE, "enum Code {}")]).len(), 1);
    }
}
