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

/// Any text as names are compared: NFC(simple fold(NFC(text))). Two texts that are the same to people fold to the same.
pub fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_folded(&nfc(text), &mut out);
    out
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> String {
        let mut folded = String::new();
        push_folded(&nfc(text), &mut folded);
        folded
    }

    #[test]
    fn what_is_the_same_and_what_is_not() {
        for (one, other, same) in [
            ("abc", "ABC", true),
            ("caf\u{e9}", "CAFE\u{301}", true),  // composed, decomposed
            ("ß", "ẞ", true),                    // simple folding
            ("ß", "ss", false),                  // full folding would
            ("Σ", "σ", true),                    // sigma
            ("Σ", "ς", true),                    // final sigma
            ("İ", "i", false),                   // Turkic folding would
            ("İ", "i\u{307}", false),            // full folding would
            ("İ", "I\u{307}", true),             // the same by NFC
            ("I", "ı", false),                   // Turkic folding would
            ("\u{212a}", "k", true),             // Kelvin sign
            ("\u{212b}", "å", true),             // Angstrom sign
            ("\u{2126}", "ω", true),             // Ohm sign
            ("ſ", "S", true),                    // long s
            ("\u{17f}\u{301}", "\u{15b}", true), // composes only after folding
            ("Ꭰ", "ꭰ", true),                    // Cherokee folds to upper case
            ("Ᏸ", "ᏸ", true),
            ("ﬁ", "fi", false),             // compatibility is kept
            ("Ａ", "ａ", true),             // full width folds
            ("Ａ", "A", false),             // but stays full width
            ("\u{fb05}", "\u{fb06}", true), // the two st ligatures
            ("\u{390}", "\u{1fd3}", true),  // tonos, oxia
            ("ǅ", "ǆ", true),               // title case
            ("𐐀", "𐐨", true),               // beyond the basic plane
        ] {
            assert_eq!(key(one) == key(other), same, "{one} {other}");
        }
        assert_eq!(key("ꭰ"), "Ꭰ");
        assert_eq!(key("İ"), "İ");
    }

    #[test]
    fn folding_every_character_twice_changes_nothing() {
        let check = |text: String| {
            let once = key(&text);
            assert_eq!(key(&once), once, "{}", text.escape_unicode());
        };
        for c in '\0'..=char::MAX {
            check(c.to_string());
        }
        // Cased letters and the marks they combine with; beyond are ideographs and unassigned planes.
        for c in '\0'..'\u{20000}' {
            check(format!("{c}\u{301}"));
            check(format!("a{c}"));
            check(format!("{c}\u{345}\u{307}"));
        }
    }

    #[test]
    fn no_key_holds_what_labels_cannot() {
        for c in ('\0'..=char::MAX).filter(|&c| crate::label::forbidden(c).is_none()) {
            let key = key(&c.to_string());
            assert!(key.chars().all(|c| crate::label::forbidden(c).is_none()), "{}", c.escape_unicode());
        }
    }

    #[test]
    fn classes_see_every_case_of_a_character() {
        for c in ('\0'..=char::MAX).filter(|&c| fold_char(c) != c) {
            assert!(any_case(fold_char(c), |other| other == c), "{}", c.escape_unicode());
        }
        assert!(any_case('σ', |c| c == 'ς'));
        assert!(any_case('k', |c| c == 'K'));
        assert!(!any_case('i', |c| c == 'İ'));
    }

    /// Keys are stored. When this fails, an update of the pinned crates changed what names are equal: keep
    /// the old tables, or make the new ones a feature level of the cluster, and then say so in the
    /// crate's documentation.
    #[test]
    fn the_tables_are_those_of_this_feature_level() {
        let mut fingerprint: u64 = 0xcbf2_9ce4_8422_2325;
        for c in '\0'..=char::MAX {
            for byte in key(&c.to_string()).bytes() {
                fingerprint = (fingerprint ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        assert_eq!(fingerprint, 0x7148_66a7_2e1d_029a, "{fingerprint:#x}");
    }
}
