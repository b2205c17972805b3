//! A world, and many of them.
//!
//! A world is one future on a runtime with one thread and a clock that jumps to the next timer when nothing else is to do.
//! Each has a process of its own, the test's own program started once more, so that no counter that some library keeps for the
//! whole process can carry anything from one world into the next: the same seed is the same run, event for event.
//!
//! | variable | |
//! |---|---|
//! | `BYNAME_SIMULATION_SECONDS` | for how long new seeds are tried |
//! | `BYNAME_SIMULATION_SEED` | the first of them |
//! | `BYNAME_SIMULATION_ONLY` | no other than that one is tried, once, in this process, and its timeline printed as it comes |

use std::collections::BTreeMap;
use std::future::Future;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::os::{Inside, elapsed};
use crate::timeline;

/// Tells the started program which world it is: a seed, and the variant behind a colon.
const WORLD: &str = "BYNAME_SIMULATION_WORLD";
/// In front of what a world has to say about itself.
const SAYS: &str = "simulated: ";
/// The real time that a world may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a world begins with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Decides everything.
    pub seed: u64,
    /// What is different in this world, in the words of the test.
    pub variant: String,
}

/// What a world was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Of everything that happened, with its time.
    pub hash: u64,
    /// How much happened.
    pub events: u64,
    /// How long it lasted, in milliseconds of its own time.
    pub lasted_ms: u64,
    /// How often what happened.
    pub seen: BTreeMap<String, u64>,
}

/// What many worlds were.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// So many worlds ended well.
    pub worlds: u64,
    /// The events of all.
    pub events: u64,
    /// Their own time, in milliseconds.
    pub lasted_ms: u64,
    /// How often what happened in all.
    pub seen: BTreeMap<String, u64>,
    /// The smallest seed that failed, and what it had to say.
    pub failed: Option<(u64, String)>,
}

/// Which worlds are tried.
#[derive(Clone, Copy, Debug)]
pub enum Seeds {
    /// New ones for so many seconds, from the first on; the variables above go before.
    For {
        /// So long.
        seconds: u64,
    },
    /// These, until one fails.
    UntilFailure {
        /// The first.
        first: u64,
        /// How many at most.
        count: u64,
    },
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    variable(name)?.parse().ok()
}

/// If this process was started to be a world, is that world and says so: the test has nothing else to do then.
///
/// # Panics
/// When the world fails, or was asked for in words that make no sense.
pub fn was_world<F: Future<Output = ()> + 'static>(live: impl FnOnce(Setup) -> F + Send + 'static) -> bool {
    let Some(asked) = variable(WORLD) else { return false };
    let (seed, variant) = asked.split_once(':').unwrap_or((&asked, ""));
    let Ok(seed) = seed.parse() else { panic!("{WORLD}={asked} is no world") };
    let outcome = be(Setup { seed, variant: variant.to_owned() }, false, live);
    let seen: Vec<String> = outcome.seen.iter().map(|(what, count)| format!("{what}={count}")).collect();
    println!("\n{SAYS}{} {} {} {}", outcome.hash, outcome.events, outcome.lasted_ms, seen.join(","));
    true
}

/// Lives through a world, on a thread of its own, and panics with its timeline when it fails.
fn be<F: Future<Output = ()> + 'static>(
    setup: Setup,
    live_lines: bool,
    live: impl FnOnce(Setup) -> F + Send + 'static,
) -> Outcome {
    std::thread::spawn(|| {
        std::thread::sleep(PATIENCE);
        eprintln!("the world does not end");
        std::process::exit(70);
    });
    if live_lines {
        // What the servers themselves say, by `RUST_LOG`. Set up outside of the world, of whose chance it must take nothing.
        let log = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env());
        log.with_ansi(false).with_writer(std::io::stdout).init();
    }
    let thread = std::thread::Builder::new().stack_size(16 << 20).spawn(move || {
        let inside = Inside::enter(setup.seed);
        if live_lines {
            timeline::print_lines();
        }
        std::panic::set_hook(Box::new(|panic| timeline::violation(panic.to_string())));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let mut lasted = Duration::ZERO;
        let world = async {
            tokio::select! {
                biased;
                () = timeline::violated() => {}
                () = live(setup) => {}
            }
            lasted = elapsed();
        };
        // A panic has said what it is to the timeline.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(world)));
        let record = timeline::finish();
        // What the servers of a world still have to do is of no interest; nor may their ends panic.
        std::mem::forget(runtime);
        drop(inside);
        let _ = std::panic::take_hook();
        (record, lasted)
    });
    let (record, lasted) = thread.expect("a thread").join().expect("a world");
    if let Some(violation) = record.violation {
        for line in record.lines {
            println!("{line}");
        }
        panic!("{violation}");
    }
    Outcome {
        hash: record.hash,
        events: record.events,
        lasted_ms: lasted.as_millis() as u64,
        seen: record.seen.into_iter().map(|(what, count)| (what.to_owned(), count)).collect(),
    }
}

