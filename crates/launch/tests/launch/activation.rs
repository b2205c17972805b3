//! Connections that start a service and are relayed to it, and the ends of both.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::time::Duration;

use byname_api::agent::{InstanceReport, Listen, Order, Report};
use byname_api::launch::{Handover, Launch, Limits, Ready};
use byname_api::object::{Choose, InstanceId};
use byname_api::{Code, Error};

use crate::host::{self, Host, PATIENCE, Running, command, eventually, free_address, listen, run};

pub(crate) const TESTS: &[crate::Test] = crate::tests![
    the_first_connection_knocks_and_is_served,
    two_thousand_connections_at_once,
    what_one_side_has_said_arrives_after_its_end,
    a_reset_is_passed_on,
    who_is_turned_away_is_reset_and_the_next_one_knocks_again,
    a_client_that_leaves_while_it_waits_harms_nobody,
    a_slow_reader_holds_nobody_else_up_and_loses_nothing,
    a_copy_that_refuses_is_said_to_be_dead,
    the_rule_says_which_copy_gets_a_connection,
    relayed_connections_outlive_the_agent,
    a_porter_that_was_killed_is_started_again,
    a_knock_is_told_to_the_next_primary,
    sockets_that_are_given_up_let_open_connections_end,
    a_resting_copy_gets_nothing_until_it_is_woken,
    connections_are_counted,
    no_connection_is_lost_while_a_service_stops_and_starts,
];

/// `serve PORT`: gives back what it gets. With `fds` instead of a port it takes the listening socket that it was given.
pub(crate) fn serve(how: Option<OsString>) {
    let how = how.unwrap().into_string().unwrap();
    let listener = match how.parse::<u16>() {
        Ok(port) => TcpListener::bind(("127.0.0.1", port)).unwrap(),
        Err(_) => {
            assert_eq!(std::env::var("LISTEN_PID").unwrap(), std::process::id().to_string());
            // SAFETY: LISTEN_FDS says that this descriptor is ours.
            unsafe { TcpListener::from_raw_fd(3) }
        }
    };
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let talk = move || {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(n @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..n]).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().stack_size(128 << 10).spawn(talk).unwrap();
    }
}

/// A launch of `serve`.
pub(crate) fn echo() -> Launch {
    let own = std::env::current_exe().unwrap();
    let limits = Some(Limits { files: Some(6_000), ..Limits::default() });
    Launch { limits, ..command(Ready::Port, [own.to_str().unwrap(), "serve", "${PORT}"]) }
}

/// For thousands of connections.
pub(crate) fn raise_limit() {
    let resource = rustix::process::Resource::Nofile;
    let mut limit = rustix::process::getrlimit(resource);
    limit.current = limit.maximum;
    rustix::process::setrlimit(resource, limit).unwrap();
}

pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Says something and hears it back.
pub(crate) fn echoes(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, text.as_bytes());
}

/// A host with a stable socket, and a copy that serves it.
async fn serving() -> (Host, Running, String, InstanceReport) {
    let host = Host::new();
    let mut agent = host.agent().await;
    let address = free_address();
    agent.listen(listen(Handover::Relay, [&address])).await;
    agent.start_service(1, echo()).await;
    let report = agent.until_ready(1).await;
    agent.backends(&[&report]).await;
    agent.heard().await;
    (host, agent, address, report)
}

fn the_first_connection_knocks_and_is_served() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        assert_eq!(agent.listen(listen(Handover::Relay, [&address])).await, [(address.clone(), None)]);
        let mut client = connect(&address);
        client.write_all(b"first").unwrap();
        assert_eq!(agent.until_knock().await, (address.clone(), vec![]));
        // Others do not knock again, and an empty list is no answer.
        let mut other = connect(&address);
        agent.backends(&[]).await;
        agent.start_service(1, echo()).await;
        let report = agent.until_ready(1).await;
        agent.backends(&[&report]).await;
        let mut back = [0; 5];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"first");
        echoes(&mut other, "other");
        echoes(&mut client, "more");
        drop((client, other));
        agent.stop(1, false).await;
        loop {
            match agent.next().await {
                Report::Knock { .. } => panic!("nobody is there"),
                Report::Instance(r) if matches!(r.phase, byname_api::agent::Phase::Ended { .. }) => break,
                _ => {}
            }
        }
        let _third = connect(&address);
        agent.until_knock().await;
    });
}

