//! A fleet to be registered: many services and records in one tree, with names and declarations that depend on nothing
//! but their number, and how each system is filled with them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::task::JoinSet;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::systems::{Byname, Etcd, with_token};
use crate::wire::byname::names_client::NamesClient;
use crate::wire::etcd::kv_client::KvClient;
use crate::wire::{byname, connect, etcd};
use crate::zookeeper::Zookeeper;

/// Services in a rack, which is what a list asks for.
pub(crate) const RACK: u64 = 1_000;
/// Racks at a site.
const SITE: u64 = 10;
/// Records in a rack.
const RECORDS: u64 = RACK / 10;
/// Those who fill a system at once, each on a connection of its own.
const LOADERS: usize = 8;
/// Changes in one batch of Byname's.
const BATCH: u64 = 1_000;
/// Puts in one transaction of etcd's, which takes no more.
const TXN: u64 = 128;
/// A prime that is no factor of any size in use: steps of it visit every number once, far from the one before.
const STRIDE: u64 = 7_368_787;

/// So many services, a thousand to a rack and ten racks to a site; and a record for every ten of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fleet {
    services: u64,
}

impl Fleet {
    /// Whole racks only.
    pub(crate) fn new(services: u64) -> Result<Fleet> {
        ensure!(
            services > 0 && services.is_multiple_of(RACK) && !services.is_multiple_of(STRIDE),
            "give a number of services that is a multiple of {RACK}"
        );
        Ok(Fleet { services })
    }

    /// How many services.
    pub(crate) fn services(self) -> u64 {
        self.services
    }

    /// How many records.
    pub(crate) fn records(self) -> u64 {
        self.racks() * RECORDS
    }

    /// How many racks.
    pub(crate) fn racks(self) -> u64 {
        self.services / RACK
    }

    /// The name of a rack.
    pub(crate) fn rack(self, n: u64) -> String {
        format!("/site/{}/rack/{}", n / SITE, n % SITE)
    }

    /// The name of a service.
    pub(crate) fn service(self, n: u64) -> String {
        format!("{}/svc-{n:06}", self.rack(n / RACK))
    }

    /// The name of a record.
    pub(crate) fn record(self, n: u64) -> String {
        format!("{}/conf-{n:06}", self.rack(n / RECORDS))
    }

    /// The value of a record.
    pub(crate) fn value(self, n: u64) -> String {
        format!(
            "tcp://query-{n:09}.fleet.example:5432/main?role=reader&pool=16&timeout=5s&application_name=front-{n:09}"
        )
    }

    /// The service that comes at this place when they are registered: not one after the other, as a fleet would not.
    fn scattered(self, place: u64) -> u64 {
        place * STRIDE % self.services
    }
}

/// What is declared of a service: the program and its arguments.
fn arguments(n: u64) -> [String; 2] {
    ["--index".to_owned(), format!("/var/lib/query/{n:09}.db")]
}

const PROGRAM: &str = "query-server";

/// The same in Byname's interface.
fn spec(n: u64) -> byname::Spec {
    let launch = byname::Launch {
        program: Some(PROGRAM.to_owned()),
        args: Some(byname::Strings { values: arguments(n).into() }),
        ..Default::default()
    };
    byname::Spec { kind: byname::Kind::Service as i32, launch: Some(launch), ..Default::default() }
}

/// The same as JSON, as Byname writes it: what the others hold.
fn declaration(n: u64) -> String {
    json!({ "kind": "service", "launch": { "program": PROGRAM, "args": arguments(n) } }).to_string()
}

/// Registers every service with Byname: `Names.Batch`.
pub(crate) async fn register_with_byname(fleet: Fleet, server: &Byname) -> Result<()> {
    let add = move |place: u64| {
        let n = fleet.scattered(place);
        (fleet.service(n), spec(n))
    };
    batches(server, fleet.services(), add).await
}

/// Adds every record to Byname.
pub(crate) async fn records_to_byname(fleet: Fleet, server: &Byname) -> Result<()> {
    let add = move |n: u64| {
        let spec =
            byname::Spec { kind: byname::Kind::Record as i32, value: Some(fleet.value(n)), ..Default::default() };
        (fleet.record(n), spec)
    };
    batches(server, fleet.records(), add).await
}

async fn batches(
    server: &Byname,
    count: u64,
    object: impl Fn(u64) -> (String, byname::Spec) + Copy + Send + 'static,
) -> Result<()> {
    let token = server.token();
    in_chunks(&server.address, count, BATCH, move |channel, from, to| {
        let token = token.clone();
        async move {
            let add = |n| {
                let (name, spec) = object(n);
                byname::Op { op: Some(byname::op::Op::Add(byname::AddRequest { name, spec: Some(spec) })) }
            };
            let request = byname::BatchRequest { ops: (from..to).map(add).collect(), ..Default::default() };
            batch(channel, request, &token).await
        }
    })
    .await
    .context("Byname")
}

