//! How long a find takes that the clerk's cache answers: `cargo run --release -p byname-front-grpc --example cached_find`.
//! The goal is 200 ns for the look-up of a hot name with a choice among its copies.

#![allow(unreachable_pub, dead_code)]

#[path = "../tests/wire/fake.rs"]
mod fake;
#[path = "../tests/wire/tree.rs"]
mod tree;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use byname_api::NameService;
use byname_api::object::{Choose, Kind, Spec};
use byname_api::request::FindRequest;
use byname_client::{CacheOptions, CachingClerk, Clerk, Options};

const ROUNDS: u32 = 1_000_000;

#[tokio::main]
async fn main() {
    let tree = Arc::new(tree::Tree::default());
    let choose = Spec { choose: Some(Choose::RoundRobin), ..Spec::of(Kind::Service) };
    tree.service("/BVODS/VFS1/CMS", choose, &[1, 2, 3]);
    let routes = byname_front_grpc::routes(tree::Member::of(&tree)).layer(axum::Extension(fake::full()));
    let server = fake::Server::tcp(routes).await;
    let clerk = Arc::new(Clerk::connect(&server.address, Options::default()).expect("an address"));
    let clerk = CachingClerk::new(clerk, CacheOptions::default());
    let name = fake::name("/BVODS/VFS1/CMS");
    let request = FindRequest::new(name.clone());
    while clerk.look(&name).is_none() {
        clerk.find(&fake::anyone(), request.clone()).await.expect("it is there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..3 {
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            black_box(clerk.look(black_box(&name)).expect("it is known").instance().map(|copy| copy.id));
        }
        let look = begun.elapsed() / ROUNDS;
        let cx = fake::anyone();
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            black_box(clerk.find(&cx, black_box(request.clone())).await.expect("it is known"));
        }
        let find = begun.elapsed() / ROUNDS;
        println!("look {look:?}, find with its reply {find:?}");
    }
}