fn two_thousand_connections_at_once() {
    raise_limit();
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        agent.listen(listen(Handover::Relay, [&address])).await;
        let mut clients: Vec<TcpStream> = (0..2_000).map(|_| connect(&address)).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            write!(client, "{n:04}").unwrap();
        }
        agent.until_knock().await;
        agent.start_service(1, echo()).await;
        let report = agent.until_ready(1).await;
        agent.backends(&[&report]).await;
        for (n, client) in clients.iter_mut().enumerate() {
            let mut back = [0; 4];
            client.read_exact(&mut back).unwrap();
            assert_eq!(back, format!("{n:04}").as_bytes());
        }
        assert_eq!(agent.rest(1).await, Some(2_000));
        // One that was busy is not kept at rest.
        echoes(&mut connect(&address), "one more");
    });
}

fn what_one_side_has_said_arrives_after_its_end() {
    run(async {
        let (_host, _agent, address, _) = serving().await;
        let mut client = connect(&address);
        let text = vec![7u8; 3 << 20];
        let mut writer = client.try_clone().unwrap();
        let said = text.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&said).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        writing.join().unwrap();
        assert!(heard == text, "{} bytes of {}", heard.len(), text.len());
    });
}

fn a_reset_is_passed_on() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        agent.listen(listen(Handover::Relay, [&address])).await;
        // A copy that is this test itself.
        let backend = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = backend.local_addr().unwrap().port();
        let endpoint = byname_api::service::Endpoint { protocol: "tcp".into(), address: "127.0.0.1".into(), port };
        let backends = vec![byname_api::agent::Backend { instance: InstanceId(9), endpoint }];
        agent.order(Order::Backends { service: 7, backends }).await;
        for client_resets in [true, false] {
            let client = connect(&address);
            let (mut server, _) = backend.accept().unwrap();
            // A copy that takes a connection and drops it before anything was said counts as one that refuses.
            (&client).write_all(b"x").unwrap();
            server.read_exact(&mut [0]).unwrap();
            let (breaks, mut hears) = if client_resets { (client, server) } else { (server, client) };
            rustix::net::sockopt::set_socket_linger(&breaks, Some(Duration::ZERO)).unwrap();
            drop(breaks);
            hears.set_read_timeout(Some(PATIENCE)).unwrap();
            let error = hears.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{client_resets}");
        }
    });
}

fn who_is_turned_away_is_reset_and_the_next_one_knocks_again() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        agent.listen(listen(Handover::Relay, [&address])).await;
        for _ in 0..2 {
            let clients: Vec<TcpStream> = (0..20).map(|_| connect(&address)).collect();
            agent.until_knock().await;
            let error = Error::new(Code::StartFailed, "it cannot be started");
            agent.order(Order::TurnAway { service: 7, error }).await;
            for mut client in clients {
                let error = client.read(&mut [0]).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            }
        }
    });
}

fn a_client_that_leaves_while_it_waits_harms_nobody() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        agent.listen(listen(Handover::Relay, [&address])).await;
        for n in 0..300 {
            let client = connect(&address);
            if n % 2 == 0 {
                rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
            }
        }
        agent.until_knock().await;
        let mut client = connect(&address);
        agent.start_service(1, echo()).await;
        let report = agent.until_ready(1).await;
        agent.backends(&[&report]).await;
        echoes(&mut client, "still here");
        drop(client);
        // Those that left are over on both sides.
        let mut busy = agent.rest(1).await;
        while busy != Some(0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            busy = agent.rest(1).await;
        }
    });
}

fn a_slow_reader_holds_nobody_else_up_and_loses_nothing() {
    run(async {
        let (_host, _agent, address, _) = serving().await;
        let mut slow = connect(&address);
        let total = 64 << 20;
        let mut writer = slow.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            let piece: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
            for _ in 0..total / piece.len() {
                writer.write_all(&piece).unwrap();
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        // All buffers in between are full soon, and others still have their turn.
        for n in 0..200 {
            echoes(&mut connect(&address), &format!("quick {n}"));
        }
        assert!(!writing.is_finished(), "it should be held up: more than the buffers take was written");
        let mut heard = Vec::new();
        slow.read_to_end(&mut heard).unwrap();
        writing.join().unwrap();
        assert_eq!(heard.len(), total);
        let row: Vec<u8> = (0..=255).collect();
        assert!(heard.chunks(256).all(|chunk| chunk == row));
    });
}

fn a_copy_that_refuses_is_said_to_be_dead() {
    run(async {
        let (_host, mut agent, address, report) = serving().await;
        let mut wrong = report.clone();
        wrong.instance = InstanceId(2);
        wrong.endpoints[0].port = free_address().rsplit(':').next().unwrap().parse().unwrap();
        // The other one is tried.
        agent.backends(&[&wrong, &report]).await;
        echoes(&mut connect(&address), "by the other");
        agent.backends(&[&wrong]).await;
        agent.heard().await;
        let mut client = connect(&address);
        client.write_all(b"patience").unwrap();
        // Not the knock of a moment when the porter had not heard of any copy yet.
        while agent.until_knock().await != (address.clone(), vec![2]) {}
        // Told so again, it tries again.
        agent.backends(&[&wrong]).await;
        assert_eq!(agent.until_knock().await.1, [2]);
        agent.backends(&[&report]).await;
        let mut back = [0; 8];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"patience");
    });
}

