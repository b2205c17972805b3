//! `fuzz`: runs the fuzz targets of `fuzz/`, one after the other, and prints what came of each.
//!
//! Seeds are read from `fuzz/corpus/TARGET`; what the fuzzer finds on its way goes to `target/fuzz/TARGET`, so that a run
//! changes nothing in the repository and the next one goes on where it ended. An input that breaks a target is left in
//! `fuzz/artifacts/TARGET`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

const SECONDS: u64 = 60;
/// An input that takes longer than so many seconds is a finding. The targets are built with the sanitizer for addresses,
/// which makes them several times slower.
const INPUT_SECONDS: u64 = 5;
const TOOLCHAIN: &str = "nightly";

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// One target, or all.
    target: Option<String>,
    seconds: u64,
}

impl Order {
    /// Reads the words behind `fuzz`; none when they make no sense.
    pub(crate) fn parse(words: &[&str]) -> Option<Order> {
        let mut order = Order { target: None, seconds: SECONDS };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--seconds" => order.seconds = words.next()?.parse().ok().filter(|seconds| *seconds > 0)?,
                word if !word.starts_with('-') && order.target.is_none() => order.target = Some(word.to_owned()),
                _ => return None,
            }
        }
        Some(order)
    }
}

/// What came of one target.
struct Outcome {
    target: String,
    runs: String,
    covered: String,
    good: bool,
}

/// Runs what was ordered; false when an input broke a target.
pub(crate) fn run(root: &Path, order: &Order) -> anyhow::Result<bool> {
    let all = targets(root)?;
    let chosen: Vec<&String> = match &order.target {
        Some(target) => all.iter().filter(|known| *known == target).collect(),
        None => all.iter().collect(),
    };
    ensure!(!chosen.is_empty(), "there is no such target; there are: {}", all.join(", "));
    install()?;
    // All at once, so that no target waits for a compiler within its time.
    let mut build = cargo_fuzz(root, "build");
    if let Some(target) = &order.target {
        build.arg(target);
    }
    ensure!(build.status().context("cannot start rustup")?.success(), "the targets cannot be built");
    let mut outcomes = Vec::new();
    for target in chosen {
        eprintln!("fuzz: {target}, {} s", order.seconds);
        outcomes.push(run_one(root, target, order.seconds)?);
    }
    println!("{:<16} {:>12} {:>10}  outcome", "target", "runs", "coverage");
    for Outcome { target, runs, covered, good } in &outcomes {
        let outcome = if *good { "ok" } else { "BROKEN" };
        println!("{target:<16} {runs:>12} {covered:>10}  {outcome}");
    }
    Ok(outcomes.iter().all(|outcome| outcome.good))
}

/// The targets, from the manifest.
fn targets(root: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join("fuzz/Cargo.toml")).context("cannot read fuzz/Cargo.toml")?;
    let manifest: toml::Table = text.parse().context("fuzz/Cargo.toml")?;
    let bins = manifest.get("bin").and_then(toml::Value::as_array).context("fuzz/Cargo.toml has no targets")?;
    Ok(bins.iter().filter_map(|bin| bin.get("name")?.as_str().map(str::to_owned)).collect())
}

fn cargo_fuzz(root: &Path, verb: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", TOOLCHAIN, "cargo", "fuzz", verb]).current_dir(root);
    command
}

/// Installs cargo-fuzz when it is not there.
fn install() -> anyhow::Result<()> {
    let there = Command::new("cargo-fuzz").arg("--version").output().is_ok_and(|output| output.status.success());
    if there {
        return Ok(());
    }
    eprintln!("fuzz: installing cargo-fuzz");
    let status = Command::new("rustup")
        .args(["run", TOOLCHAIN, "cargo", "install", "--locked", "cargo-fuzz"])
        .status()
        .context("cannot start rustup, which brings the nightly compiler that fuzzing needs")?;
    if !status.success() {
        bail!("cargo-fuzz cannot be installed; a nightly compiler is needed too: rustup toolchain install {TOOLCHAIN}");
    }
    Ok(())
}

fn run_one(root: &Path, target: &str, seconds: u64) -> anyhow::Result<Outcome> {
    let found = root.join("target/fuzz").join(target);
    std::fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
    let mut child = cargo_fuzz(root, "run")
        .arg(target)
        .arg(&found)
        .arg(root.join("fuzz/corpus").join(target))
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg("-print_final_stats=1")
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start rustup")?;
    let mut lines = Vec::new();
    if let Some(errors) = child.stderr.take() {
        lines = BufReader::new(errors).lines().map_while(Result::ok).collect();
    }
    let good = child.wait()?.success();
    if !good {
        // The last lines tell what broke and where the input is.
        lines.iter().skip(lines.len().saturating_sub(60)).for_each(|line| eprintln!("{line}"));
    }
    let (runs, covered) = figures(&lines);
    Ok(Outcome { target: target.to_owned(), runs, covered, good })
}

/// How many inputs were run, and how many places of the program they reached, from what libFuzzer prints.
fn figures(lines: &[String]) -> (String, String) {
    let word = |name: &str| {
        lines.iter().rev().find_map(|line| {
            let (_, rest) = line.split_once(name)?;
            rest.split_whitespace().next().map(str::to_owned)
        })
    };
    let unknown = || "-".to_owned();
    (word("stat::number_of_executed_units:").unwrap_or_else(unknown), word(" cov: ").unwrap_or_else(unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_order() {
        let order = |target: Option<&str>, seconds| Some(Order { target: target.map(str::to_owned), seconds });
        assert_eq!(Order::parse(&[]), order(None, SECONDS));
        assert_eq!(Order::parse(&["names"]), order(Some("names"), SECONDS));
        assert_eq!(Order::parse(&["--seconds", "5", "names"]), order(Some("names"), 5));
        for words in [&["--seconds"][..], &["--seconds", "0"], &["--seconds", "x"], &["a", "b"], &["-x"]] {
            assert_eq!(Order::parse(words), None, "{words:?}");
        }
    }

    #[test]
    fn every_target_has_its_file_and_seeds() {
        let root = crate::root();
        let targets = targets(root).unwrap();
        for target in &targets {
            assert!(root.join(format!("fuzz/fuzz_targets/{target}.rs")).is_file(), "{target}");
            let seeds = std::fs::read_dir(root.join("fuzz/corpus").join(target)).map(Iterator::count);
            assert!(seeds.is_ok_and(|seeds| seeds > 0), "{target} has no seeds");
        }
        assert_eq!(std::fs::read_dir(root.join("fuzz/fuzz_targets")).unwrap().count(), targets.len());
    }

    #[test]
    fn the_figures_of_a_run() {
        let lines = ["#9 DONE   cov: 12 ft: 13 corp: 3/9b", "stat::number_of_executed_units: 4711"];
        let lines: Vec<String> = lines.map(str::to_owned).into();
        assert_eq!(figures(&lines), ("4711".to_owned(), "12".to_owned()));
        assert_eq!(figures(&[]), ("-".to_owned(), "-".to_owned()));
    }
}
