//! Measures the tree with many services: memory, finds, lists, patterns, searches, snapshots. Times are those on a
//! processor, or the median (p50) of calls by the clock.
//!
//! `cargo run --release -p byname-registry --example scale -- 1000000`, and with `aliases` or `access` behind it for those

use std::hint::black_box;
use std::time::{Duration, Instant};

use byname_api::access::AclEntry;
use byname_api::caller::Right;
use byname_api::filter::Filter;
use byname_api::launch::Launch;
use byname_api::object::{InstanceId, Kind, Spec};
use byname_api::request::Op;
use byname_api::span::Timestamp;
use byname_name::{Name, Pattern};
use byname_registry::access::{self, Sight, Who};
use byname_registry::command::{Change, Order};
use byname_registry::query::{self, Wants};
use byname_registry::{Command, Entry, Registry, stored};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Changes in a command.
const BATCH: u64 = 1_000;

/// Memory in use, in MiB, as the kernel counts it.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn name(n: u64) -> Name {
    Name::parse(&format!("/site/{}/rack/{}/svc-{n:06}", n / 50_000, n / 1_000 % 50)).expect("a name")
}

fn batch(registry: &mut Registry, ops: Vec<Op>) {
    let command = Command::Batch { ops, set: None };
    let entry = Entry { at: Timestamp(1_800_000_000_000), by: "uid:1000".into(), request: None, command };
    let reply = registry.apply(&entry, &mut Vec::new());
    assert!(!matches!(reply, byname_registry::Reply::Refused(_)), "{reply:?}");
}

fn build(count: u64) -> Registry {
    let mut registry = Registry::default();
    for first in (0..count).step_by(BATCH as usize) {
        let ops = (first..count.min(first + BATCH)).map(|n| {
            let launch = Launch {
                program: Some("query-server".into()),
                args: Some(vec!["--id".into(), n.to_string()]),
                ..Launch::default()
            };
            Op::Add { name: name(n), spec: Spec { launch: Some(launch), ..Spec::of(Kind::Service) } }
        });
        batch(&mut registry, ops.collect());
    }
    registry
}

/// The median time of one call.
fn p50(times: usize, mut call: impl FnMut(u64)) -> Duration {
    let mut all: Vec<Duration> = (0..times as u64)
        .map(|n| {
            let start = Instant::now();
            call(n);
            start.elapsed()
        })
        .collect();
    all.sort_unstable();
    all[times / 2]
}

/// The mean time on a processor of one call: what else the machine does is not counted.
fn mean(times: u64, call: impl FnMut(u64)) -> Duration {
    let start = on_processor();
    (0..times).for_each(call);
    (on_processor() - start) / times as u32
}

/// How long this program has been on a processor.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

