//! Names that match a pattern.

use byname_api::Code;
use byname_api::request::*;
use byname_api::service::State;

use super::*;

/// Sorted by name, with kinds, states and targets.
pub async fn lists_are_sorted_and_match_patterns(f: &dyn Fixture) {
    let owner = f.owner();
    for name in ["/m/b2", "/m/a1", "/m/b1/deep", "/m/B3", "/n/a1"] {
        owner.add(name, record("1")).await.unwrap();
    }
    owner.add("/m/alias", alias("/m/a1")).await.unwrap();
    owner.add("/m/service", service(f.launch(Program::Serves))).await.unwrap();
    for (pattern, names) in [
        ("/m/b?", &["/m/b1", "/m/b2", "/m/B3"][..]),
        ("/m/*", &["/m/a1", "/m/alias", "/m/b1", "/m/b2", "/m/B3", "/m/service"]),
        ("/{m,n}/a[0-9]", &["/m/a1", "/n/a1"]),
        ("/**/deep", &["/m/b1/deep"]),
        ("/M/A1", &["/m/a1"]),
        ("/m/none*", &[]),
    ] {
        assert_eq!(owner.names(pattern).await.unwrap(), names, "{pattern}");
    }
    let all = owner.names("*").await.unwrap();
    assert!(["/m", "/m/b1/deep", "/n/a1"].iter().all(|name| all.iter().any(|n| n == name)), "{all:?}");
    let reply = owner.service.list(&owner.cx, ListRequest::new("/m/{alias,service}")).await.unwrap();
    assert_eq!((&reply.entries[0].target, reply.entries[0].kind), (&Some(at("/m/a1")), Kind::Alias));
    assert_eq!((reply.entries[1].state, reply.entries[1].kind), (Some(State::Stopped), Kind::Service));
}

/// No page has a name of another, and none is left out.
pub async fn pages_give_every_name_once(f: &dyn Fixture) {
    let owner = f.owner();
    let name = |n: usize| format!("/pages/n{n:03}");
    let ops = (0..250).map(|n| Op::Add { name: at(&name(n)), spec: record("1") }).collect();
    owner.batch(ops).await.unwrap();
    let mut request = ListRequest { limit: Some(99), ..ListRequest::new("/pages/*") };
    let (mut names, mut pages) = (Vec::new(), Vec::new());
    loop {
        let reply = owner.service.list(&owner.cx, request.clone()).await.unwrap();
        pages.push(reply.entries.len());
        names.extend(reply.entries.into_iter().map(|e| e.name.to_string()));
        let Some(next) = reply.next else { break };
        request.next = Some(next);
    }
    assert_eq!(pages, [99, 99, 52]);
    assert_eq!(names, (0..250).map(name).collect::<Vec<_>>());
    let wrong = ListRequest { next: Some("…".into()), ..ListRequest::new("/pages/*") };
    refused(owner.service.list(&owner.cx, wrong).await, Code::InvalidArgument, Some("next"));
}

/// With the field.
pub async fn wrong_patterns_are_refused(f: &dyn Fixture) {
    let owner = f.owner();
    for pattern in ["/x/[a", "/x/{a", "/x//y", "x", ""] {
        let request = ListRequest::new(pattern);
        refused(owner.service.list(&owner.cx, request.clone()).await, Code::InvalidName, Some("pattern"));
        refused(owner.service.status(&owner.cx, request).await, Code::InvalidName, Some("pattern"));
        refused(owner.act(Verb::Stop, pattern).await, Code::InvalidName, Some("patterns[0]"));
    }
}

/// What `--prune` goes by.
pub async fn a_set_lists_what_it_declared(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/s/other", record("1")).await.unwrap();
    let ops = ["/s/a", "/s/b"].map(|name| Op::Declare { name: at(name), spec: record("1") });
    let request = BatchRequest { ops: ops.to_vec(), dry_run: false, set: Some("bvods".into()) };
    owner.service.batch(&owner.cx, request).await.unwrap();
    let request = ListRequest { set: Some("bvods".into()), ..ListRequest::new("*") };
    let reply = owner.service.list(&owner.cx, request).await.unwrap();
    assert_eq!(reply.entries.iter().map(|e| e.name.to_string()).collect::<Vec<_>>(), ["/s/a", "/s/b"]);
}

/// Nothing else runs.
pub async fn status_is_of_services_and_follows_aliases(f: &dyn Fixture) {
    let owner = f.owner();
    owner.add("/t/record", record("1")).await.unwrap();
    owner.add("/t/service", service(f.launch(Program::Serves))).await.unwrap();
    owner.add("/t/alias", alias("/t/service")).await.unwrap();
    let reply = owner.service.status(&owner.cx, ListRequest::new("/t/*")).await.unwrap();
    assert_eq!(reply.services.iter().map(|s| s.name.to_string()).collect::<Vec<_>>(), ["/t/service"]);
    let status = owner.status("/t/alias").await;
    assert_eq!((status.name, status.state, status.starts), (at("/t/service"), State::Stopped, 0));
    let wrong = owner.service.status(&owner.cx, ListRequest::new("/t/none")).await;
    refused(wrong, Code::NotFound, None);
    let wrong = owner.service.status(&owner.cx, ListRequest::new("/t/record")).await;
    refused(wrong, Code::Unsupported, None);
}