fn the_rule_says_which_copy_gets_a_connection() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        // Copies that are this test itself.
        let copies = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let mut backends = Vec::new();
        for (n, copy) in copies.iter().enumerate() {
            copy.set_nonblocking(true).unwrap();
            let port = copy.local_addr().unwrap().port();
            let endpoint = byname_api::service::Endpoint { protocol: "tcp".into(), address: "127.0.0.1".into(), port };
            backends.push(byname_api::agent::Backend { instance: InstanceId(n as u64), endpoint });
        }
        for (choose, expect) in [
            (Choose::First, Some([40, 0])),
            (Choose::RoundRobin, Some([20, 20])),
            (Choose::LeastLoaded, Some([20, 20])),
            (Choose::Random, None),
        ] {
            agent.listen(Listen { choose, ..listen(Handover::Relay, [&address]) }).await;
            agent.order(Order::Backends { service: 7, backends: backends.clone() }).await;
            let clients: Vec<TcpStream> = (0..40).map(|_| connect(&address)).collect();
            let mut accepted = [0, 0];
            let mut held = Vec::new();
            eventually("all were passed on", || {
                for (copy, count) in copies.iter().zip(&mut accepted) {
                    while let Ok((stream, _)) = copy.accept() {
                        held.push(stream);
                        *count += 1;
                    }
                }
                accepted.iter().sum::<i32>() == 40
            })
            .await;
            match expect {
                Some(expect) => assert_eq!(accepted, expect, "{choose:?}"),
                None => assert!(accepted.iter().all(|n| *n > 5), "{choose:?}: {accepted:?}"),
            }
            // The next rule begins with no open connections.
            drop((clients, held));
            agent.order(Order::Listens { term: 1, all: vec![] }).await;
            eventually("the porter leaves", || porter(&host).is_none()).await;
        }
    });
}

fn relayed_connections_outlive_the_agent() {
    run(async {
        let (host, agent, address, report) = serving().await;
        let mut client = connect(&address);
        echoes(&mut client, "before");
        drop(agent);
        echoes(&mut client, "without");
        echoes(&mut connect(&address), "a new one without");
        let mut agent = host.agent_again().await;
        echoes(&mut client, "with the next");
        agent.order(Order::Listens { term: 1, all: vec![listen(Handover::Relay, [&address])] }).await;
        assert_eq!(agent.until_listening(7).await, [(address.clone(), None)]);
        echoes(&mut client, "still");
        echoes(&mut connect(&address), "a new one");
        // The one that has just ended may be on its way.
        while agent.rest(1).await != Some(1) {}
        agent.stop(1, false).await;
        agent.until_ended(1).await;
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "{report:?}");
        let _next = connect(&address);
        agent.until_knock().await;
    });
}

/// The porter of service 7.
pub(crate) fn porter(host: &Host) -> Option<u32> {
    let folder = host.dir.path().join("launch/listen/7").canonicalize().ok()?;
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        (std::fs::read_link(process.path().join("cwd")).ok()? == folder && host::alive(pid)).then_some(pid)
    })
}

fn a_porter_that_was_killed_is_started_again() {
    run(async {
        let (host, mut agent, address, _) = serving().await;
        echoes(&mut connect(&address), "before");
        host::kill(porter(&host).unwrap());
        agent.until_listening(7).await;
        echoes(&mut connect(&address), "after");
        // While the agent is away too: then it is the primary's word that starts it.
        drop(agent);
        let old = porter(&host).unwrap();
        host::kill(old);
        eventually("the porter is gone", || !host::alive(old)).await;
        let mut agent = host.agent_again().await;
        assert!(TcpStream::connect(&address).is_err());
        agent.order(Order::Listens { term: 1, all: vec![listen(Handover::Relay, [&address])] }).await;
        agent.until_listening(7).await;
        let _client = connect(&address);
        agent.until_knock().await;
    });
}

