//! Lists and patterns, compared with those of the real tclsh8.6 (Debian's package tcl).

use std::io::Write;
use std::process::{Command, Stdio};

use byname_front_dp::glob::Glob;
use byname_front_dp::list::{merge, split};

/// Texts that bring out what quoting must do, from a seed: the same in each run.
fn texts(seed: u64, letters: &str, longest: u64) -> impl Iterator<Item = String> {
    let letters: Vec<char> = letters.chars().collect();
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    std::iter::from_fn(move || {
        let length = next() % (longest + 1);
        Some((0..length).map(|_| letters[(next() % letters.len() as u64) as usize]).collect())
    })
}

/// Runs a script of Tcl that reads lines of hexadecimal digits and answers each with a line of them.
fn tcl(script: &str, lines: &[Vec<String>]) -> Vec<String> {
    let script = format!(
        "fconfigure stdin -encoding ascii; fconfigure stdout -encoding ascii
         proc read_hex {{hex}} {{ encoding convertfrom utf-8 [binary decode hex $hex] }}
         proc write_hex {{text}} {{ puts [binary encode hex [encoding convertto utf-8 $text]]. }}
         while {{[gets stdin line] >= 0}} {{
             set words {{}}
             foreach hex [split $line ,] {{ lappend words [read_hex $hex] }}
             {script}
         }}"
    );
    // It comes by a file: standard input is for the lines.
    let file = std::env::temp_dir().join(format!("byname-dp-{}-{:x}", std::process::id(), script.len()));
    std::fs::write(&file, &script).unwrap();
    let mut child = Command::new("tclsh8.6")
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tclsh8.6: apt-get install tcl");
    let mut stdin = child.stdin.take().unwrap();
    let text: String =
        lines.iter().map(|words| words.iter().map(hex::encode).collect::<Vec<_>>().join(",") + "\n").collect();
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(output.status.success());
    let answer = |line: &str| String::from_utf8(hex::decode(line.trim_end_matches('.')).unwrap()).unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(answer).collect()
}

#[test]
fn lists_are_written_as_tcl_writes_them() {
    let words: Vec<String> = texts(1, "ab #{}[]\"\\$; \n\t\u{b}\u{c}\r\u{e9}", 6).take(12_000).collect();
    let lines: Vec<Vec<String>> = words.chunks(3).map(<[String]>::to_vec).collect();
    let lists = tcl("write_hex [list {*}$words]", &lines);
    assert_eq!(lists.len(), lines.len());
    for (words, list) in lines.iter().zip(lists) {
        assert_eq!(merge(words), list, "{words:?}");
    }
}

#[test]
fn lists_are_read_as_tcl_reads_them() {
    let lines: Vec<Vec<String>> =
        texts(2, "ab {} \"\\xuU0147nte\n\u{e9}", 12).take(8_000).map(|text| vec![text]).collect();
    // Each element with its length in front, so that nothing depends on quoting.
    let script = "if {[catch {llength [lindex $words 0]} why]} { write_hex \"error: $why\" } else {
        set told {}
        foreach word [lindex $words 0] { append told [string length $word]:$word, }
        write_hex $told
    }";
    let answers = tcl(script, &lines);
    assert_eq!(answers.len(), lines.len());
    for (text, answer) in lines.iter().zip(answers) {
        let text = &text[0];
        let ours = match split(text, 100) {
            Ok(words) => words.iter().map(|word| format!("{}:{word},", word.chars().count())).collect(),
            Err(why) => format!("error: {why}"),
        };
        assert_eq!(ours, answer, "{text:?}");
    }
}

#[test]
fn patterns_match_what_they_match_in_tcl() {
    let patterns = texts(3, "ab/*?[]-\\", 8);
    let names = texts(4, "ab/-]\\", 6);
    let lines: Vec<Vec<String>> = patterns.zip(names).take(20_000).map(|(p, n)| vec![p, n]).collect();
    let answers = tcl("write_hex [string match [lindex $words 0] [lindex $words 1]]", &lines);
    assert_eq!(answers.len(), lines.len());
    let mut matched = 0;
    for (line, answer) in lines.iter().zip(answers) {
        assert_eq!(Glob::new(&line[0]).matches(&line[1]), answer == "1", "{line:?}");
        matched += u32::from(answer == "1");
    }
    assert!(matched > 500, "{matched}");
}
