//! How fast records are written, found and verified: `cargo run --release -p byname-audit --example speed [RECORDS]`.

use std::time::Instant;

use byname_api::audit::{AuditRequest, Outcome};
use byname_api::span::Timestamp;
use byname_audit::{Audit, Entry, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: u64 = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let dir = tempfile::tempdir_in(".")?;
    // Nothing is to be lost, so that what is measured is the writing.
    let options = Options { queue_records: usize::MAX, queue_bytes: usize::MAX, ..Options::default() };
    let audit = Audit::open_with(dir.path(), 1, None, options)?;

    let entries: Vec<_> = (0..count).map(entry).collect();
    let begun = Instant::now();
    entries.into_iter().for_each(|entry| audit.record(entry));
    let taken = begun.elapsed();
    let head = audit.sync()?;
    let written = begun.elapsed();
    println!("record   {:>9.0} records/s for the callers", count as f64 / taken.as_secs_f64());
    println!("write    {:>9.0} records/s until they are durable", count as f64 / written.as_secs_f64());
    let mut bytes = 0;
    for file in std::fs::read_dir(dir.path())? {
        bytes += file?.metadata()?.len();
    }
    println!("size     {:>9} bytes a record, {} MiB", bytes / count, bytes >> 20);

    let newest = AuditRequest::default();
    let begun = Instant::now();
    audit.search(&newest)?;
    println!("search   {:>9.2} ms for the newest 100", begun.elapsed().as_secs_f64() * 1e3);
    let begun = Instant::now();
    let reply = audit.search(&AuditRequest { by: Some("/people/nobody".into()), ..newest })?;
    println!(
        "search   {:>9.2} ms for a page that finds nothing (more: {})",
        begun.elapsed().as_secs_f64() * 1e3,
        reply.next.is_some()
    );

    let begun = Instant::now();
    let found = audit.verify(&[head])?;
    let took = begun.elapsed().as_secs_f64();
    println!(
        "verify   {:>9.0} records/s, {:.0} MiB/s, intact: {}",
        count as f64 / took,
        (bytes >> 20) as f64 / took,
        found.intact
    );

    drop(audit);
    let begun = Instant::now();
    let audit = Audit::open(dir.path(), 1, Some(head))?;
    println!("open     {:>9.2} ms", begun.elapsed().as_secs_f64() * 1e3);
    drop(audit);
    Ok(())
}

fn entry(n: u64) -> Entry {
    let who = format!("/people/p{}", n % 1_000);
    let mut entry = Entry::new(Timestamp(1_700_000_000_000 + n), who, "certificate 3f2a9c01d2b4", "add", Outcome::Ok);
    entry.from = Some("10.1.2.3".into());
    entry.name = Some(format!("/services/tv/s{n}"));
    entry
}
