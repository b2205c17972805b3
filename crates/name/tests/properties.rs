//! What holds for every name and pattern.

use std::collections::BTreeSet;
use std::ops::RangeBounds;

use byname_name::ldap::LeafType;
use byname_name::{MAX_DEPTH, MAX_LABEL_BYTES, MAX_NAME_BYTES, Name, NameKey, Pattern, dns, http, ldap, spiffe};
use proptest::collection::vec;
use proptest::prelude::*;

/// Labels that collide: few letters, cases that fold in special ways, marks that combine.
fn label() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[abAB]{1,3}",
        1 => "[a-zA-Z0-9._:%#+-]{1,12}",
        1 => "[aekosKSΣσςßẞİıſé\u{301}\u{307}\u{345}Ꭰꭰ]{1,4}",
        1 => "[!-~&&[^*?\\[\\]{}/]]{1,8}",
        1 => "\\PC{1,6}",
    ]
    .prop_filter("a label", |label| Name::parse(&format!("/x/{label}")).is_ok() && !label.contains('/'))
}

fn name() -> impl Strategy<Value = Name> {
    vec(label(), 0..5).prop_filter_map("a name", |labels| Name::parse(&format!("/{}", labels.join("/"))).ok())
}

/// Names with labels that have types, and some that only look so.
fn typed_name() -> impl Strategy<Value = Name> {
    let typed = "(C|o|OU|cn|L|st|ſt|DC|UID|x|)=[ab=, #+\\\\]{0,3}";
    let label = prop_oneof![3 => typed, 1 => "[ab,+=#\\\\;]{1,3}", 1 => label()];
    vec(label, 0..5).prop_filter_map("a name", |labels| Name::parse(&format!("/{}", labels.join("/"))).ok())
}

fn ascii_name() -> impl Strategy<Value = Name> {
    vec("[a-zA-Z0-9-]{1,8}", 0..5)
        .prop_filter_map("a name", |labels| Name::parse(&format!("/{}", labels.join("/"))).ok())
}

/// Names over two letters, which patterns over two letters often select.
fn small_name() -> impl Strategy<Value = Name> {
    vec("[abB]{1,4}", 0..5).prop_filter_map("a name", |labels| Name::parse(&format!("/{}", labels.join("/"))).ok())
}

fn glob() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => "[abA]",
        2 => Just("*".to_owned()),
        1 => Just("?".to_owned()),
        1 => prop_oneof![Just("[a]"), Just("[!a]"), Just("[a-b]"), Just("[!A]"), Just("[ab]")].prop_map(str::to_owned),
        1 => vec("[ab?]{0,2}", 1..4)
            .prop_filter("not empty", |parts| parts.len() > 1 || !parts[0].is_empty())
            .prop_map(|parts| format!("{{{}}}", parts.join(","))),
    ];
    vec(piece, 1..6).prop_map(|pieces| pieces.concat().replace("**", "*").replace("**", "*"))
}

fn pattern() -> impl Strategy<Value = String> {
    vec(prop_oneof![3 => glob(), 1 => Just("**".to_owned())], 1..6).prop_map(|labels| format!("/{}", labels.join("/")))
}

/// The meaning of a pattern, as plainly as it can be said: try everything.
mod reference {
    pub(super) fn matches(pattern: &str, name: &str) -> bool {
        let lower = pattern.to_ascii_lowercase();
        let pattern: Vec<&str> = lower.split('/').skip(1).collect();
        let lower = name.to_ascii_lowercase();
        let name: Vec<&str> = lower.split('/').skip(1).filter(|label| !label.is_empty()).collect();
        labels(&pattern, &name)
    }

