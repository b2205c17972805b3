//! The table in README.md, written from the files of the last run.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use crate::machine::Machine;
use crate::stats::{Quantiles, Spread};
use crate::{activation, agents, dns, failover, identity, idle, load, relay, scale, start, watch};

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
    for name in ["scale", "scale-alone"] {
        if let Some(report) = read_if_there::<scale::Report>(out, name)? {
            scaled(&mut text, &report, &load.machine)?;
        }
    }
    for name in ["watch", "watch-own"] {
        if let Some(report) = read_if_there::<watch::Report>(out, name)? {
            watched(&mut text, &report, &load.machine)?;
        }
    }
    if let Some(report) = read_if_there::<activation::Report>(out, "activation")? {
        activated(&mut text, &report, &load.machine)?;
    }
    if let Some(report) = read_if_there::<relay::Report>(out, "relay")? {
        relayed(&mut text, &report, &load.machine)?;
    }
    if let Some(report) = read_if_there::<identity::Report>(out, "identity")? {
        authenticated(&mut text, &report, &load.machine)?;
    }
    if let Some(report) = read_if_there::<load::Report>(out, "cluster")? {
        clustered(&mut text, &report, &load.machine)?;
    }
    if let Some(report) = read_if_there::<failover::Report>(out, "failover")? {
        failed_over(&mut text, &report, &load.machine)?;
    }
    if let Some(report) = read_if_there::<agents::Report>(out, "agents")? {
        attached(&mut text, &report, &load.machine)?;
    }
    if let Some(report) = read_if_there::<dns::Report>(out, "dns")? {
        looked_up(&mut text, &report, &load.machine)?;
    }
    Ok(text)
}

