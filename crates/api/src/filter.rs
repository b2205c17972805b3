//! Search filters: the text form of RFC 4515, as a tree.
//!
//! ```text
//! (&(kind=service)(|(team=media)(team=core))(!(state=failed))(tier>=2)(title=*demand*))
//! ```
//!
//! Attributes are those that are declared (`team`), and what every object has: `name` (the whole name), `cn` (its last
//! label), `kind` or `objectClass`, `owner`, `state`, `target`, `member`, `address`, `value`, `version`, `set`. A declared
//! attribute of one of these names is found as `attributes.name`. Attribute names and text compare without regard to
//! case, numbers as numbers. A comparison with an attribute that an object lacks is not true, and its negation is: there
//! is no third value here, unlike in RFC 4511 section 4.5.1.7.
//!
//! `~=` is equality. Extensible matches (`:=`) are `unsupported`.

use std::fmt;

use crate::error::{Code, Error, Result};

/// The longest filter, in bytes.
pub const MAX_BYTES: usize = 16 << 10;
/// How deep filters may stand in each other.
pub const MAX_DEPTH: usize = 32;
/// The most comparisons in one filter.
pub const MAX_TERMS: usize = 512;

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All of these fit; the empty one always does (RFC 4526).
    And(Vec<Filter>),
    /// One of these fits; the empty one never does (RFC 4526).
    Or(Vec<Filter>),
    /// This does not fit.
    Not(Box<Filter>),
    /// The attribute has this value.
    Equal(String, String),
    /// It has a value that is this or greater.
    AtLeast(String, String),
    /// It has a value that is this or less.
    AtMost(String, String),
    /// It has a value.
    Present(String),
    /// It has a value that begins with the first, ends with the last and holds the others in order between them.
    Substring {
        /// The attribute.
        attribute: String,
        /// How it begins; empty when that is left open.
        initial: String,
        /// What it holds in between, in order.
        any: Vec<String>,
        /// How it ends; empty when that is left open.
        last: String,
    },
}

impl Filter {
    /// Reads the text form. A filter without the outer parentheses (`team=media`) is read too.
    ///
    /// # Errors
    ///
    /// `invalid-argument` with the place, `too-large` beyond the bounds of this module, `unsupported` for extensible
    /// matches; each with the field `filter`.
    pub fn parse(text: &str) -> Result<Filter> {
        if text.len() > MAX_BYTES {
            return Err(too_large(format!("a filter is {MAX_BYTES} bytes at most")));
        }
        let text = text.trim_end();
        let mut parser = Parser { text, at: 0, terms: 0 };
        parser.blanks();
        let filter = if parser.peek() == Some('(') { parser.filter(0)? } else { parser.content(0)? };
        parser.blanks();
        if parser.at < text.len() {
            return Err(parser.bad("the filter ends here, and more follows"));
        }
        Ok(filter)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    terms: usize,
}

impl Parser<'_> {
    fn filter(&mut self, depth: usize) -> Result<Filter> {
        if depth > MAX_DEPTH {
            return Err(too_large(format!("filters stand in each other {MAX_DEPTH} deep at most")));
        }
        self.blanks();
        self.expect('(')?;
        self.blanks();
        let filter = self.content(depth)?;
        self.blanks();
        self.expect(')')?;
        Ok(filter)
    }