async fn batch(channel: Channel, request: byname::BatchRequest, token: &MetadataValue<Ascii>) -> Result<()> {
    let wanted = request.ops.len();
    let reply = NamesClient::new(channel).batch(with_token(request, token)).await?.into_inner();
    let created = reply.results.iter().filter(|r| r.outcome() == byname::Outcome::Created).count();
    ensure!(created == wanted, "{created} of {wanted} were made");
    Ok(())
}

/// Registers every service with etcd: the name and the declaration, by `Txn`.
pub(crate) async fn register_with_etcd(fleet: Fleet, server: &Etcd) -> Result<()> {
    let put = move |place: u64| {
        let n = fleet.scattered(place);
        (fleet.service(n), declaration(n))
    };
    transactions(server, fleet.services(), put).await
}

/// Puts every record into etcd.
pub(crate) async fn records_to_etcd(fleet: Fleet, server: &Etcd) -> Result<()> {
    transactions(server, fleet.records(), move |n| (fleet.record(n), fleet.value(n))).await
}

async fn transactions(
    server: &Etcd,
    count: u64,
    pair: impl Fn(u64) -> (String, String) + Copy + Send + 'static,
) -> Result<()> {
    in_chunks(&server.address, count, TXN, move |channel, from, to| async move {
        let put = |n| {
            let (key, value) = pair(n);
            let put = etcd::PutRequest { key: key.into(), value: value.into() };
            etcd::RequestOp { request: Some(etcd::request_op::Request::RequestPut(put)) }
        };
        let request = etcd::TxnRequest { success: (from..to).map(put).collect() };
        let reply = KvClient::new(channel).txn(request).await?.into_inner();
        ensure!(reply.succeeded, "a transaction was refused");
        Ok(())
    })
    .await
    .context("etcd")
}

/// Registers every service with ZooKeeper: a node each, and one for everything above it.
pub(crate) async fn register_with_zookeeper(fleet: Fleet, server: &Zookeeper) -> Result<()> {
    let mut session = server.session()?;
    tokio::task::spawn_blocking(move || {
        let mut above = vec!["/site".to_owned()];
        for rack in 0..fleet.racks() {
            if rack.is_multiple_of(SITE) {
                above.push(format!("/site/{}", rack / SITE));
                above.push(format!("/site/{}/rack", rack / SITE));
            }
            above.push(fleet.rack(rack));
        }
        session.create(above.into_iter().map(|path| (path, Vec::new())))?;
        session.create((0..fleet.services()).map(|place| {
            let n = fleet.scattered(place);
            (fleet.service(n), declaration(n).into_bytes())
        }))
    })
    .await?
    .context("ZooKeeper")
}

/// Has all loaders do the whole, a chunk at a time, each taking the next one when it is done with the last.
async fn in_chunks<F>(
    address: &str,
    count: u64,
    chunk: u64,
    make: impl Fn(Channel, u64, u64) -> F + Clone + Send + 'static,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let mut loaders = JoinSet::new();
    for _ in 0..LOADERS {
        let (channel, next, make) = (connect(address).await?, next.clone(), make.clone());
        loaders.spawn(async move {
            loop {
                let from = next.fetch_add(chunk, Ordering::Relaxed);
                if from >= count {
                    return Ok::<_, anyhow::Error>(());
                }
                make(channel.clone(), from, count.min(from + chunk)).await?;
            }
        });
    }
    while let Some(done) = loaders.join_next().await {
        done??;
    }
    Ok(())
}

/// Numbers without order, the same in every run: xorshift.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// One of many that differ.
    pub(crate) fn new(seed: u64) -> Random {
        Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_registered_once_in_a_scattered_order() {
        let fleet = Fleet::new(3_000).unwrap();
        let mut seen: Vec<u64> = (0..fleet.services()).map(|place| fleet.scattered(place)).collect();
        assert_ne!(seen[1], seen[0] + 1);
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..3_000));
        assert!(Fleet::new(1_500).is_err());
        assert!(Fleet::new(0).is_err());
    }

    #[test]
    fn a_rack_holds_a_thousand_services_and_its_records() {
        let fleet = Fleet::new(200_000).unwrap();
        assert_eq!(fleet.service(127_456), "/site/12/rack/7/svc-127456");
        assert_eq!(fleet.record(12_745), "/site/12/rack/7/conf-012745");
        assert_eq!(fleet.records(), 20_000);
    }
}