/// Begins one world in a process of its own: this program again, for the test of this name, which asks [`was_world`] first.
///
/// # Errors
/// What it printed, when it failed.
pub fn world(test: &str, seed: u64, variant: &str) -> Result<Outcome, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(WORLD, format!("{seed}:{variant}"))
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let outcome = text.lines().find_map(|line| outcome(line.strip_prefix(SAYS)?));
    match outcome {
        Some(outcome) if output.status.success() => Ok(outcome),
        _ => Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn outcome(line: &str) -> Option<Outcome> {
    let mut words = line.splitn(4, ' ');
    let mut next = || words.next();
    let (hash, events, lasted_ms) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
    let counts = next()?.split(',').filter_map(|one| one.split_once('='));
    let seen = counts.filter_map(|(what, count)| Some((what.to_owned(), count.parse().ok()?))).collect();
    Some(Outcome { hash, events, lasted_ms, seen })
}

/// Tries many worlds, as many side by side as there are processors.
#[must_use]
pub fn worlds(test: &str, variant: &str, seeds: Seeds) -> Summary {
    let began = Instant::now();
    let (first, until, count) = match seeds {
        Seeds::For { seconds } => {
            let seconds = number("BYNAME_SIMULATION_SECONDS").unwrap_or(seconds);
            let first = number("BYNAME_SIMULATION_SEED").unwrap_or(0);
            (first, Some(began + Duration::from_secs(seconds)), u64::MAX)
        }
        Seeds::UntilFailure { first, count } => (first, None, count),
    };
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let summary = Mutex::new(Summary::default());
    let work = || {
        while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
            let offset = next.fetch_add(1, Ordering::Relaxed);
            if offset >= count {
                return;
            }
            let seed = first.wrapping_add(offset);
            let result = world(test, seed, variant);
            let Ok(mut summary) = summary.lock() else { return };
            match result {
                Ok(outcome) => {
                    summary.worlds += 1;
                    summary.events += outcome.events;
                    summary.lasted_ms += outcome.lasted_ms;
                    for (what, count) in outcome.seen {
                        *summary.seen.entry(what).or_default() += count;
                    }
                }
                Err(text) => {
                    stop.store(true, Ordering::Relaxed);
                    if summary.failed.as_ref().is_none_or(|(known, _)| *known > seed) {
                        summary.failed = Some((seed, text));
                    }
                }
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    summary.into_inner().unwrap_or_default()
}

/// Lives through the one world that was asked for with `BYNAME_SIMULATION_ONLY`, printing its timeline; false when none was.
///
/// # Panics
/// When the world fails.
pub fn only_world<F: Future<Output = ()> + 'static>(live: impl FnOnce(Setup) -> F + Send + 'static) -> bool {
    if variable("BYNAME_SIMULATION_ONLY").is_none() {
        return false;
    }
    let seed = number("BYNAME_SIMULATION_SEED").unwrap_or(0);
    let variant = variable("BYNAME_SIMULATION_VARIANT").unwrap_or_default();
    let outcome = be(Setup { seed, variant }, true, live);
    println!("seed {seed} ends well: {outcome:?}");
    true
}

/// How to see a seed's run again.
#[must_use]
pub fn again(package: &str, test: &str, seed: u64, variant: &str) -> String {
    let variant = if variant.is_empty() { String::new() } else { format!(" BYNAME_SIMULATION_VARIANT={variant}") };
    format!(
        "BYNAME_SIMULATION_ONLY=1 BYNAME_SIMULATION_SEED={seed}{variant} cargo test -p {package} --test simulation {test} -- \
         --exact --nocapture"
    )
}
