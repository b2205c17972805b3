//! What somebody sees of many objects at once: lists, searches, states and watches show what `acl explain` allows and
//! nothing else, for trees with lists at random while they change. A seed makes each of them again.

mod established;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use byname_api::NameService;
use byname_api::access::{AccessRequest, AclEntry, Rights, Subject};
use byname_api::caller::Right;
use byname_api::object::{Kind, Spec};
use byname_api::request::*;
use established::{Established, entry, name};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

const PEOPLE: [&str; 3] = ["/people/a", "/people/b", "/people/c"];
/// What tells that a watcher has seen everything before.
const FENCE: &str = "/fence";
static FENCES: AtomicU64 = AtomicU64::new(0);

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % most as u64).unwrap()
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// A place of the tree `/t`, three labels deep.
    fn place(&mut self) -> String {
        let depth = 1 + self.below(3);
        (0..depth).fold("/t".to_owned(), |at, _| format!("{at}/{}", self.of(&["x", "y", "z"])))
    }

    fn acl(&mut self) -> Vec<AclEntry> {
        let who = ["/people/a", "/people/b", "/people/c", "/groups/ab", "authenticated", "anyone"];
        let rights = [Rights::ALL, Right::Read.into(), Right::List.into(), Rights::from([Right::List, Right::Read])];
        (0..1 + self.below(3)).map(|_| entry(self.of(&who), self.of(&rights), self.below(2) == 0)).collect()
    }

    fn spec(&mut self) -> Spec {
        let kind = self.of(&[Kind::Record, Kind::Service, Kind::Directory]);
        let acl = (self.below(2) == 0).then(|| self.acl());
        Spec { acl, ..Spec::of(kind) }
    }
}

/// The objects beneath `/t` that somebody has a right to, one by one as `acl explain` says.
async fn allowed(server: &Established, who: &str, right: Right) -> BTreeSet<String> {
    let full = Established::server();
    let there = server.node.list(&full, ListRequest::new("/t/**")).await.unwrap();
    let mut seen = BTreeSet::new();
    for found in there.entries {
        let who = Some(who.parse::<Subject>().unwrap());
        let request = AccessRequest { name: found.name.clone(), who, right: Some(right) };
        if server.node.access(&full, request).await.unwrap().decisions[0].allowed {
            seen.insert(found.name.to_string());
        }
    }
    seen
}

type Watching = BoxStream<'static, byname_api::error::Result<WatchReply>>;

/// What a watcher is told until the fence.
async fn told(server: &Established, watching: &mut Watching) -> Vec<(Change, String)> {
    // Each has a name of its own: those of others are seen too.
    let fence = format!("{FENCE}/{}", FENCES.fetch_add(1, Ordering::Relaxed));
    server.put(&fence, Spec::of(Kind::Record)).await;
    let mut events = Vec::new();
    loop {
        let message = watching.next().await.expect("the watch goes on").unwrap();
        for event in message.events {
            match event.name.as_str() {
                at if at == fence => return events,
                at if at.starts_with(FENCE) => {}
                at => events.push((event.change, at.to_owned())),
            }
        }
    }
}

/// Lists, searches and states, all of them at this moment.
async fn shown(server: &Established, cx: &Context, who: &str, seed: u64) {
    let node = &server.node;
    let listed = node.list(cx, ListRequest::new("/t/**")).await.map(|reply| reply.entries).unwrap_or_default();
    let listed: BTreeSet<String> = listed.into_iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(listed, allowed(server, who, Right::List).await, "seed {seed}: the list of {who}");
    let reads = allowed(server, who, Right::Read).await;
    let found = node.search(cx, SearchRequest::new("(kind=*)")).await.map(|reply| reply.objects).unwrap_or_default();
    let found = found.into_iter().map(|object| object.name.to_string()).filter(|at| at.starts_with("/t"));
    assert_eq!(found.collect::<BTreeSet<_>>(), reads, "seed {seed}: what {who} finds");
    let services = node.status(cx, ListRequest::new("/t/**")).await.map(|reply| reply.services).unwrap_or_default();
    let services: BTreeSet<String> = services.into_iter().map(|service| service.name.to_string()).collect();
    let all = node.status(&Established::server(), ListRequest::new("/t/**")).await.unwrap().services;
    let theirs = all.into_iter().map(|service| service.name.to_string()).filter(|at| reads.contains(at));
    assert_eq!(services, theirs.collect::<BTreeSet<_>>(), "seed {seed}: the states that {who} sees");
}

