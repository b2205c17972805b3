//! The pattern of one label: a small automaton over the characters of a folded label.
//!
//! Every step leads forward or stays, so one pass over the active states in ascending order follows all
//! steps that consume nothing. A match visits each state at most once a character: the work is bounded by
//! states × characters whatever the pattern, and choices are never multiplied out.

use super::PatternRule;
use super::states::{MAX_STATES, States};
use crate::error::NameRule;
use crate::{fold, label};

#[derive(Debug)]
pub(super) struct Glob {
    /// State `n` is in front of `steps[n]`; the state behind the last step accepts.
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    /// This character, folded.
    Char(char),
    /// `?`
    Any,
    /// `*`
    Run,
    /// `[…]`
    Class(Class),
    /// Goes on behind this step and, without consuming anything, at a later state: begins a part of a choice.
    Or(usize),
    /// Goes on at a later state: ends a part of a choice.
    Jump(usize),
}

/// Ranges are kept as written; a character is in the class if any case of it is.
#[derive(Debug)]
struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    fn holds(&self, folded: char) -> bool {
        let inside = fold::any_case(folded, |c| self.ranges.iter().any(|&(low, high)| low <= c && c <= high));
        inside != self.negated
    }
}

impl Glob {
    /// Reads the pattern of one label, which is in NFC. An error carries its byte in the label.
    pub(super) fn parse(label: &str) -> Result<Self, (PatternRule, usize)> {
        let mut parser = Parser { label, at: 0, steps: Vec::new(), literal: String::new() };
        parser.label()?;
        if parser.steps.len() >= MAX_STATES {
            return Err((PatternRule::TooComplex, 0));
        }
        Ok(Self { steps: parser.steps })
    }

    /// Whether the folded label is selected. Adds the states visited to `work`.
    pub(super) fn matches(&self, folded: &str, work: &mut u64) -> bool {
        let mut now = States::only(0);
        for c in folded.chars() {
            let mut next = States::empty();
            let mut alive = false;
            let mut from = 0;
            while let Some(state) = now.next_from(from) {
                *work += 1;
                from = state + 1;
                let consumed = match self.steps.get(state) {
                    Some(Step::Char(expected)) => (*expected == c).then_some(state + 1),
                    Some(Step::Any) => Some(state + 1),
                    Some(Step::Class(class)) => class.holds(c).then_some(state + 1),
                    Some(step) => {
                        spread(step, state, &mut now);
                        matches!(step, Step::Run).then_some(state)
                    }
                    None => None,
                };
                if let Some(state) = consumed {
                    next.insert(state);
                    alive = true;
                }
            }
            if !alive {
                return false;
            }
            now = next;
        }
        let mut from = 0;
        while let Some(state) = now.next_from(from) {
            *work += 1;
            from = state + 1;
            match self.steps.get(state) {
                Some(step) => spread(step, state, &mut now),
                None => return true,
            }
        }
        false
    }

    /// The characters with which every selected label begins, folded.
    pub(super) fn literal_start(&self) -> impl Iterator<Item = char> {
        self.steps.iter().map_while(|step| match step {
            Step::Char(c) => Some(*c),
            _ => None,
        })
    }
}

/// Adds the states that `step` leads to without consuming a character.
fn spread(step: &Step, state: usize, states: &mut States) {
    match step {
        Step::Run => states.insert(state + 1),
        Step::Or(other) => {
            states.insert(state + 1);
            states.insert(*other);
        }
        Step::Jump(target) => states.insert(*target),
        Step::Char(_) | Step::Any | Step::Class(_) => {}
    }
}

struct Parser<'a> {
    label: &'a str,
    at: usize,
    steps: Vec<Step>,
    /// Literal characters not yet written to `steps`: a run is folded as a whole.
    literal: String,
}

type Parsed = Result<(), (PatternRule, usize)>;

