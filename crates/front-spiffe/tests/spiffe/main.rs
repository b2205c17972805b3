//! Programs that an agent started ask its socket who they are, with a library that is not ours (the crate `spiffe`).
//!
//! The executable of these tests is also the holder (`hold`) and the program (`client`, `leave CLIENT`): that is why it
//! has a main function of its own and does not use the usual harness.

mod authority;
mod host;
mod program;

use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use spiffe::{WorkloadApiClient, WorkloadApiError};
use tonic::codegen::http::uri::PathAndQuery;

use host::Host;

fn main() {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|arg| arg.to_str()) {
        Some("hold") => byname_launch::hold::main(args),
        Some("client") => return run(program::client()),
        _ => {}
    }
    let tests: [(&str, fn()); 5] = [
        ("a_program_gets_certificates_and_tokens", a_program_gets_certificates_and_tokens),
        ("a_stream_gets_the_renewed_certificate", a_stream_gets_the_renewed_certificate),
        ("what_a_program_left_in_the_background_belongs_to_it", what_a_program_left_in_the_background_belongs_to_it),
        ("whoever_belongs_to_no_instance_is_refused", whoever_belongs_to_no_instance_is_refused),
        ("a_call_without_the_header_is_refused", a_call_without_the_header_is_refused),
    ];
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}

fn a_program_gets_certificates_and_tokens() {
    run(async {
        let mut host = Host::new(Duration::from_secs(3600)).await;
        host.start(1, "/BVODS/QS", "exec \"$EXE\" client").await;
        let said = host.said(1, "end").await;
        let id = "spiffe://corp.example/BVODS/QS";
        for line in [
            &format!("svid {id} chain 2"),
            "bundles corp.example 1",
            &format!("token {id} for printer"),
            "keys corp.example",
            &format!("valid {id}"),
            "invalid InvalidArgument",
        ] {
            assert!(said.contains(&format!("{line}\n")), "{line} is not in {said}");
        }
    });
}

fn a_stream_gets_the_renewed_certificate() {
    run(async {
        let mut host = Host::new(Duration::from_secs(2)).await;
        host.start(1, "/BVODS/QS", "exec \"$EXE\" client").await;
        let said = host.said(1, "renewed").await;
        let leaves: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("leaf ")).collect();
        assert!(leaves.len() >= 2 && leaves[0] != leaves[1], "{said}");
    });
}

fn what_a_program_left_in_the_background_belongs_to_it() {
    run(async {
        let mut host = Host::new(Duration::from_secs(3600)).await;
        // Its parent is gone and its session is another one.
        host.start(1, "/BVODS/QS", "(setsid \"$EXE\" client &) ; exec sleep 1000").await;
        host.start(2, "/BVODS/VS", "(setsid \"$EXE\" client &) ; exec sleep 1000").await;
        assert!(host.said(1, "end").await.contains("svid spiffe://corp.example/BVODS/QS chain 2\n"));
        assert!(host.said(2, "end").await.contains("svid spiffe://corp.example/BVODS/VS chain 2\n"));
    });
}

fn whoever_belongs_to_no_instance_is_refused() {
    run(async {
        let host = Host::new(Duration::from_secs(3600)).await;
        let client = WorkloadApiClient::connect_to(host.socket()).await.unwrap();
        let refused = client.fetch_x509_svid().await.unwrap_err();
        assert!(matches!(refused, WorkloadApiError::NoIdentityIssued), "{refused:?}");
        let refused = client.fetch_jwt_svid(["a"], None).await.unwrap_err();
        assert!(matches!(refused, WorkloadApiError::NoIdentityIssued), "{refused:?}");
    });
}

fn a_call_without_the_header_is_refused() {
    run(async {
        let host = Host::new(Duration::from_secs(3600)).await;
        let endpoint = tonic::transport::Endpoint::try_from(host.socket()).unwrap();
        let mut client = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
        client.ready().await.unwrap();
        let path = PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchX509SVID");
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let refused = client.server_streaming(tonic::Request::new(()), path, codec).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains("workload.spiffe.io"), "{refused}");
    });
}