fn main() {
    let count: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    // By themselves, because memory that was used before would be used again and not seen.
    if std::env::args().nth(2).is_some_and(|what| what == "aliases") {
        return aliases(count);
    }
    if std::env::args().nth(2).is_some_and(|what| what == "access") {
        return decisions(count);
    }
    let before = resident();
    let start = on_processor();
    let registry = build(count);
    println!("built      {count} services in {:.1?}", on_processor() - start);
    let used = resident() - before;
    println!("memory     {used:.0} MiB, {:.0} bytes a service", used * 1_048_576.0 / count as f64);
    measure(&registry, count);
    let path = std::env::temp_dir().join(format!("byname-scale-{}", std::process::id()));
    let start = on_processor();
    let mut file = std::fs::File::create(&path).expect("a temporary file");
    stored::write_snapshot(&registry, &mut file).expect("written");
    let size = file.metadata().map(|m| m.len()).unwrap_or(0);
    println!("snapshot   written in {:.1?}, {:.0} MiB", on_processor() - start, size as f64 / 1_048_576.0);
    drop(registry);
    let before = resident();
    let start = on_processor();
    let mut file = std::fs::File::open(&path).expect("the temporary file");
    let registry = stored::read_snapshot(&mut file).expect("read");
    println!("           read in {:.1?}", on_processor() - start);
    println!("           memory {:.0} MiB (before: {before:.0})", resident());
    let _ = std::fs::remove_file(&path);
    measure(&registry, count);
    let mut registry = registry;
    let modify = |n: u64, text: &str| Op::Modify {
        name: name(n),
        spec: Spec { owner: Some(text.into()), ..Spec::default() },
        clear: Vec::new(),
        if_version: None,
    };
    // A view is kept, as readers do, so that every write copies its way.
    let took = mean(20_000, |n| {
        let view = registry.tree().clone();
        batch(&mut registry, vec![modify(n * 7_919 % count, "liu")]);
        black_box(view);
    });
    println!("modify     {took:.1?} each, with a view kept");
    let took = mean(20_000, |n| batch(&mut registry, vec![modify(n * 7_919 % count, "chen")]));
    println!("           {took:.1?} each, without");
    let took = mean(20_000, |n| drop(black_box(registry.tree().get(&name(n * 7_919 % count)))));
    println!("           {took:.1?} each for making the name and looking it up");
    let service = registry.tree().get(&name(7)).expect("a service").id;
    let computer = Name::parse("/computers/x").expect("a name");
    let order = Order {
        service,
        instance: InstanceId(1),
        computer,
        ticket: [0; 32],
        proof: [0; 32],
        wanted: 1,
        why: String::new(),
    };
    let ready = Change::Ready { pid: Some(7), endpoints: Vec::new() };
    let commands = [Command::Order(order), Command::Report { instance: InstanceId(1), change: ready }];
    for command in commands {
        let entry = Entry { at: Timestamp(1_800_000_000_000), by: "byname".into(), request: None, command };
        registry.apply(&entry, &mut Vec::new());
    }
    let wants = Wants { start: true, may_start: true, force: false, all: false, turn: 0 };
    let running = name(7);
    let took = mean(200_000, |_| drop(black_box(query::find(registry.tree(), &running, wants, &()))));
    println!("find       {took:.0?} each (a running service)");
}

/// Aliases of one service, and what a change costs that all of them lead through, at the end of a long chain.
fn aliases(count: u64) {
    let at = |text: String| Name::parse(&text).expect("a name");
    let alias = |target: Name| Spec { target: Some(target), ..Spec::of(Kind::Alias) };
    let mut registry = Registry::default();
    batch(&mut registry, vec![Op::Add { name: at("/c/0".into()), spec: Spec::of(Kind::Record) }]);
    for n in 1..=30 {
        let spec = alias(at(format!("/c/{}", n - 1)));
        batch(&mut registry, vec![Op::Add { name: at(format!("/c/{n}")), spec }]);
    }
    let before = resident();
    for first in (0..count).step_by(BATCH as usize) {
        let ops = (first..count.min(first + BATCH))
            .map(|n| Op::Add { name: at(format!("/m/{}/alias-{n:07}", n / 1_000)), spec: alias(at("/s".into())) });
        batch(&mut registry, ops.collect());
    }
    println!("aliases    {:.0} bytes each", (resident() - before) * 1_048_576.0 / count as f64);
    let took = mean(100, |n| {
        let spec = alias(at(format!("/c/{}", 29 + n % 2)));
        batch(&mut registry, vec![Op::Put { name: at("/s".into()), spec, if_version: None }]);
    });
    println!("           {took:.1?} for a change of the alias that all lead through");
}

