//! Three servers under load beside three members of etcd: durable writes, linearizable reads, and reads from the memory of
//! whichever is asked.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::Result;

use crate::load::{Ask, Report, SERVICE, System, Times, VALUE_BYTES, measure};
use crate::machine::Machine;
use crate::members::{Kind, Members, token};
use crate::systems::Programs;
use crate::wire::connect;

/// Runs every kind of load.
pub(crate) async fn run(programs: &Programs, times: &Times, work: &Path) -> Result<Report> {
    let machine = Machine::describe(work)?;
    let value = "v".repeat(VALUE_BYTES);
    let own = Members::start(Kind::Byname(programs.byname.clone()), &work.join("byname")).await?;
    let etcd = Members::start(Kind::Etcd(programs.etcd.clone()), &work.join("etcd")).await?;
    for members in [&own, &etcd] {
        members.put(&connect(members.address(members.leader().await?)).await?, SERVICE, &value).await?;
    }
    let (own_leads, etcd_leads) = (own.leader().await?, etcd.leader().await?);
    let own_primary = vec![own.address(own_leads)];
    let etcd_leader = vec![etcd.address(etcd_leads)];
    let system = |members: &Members, name, addresses, ask, goal| System {
        name,
        pids: members.pids(),
        addresses,
        tls: None,
        ask,
        goal,
    };
    let numbers = Arc::new(AtomicU64::new(0));
    let find = |consistent| -> Result<Ask> { Ok(Ask::FindValue { token: token()?, consistent }) };
    let range = |serializable| Ask::Range { serializable };

    let add = Ask::Add { token: token()?, value: value.clone(), numbers: numbers.clone() };
    let put = Ask::Put { value, numbers };
    let writes = [
        system(&own, "byname add", own_primary.clone(), add, None),
        system(&etcd, "etcd Put", etcd_leader.clone(), put, Some(1.5)),
    ];
    let at_leader = [
        system(&own, "byname find --consistent", own_primary.clone(), find(true)?, None),
        system(&etcd, "etcd Range, linearizable", etcd_leader.clone(), range(false), Some(2.0)),
    ];
    let at_all = [
        system(&own, "byname find --consistent", own.addresses(), find(true)?, None),
        system(&etcd, "etcd Range, linearizable", etcd.addresses(), range(false), Some(2.0)),
    ];
    let local = [
        system(&own, "byname find", own.addresses(), find(false)?, None),
        system(&etcd, "etcd Range, serializable", etcd.addresses(), range(true), Some(1.2)),
    ];
    let mut workloads = Vec::new();
    for (name, systems, clients, connections) in [
        ("durable writes, asked of the primary", &writes[..], 1, 1),
        ("durable writes, asked of the primary", &writes[..], 256, 64),
        ("linearizable reads, asked of the primary", &at_leader[..], 1, 1),
        ("linearizable reads, asked of the primary", &at_leader[..], 64, 64),
        ("linearizable reads, asked of all three", &at_all[..], 1, 3),
        ("linearizable reads, asked of all three", &at_all[..], 64, 63),
        ("local reads, asked of all three", &local[..], 1, 3),
        ("local reads, asked of all three", &local[..], 64, 63),
    ] {
        if format!("{name} {clients} {connections}").contains(&times.only) {
            eprintln!("{name}: {clients} clients on {connections} connections");
            let systems: Vec<_> = systems.iter().filter(|s| s.name.contains(&times.system)).collect();
            workloads.push(measure(name, &systems, clients, connections, times).await?);
        }
    }
    Ok(Report { machine, workloads })
}