async fn one_tree(seed: u64) {
    let server = Established::new(false).await;
    let mut dice = Dice(seed);
    server.people(PEOPLE).await;
    let members = Some(vec!["/people/a".into(), "/people/b".into()]);
    server.put("/groups/ab", Spec { members, ..Spec::of(Kind::Group) }).await;
    server.put("/t", Spec::of(Kind::Directory)).await;
    for _ in 0..10 {
        let (at, spec) = (dice.place(), dice.spec());
        let add = BatchRequest::of(Op::Add { name: name(&at), spec });
        // The place may be taken.
        let _ = server.node.batch(&Established::server(), add).await;
    }
    let mut watching: BTreeMap<&str, (Context, Watching)> = BTreeMap::new();
    for who in PEOPLE {
        let cx = server.signed_in(who).await;
        let watch = WatchRequest { pattern: "/**".into(), from: None, initial: true };
        let mut stream = server.node.watch(&cx, watch).await.unwrap();
        let first = stream.next().await.unwrap().unwrap();
        let there = first.events.iter().map(|event| event.name.to_string()).filter(|at| at.starts_with("/t"));
        assert_eq!(there.collect::<BTreeSet<_>>(), allowed(&server, who, Right::Read).await, "seed {seed}: {who}");
        watching.insert(who, (cx, stream));
    }
    for step in 0..12 {
        let all = server.node.search(&Established::server(), SearchRequest::new("(kind=*)")).await.unwrap().objects;
        let with_list = all.into_iter().filter(|object| object.spec.acl.is_some());
        let lists: BTreeSet<String> = with_list.map(|object| object.name.to_string()).collect();
        let mut before = BTreeMap::new();
        for who in PEOPLE {
            before.insert(who, allowed(&server, who, Right::Read).await);
        }
        let (at, spec) = (dice.place(), dice.spec());
        let name = name(&at);
        let op = match dice.below(4) {
            0 => Op::Delete { name, recursive: true, stop: true, if_version: None },
            1 => Op::Add { name, spec },
            2 => {
                let attributes = Some([("step".into(), vec![byname_api::object::Value::Int(step)])].into());
                Op::Modify { name, spec: Spec { attributes, ..Spec::default() }, clear: Vec::new(), if_version: None }
            }
            _ => {
                let spec = Spec { acl: Some(dice.acl()), ..Spec::default() };
                Op::Modify { name, spec, clear: Vec::new(), if_version: None }
            }
        };
        let kind = format!("seed {seed}, step {step}, {op:?}");
        let _ = server.node.batch(&Established::server(), BatchRequest::of(op)).await;
        let full = Established::server();
        let there = server.node.list(&full, ListRequest::new("/t/**")).await.unwrap();
        let there: BTreeSet<String> = there.entries.into_iter().map(|entry| entry.name.to_string()).collect();
        for who in PEOPLE {
            let (cx, stream) = watching.get_mut(who).unwrap();
            let after = allowed(&server, who, Right::Read).await;
            let events = told(&server, stream).await;
            for (change, at) in events.iter().filter(|(_, at)| at.starts_with("/t")) {
                let may = if *change == Change::Deleted { before[who].contains(at) } else { after.contains(at) };
                assert!(may, "{kind}: {who} was told that `{at}` was {}", change.as_str());
            }
            let told: BTreeSet<&String> = events.iter().map(|(_, at)| at).collect();
            // What went and could be seen. Where a list went with it there may be silence: what it said of others that
            // are gone is not known any more, and telling too much would be worse.
            let went = |at: &str| lists.contains(at) && !there.contains(at);
            let whole = |at: &&String| !went(at) && !at.match_indices('/').skip(1).any(|(end, _)| went(&at[..end]));
            for at in before[who].iter().filter(|at| !there.contains(*at)).filter(whole) {
                assert!(told.contains(at), "{kind}: {who} was not told that `{at}` is gone: {events:?}");
            }
            let cx = cx.clone();
            shown(&server, &cx, who, seed).await;
        }
    }
}