/// What decisions cost, at four labels.
fn decisions(count: u64) {
    let at = |n: u64| Name::parse(&format!("/site/{}/{}/svc-{n:06}", n / 10_000, n / 100 % 100)).expect("a name");
    let mut registry = Registry::default();
    for first in (0..count).step_by(BATCH as usize) {
        let ops = (first..count.min(first + BATCH)).map(|n| Op::Add { name: at(n), spec: Spec::of(Kind::Record) });
        batch(&mut registry, ops.collect());
    }
    let person = Name::parse("/people/liu").expect("a name");
    let staff = Spec { members: Some(vec![person.to_string()]), ..Spec::of(Kind::Group) };
    batch(
        &mut registry,
        vec![
            Op::Add { name: person.clone(), spec: Spec::of(Kind::Principal) },
            Op::Add { name: Name::parse("/groups/staff").expect("a name"), spec: staff },
        ],
    );
    let names: Vec<Name> = (0..100_000).map(|n| at(n * 7_919 % count)).collect();
    let pattern = Pattern::parse("/site/3/*/*").expect("a pattern");
    let measure = |registry: &Registry, what: &str| {
        let tree = registry.tree();
        let who = Who::authenticated(&person, tree.get(&person).expect("the person").id);
        for right in [Right::Find, Right::Modify] {
            let ask = |n: u64| drop(black_box(access::allows(tree, &who, right, &names[n as usize % names.len()])));
            println!("allows     {:.0?} each ({right}, {what})", mean(500_000, ask));
        }
        let page = |_| {
            let sight = Sight::new(tree, &who, &[Right::List]);
            drop(black_box(query::list(tree, &pattern, Some(1_000), None, None, Some(&sight))));
        };
        println!("list       {:.0?} p50 ({what})", p50(50, page));
    };
    measure(&registry, "no lists");
    let entry = |who: &str, rights| AclEntry::allow(who.parse().expect("a subject"), rights);
    let list = |acl| Spec { acl: Some(acl), ..Spec::default() };
    let lists = (0..1_000.min(count / 100)).map(|n| {
        let name = at(n * 100).parent().expect("a directory");
        let acl = list(vec![entry("/groups/staff", Right::Find), entry("/people/liu", Right::Launch)]);
        Op::Declare { name, spec: acl }
    });
    batch(&mut registry, lists.collect());
    measure(&registry, "a list on the way, 1,000 in all");
    let sites = (0..1_000).map(|n| Op::Declare {
        name: Name::parse(&format!("/lists/{n}")).expect("a name"),
        spec: list(vec![entry("/groups/staff", Right::Find)]),
    });
    let clear = (0..1_000.min(count / 100)).map(|n| Op::Modify {
        name: at(n * 100).parent().expect("a directory"),
        spec: Spec::default(),
        clear: vec!["acl".into()],
        if_version: None,
    });
    batch(&mut registry, clear.collect());
    batch(&mut registry, sites.collect());
    measure(&registry, "1,000 lists, none on the way");
}

fn measure(registry: &Registry, count: u64) {
    let tree = registry.tree();
    let names: Vec<Name> = (0..100_000).map(|n| name(n * 7_919_777 % count)).collect();
    let at = |n: u64| &names[n as usize % names.len()];
    println!("get        {:.0?} each", mean(200_000, |n| drop(black_box(tree.get(at(n))))));
    let wants = Wants { start: true, may_start: true, force: false, all: false, turn: 0 };
    println!(
        "find       {:.0?} each (a stopped service)",
        mean(200_000, |n| drop(black_box(query::find(tree, at(n), wants, &()))))
    );
    let list = |text: &str, limit: u32, times: usize| {
        let pattern = Pattern::parse(text).expect("a pattern");
        let page = query::list(tree, &pattern, Some(limit), None, None, None).expect("a page");
        let took = p50(times, |_| drop(black_box(query::list(tree, &pattern, Some(limit), None, None, None))));
        println!("list       {text}: {} names, more: {}, {took:.0?} p50", page.entries.len(), page.next.is_some());
    };
    list("/site/3/rack/7/*", 1_000, 50);
    list("/site/*/rack/*/svc-153042", 1_000, 5);
    list("/site/*", 1_000, 20);
    list("/*/*/rack/7", 1_000, 20);
    list("/**/svc-000042", 1_000, 1);
    let filter = Filter::parse("(cn=svc-153042)").expect("a filter");
    let took = p50(3, |_| drop(black_box(query::search(tree, &filter, &Name::root(), None, None, "x", None))));
    println!("search     a page of (cn=svc-153042) without an index: {took:.0?} p50");
    let root = Name::parse("/site/3").expect("a name");
    println!(
        "children   {:.0?} each",
        mean(100_000, |_| {
            black_box(tree.has_children(&root));
        })
    );
}