impl Parser<'_> {
    fn label(&mut self) -> Parsed {
        while let Some((at, c)) = self.next() {
            match c {
                '{' => {
                    self.flush();
                    self.choice(at)?;
                }
                '}' => return Err((PatternRule::StrayClose('}'), at)),
                _ => self.common(at, c)?,
            }
        }
        self.flush();
        Ok(())
    }

    /// What may stand inside and outside a choice.
    fn common(&mut self, at: usize, c: char) -> Parsed {
        match c {
            '*' if self.peek() == Some('*') => return Err((PatternRule::MixedDoubleStar, at)),
            '*' => self.push(Step::Run),
            '?' => self.push(Step::Any),
            '[' => {
                let class = self.class(at)?;
                self.push(Step::Class(class));
            }
            ']' => return Err((PatternRule::StrayClose(']'), at)),
            _ => match label::forbidden(c) {
                Some(rule) => return Err((PatternRule::Name(rule), at)),
                None => self.literal.push(c),
            },
        }
        Ok(())
    }

    /// `Or` in front of every part but the last, `Jump` to the end behind each of those.
    fn choice(&mut self, open: usize) -> Parsed {
        if self.peek() == Some('}') {
            return Err((PatternRule::EmptyChoice, open));
        }
        let mut jumps = Vec::new();
        let mut part = self.steps.len();
        self.steps.push(Step::Or(part + 1));
        while let Some((at, c)) = self.next() {
            match c {
                '{' => return Err((PatternRule::NestedChoice, at)),
                ',' => {
                    self.flush();
                    jumps.push(self.steps.len());
                    self.steps.push(Step::Jump(0));
                    let next = self.steps.len();
                    self.steps.push(Step::Or(next + 1));
                    self.set(part, Step::Or(next));
                    part = next;
                }
                '}' => {
                    self.flush();
                    let end = self.steps.len();
                    for jump in jumps {
                        self.set(jump, Step::Jump(end));
                    }
                    return Ok(());
                }
                _ => self.common(at, c)?,
            }
        }
        Err((PatternRule::UnclosedChoice, open))
    }

    fn class(&mut self, open: usize) -> Result<Class, (PatternRule, usize)> {
        let negated = self.peek() == Some('!');
        if negated {
            self.next();
        }
        let mut ranges = Vec::new();
        while let Some((at, c)) = self.next() {
            match c {
                ']' if ranges.is_empty() => return Err((PatternRule::EmptyClass, open)),
                ']' => return Ok(Class { negated, ranges }),
                '^' if at == open + 1 => return Err((PatternRule::CaretClass, at)),
                _ => {}
            }
            member(at, c)?;
            let mut high = c;
            if self.peek() == Some('-') && self.peek_second().is_some_and(|c| c != ']') {
                self.next();
                if let Some((at, c)) = self.next() {
                    member(at, c)?;
                    high = c;
                }
                if high < c {
                    return Err((PatternRule::ReversedRange(c, high), at));
                }
            }
            ranges.push((c, high));
        }
        Err((PatternRule::UnclosedClass, open))
    }

    fn push(&mut self, step: Step) {
        self.flush();
        self.steps.push(step);
    }

    fn set(&mut self, at: usize, step: Step) {
        if let Some(place) = self.steps.get_mut(at) {
            *place = step;
        }
    }

    fn flush(&mut self) {
        if !self.literal.is_empty() {
            let mut folded = String::with_capacity(self.literal.len());
            fold::push_folded(&self.literal, &mut folded);
            self.steps.extend(folded.chars().map(Step::Char));
            self.literal.clear();
        }
    }

    fn next(&mut self) -> Option<(usize, char)> {
        let at = self.at;
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some((at, c))
    }

    fn peek(&self) -> Option<char> {
        self.rest().next()
    }

    fn peek_second(&self) -> Option<char> {
        self.rest().nth(1)
    }

    fn rest(&self) -> std::str::Chars<'_> {
        self.label.get(self.at..).unwrap_or_default().chars()
    }
}

