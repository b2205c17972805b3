//! The pages of `docs/guide`: every command in them is run, and its output compared, with a server for each page.
//! BYNAME_SCENARIOS=write writes the outputs anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use byname_testkit::{Options, Server, page};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/src")
}

fn run(name: &str, ports: &[u16]) {
    let rewrite = std::env::var_os("BYNAME_SCENARIOS").is_some_and(|word| word == "write");
    // Where `byname dev` keeps its data when nothing else is said, so that pages can name what is in it.
    let data = Some(PathBuf::from("home/.local/state/byname/dev"));
    let mut options = Options { data, ..Options::default() };
    if name == "dns" {
        options.arguments = vec!["--dns".into(), "127.0.0.1:0".into()];
    }
    if name == "tcl" {
        options.arguments = vec!["--dp".into(), "127.0.0.1:0".into()];
    }
    let server = Server::start_with(env!("CARGO_BIN_EXE_byname"), options);
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients");
    std::os::unix::fs::symlink(clients, server.scratch().join("clients")).unwrap();
    page::check(&source().join(name).with_extension("md"), &server, ports, rewrite);
}

/// Each page, with the ports that it takes for stable sockets.
macro_rules! pages {
    ($($name:ident $(: $($port:literal),+)?);* $(;)?) => {
        $(
            #[test]
            fn $name() {
                run(&stringify!($name).replace('_', "-"), &[$($($port),+)?]);
            }
        )*

        /// So that no page is forgotten, neither here nor in the table of contents.
        #[test]
        fn every_page_is_run_and_listed() {
            let files: BTreeSet<String> = std::fs::read_dir(source())
                .unwrap()
                .filter_map(|file| Some(file.unwrap().file_name().to_str()?.strip_suffix(".md")?.to_owned()))
                .filter(|name| name != "SUMMARY")
                .collect();
            let run: BTreeSet<String> = [$(stringify!($name).replace('_', "-")),*].into();
            assert_eq!(files, run);
            let summary = std::fs::read_to_string(source().join("SUMMARY.md")).unwrap();
            let listed: BTreeSet<String> = summary
                .split("](")
                .skip(1)
                .filter_map(|rest| Some(rest.split(')').next()?.strip_suffix(".md")?.to_owned()))
                .collect();
            assert_eq!(files, listed);
        }
    };
}

pages! {
    away;
    first_service;
    tree;
    catalogue;
    readiness;
    health;
    activation: 8080, 8081;
    idle_stop: 8080;
    copies;
    dns: 8080;
    servers;
    hosts;
    records;
    search_and_watch;
    tcl;
    who_is_who;
    troubleshooting;
    shell;
}
