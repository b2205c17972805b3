//! The agent with real holders and real programs.
//!
//! The executable of these tests is also their holder (`hold`) and an agent that is killed (`agent DIR`): that is why it
//! has a main function of its own and does not use the usual harness.

mod activation;
mod adoption;
mod bench;
mod health;
mod host;
mod identity;
mod limits;
mod logs;
mod partition;
mod policy;
mod readiness;
mod relay_bench;
mod secrets;
mod sockets;
mod trouble;

use std::ffi::OsString;

use libtest_mimic::{Arguments, Trial};

/// A test: its name and what it does.
type Test = (&'static str, fn());

/// Makes the list of a module's tests from the functions' names.
#[macro_export]
macro_rules! tests {
    ($($test:ident),* $(,)?) => { &[$((concat!(module_path!(), "::", stringify!($test)), $test as fn())),*] };
}

fn main() {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|a| a.to_str()) {
        Some("hold") => byname_launch::hold::main(args),
        Some("agent") => return host::agent_process(&args.collect::<Vec<OsString>>()),
        Some("serve") => return activation::serve(args.next()),
        Some("relay-speed") => return relay_bench::main(),
        Some("speed") => return bench::main(),
        _ => {}
    }
    let modules: [&[Test]; 12] = [
        readiness::TESTS,
        health::TESTS,
        policy::TESTS,
        trouble::TESTS,
        adoption::TESTS,
        logs::TESTS,
        partition::TESTS,
        limits::TESTS,
        activation::TESTS,
        sockets::TESTS,
        secrets::TESTS,
        identity::TESTS,
    ];
    let trials = modules.into_iter().flatten().map(|(name, test)| {
        let name = name.strip_prefix("launch::").unwrap_or(name);
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