fn a_knock_is_told_to_the_next_primary() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        agent.listen(listen(Handover::Relay, [&address])).await;
        let _client = connect(&address);
        agent.until_knock().await;
        agent.order(Order::Welcome { term: 1, known: vec![] }).await;
        agent.until_knock().await;
        drop(agent);
        let mut agent = host.agent_again().await;
        agent.until_knock().await;
    });
}

fn sockets_that_are_given_up_let_open_connections_end() {
    run(async {
        let (host, mut agent, address, _) = serving().await;
        let mut client = connect(&address);
        echoes(&mut client, "before");
        let other = free_address();
        agent.listen(listen(Handover::Relay, [&other, &address])).await;
        echoes(&mut connect(&other), "the new one");
        echoes(&mut client, "the same one");
        agent.listen(listen(Handover::Relay, [&other])).await;
        assert!(TcpStream::connect(&address).is_err());
        agent.order(Order::Listens { term: 1, all: vec![] }).await;
        agent.until_listening(7).await;
        assert!(TcpStream::connect(&other).is_err());
        echoes(&mut client, "to the end");
        assert!(porter(&host).is_some());
        // Another agent does not open them again.
        drop(agent);
        let agent = host.agent_again().await;
        echoes(&mut client, "to the very end");
        assert!(TcpStream::connect(&other).is_err());
        drop(client);
        eventually("the porter leaves", || porter(&host).is_none()).await;
        let folder = host.dir.path().join("launch/listen/7");
        eventually("its folder is removed", || !folder.exists()).await;
        drop(agent);
    });
}

fn a_resting_copy_gets_nothing_until_it_is_woken() {
    run(async {
        let (_host, mut agent, address, _) = serving().await;
        assert_eq!(agent.rest(2).await, None);
        let mut client = connect(&address);
        echoes(&mut client, "open");
        // The agent's own look at the port may not be over at the copy's end.
        while agent.rest(1).await != Some(1) {}
        drop(client);
        while agent.rest(1).await != Some(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut client = connect(&address);
        client.write_all(b"wait").unwrap();
        assert_eq!(agent.until_knock().await, (address, vec![]));
        client.set_nonblocking(true).unwrap();
        assert!(client.read(&mut [0]).is_err());
        client.set_nonblocking(false).unwrap();
        agent.order(Order::Wake { instance: InstanceId(1) }).await;
        let mut back = [0; 4];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"wait");
    });
}

fn connections_are_counted() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let launch = Launch { idle_stop: Some("1h".parse().unwrap()), ..echo() };
        agent.start_service(1, launch).await;
        let port = agent.until_ready(1).await.endpoints[0].port;
        let mut open = vec![];
        for expect in [2, 1, 0] {
            open.resize_with(expect, || TcpStream::connect(("127.0.0.1", port)).unwrap());
            loop {
                if let Report::Connections { counts } = agent.next().await
                    && counts == [(InstanceId(1), expect as u32)]
                {
                    break;
                }
            }
        }
    });
}

fn no_connection_is_lost_while_a_service_stops_and_starts() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        agent.listen(listen(Handover::Relay, [&address])).await;
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (address, stop) = (address.clone(), stop.clone());
                std::thread::spawn(move || {
                    let mut served = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        echoes(&mut connect(&address), &format!("{client} says {served}"));
                        served += 1;
                        // So that there are moments without a connection.
                        std::thread::sleep(Duration::from_micros(500 * client));
                    }
                    served
                })
            })
            .collect();
        let (cycles, mut busy) = (200, 0);
        for instance in 1..=cycles {
            agent.until_knock().await;
            agent.start_service(instance, echo()).await;
            let report = agent.until_ready(instance).await;
            agent.backends(&[&report]).await;
            while agent.rest(instance).await != Some(0) {
                busy += 1;
            }
            agent.stop(instance, false).await;
            agent.until_ended(instance).await;
            agent.backends(&[]).await;
            agent.order(Order::Forget { instance: InstanceId(instance) }).await;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        // Those who wait are still served.
        agent.until_knock().await;
        agent.start_service(cycles + 1, echo()).await;
        let report = agent.until_ready(cycles + 1).await;
        agent.backends(&[&report]).await;
        let served: u64 = clients.into_iter().map(|client| client.join().expect("every connection is served")).sum();
        assert!(served >= cycles, "{served} were served in {cycles} cycles, and {busy} times it was not idle");
    });
}
