//! `cargo xtask`: the chores of this repository that need more than a line of shell.

mod cluster;
mod fuzz;
mod soak;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  tidy    check the rules of the code and of the documents; CONTRIBUTING.md gives each with its reason
  rules   print the rules and their reasons
  fuzz [TARGET] [--seconds N]
          run one fuzz target of fuzz/, or all, for 60 s each or N
  soak [--minutes N]
          run the simulation with seeds that nobody tried, for 10 minutes or N
  cluster up [--release] | down | check | status | cut HOST | silence HOST | loss HOST PERCENT | heal | kill HOST | start HOST…
          | exec HOST -- COMMAND…
          three servers (s1 to s3) and three agents (a1 to a3), each on a host with its own address: a network namespace.
          cut pulls a cable, silence lets nothing out of a host, heal undoes both. Needs root, iproute2 and nftables
  help    print this
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["tidy"] => tidy::run(root()),
        ["rules"] => {
            tidy::print_rules();
            Ok(true)
        }
        ["fuzz", rest @ ..] => match fuzz::Order::parse(rest) {
            Some(order) => fuzz::run(root(), &order),
            None => return unknown(&words),
        },
        ["soak", rest @ ..] => match soak::minutes(rest) {
            Some(minutes) => soak::run(root(), minutes),
            None => return unknown(&words),
        },
        ["cluster", rest @ ..] => match cluster::Order::parse(rest) {
            Some(order) => cluster::run(root(), &order),
            None => return unknown(&words),
        },
        [] | ["help" | "-h" | "--help"] => {
            print!("{HELP}");
            Ok(true)
        }
        _ => return unknown(&words),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn unknown(words: &[&str]) -> ExitCode {
    eprint!("xtask: there is no `{}`\n\n{HELP}", words.join(" "));
    ExitCode::from(2)
}

/// The repository's folder: the one above this crate's.
fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}
