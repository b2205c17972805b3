//! Logs: the last lines over several instances, and following across a restart.

use byname_api::agent::{Order, Report};
use byname_api::object::InstanceId;

use crate::host::{Host, Running, plain, run};

pub(crate) const TESTS: &[crate::Test] =
    crate::tests![the_last_lines_over_instances, a_followed_log_goes_on_in_the_next_instance, no_log_at_all];

/// The text of a log that is not followed.
async fn log(agent: &mut Running, request: u64, tail: Option<u32>) -> String {
    agent.order(Order::Logs { request, service: 7, tail, follow: false }).await;
    let mut text = Vec::new();
    loop {
        if let Report::Log { request: answered, bytes, done, error } = agent.next().await
            && answered == request
        {
            assert_eq!(error, None);
            assert!(bytes.len() <= 64 << 10);
            text.extend(bytes);
            if done {
                return String::from_utf8(text).unwrap();
            }
        }
    }
}

fn the_last_lines_over_instances() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        for instance in 1..=3 {
            agent.start_service(instance, plain("echo first of $BYNAME_INSTANCE; echo second >&2")).await;
            agent.until_ended(instance).await;
        }
        agent.order(Order::Forget { instance: InstanceId(1) }).await;
        let whole = "first of i1\nsecond\nfirst of i2\nsecond\nfirst of i3\nsecond\n";
        assert_eq!(log(&mut agent, 1, None).await, whole);
        assert_eq!(log(&mut agent, 2, Some(3)).await, "second\nfirst of i3\nsecond\n");
        assert_eq!(log(&mut agent, 3, Some(0)).await, "");
    });
}

fn a_followed_log_goes_on_in_the_next_instance() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.start_service(1, plain("echo one; while ! [ -e go ]; do sleep 0.02; done; echo two")).await;
        agent.until_started(1).await;
        agent.order(Order::Logs { request: 9, service: 7, tail: Some(10), follow: true }).await;
        let mut text = String::new();
        let mut steps = 0;
        while steps < 3 {
            if let Report::Log { request: 9, bytes, done, .. } = agent.next().await {
                assert!(!done);
                text.push_str(std::str::from_utf8(&bytes).unwrap());
            }
            if steps == 0 && text == "one\n" {
                std::fs::write(host.instance_dir(1).join("work/go"), "").unwrap();
                steps = 1;
            } else if steps == 1 && text == "one\ntwo\n" {
                agent.start_service(2, plain("echo three; exec sleep 1000")).await;
                steps = 2;
            } else if steps == 2 && text == "one\ntwo\nthree\n" {
                steps = 3;
            }
        }
        agent.order(Order::EndLogs { request: 9 }).await;
    });
}

fn no_log_at_all() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        agent.order(Order::Logs { request: 1, service: 99, tail: None, follow: false }).await;
        loop {
            if let Report::Log { done, error, .. } = agent.next().await {
                assert!(done);
                assert_eq!(error.unwrap().code(), byname_api::Code::NotFound);
                break;
            }
        }
    });
}
