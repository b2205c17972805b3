//! The table in README.md, written from the files of the last run.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use crate::machine::Machine;
use crate::stats::{Quantiles, Spread};
use crate::{idle, load, start};

const BEGIN: &str = "<!-- table: written by bench/run -->";
const END: &str = "<!-- end of table -->";

/// The table, from the files in `out`.
pub(crate) fn render(out: &Path) -> Result<String> {
    let load: load::Report = read(out, "load")?;
    let start: start::Report = read(out, "start")?;
    let idle: idle::Report = read(out, "idle")?;
    let mut text = String::new();
    machine(&mut text, &load.machine)?;
    for workload in &load.workloads {
        loads(&mut text, workload)?;
    }
    starts(&mut text, &start)?;
    memory(&mut text, &idle)?;
    Ok(text)
}

/// Puts the table into the document, between its marks.
pub(crate) fn rewrite(readme: &Path, table: &str) -> Result<()> {
    let old = std::fs::read_to_string(readme)?;
    let (before, rest) = old.split_once(BEGIN).context("README.md has no mark where the table begins")?;
    let (_, after) = rest.split_once(END).context("README.md has no mark where the table ends")?;
    std::fs::write(readme, format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))?;
    Ok(())
}

fn read<T: DeserializeOwned>(out: &Path, name: &str) -> Result<T> {
    let path = out.join(format!("{name}.json"));
    let bytes = std::fs::read(&path).with_context(|| format!("{} is not there: run `{name}` first", path.display()))?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn machine(text: &mut String, m: &Machine) -> Result<()> {
    writeln!(
        text,
        "Taken on {} cores ({}), {:.0} GiB of memory, Linux {}, {}; built by {} from {}. Making 4 KiB durable took p50 \
         {:.0} µs, p99 {:.0} µs. The load average before was {}.",
        m.cores,
        m.processor,
        m.memory_mib as f64 / 1024.0,
        m.kernel,
        m.file_system,
        m.rustc,
        m.revision,
        m.fsync.p50_us,
        m.fsync.p99_us,
        m.load_before
    )?;
    Ok(())
}

fn loads(text: &mut String, w: &load::Workload) -> Result<()> {
    let plural = |n: usize, what: &str| if n == 1 { format!("{n} {what}") } else { format!("{n} {what}s") };
    writeln!(text, "\n**{}**, {} on {}\n", w.name, plural(w.clients, "client"), plural(w.connections, "connection"))?;
    writeln!(text, "| | operations/s | p50 µs | p99 µs | server's CPU µs | byname's rate / this |")?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    for system in &w.systems {
        let ratio = w.ratios.iter().find(|r| r.to == system.system);
        let ratio = ratio.map_or_else(String::new, |r| {
            let goal = r.goal.map_or_else(String::new, |g| {
                format!("; goal {g:.2} {}", if r.ratio.median >= g { "met" } else { "**missed**" })
            });
            format!("{} ×{goal}", spread(&r.ratio, 2))
        });
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {ratio} |",
            system.system,
            spread(&system.rate, 0),
            spread(&system.p50_us, 0),
            spread(&system.p99_us, 0),
            spread(&system.server_cpu_us, 1)
        )?;
    }
    Ok(())
}

fn starts(text: &mut String, r: &start::Report) -> Result<()> {
    writeln!(text, "\n**Start on demand**, {} cold starts each, milliseconds ({})\n", r.bare.count, r.systemd)?;
    writeln!(text, "| | p50 | p90 | p99 | goal, p50 |")?;
    writeln!(text, "|---|---|---|---|---|")?;
    let goal =
        |q: &Quantiles, ms: f64| format!("≤ {ms} {}", if q.p50_us <= ms * 1_000.0 { "met" } else { "**missed**" });
    for (name, q, goal) in [
        ("bare spawn until it has listened", &r.bare, String::new()),
        ("`systemd-socket-activate`, connect to first byte", &r.activate, String::new()),
        ("`find` to reply, `notify`", &r.notify.reply, String::new()),
        ("… less the bare spawn", &r.notify.less_bare, goal(&r.notify.less_bare, 1.5)),
        ("… of it: `find` to the program's `main`", &r.notify.until_main, String::new()),
        ("… of it: `main` to listening", &r.notify.program, String::new()),
        ("… of it: listening to reply", &r.notify.after, String::new()),
        ("`find` to reply, `port`", &r.port.reply, String::new()),
        ("… less the bare spawn", &r.port.less_bare, goal(&r.port.less_bare, 3.0)),
        ("… of it: `find` to the program's `main`", &r.port.until_main, String::new()),
        ("… of it: `main` to listening", &r.port.program, String::new()),
        ("… of it: listening to reply", &r.port.after, String::new()),
        ("`find` while it runs, same connection", &r.warm, String::new()),
    ] {
        let ms = |us: f64| us / 1_000.0;
        writeln!(text, "| {name} | {:.2} | {:.2} | {:.2} | {goal} |", ms(q.p50_us), ms(q.p90_us), ms(q.p99_us))?;
    }
    Ok(())
}

fn memory(text: &mut String, r: &idle::Report) -> Result<()> {
    writeln!(text, "\n**Idle memory**, MiB, {} fresh processes each\n", r.rounds)?;
    writeln!(text, "| | resident | its share | goal |")?;
    writeln!(text, "|---|---|---|---|")?;
    let goal = if r.byname.rss_mib.median <= 20.0 { "≤ 20 met" } else { "≤ 20 **missed**" };
    for (name, held, goal) in
        [("`byname dev`", &r.byname, goal), ("its spare holder", &r.spare, ""), ("etcd, one member", &r.etcd, "")]
    {
        writeln!(text, "| {name} | {} | {} | {goal} |", spread(&held.rss_mib, 1), spread(&held.pss_mib, 1))?;
    }
    Ok(())
}

/// The middle, and what lies around it.
fn spread(s: &Spread, digits: usize) -> String {
    format!("{:.*} ({:.*}–{:.*})", digits, s.median, digits, s.min, digits, s.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let dir = tempfile::tempdir().unwrap();
        let readme = dir.path().join("README.md");
        std::fs::write(&readme, format!("a\n{BEGIN}\nold\n{END}\nb\n")).unwrap();
        rewrite(&readme, "new\n").unwrap();
        rewrite(&readme, "newer\n").unwrap();
        assert_eq!(std::fs::read_to_string(&readme).unwrap(), format!("a\n{BEGIN}\n\nnewer\n\n{END}\nb\n"));
        std::fs::write(&readme, "no marks").unwrap();
        assert!(rewrite(&readme, "x").is_err());
    }
}
