//! A server whose disk is full.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use byname_hosts::Plan;
use byname_testkit::eventually;

use crate::load::Load;
use crate::support::{Hosts, put, runtime};

/// A small disk, which is taken away when this is dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(place: &Path) -> Disk {
        fs::create_dir_all(place).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=160m", "byname"]).arg(place).status();
        assert!(mounted.unwrap().success());
        Disk(place.to_owned())
    }

    /// Leaves no byte of it.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
    }

    fn relieve(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn the_others_go_on_while_the_disk_of_the_primary_is_full() {
    let Some(hosts) = Hosts::prepare(Plan { agents: 0, ..Plan::default() }) else { return };
    let disks: Vec<Disk> = hosts.fleet.servers().iter().map(|host| Disk::new(&hosts.fleet.data(host))).collect();
    hosts.fleet.start().unwrap();
    let load = Load::start(&hosts, 8);
    load.goes_on(50);
    let (primary, _) = hosts.primary();
    let place = hosts.fleet.data(&primary);
    let disk = disks.iter().find(|disk| disk.0 == place).unwrap();
    disk.fill();
    // Files of the log are made ahead, so it takes a while until the disk is needed.
    let (clients, big) = (runtime(), "x".repeat(200_000));
    let _within = clients.enter();
    let clerk = hosts.clerk();
    let mut writes = 0;
    eventually("a disk that takes no more", || {
        // One that fails is no matter: the load looks whether writes go on.
        let _ = clients.block_on(put(&clerk, &format!("/big/{}", writes % 4), &big));
        writes += 1;
        hosts.fleet.info(&primary)?["stalled"].is_string().then_some(())
    });
    load.goes_on(200);
    disk.relieve();
    load.goes_on(50);
    hosts.caught_up();
    let well = || hosts.fleet.info(&primary)?["stalled"].is_null().then_some(());
    eventually("a disk that takes everything", well);
    let outcome = load.stop(&hosts);
    assert_eq!(outcome.violations, [""; 0]);
    drop(hosts);
}
