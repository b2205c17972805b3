//! A server whose disk is full.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use byname_hosts::Plan;

use crate::load::Load;
use crate::support::Hosts;

/// A small disk, which is taken away when this is dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(place: &Path) -> Disk {
        fs::create_dir_all(place).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m", "byname"]).arg(place).status();
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
    // Files of the log are made ahead, so it takes a while until the disk is needed; either way writes go on.
    load.goes_on(500);
    disk.relieve();
    load.goes_on(50);
    hosts.caught_up();
    let outcome = load.stop(&hosts);
    assert_eq!(outcome.violations, [""; 0]);
    drop(hosts);
}