    fn labels(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], rest) => rest.is_empty(),
            (["**", more @ ..], rest) => (0..=rest.len()).any(|skip| labels(more, &rest[skip..])),
            ([_, ..], []) => false,
            ([first, more @ ..], [label, rest @ ..]) => characters(first, label) && labels(more, rest),
        }
    }

    fn characters(glob: &str, label: &str) -> bool {
        let (Some(first), rest) = (glob.chars().next(), label.get(1..)) else {
            return label.is_empty();
        };
        match first {
            '*' => (0..=label.len()).any(|skip| characters(&glob[1..], &label[skip..])),
            '{' => {
                let (choice, more) = glob[1..].split_once('}').expect("closed");
                choice.split(',').any(|part| characters(&format!("{part}{more}"), label))
            }
            '?' => rest.is_some_and(|rest| characters(&glob[1..], rest)),
            '[' => {
                let (class, more) = glob[1..].split_once(']').expect("closed");
                let (negated, class) = class.strip_prefix('!').map_or((false, class), |class| (true, class));
                let class = class.replace("a-b", "ab");
                let inside = |c: char| class.contains(c) != negated;
                label.starts_with(inside) && rest.is_some_and(|rest| characters(more, rest))
            }
            c => label.starts_with(c) && rest.is_some_and(|rest| characters(&glob[1..], rest)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_name_within_the_limits_or_an_error_inside_the_text(text in "(/?(\\PC|[/.*\\[{ \u{0}\u{301}]){0,5}){0,6}") {
        match Name::parse(&text) {
            Ok(name) => {
                prop_assert!(name.as_str().len() <= MAX_NAME_BYTES && name.depth() <= MAX_DEPTH);
                prop_assert!(name.labels().all(|label| (1..=MAX_LABEL_BYTES).contains(&label.len())));
            }
            Err(error) => prop_assert!(text.get(error.position..).is_some(), "{error:?} in {text:?}"),
        }
        match Pattern::parse(&text) {
            Ok(pattern) => prop_assert_eq!(Pattern::parse(pattern.as_str()), Ok(pattern)),
            Err(error) => prop_assert!(text.get(error.position..).is_some(), "{error:?} in {text:?}"),
        }
        let _ = dns::from_dns(&text, "");
        let _ = http::from_path(&text);
        let _ = ldap::from_dn(&text, "");
        let _ = spiffe::from_id(&format!("spiffe://a{text}"), "a");
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in vec(any::<u8>(), 0..80)) {
        let _ = Name::parse_bytes(&bytes);
        if let Some(key) = NameKey::from_bytes(&bytes) {
            prop_assert_eq!(key.as_bytes(), &bytes[..]);
        }
    }

    #[test]
    fn patterns_made_of_wildcards_are_read_without_panic(text in "/?([ab*?,!^{}/-]|\\[|\\]){0,40}", name in name()) {
        if let Ok(pattern) = Pattern::resolve(&name, &text) {
            pattern.matches(&name);
        }
    }

    #[test]
    fn a_displayed_name_is_read_as_itself(name in name()) {
        let displayed = format!("{name}");
        let again = Name::parse(&displayed).expect("a name");
        prop_assert_eq!(again.as_str(), name.as_str());
        prop_assert_eq!(Name::parse(&format!("/...{}", name.as_str().trim_end_matches('/'))), Ok(again));
    }

    #[test]
    fn a_name_is_its_parent_and_its_leaf(name in name()) {
        match (name.parent(), name.leaf()) {
            (Some(parent), Some(leaf)) => {
                let child = parent.child(leaf).expect("a child");
                prop_assert_eq!(child.as_str(), name.as_str());
                prop_assert!(parent < name && name.is_under(&parent) && !parent.is_under(&name));
                prop_assert_eq!(name.key().parent(), Some(parent.key()));
            }
            (parent, leaf) => prop_assert!(name.is_root() && parent.is_none() && leaf.is_none()),
        }
        prop_assert_eq!(name.ancestors().count(), name.depth());
        prop_assert_eq!(name.labels().count(), name.depth());
        prop_assert_eq!(name.key().depth(), name.depth());
        let mut backwards: Vec<&str> = name.labels().rev().collect();
        backwards.reverse();
        prop_assert_eq!(backwards, name.labels().collect::<Vec<_>>());
    }

    #[test]
    fn folding_a_key_again_changes_nothing(name in name()) {
        let folded = format!("/{}", name.key().labels().collect::<Vec<_>>().join("/"));
        if let Ok(folded) = Name::parse(&folded) {
            prop_assert_eq!(folded.key(), name.key());
        }
    }

    #[test]
    fn equality_order_and_hash_agree_with_the_key(one in name(), other in name()) {
        let hash = |name: &Name| {
            use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
            BuildHasherDefault::<DefaultHasher>::default().hash_one(name)
        };
        prop_assert_eq!(one.cmp(&other), one.key().cmp(&other.key()));
        prop_assert_eq!(one == other, one.key() == other.key());
        prop_assert_eq!(one.is_under(&other), one.key().is_under(&other.key()));
        if one == other {
            prop_assert_eq!(hash(&one), hash(&other));
        }
        prop_assert!(one.with_key(|key| key == one.key().as_str()));
        prop_assert_eq!(NameKey::from_bytes(one.key().as_bytes()), Some(one.key()));
    }

    #[test]
    fn a_subtree_is_one_run_of_the_order(names in vec(name(), 1..40), top in name()) {
        let sorted: BTreeSet<NameKey> = names.iter().map(Name::key).chain([top.key()]).collect();
        let top = top.key();
        let run: Vec<&NameKey> = sorted.range::<NameKey, _>(top.subtree_range()).collect();
        let beneath: Vec<&NameKey> = sorted.iter().filter(|key| key.is_under(&top)).collect();
        prop_assert_eq!(run.first(), Some(&&top));
        prop_assert_eq!(&run, &beneath);
        let without_top: Vec<&NameKey> = sorted.range::<NameKey, _>(top.beneath_range()).collect();
        prop_assert_eq!(&without_top[..], &run[1..]);
    }

    #[test]
    fn patterns_select_what_the_reference_selects(text in pattern(), names in vec(small_name(), 1..20)) {
        let pattern = Pattern::parse(&text).expect("a pattern");
        for name in names {
            let expected = reference::matches(&text, name.as_str());
            prop_assert_eq!(pattern.matches(&name), expected, "{} {}", text, name);
            if expected {
                prop_assert!(name.is_under(&pattern.literal_prefix()));
                prop_assert!(pattern.key_range().contains(&name.key()), "{} {}", text, name);
                prop_assert!(pattern.max_depth().is_none_or(|depth| name.depth() <= depth));
            }
        }
    }

    #[test]
    fn a_name_is_the_pattern_of_itself(one in name(), other in name()) {
        let pattern = Pattern::parse(one.as_str()).expect("a pattern");
        prop_assert_eq!(pattern.matches(&other), one == other);
        prop_assert!(pattern.matches(&one) && Pattern::every().matches(&one));
        prop_assert_eq!(pattern.as_exact().map(|name| name.to_string()), Some(one.to_string()));
        prop_assert_eq!(Pattern::exact(one), pattern);
    }

    #[test]
    fn a_form_in_the_dns_leads_back_to_its_name(name in name(), ascii in ascii_name()) {
        if let Ok(form) = dns::to_dns(&name, "Corp.Example") {
            prop_assert_eq!(&form, &form.to_ascii_lowercase());
            prop_assert_eq!(dns::from_dns(&form, "corp.example"), Ok(name.clone()), "{}", form);
            prop_assert_eq!(dns::from_dns(&(form.to_ascii_uppercase() + "."), "corp.example"), Ok(name));
        }
        let form = dns::to_dns(&ascii, "corp.example");
        let kept = !ascii.labels().any(|label| label.to_ascii_lowercase().starts_with("xn--"));
        prop_assert_eq!(form.is_ok(), kept);
    }

    #[test]
    fn equal_names_have_one_form_in_the_dns(name in name()) {
        let upper = Name::parse(&name.as_str().to_uppercase());
        if let Ok(upper) = upper && upper == name {
            prop_assert_eq!(dns::to_dns(&upper, "").ok(), dns::to_dns(&name, "").ok());
        }
    }

    #[test]
    fn a_form_in_ldap_leads_back_to_its_name(name in typed_name(), directory in any::<bool>()) {
        let leaf = if directory { LeafType::OrganizationalUnit } else { LeafType::CommonName };
        if let Ok(form) = ldap::to_dn(&name, leaf, "Corp.Example") {
            prop_assert!(form.ends_with("dc=corp,dc=example"));
            prop_assert_eq!(ldap::from_dn(&form, "corp.example"), Ok(name.clone()), "{}", form);
            let spread = form.replace(",dc=", "  ,  DC = ");
            prop_assert_eq!(ldap::from_dn(&spread, "corp.example"), Ok(name), "{}", spread);
        }
    }

    #[test]
    fn what_is_read_as_a_form_in_ldap_is_the_form_of_that_name(
        steps in vec(("(cn|ou|OU|c|O|dc|Uid|st)", "([a-c,=+# ]|\\\\,|\\\\=|\\\\#|\\\\ |\\\\c3\\\\a9|\u{338}){0,4}"), 0..4),
    ) {
        let text: Vec<String> = steps.iter().map(|(step_type, value)| format!("{step_type}={value}")).collect();
        if let Ok(name) = ldap::from_dn(&text.join(","), "") {
            let form = ldap::to_dn(&name, LeafType::CommonName, "").expect("a form");
            prop_assert_eq!(ldap::from_dn(&form, ""), Ok(name));
        }
    }

    #[test]
    fn different_names_have_different_forms_in_ldap(one in typed_name(), other in typed_name()) {
        let form = |name: &Name| ldap::to_dn(name, LeafType::CommonName, "a").map(|form| form.to_lowercase());
        if let (Ok(one_form), Ok(other_form)) = (form(&one), form(&other)) && one_form == other_form {
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn a_form_in_spiffe_leads_back_to_its_name(name in name(), ascii in ascii_name()) {
        for name in [name, ascii.clone()] {
            if let Ok(id) = spiffe::to_id(&name, "corp.example") {
                let back = spiffe::from_id(&id, "corp.example").map(|name| name.to_string());
                prop_assert_eq!(back, Ok(name.to_string()));
            }
        }
        prop_assert!(spiffe::to_id(&ascii, "corp.example").is_ok());
    }

    #[test]
    fn a_form_in_a_url_leads_back_to_its_name(name in name()) {
        let path = http::to_path(&name);
        prop_assert!(path.is_ascii() && !path.contains([':', '?', '#', ' ']) && !path.starts_with('/'));
        prop_assert_eq!(http::from_path(&path).map(|name| name.to_string()), Ok(name.to_string()));
    }
}

#[cfg(feature = "serde")]
#[test]
fn names_and_patterns_are_strings_in_serde() {
    let name: Name = serde_json::from_str("\"/BVODS/\\u0051S\"").expect("a name");
    assert_eq!(serde_json::to_string(&name).expect("json"), "\"/BVODS/QS\"");
    let error = serde_json::from_str::<Name>("\"/a//b\"").expect_err("an empty label").to_string();
    assert!(error.contains("a label is empty"), "{error}");
    let pattern: Pattern = serde_json::from_str("\"/BVODS/*\"").expect("a pattern");
    assert_eq!(serde_json::to_string(&pattern).expect("json"), "\"/BVODS/*\"");
    assert!(serde_json::from_str::<Pattern>("\"/[\"").is_err());
}