    /// What stands between the parentheses of a filter.
    fn content(&mut self, depth: usize) -> Result<Filter> {
        Ok(match self.peek() {
            Some('&') => Filter::And(self.list(depth)?),
            Some('|') => Filter::Or(self.list(depth)?),
            Some('!') => {
                self.at += 1;
                Filter::Not(Box::new(self.filter(depth + 1)?))
            }
            _ => self.term()?,
        })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Filter>> {
        self.at += 1;
        let mut list = Vec::new();
        loop {
            self.blanks();
            if self.peek() != Some('(') {
                return Ok(list);
            }
            // Empty lists count too, or they would be free.
            self.count()?;
            list.push(self.filter(depth + 1)?);
        }
    }

    fn count(&mut self) -> Result<()> {
        self.terms += 1;
        if self.terms > 2 * MAX_TERMS {
            return Err(too_large(format!("a filter has {MAX_TERMS} comparisons at most")));
        }
        Ok(())
    }

    fn term(&mut self) -> Result<Filter> {
        self.count()?;
        let rest = self.rest();
        let end = rest.find(['=', '<', '>', '~', ':', '(', ')']).unwrap_or(rest.len());
        let attribute = rest.get(..end).unwrap_or_default().trim();
        let named = !attribute.is_empty()
            && attribute.len() <= 80
            && attribute.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.;".contains(&b));
        if !named {
            return Err(self.bad("an attribute's name is expected, then =, >=, <= or =*"));
        }
        let attribute = attribute.to_ascii_lowercase();
        self.at += end;
        for (sign, make) in
            [(">=", Filter::AtLeast as fn(String, String) -> Filter), ("<=", Filter::AtMost), ("~=", Filter::Equal)]
        {
            if self.rest().starts_with(sign) {
                self.at += 2;
                let parts = self.value()?;
                let [value] =
                    <[String; 1]>::try_from(parts).map_err(|_| self.bad("`*` cannot stand in this comparison"))?;
                return Ok(make(attribute, value));
            }
        }
        if self.peek() == Some(':') {
            return Err(Error::new(Code::Unsupported, "extensible matches (`:=`) are not supported").field("filter"));
        }
        self.expect('=')?;
        let mut parts = self.value()?;
        if parts.len() == 1 {
            return Ok(Filter::Equal(attribute, parts.remove(0)));
        }
        if parts.iter().all(String::is_empty) {
            return Ok(Filter::Present(attribute));
        }
        let last = parts.pop().unwrap_or_default();
        let initial = parts.remove(0);
        parts.retain(|p| !p.is_empty());
        Ok(Filter::Substring { attribute, initial, any: parts, last })
    }

    /// A value, in the parts between its asterisks.
    fn value(&mut self) -> Result<Vec<String>> {
        let mut parts = vec![Vec::new()];
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b')' => break,
                b'(' => return Err(self.bad("a parenthesis in a value is written \\28")),
                b'\\' => {
                    let hex = self.text.get(self.at + 1..self.at + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
                    let signed = bytes.get(self.at + 1) == Some(&b'+');
                    let byte = hex.filter(|_| !signed).ok_or_else(|| {
                        self.bad(
                            "a backslash is followed by two hexadecimal digits: \\2a is an asterisk, \\5c a backslash",
                        )
                    })?;
                    parts.last_mut().into_iter().for_each(|p| p.push(byte));
                    self.at += 3;
                    continue;
                }
                b'*' => {
                    self.count()?;
                    parts.push(Vec::new());
                }
                byte => parts.last_mut().into_iter().for_each(|p| p.push(byte)),
            }
            self.at += 1;
        }
        parts
            .into_iter()
            .map(|p| String::from_utf8(p).map_err(|_| self.bad("the value before this is not UTF-8")))
            .collect()
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn expect(&mut self, wanted: char) -> Result<()> {
        match self.peek() {
            Some(found) if found == wanted => {
                self.at += wanted.len_utf8();
                Ok(())
            }
            Some(found) => Err(self.bad(&format!("`{wanted}` is expected and `{}` found", found.escape_debug()))),
            None => Err(self.bad(&format!("`{wanted}` is missing at the end"))),
        }
    }

    fn bad(&self, why: &str) -> Error {
        Error::invalid("filter", format!("at byte {}: {why}", self.at))
    }
}

fn too_large(why: String) -> Error {
    Error::new(Code::TooLarge, why).field("filter")
}

/// The text form; reads back as the same filter.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, sign: char, list: &[Filter]| {
            write!(f, "({sign}")?;
            list.iter().try_for_each(|filter| filter.fmt(f))?;
            f.write_str(")")
        };
        match self {
            Filter::And(all) => list(f, '&', all),
            Filter::Or(any) => list(f, '|', any),
            Filter::Not(filter) => write!(f, "(!{filter})"),
            Filter::Equal(attribute, value) => write!(f, "({attribute}={})", Escaped(value)),
            Filter::AtLeast(attribute, value) => write!(f, "({attribute}>={})", Escaped(value)),
            Filter::AtMost(attribute, value) => write!(f, "({attribute}<={})", Escaped(value)),
            Filter::Present(attribute) => write!(f, "({attribute}=*)"),
            Filter::Substring { attribute, initial, any, last } => {
                write!(f, "({attribute}={}*", Escaped(initial))?;
                for part in any {
                    write!(f, "{}*", Escaped(part))?;
                }
                write!(f, "{})", Escaped(last))
            }
        }
    }
}

struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '*' | '(' | ')' | '\\' | '\0' => write!(f, "\\{:02x}", c as u32)?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        let filter = Filter::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(filter.to_string(), expect, "{text}");
        assert_eq!(Filter::parse(expect).unwrap(), filter, "{text}");
    }

    #[test]
    fn the_examples_of_rfc_4515_read() {
        // Section 4.
        check("(cn=Babs Jensen)", "(cn=Babs Jensen)");
        check("(!(cn=Tim Howes))", "(!(cn=Tim Howes))");
        check("(&(objectClass=Person)(|(sn=Jensen)(cn=Babs J*)))", "(&(objectclass=Person)(|(sn=Jensen)(cn=Babs J*)))");
        check("(o=univ*of*mich*)", "(o=univ*of*mich*)");
        check("(seeAlso=)", "(seealso=)");
        check(
            r"(o=Parens R Us \28for all your parenthetical needs\29)",
            r"(o=Parens R Us \28for all your parenthetical needs\29)",
        );
        check(r"(cn=*\2A*)", r"(cn=*\2a*)");
        check(r"(filename=C:\5cMyFile)", r"(filename=C:\5cMyFile)");
        check(r"(sn=Lu\c4\8di\c4\87)", "(sn=Lučić)");
        assert_eq!(Filter::parse("(cn:caseExactMatch:=Fred Flintstone)").unwrap_err().code(), Code::Unsupported);
    }

    #[test]
    fn the_rest_of_the_forms_read() {
        check("team=media", "(team=media)");
        check("  team=media ", "(team=media)");
        check("&(a=1)(b=2)", "(&(a=1)(b=2))");
        check("!(a=1)", "(!(a=1))");
        check("(&)", "(&)");
        check("(|)", "(|)");
        check("(tier>=2)", "(tier>=2)");
        check("(tier<=2)", "(tier<=2)");
        check("(team~=Media)", "(team=Media)");
        check("(team=*)", "(team=*)");
        check("(team=**)", "(team=*)");
        check("(team=*a**b*)", "(team=*a*b*)");
        check(" ( & ( a=1 ) ( b=2) ) ", "(&(a=1 )(b=2))");
    }

    #[test]
    fn what_is_no_filter_is_refused_with_its_place() {
        for (text, place) in [
            ("", "byte 0"),
            ("(", "byte 1"),
            ("(a=1", "byte 4"),
            ("(a=1))", "byte 5"),
            ("(a)", "byte 2"),
            ("(=1)", "byte 1"),
            ("(a=(b))", "byte 3"),
            (r"(a=\2)", "byte 3"),
            (r"(a=\+2)", "byte 3"),
            (r"(a=\ff)", "byte 6"),
            ("(a>=1*)", "byte 6"),
            ("(!(a=1)(b=2))", "byte 7"),
            ("(a=1)(b=2)", "byte 5"),
        ] {
            let error = Filter::parse(text).expect_err(text);
            assert_eq!((error.code(), error.at_field()), (Code::InvalidArgument, Some("filter")), "{text}");
            assert!(error.message().contains(place), "{text}: {error}");
        }
    }

    #[test]
    fn places_are_those_of_the_text_as_it_was_given() {
        for (text, message) in [
            ("team", "at byte 4: `=` is missing at the end"),
            ("team~x", "at byte 4: `=` is expected and `~` found"),
            ("  (a=1", "at byte 6: `)` is missing at the end"),
            ("  team", "at byte 6: `=` is missing at the end"),
            ("a=1)", "at byte 3: the filter ends here, and more follows"),
            ("!", "at byte 1: `(` is missing at the end"),
            ("a=(b", "at byte 2: a parenthesis in a value is written \\28"),
        ] {
            assert_eq!(Filter::parse(text).expect_err(text).message(), message, "{text}");
        }
    }

    #[test]
    fn what_is_too_deep_or_too_long_is_refused() {
        let deep = format!("{}(a=1){}", "(!".repeat(MAX_DEPTH + 1), ")".repeat(MAX_DEPTH + 1));
        let wide = format!("(&{})", "(a=1)".repeat(2 * MAX_TERMS));
        let stars = format!("(a={})", "*x".repeat(2 * MAX_TERMS + 1));
        let hollow = format!("(&{})", "(&)".repeat(2 * MAX_TERMS + 1));
        let long = format!("(a={})", "x".repeat(MAX_BYTES));
        for text in [deep, wide, stars, hollow, long] {
            assert_eq!(Filter::parse(&text).expect_err("too large").code(), Code::TooLarge);
        }
        Filter::parse(&format!("{}(a=1){}", "(!".repeat(MAX_DEPTH), ")".repeat(MAX_DEPTH))).unwrap();
    }
}
