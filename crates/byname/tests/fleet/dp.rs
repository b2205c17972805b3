//! The protocol of Tcl-DP between hosts: a client on one, its service started on another, in a real tclsh.

use std::fs;

use byname_hosts::Plan;
use byname_testkit::eventually;

use crate::support::Hosts;

/// The folder of the package.
const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../clients/tcl");

#[test]
fn a_client_on_one_host_has_a_service_started_on_another_and_both_prove_themselves() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let plan = Plan {
        servers: 1,
        agents: 2,
        server_words: words(&["--dp", "0.0.0.0:4765", "--dp-anyone"]),
        agent_words: words(&["--programs", "../programs"]),
        ..Plan::default()
    };
    let Some(hosts) = Hosts::prepare(plan) else { return };
    let name_server = format!("{}:4765", hosts.fleet.network().address("s1"));
    let programs = hosts.scratch().join("programs");
    fs::create_dir(&programs).unwrap();
    let entry = format!(
        "[hello]\ncommand = ['tclsh8.6', '{PACKAGE}/examples/hello.tcl']\nallow_args = false\nuser = 'root'\nenv = {{ BYNAME_DP = '{name_server}' }}\n"
    );
    fs::write(programs.join("hello.toml"), entry).unwrap();
    hosts.fleet.start().unwrap();
    for agent in hosts.fleet.agents() {
        let computer = format!("/computers/{agent}");
        let known = || hosts.fleet.byname("s1", &["show", &computer]).unwrap().status == Some(0);
        eventually("the agents", || known().then_some(()));
    }
    let granted = hosts.fleet.byname("s1", &["acl", "grant", "anyone", "find,list,read,add,launch", "/"]).unwrap();
    assert_eq!(granted.status, Some(0), "{}", granted.talk);
    // A host is named by its address, or by its name.
    let home = hosts.fleet.network().address("a1").to_string();
    let script = format!(
        r#"
        lappend auto_path {{{PACKAGE}}}
        package require byname
        byname::servers {name_server}
        ns_Register addService /hello {home} hello
        ns_Register addService /there a2 hello
        ns_Register addService /bad a2 {{rm -rf /}}
        foreach srvc {{/hello /there}} {{
            ns_LaunchServices $srvc
            while {{[lindex [ns_ServiceState $srvc] 0 1] ne "running"}} {{ after 10 }}
            set hp [lindex [ns_FindServices $srvc] 0 1]
            set file [dp_MakeRPCClient {{*}}$hp]
            lassign [ns_AuthenticateService $srvc] mine its
            puts [list [lindex $hp 0] [expr {{[dp_RPC $file ns_Authenticate $mine] eq $its}}] [string range [dp_RPC $file hello Rob] 0 9]]
        }}
        puts [catch {{ns_LaunchServices /bad}} why]
        puts $why"#
    );
    let file = hosts.scratch().join("client.tcl");
    fs::write(&file, script).unwrap();
    let client = hosts.fleet.command("a2", "timeout").args(["60", "tclsh8.6"]).arg(&file).output().unwrap();
    let (told, talk) = (String::from_utf8_lossy(&client.stdout), String::from_utf8_lossy(&client.stderr));
    let lines: Vec<&str> = told.lines().collect();
    let there = hosts.fleet.network().address("a2");
    assert_eq!(
        lines.get(..3),
        Some([&*format!("{home} 1 {{Hello, Rob}}"), &*format!("{there} 1 {{Hello, Rob}}"), "1"].as_slice()),
        "{told}{talk}"
    );
    assert!(lines[3].contains("`a2` starts no plain commands"), "{told}");
}