/// Whether a class may list `c`: only what a label can hold.
fn member(at: usize, c: char) -> Parsed {
    match label::forbidden(c) {
        Some(NameRule::PatternCharacter(c)) => Err((PatternRule::WildcardInClass(c), at)),
        Some(rule) => Err((PatternRule::Name(rule), at)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(glob: &str, label: &str) -> bool {
        let mut folded = String::new();
        fold::push_folded(label, &mut folded);
        Glob::parse(glob).unwrap_or_else(|error| panic!("{glob}: {error:?}")).matches(&folded, &mut 0)
    }

    #[test]
    fn labels_and_their_globs() {
        for (glob, yes, no) in [
            ("*", &["a", "é", "a.b"][..], &[][..]),
            ("QS*", &["qs", "QS1", "qS-a"], &["q", "aqs"]),
            ("*qs", &["QS", "aqs", "qsqs"], &["qsa"]),
            ("a*b*c", &["abc", "aXbYc", "abbcc"], &["ab", "acb"]),
            ("h?st", &["host", "HÉST"], &["hst", "hoost"]),
            ("???", &["abc", "日本語"], &["ab", "日本"]),
            ("[a-c]x", &["ax", "BX", "cx"], &["dx", "x", "-x"]),
            ("[A-C]", &["a", "C"], &["d"]),
            ("[!a-c]x", &["dx", "-x"], &["ax", "Bx", "x"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[-a]", &["a", "-"], &["b"]),
            ("[a-c-e]", &["b", "-", "e"], &["d"]),
            ("[!!]", &["a"], &["!"]),
            ("[a^]", &["^", "a"], &["b"]),
            ("[Σ]", &["σ", "ς", "Σ"], &["s"]),
            ("[à-ÿ]", &["É", "ñ"], &["e", "ß"]),
            ("[ß]", &["ẞ"], &["s"]),
            ("[À-Ö]", &["é", "É"], &["ø"]),
            ("{a,b}", &["a", "B"], &["c", "ab", "a,b"]),
            ("{qs,vfs}{1,2}", &["qs1", "VFS2"], &["qs", "qs12", "vfs3"]),
            ("x{,-test}", &["x", "x-TEST"], &["x-", "x-tes"]),
            ("{a*,?b,[x-z]}", &["a", "axx", "cb", "y"], &["b", "ccb", "w"]),
            ("{a}", &["a"], &["b"]),
            ("{a,b}*{c,d}", &["ac", "bxxd"], &["a", "cd"]),
            ("a,b!^-c?", &["A,B!^-cx"], &["a,b!^-c"]),
            ("caf\u{e9}*", &["CAF\u{c9}", "caf\u{e9}s"], &["cafe"]),
        ] {
            for label in yes {
                assert!(matches(glob, label), "{glob} {label}");
            }
            for label in no {
                assert!(!matches(glob, label), "{glob} {label}");
            }
        }
    }

    #[test]
    fn mistakes_are_found_in_their_place() {
        use PatternRule::*;
        for (glob, rule, at) in [
            ("a**", MixedDoubleStar, 1),
            ("{a,**}", MixedDoubleStar, 3),
            ("a[b", UnclosedClass, 1),
            ("[", UnclosedClass, 0),
            ("a[]b", EmptyClass, 1),
            ("[!]", EmptyClass, 0),
            ("[^a]", CaretClass, 1),
            ("x[z-a]", ReversedRange('z', 'a'), 2),
            ("[a*]", WildcardInClass('*'), 2),
            ("[a-?]", WildcardInClass('?'), 3),
            ("[[a]", WildcardInClass('['), 1),
            ("[\t]", Name(NameRule::ControlCharacter('\t')), 1),
            ("*\u{7f}", Name(NameRule::ControlCharacter('\u{7f}')), 1),
            ("a{b,c", UnclosedChoice, 1),
            ("{", UnclosedChoice, 0),
            ("a{}", EmptyChoice, 1),
            ("{a,{b}}", NestedChoice, 3),
            ("*]", StrayClose(']'), 1),
            ("é*}", StrayClose('}'), 3),
        ] {
            assert_eq!(Glob::parse(glob).err(), Some((rule, at)), "{glob}");
        }
    }

    #[test]
    fn the_literal_start_ends_at_the_first_wildcard() {
        for (glob, expected) in [("QS*", "qs"), ("*a", ""), ("a{b,c}", "a"), ("É[a]", "é"), ("a?b", "a")] {
            let glob = Glob::parse(glob).unwrap_or_else(|error| panic!("{glob}: {error:?}"));
            assert_eq!(glob.literal_start().collect::<String>(), expected);
        }
    }
}