/// The table of one part alone, for a look at it.
pub(crate) fn render_part(out: &Path, name: &str) -> Result<String> {
    let mut text = String::new();
    let nobody = Machine::default();
    match name {
        "scale" | "scale-alone" => scaled(&mut text, &read(out, name)?, &nobody)?,
        "watch" | "watch-own" => watched(&mut text, &read(out, name)?, &nobody)?,
        "activation" => activated(&mut text, &read(out, name)?, &nobody)?,
        "relay" => relayed(&mut text, &read(out, name)?, &nobody)?,
        "cluster" => clustered(&mut text, &read(out, name)?, &nobody)?,
        "failover" => failed_over(&mut text, &read(out, name)?, &nobody)?,
        "agents" => attached(&mut text, &read(out, name)?, &nobody)?,
        "dns" => looked_up(&mut text, &read(out, name)?, &nobody)?,
        "identity" => {
            let report: identity::Report = read(out, name)?;
            machine(&mut text, &report.machine)?;
            authenticated(&mut text, &report, &report.machine)?;
        }
        "load" => {
            let report: load::Report = read(out, name)?;
            machine(&mut text, &report.machine)?;
            for workload in &report.workloads {
                loads(&mut text, workload)?;
            }
        }
        "start" => starts(&mut text, &read(out, name)?)?,
        "idle" => memory(&mut text, &read(out, name)?)?,
        other => bail!("there is no part {other}"),
    }
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

/// The same of a part that need not have been measured.
fn read_if_there<T: DeserializeOwned>(out: &Path, name: &str) -> Result<Option<T>> {
    if out.join(format!("{name}.json")).exists() { read(out, name).map(Some) } else { Ok(None) }
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
    for (n, system) in w.systems.iter().enumerate() {
        let ratio = w.ratios.iter().find(|r| r.to == system.system);
        let ratio = ratio.map_or_else(String::new, |r| {
            let goal = r.goal.map_or_else(String::new, |g| {
                format!("; goal {g:.2} {}", if r.ratio.median >= g { "met" } else { "**missed**" })
            });
            format!("{} ×{goal}", spread(&r.ratio, 2))
        });
        let p50_goal = w.p50_goal_us.filter(|_| n == 0).map_or_else(String::new, |g| {
            format!("; goal ≤ {g:.0} {}", if system.p50_us.median <= g { "met" } else { "**missed**" })
        });
        writeln!(
            text,
            "| {} | {} | {}{p50_goal} | {} | {} | {ratio} |",
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

/// Says so when a part was not measured in the same run as the rest, or not on the same revision.
fn taken(text: &mut String, m: &Machine, rest: &Machine) -> Result<()> {
    if m.revision != rest.revision {
        writeln!(text, "\nTaken from {}; the load average before was {}.", m.revision, m.load_before)?;
    }
    Ok(())
}

/// A number with its thousands apart.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

fn scaled(text: &mut String, r: &scale::Report, rest: &Machine) -> Result<()> {
    const GOAL: f64 = 0.25;
    const TEN_MILLION_MIB: f64 = 4096.0;
    let services = thousands(r.services);
    writeln!(text, "\n**{services} services registered**")?;
    taken(text, &r.machine, rest)?;
    writeln!(
        text,
        "\n| | registered/s | resident before, MiB | after | bytes a service | of them held | byname's / this, of what is held |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|")?;
    let own = r.loaded.first().map_or(0.0, |own| own.held_bytes);
    for (n, l) in r.loaded.iter().enumerate() {
        let goal = if n > 0 {
            let ratio = own / l.held_bytes;
            format!("{ratio:.2} ×; goal {GOAL:.2} {}", if ratio <= GOAL { "met" } else { "**missed**" })
        } else if r.services == 10_000_000 {
            format!("goal ≤ 4 GiB {}", if l.after_mib <= TEN_MILLION_MIB { "met" } else { "**missed**" })
        } else {
            String::new()
        };
        writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {goal} |",
            l.system, l.rate, l.before_mib, l.after_mib, l.bytes, l.held_bytes
        )?;
    }
    for workload in &r.workloads {
        let what = if workload.name == "list" { "1,000 services of one rack" } else { "one record" };
        let among = format!("{}, {what} among {services} services and {} records", workload.name, thousands(r.records));
        loads(text, &load::Workload { name: among, ..workload.clone() })?;
    }
    if !r.restarts.is_empty() {
        writeln!(text, "\n**kill -9 and start** with them, seconds\n")?;
        writeln!(text, "| | says that it is ready | first right answer | resident then, MiB | read |")?;
        writeln!(text, "|---|---|---|---|---|")?;
        for restart in &r.restarts {
            let goal = match restart.answer_s.median {
                _ if restart.system != "byname" || r.services != 10_000_000 => "",
                seconds if seconds <= 10.0 => "; goal ≤ 10 met",
                _ => "; goal ≤ 10 **missed**",
            };
            writeln!(
                text,
                "| {} | {} | {}{goal} | {:.0} | {} |",
                restart.system,
                spread(&restart.ready_s, 2),
                spread(&restart.answer_s, 2),
                restart.rss_mib,
                restart.from
            )?;
        }
    }
    Ok(())
}

fn watched(text: &mut String, r: &watch::Report, rest: &Machine) -> Result<()> {
    let shared =
        if r.per_connection == 1 { "each on its own".to_owned() } else { format!("{} to a", r.per_connection) };
    writeln!(text, "\n**One change to {} watchers**, {shared} connection", thousands(r.watchers as u64))?;
    taken(text, &r.machine, rest)?;
    writeln!(
        text,
        "\n| | half have it, ms | all have it, ms | server's CPU ms | KiB a watcher | byname's time / this |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    let most_kib = if r.per_connection == 1 { 64.0 } else { 16.0 };
    for (n, system) in r.systems.iter().enumerate() {
        let ratio = r.ratios.iter().find(|ratio| ratio.to == system.system).map_or_else(String::new, |ratio| {
            let goal = ratio.goal.map_or_else(String::new, |g| {
                format!("; goal {g:.2} {}", if ratio.ratio.median <= g { "met" } else { "**missed**" })
            });
            format!("{} ×{goal}", spread(&ratio.ratio, 2))
        });
        let kib = match n {
            0 if system.watcher_kib.median <= most_kib => format!("; goal ≤ {most_kib} met"),
            0 => format!("; goal ≤ {most_kib} **missed**"),
            _ => String::new(),
        };
        writeln!(
            text,
            "| {} | {} | {} | {} | {}{kib} | {ratio} |",
            system.system,
            spread(&system.half_ms, 1),
            spread(&system.all_ms, 1),
            spread(&system.server_cpu_ms, 1),
            spread(&system.watcher_kib, 1)
        )?;
    }
    Ok(())
}

fn activated(text: &mut String, r: &activation::Report, rest: &Machine) -> Result<()> {
    let ms = |us: f64| us / 1_000.0;
    writeln!(text, "\n**First byte of a cold program**, {} starts each, milliseconds ({})", r.bare.count, r.systemd)?;
    taken(text, &r.machine, rest)?;
    writeln!(text, "\n| | p50 | p90 | p99 | systemd's time / this |")?;
    writeln!(text, "|---|---|---|---|---|")?;
    let mut row = |name: &str, q: &Quantiles, ratio: String| {
        writeln!(text, "| {name} | {:.2} | {:.2} | {:.2} | {ratio} |", ms(q.p50_us), ms(q.p90_us), ms(q.p99_us))
    };
    row("bare spawn, connect, first byte", &r.bare, String::new())?;
    row("`systemd-socket-activate`", &r.activate, String::new())?;
    for way in &r.ways {
        row(&format!("stable socket, {}", way.name), &way.cold.reply, format!("{} ×", spread(&way.of_systemd, 2)))?;
        row("… of it: connect to the program's `main`", &way.cold.until_main, String::new())?;
    }
    for way in &r.ways {
        row(&format!("running, through it: {}", way.name), &way.warm, String::new())?;
    }
    row("running, connected to directly", &r.direct, String::new())?;
    Ok(())
}

fn relayed(text: &mut String, r: &relay::Report, rest: &Machine) -> Result<()> {
    writeln!(text, "\n**Relay of a stable socket**, beside direct connections to the same program")?;
    taken(text, &r.machine, rest)?;
    writeln!(
        text,
        "\n| | connections | by the relay | directly | p50 µs, relay | p50 µs, directly | relay / direct |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|")?;
    for kind in &r.kinds {
        let p50 = |way: &relay::Way| {
            if way.p50_us.median > 0.0 { spread(&way.p50_us, 0) } else { String::new() }
        };
        let goal = kind.goal.map_or_else(String::new, |g| {
            format!("; goal {g:.2} {}", if kind.ratio.median >= g { "met" } else { "**missed**" })
        });
        writeln!(
            text,
            "| {}, {} | {} | {} | {} | {} | {} | {} ×{goal} |",
            kind.name,
            kind.unit,
            kind.connections,
            spread(&kind.relay.rate, 0),
            spread(&kind.direct.rate, 0),
            p50(&kind.relay),
            p50(&kind.direct),
            spread(&kind.ratio, 2)
        )?;
    }
    Ok(())
}

fn authenticated(text: &mut String, r: &identity::Report, rest: &Machine) -> Result<()> {
    for load in &r.loads {
        let w = &load.workload;
        let clients = if w.clients == 1 { "1 client".to_owned() } else { format!("{} clients", w.clients) };
        writeln!(text, "\n**find by somebody who is known**, {clients}, each on a connection that stays open")?;
        taken(text, &r.machine, rest)?;
        writeln!(text, "\n| | operations/s | p50 µs | p99 µs | server's CPU µs | this rate / anonymous within TLS |")?;
        writeln!(text, "|---|---|---|---|---|---|")?;
        for system in &w.systems {
            let share = load.shares.iter().find(|s| s.to == system.system).map_or_else(String::new, |share| {
                let goal = share.goal.map_or_else(String::new, |g| {
                    format!("; goal {g:.2} {}", if share.ratio.median >= g { "met" } else { "**missed**" })
                });
                format!("{} ×{goal}", spread(&share.ratio, 2))
            });
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {share} |",
                system.system,
                spread(&system.rate, 0),
                spread(&system.p50_us, 0),
                spread(&system.p99_us, 0),
                spread(&system.server_cpu_us, 1)
            )?;
        }
    }
    let turns = r.once.first().map_or(0, |once| once.cost.count);
    writeln!(text, "\n**What is done once**, {turns} times each, milliseconds\n")?;
    writeln!(text, "| | p50 | p90 | p99 |")?;
    writeln!(text, "|---|---|---|---|")?;
    for identity::Once { name, cost: q } in &r.once {
        let ms = |us: f64| us / 1_000.0;
        writeln!(text, "| {name} | {:.2} | {:.2} | {:.2} |", ms(q.p50_us), ms(q.p90_us), ms(q.p99_us))?;
    }
    Ok(())
}

fn clustered(text: &mut String, r: &load::Report, rest: &Machine) -> Result<()> {
    writeln!(text, "\n**Three servers**, beside three members of etcd; the servers' CPU is that of all three")?;
    taken(text, &r.machine, rest)?;
    for workload in &r.workloads {
        loads(text, workload)?;
    }
    Ok(())
}

fn failed_over(text: &mut String, r: &failover::Report, rest: &Machine) -> Result<()> {
    const SHARE: f64 = 1.0 / 3.0;
    const P99_MS: f64 = 1_000.0;
    let kills = r.systems.first().map_or(0, |system| system.without.count);
    writeln!(text, "\n**Without writes after kill -9 of the one that leads**, {kills} times each, milliseconds")?;
    taken(text, &r.machine, rest)?;
    writeln!(text, "\n| | least | p50 | p90 | p99 | greatest | byname's median / this |")?;
    writeln!(text, "|---|---|---|---|---|---|---|")?;
    for (n, failover::Measured { system, without: q }) in r.systems.iter().enumerate() {
        let ms = |us: f64| us / 1_000.0;
        let verdict = |met: bool| if met { "met" } else { "**missed**" };
        let (p99, ratio) = if n == 0 {
            (format!("; goal ≤ {P99_MS:.0} {}", verdict(ms(q.p99_us) <= P99_MS)), String::new())
        } else {
            let ratio = r.ratio_of_medians;
            (String::new(), format!("{ratio:.3} ×; goal {SHARE:.2} {}", verdict(ratio <= SHARE)))
        };
        writeln!(
            text,
            "| {system} | {:.0} | {:.0} | {:.0} | {:.0}{p99} | {:.0} | {ratio} |",
            ms(q.min_us),
            ms(q.p50_us),
            ms(q.p90_us),
            ms(q.p99_us),
            ms(q.max_us)
        )?;
    }
    Ok(())
}

fn attached(text: &mut String, r: &agents::Report, rest: &Machine) -> Result<()> {
    let (agents, instances) = (thousands(r.agents as u64), thousands(r.instances as u64));
    writeln!(text, "\n**{agents} agents and {instances} instances** on three servers")?;
    taken(text, &r.machine, rest)?;
    writeln!(text, "\n| | resident, MiB | of one core, % |")?;
    writeln!(text, "|---|---|---|")?;
    let names = ["the primary, nobody there", "with the agents", "with the agents and the instances"];
    for (name, rest) in names.into_iter().zip(&r.rests).chain([("a backup then", &r.backup)]) {
        writeln!(text, "| {name} | {:.1} | {:.1} |", rest.rss_mib, rest.cpu_percent)?;
    }
    writeln!(
        text,
        "\nThe agents were attached within {:.1} s, the instances declared, ordered and running within {:.1} s.",
        r.attached_s, r.started_s
    )?;
    Ok(())
}

fn looked_up(text: &mut String, r: &dns::Report, rest: &Machine) -> Result<()> {
    for (at, size) in r.sizes.iter().enumerate() {
        writeln!(
            text,
            "\n**DNS over UDP, {} names**, nine questions in ten for names that are there",
            thousands(size.names)
        )?;
        if at == 0 {
            taken(text, &r.machine, rest)?;
        }
        writeln!(text, "\n| | answers/s | server's CPU µs | lost, % | resident, MiB |")?;
        writeln!(text, "|---|---|---|---|---|")?;
        for system in &size.systems {
            let lost = system.lost_percent.median;
            let (rate, cpu) = (spread(&system.rate, 0), spread(&system.cpu_us, 2));
            writeln!(text, "| {} | {rate} | {cpu} | {lost:.2} | {:.0} |", system.system, system.rss_mib)?;
        }
        let met = |ratio: &Spread, goal: f64| if ratio.median >= goal { "met" } else { "**missed**" };
        writeln!(
            text,
            "\nByname's rate over that of the faster peer: {} × (goal 1.00 {}); while the tree changes: {} × (goal 0.80 {}).",
            spread(&size.ratio, 2),
            met(&size.ratio, 1.0),
            spread(&size.ratio_changing, 2),
            met(&size.ratio_changing, 0.8)
        )?;
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
    fn thousands_stand_apart() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(12_345_678), "12,345,678");
    }

    #[test]
    fn a_part_that_was_not_measured_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_if_there::<watch::Report>(dir.path(), "watch").unwrap().is_none());
        let report = watch::Report { watchers: 10_000, per_connection: 100, ..watch::Report::default() };
        std::fs::write(dir.path().join("watch.json"), serde_json::to_vec(&report).unwrap()).unwrap();
        let text = render_part(dir.path(), "watch").unwrap();
        assert!(text.contains("**One change to 10,000 watchers**, 100 to a connection"), "{text}");
        assert!(render_part(dir.path(), "scale").is_err());
    }

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
