//! Normalisation and case folding: the one place that touches the Unicode tables.

use std::borrow::Cow;

use icu_casemap::{CaseMapper, CaseMapperBorrowed, ClosureSink};
use icu_normalizer::{ComposingNormalizer, ComposingNormalizerBorrowed};

const CASE: CaseMapperBorrowed<'static> = CaseMapper::new();
const NFC: ComposingNormalizerBorrowed<'static> = ComposingNormalizer::new_nfc();

/// The text in normalisation form C.
pub(crate) fn nfc(text: &str) -> Cow<'_, str> {
    if text.is_ascii() { Cow::Borrowed(text) } else { NFC.normalize(text) }
}

/// Appends the comparison form of `text`, which is in NFC already: NFC(simple fold(text)).
pub(crate) fn push_folded(text: &str, out: &mut String) {
    if text.is_ascii() {
        out.extend(text.chars().map(|c| c.to_ascii_lowercase()));
    } else {
        let folded: String = text.chars().map(|c| CASE.simple_fold(c)).collect();
        out.push_str(&NFC.normalize(&folded));
    }
}

/// Simple case folding of one character.
pub(crate) fn fold_char(c: char) -> char {
    if c.is_ascii() { c.to_ascii_lowercase() } else { CASE.simple_fold(c) }
}

/// Whether `holds` is true of `folded` or of any other character that folds to it.
pub(crate) fn any_case(folded: char, holds: impl Fn(char) -> bool) -> bool {
    struct Search<F> {
        folded: char,
        holds: F,
        found: bool,
    }
    impl<F: Fn(char) -> bool> ClosureSink for Search<F> {
        fn add_char(&mut self, c: char) {
            // The closure also relates characters by full folding; only simple folding counts here.
            self.found = self.found || (fold_char(c) == self.folded && (self.holds)(c));
        }
        fn add_string(&mut self, _: &str) {}
    }
    if holds(folded) {
        return true;
    }
    let mut search = Search { folded, holds, found: false };
    CASE.add_case_closure_to(folded, &mut search);
    search.found
}