#[tokio::test]
async fn lists_searches_and_watches_show_what_is_allowed_and_nothing_else() {
    for seed in 0..16 {
        one_tree(seed).await;
    }
}

#[tokio::test]
async fn a_right_that_is_taken_away_ends_the_events_at_once_and_what_is_hidden_leaves_none() {
    let server = Established::new(false).await;
    server.people(PEOPLE).await;
    server.put("/t", Spec::of(Kind::Directory)).await;
    let closed = |who: &str| Some(vec![entry(who, Rights::ALL, false)]);
    server.put("/t/hidden", Spec { acl: closed("anyone"), ..Spec::of(Kind::Directory) }).await;
    server.put("/t/open", Spec::of(Kind::Record)).await;
    server.put(FENCE, Spec::of(Kind::Directory)).await;
    let cx = server.signed_in("/people/a").await;
    let watch = WatchRequest { pattern: "/**".into(), from: None, initial: false };
    let mut stream = server.node.watch(&cx, watch).await.unwrap();
    server.put("/t/hidden/new", Spec::of(Kind::Record)).await;
    server.put("/t/hidden/sub/dir/deep", Spec::of(Kind::Record)).await;
    server.modify("/t/hidden/new", Spec { value: Some("changed".into()), ..Spec::default() }).await;
    server.delete("/t/hidden/new").await;
    server.delete("/t/hidden").await;
    assert_eq!(told(&server, &mut stream).await, [], "of what is hidden");
    // What is hidden goes with what is not.
    server.put("/t/dir/hidden", Spec { acl: closed("anyone"), ..Spec::of(Kind::Directory) }).await;
    server.put("/t/dir/hidden/beneath", Spec::of(Kind::Record)).await;
    assert_eq!(told(&server, &mut stream).await, [(Change::Created, "/t/dir".to_owned())]);
    server.delete("/t/dir").await;
    assert_eq!(told(&server, &mut stream).await, [(Change::Deleted, "/t/dir".to_owned())]);

    server.modify("/t/open", Spec { value: Some("seen".into()), ..Spec::default() }).await;
    assert_eq!(told(&server, &mut stream).await, [(Change::Changed, "/t/open".to_owned())]);
    server.modify("/t/open", Spec { acl: closed("/people/a"), ..Spec::default() }).await;
    server.modify("/t/open", Spec { value: Some("unseen".into()), ..Spec::default() }).await;
    server.delete("/t/open").await;
    assert_eq!(told(&server, &mut stream).await, [], "after the right was taken away");
    // Whoever is shut out is told nothing more, though the stream is open.
    server.modify("/people/a", Spec { disabled: Some(true), ..Spec::default() }).await;
    server.put("/t/last", Spec::of(Kind::Record)).await;
    let full = WatchRequest { pattern: "/t/last".into(), from: None, initial: true };
    server.node.watch(&Established::server(), full).await.unwrap().next().await.unwrap().unwrap();
    tokio::time::pause();
    let next = tokio::time::timeout(std::time::Duration::from_secs(60), async {
        loop {
            match stream.next().await {
                Some(Ok(message)) if message.events.is_empty() => {}
                other => return other,
            }
        }
    });
    let next = next.await;
    assert!(!matches!(&next, Ok(Some(Ok(_)))), "{next:?}");
}
