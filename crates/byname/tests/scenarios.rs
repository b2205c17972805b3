//! The scripts in `scenarios/`, each with a server of its own. BYNAME_SCENARIOS=write writes their outputs anew.

use std::path::Path;

use byname_testkit::{Server, scenario};

fn run(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let rewrite = std::env::var_os("BYNAME_SCENARIOS").is_some_and(|word| word == "write");
    let server = Server::start(env!("CARGO_BIN_EXE_byname"));
    scenario::check(&folder.join(name).with_extension("txt"), &server, rewrite);
}

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                run(&stringify!($name).replace('_', "-"));
            }
        )*

        /// So that no script is forgotten.
        #[test]
        fn every_script_is_run() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
            let mut found: Vec<String> = std::fs::read_dir(folder)
                .unwrap()
                .filter_map(|file| Some(file.unwrap().file_name().to_str()?.strip_suffix(".txt")?.replace('-', "_")))
                .collect();
            found.sort();
            let mut known = vec![$(stringify!($name)),*];
            known.sort_unstable();
            assert_eq!(found, known);
        }
    };
}

scenarios! {
    advertise, alias_chains, aliases, apply, bad_batches, bad_filters, bad_names, bad_programs, catalogue, first_steps,
    health, hold_and_restart, introduction, listens_elsewhere, offline_root, readiness, sign_in, slow_patterns, state_table,
    too_large, two_on_one_port, watch_from, who_may, wrong_files,
}
