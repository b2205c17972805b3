//! Stable sockets themselves: handed to programs, in conflict with others, and of the unix kind.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use byname_api::agent::{Order, Phase, Report};
use byname_api::launch::{EndpointSpec, Handover, Launch, Ready};
use byname_api::object::InstanceId;
use byname_api::{Code, Error};
use byname_name::Name;

use crate::activation::{connect, echo, echoes, porter};
use crate::host::{self, Host, command, eventually, free_address, listen, plain, run};

pub(crate) const TESTS: &[crate::Test] = crate::tests![
    a_program_that_is_given_the_socket,
    sockets_are_where_systemd_puts_them,
    more_than_six_sockets_move_the_tickets,
    a_start_without_its_socket_fails_and_says_why,
    who_connects_while_the_program_stops_knocks_afterwards,
    an_agent_that_comes_back_knows_who_has_the_sockets,
    a_program_keeps_its_socket_when_the_porter_is_killed,
    two_services_cannot_have_one_socket,
    a_port_of_another_program_is_taken_when_it_is_free,
    a_stable_socket_is_no_port_for_programs,
    a_unix_socket_wakes_and_relays,
    what_is_in_the_way_of_a_unix_socket,
];

/// A launch of `serve` that is given its sockets.
fn handed<const N: usize>(sockets: [&str; N]) -> Launch {
    let own = std::env::current_exe().unwrap();
    Launch {
        handover: Some(Handover::Fds),
        listen: Some(sockets.map(String::from).into()),
        ready: None,
        ..command(Ready::Port, [own.to_str().unwrap(), "serve", "fds"])
    }
}

fn a_program_that_is_given_the_socket() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        agent.listen(listen(Handover::Fds, [&address])).await;
        let mut first = connect(&address);
        agent.until_knock().await;
        agent.start_service(1, handed([&address])).await;
        let report = agent.until_ready(1).await;
        let endpoint = &report.endpoints[0];
        assert_eq!(format!("{}:{}", endpoint.address, endpoint.port), address);
        agent.backends(&[&report]).await;
        echoes(&mut first, "the one that knocked");
        echoes(&mut connect(&address), "straight to it");
        // Connections are counted where they are.
        while agent.rest(1).await != Some(1) {}
        drop(first);
        while agent.rest(1).await != Some(0) {}
        agent.order(Order::Wake { instance: InstanceId(1) }).await;
        echoes(&mut connect(&address), "again");
    });
}

/// A program of Python's that writes down what it was given, and answers one connection on each socket.
const LOOK: &str = "
import os, socket, time
open_fds = sorted(int(f) for f in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + f))
n = int(os.environ['LISTEN_FDS'])
lines = [os.environ['LISTEN_PID'] == str(os.getpid()), n, os.environ['LISTEN_FDNAMES'], os.environ['BYNAME_TICKET_FD']]
for fd in range(3, 3 + n):
    s = socket.socket(fileno=fd)
    lines.append((os.get_blocking(fd), os.get_inheritable(fd), s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), s.getsockname()))
    c, _ = s.accept()
    c.sendall(b'%d' % fd)
    c.close()
lines.append(len(os.read(int(os.environ['BYNAME_TICKET_FD']), 1000)))
lines.append(open_fds)
open('found.new', 'w').write('\\n'.join(map(str, lines)))
os.rename('found.new', 'found')
time.sleep(1000)
";

/// Starts that program with these sockets and gives what it found.
async fn look(sockets: &[String]) -> Vec<String> {
    let host = Host::new();
    let mut agent = host.agent().await;
    let mut order = listen(Handover::Fds, []);
    order.sockets = sockets.to_vec();
    agent.listen(order).await;
    let mut clients: Vec<TcpStream> = sockets.iter().map(|address| connect(address)).collect();
    let launch = Launch { listen: Some(sockets.to_vec()), ..handed([]) };
    let launch = Launch { command: Some(["python3", "-c", LOOK].map(String::from).into()), ..launch };
    agent.start_service(1, launch).await;
    agent.until_ready(1).await;
    for (at, client) in clients.iter_mut().enumerate() {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, (at + 3).to_string());
    }
    let file = host.instance_dir(1).join("work/found");
    eventually("the program wrote what it found", || file.exists()).await;
    std::fs::read_to_string(file).unwrap().lines().map(String::from).collect()
}

fn sockets_are_where_systemd_puts_them() {
    run(async {
        let sockets = [free_address(), free_address()];
        let found = look(&sockets).await;
        let port = |at: usize| sockets[at].rsplit(':').next().unwrap();
        assert_eq!(found[..4], ["True", "2", &format!("{}:{}", port(0), port(1)), "9"]);
        for at in 0..2 {
            assert_eq!(found[4 + at], format!("(True, True, 1, ('127.0.0.1', {}))", port(at)));
        }
        assert_eq!(found[6], "130");
        assert_eq!(found[7], "[0, 1, 2, 3, 4, 9]", "nothing else is inherited");
    });
}

fn more_than_six_sockets_move_the_tickets() {
    run(async {
        // All at once, so that none is given twice.
        let busy: Vec<TcpListener> = (0..16).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let sockets: Vec<String> = busy.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        drop(busy);
        let found = look(&sockets).await;
        assert_eq!((found[1].as_str(), found[3].as_str()), ("16", "19"));
        assert_eq!(found[20], "130");
        assert_eq!(found[21], format!("{:?}", (0..20).collect::<Vec<_>>()));
    });
}

fn a_start_without_its_socket_fails_and_says_why() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let busy = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = busy.local_addr().unwrap().to_string();
        agent.start_service(1, handed([&address])).await;
        let error = host::ended(&agent.until_ended(1).await).error.unwrap();
        assert!(error.message().contains("does not hold its stable sockets"), "{error}");
        agent.listen(listen(Handover::Fds, [&address])).await;
        agent.start_service(2, handed([&address])).await;
        let error = host::ended(&agent.until_ended(2).await).error.unwrap();
        assert_eq!(error.code(), Code::StartFailed);
        assert!(error.message().contains(&format!("{address} is in use by another program")), "{error}");
    });
}

fn who_connects_while_the_program_stops_knocks_afterwards() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        agent.listen(listen(Handover::Fds, [&address])).await;
        // It accepts nobody, and takes its time to stop.
        let script = "import os,signal,time\n\
                      signal.signal(signal.SIGTERM, lambda *_: (open('told', 'w').close(), time.sleep(1000)))\n\
                      open('up', 'w').close()\nwhile True: time.sleep(1)";
        let launch = Launch {
            command: Some(["python3", "-c", script].map(String::from).into()),
            stop_timeout: Some("300ms".parse().unwrap()),
            ..handed([&address])
        };
        agent.start_service(1, launch).await;
        let report = agent.until_ready(1).await;
        agent.backends(&[&report]).await;
        eventually("it is up", || host.instance_dir(1).join("work/up").exists()).await;
        agent.stop(1, false).await;
        eventually("it was told", || host.instance_dir(1).join("work/told").exists()).await;
        let mut client = connect(&address);
        // Not before it has ended: it has the socket.
        loop {
            match agent.next().await {
                Report::Knock { .. } => panic!("the program still has the socket"),
                Report::Instance(r) if matches!(r.phase, Phase::Ended { .. }) => break,
                _ => {}
            }
        }
        agent.until_knock().await;
        agent.start_service(2, handed([&address])).await;
        agent.until_ready(2).await;
        echoes(&mut client, "by the next");
        // A failed start: turned away.
        agent.stop(2, true).await;
        agent.until_ended(2).await;
        drop(client);
        let mut client = connect(&address);
        agent.until_knock().await;
        let error = Error::new(Code::CrashLooping, "it cannot be started");
        agent.order(Order::TurnAway { service: 7, error }).await;
        assert!(client.read(&mut [0]).is_err());
    });
}

fn an_agent_that_comes_back_knows_who_has_the_sockets() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        agent.listen(listen(Handover::Fds, [&address])).await;
        agent.start_service(1, handed([&address])).await;
        agent.until_ready(1).await;
        drop(agent);
        let mut agent = host.agent_again().await;
        agent.order(Order::Listens { term: 1, all: vec![listen(Handover::Fds, [&address])] }).await;
        agent.until_listening(7).await;
        let mut client = connect(&address);
        echoes(&mut client, "by the same");
        assert_eq!(agent.rest(1).await, Some(1));
        agent.stop(1, true).await;
        loop {
            match agent.next().await {
                Report::Knock { .. } => panic!("the program still had the socket"),
                Report::Instance(r) if matches!(r.phase, Phase::Ended { .. }) => break,
                _ => {}
            }
        }
        let _client = connect(&address);
        agent.until_knock().await;
    });
}

fn a_program_keeps_its_socket_when_the_porter_is_killed() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        agent.listen(listen(Handover::Fds, [&address])).await;
        agent.start_service(1, handed([&address])).await;
        agent.until_ready(1).await;
        host::kill(porter(&host).unwrap());
        let told = agent.until_listening(7).await;
        assert_eq!(told[0].1, Some(format!("{address} is still held by the program that it was handed to")));
        echoes(&mut connect(&address), "still served");
        agent.stop(1, true).await;
        agent.until_ended(1).await;
        assert_eq!(agent.until_listening(7).await, [(address.clone(), None)]);
        let _client = connect(&address);
        agent.until_knock().await;
    });
}

fn two_services_cannot_have_one_socket() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        let path = format!("unix:{}", host.dir.path().join("s.sock").display());
        let first = agent.listen(listen(Handover::Relay, [&address, &path])).await;
        assert!(first.iter().all(|(_, trouble)| trouble.is_none()), "{first:?}");
        let mut other = listen(Handover::Relay, [&address, &path]);
        (other.service, other.name) = (8, Name::parse("/other").unwrap());
        let told = agent.listen(other.clone()).await;
        for (socket, trouble) in &told {
            assert_eq!(*trouble, Some(format!("{socket} is held by `/BVODS/QS`; change one of them")));
        }
        // It gets them when they are given up, without being told.
        agent.order(Order::Listen { term: 1, listen: Box::new(listen(Handover::Relay, [])) }).await;
        while agent.until_listening(8).await.iter().any(|(_, trouble)| trouble.is_some()) {}
        let _client = connect(&address);
        loop {
            if let Report::Knock { service: 8, socket, .. } = agent.next().await {
                assert_eq!(socket, address);
                break;
            }
        }
    });
}

fn a_port_of_another_program_is_taken_when_it_is_free() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let busy = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = busy.local_addr().unwrap().to_string();
        let told = agent.listen(listen(Handover::Relay, [&address])).await;
        assert_eq!(told, [(address.clone(), Some(format!("{address} is in use by another program")))]);
        drop(busy);
        assert_eq!(agent.until_listening(7).await, [(address.clone(), None)]);
        let _client = connect(&address);
        agent.until_knock().await;
    });
}

fn a_stable_socket_is_no_port_for_programs() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let address = free_address();
        agent.listen(listen(Handover::Relay, [&address])).await;
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        let endpoint = EndpointSpec { protocol: "tcp".into(), port, address: Some("127.0.0.1".into()) };
        agent.start_service(1, Launch { endpoints: Some(vec![endpoint]), ..plain("exec sleep 1000") }).await;
        let error = host::ended(&agent.until_ended(1).await).error.unwrap();
        assert!(error.message().contains(&format!("port {port} is a stable socket of `/BVODS/QS`")), "{error}");
    });
}

fn a_unix_socket_wakes_and_relays() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let path = host.dir.path().join("s.sock");
        // Left by a process that is gone.
        drop(UnixListener::bind(&path).unwrap());
        let socket = format!("unix:{}", path.display());
        assert_eq!(agent.listen(listen(Handover::Relay, [&socket])).await, [(socket.clone(), None)]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(host::PATIENCE)).unwrap();
        assert_eq!(agent.until_knock().await.0, socket);
        agent.start_service(1, echo()).await;
        let report = agent.until_ready(1).await;
        agent.backends(&[&report]).await;
        std::io::Write::write_all(&mut client, b"by path").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = String::new();
        client.read_to_string(&mut back).unwrap();
        assert_eq!(back, "by path");
        agent.order(Order::Listens { term: 1, all: vec![] }).await;
        eventually("the file is removed", || !path.exists()).await;
    });
}

fn what_is_in_the_way_of_a_unix_socket() {
    run(async {
        let host = Host::new();
        let mut agent = host.agent().await;
        let at = |name: &str| host.dir.path().join(name);
        let socket = |name: &str| format!("unix:{}", at(name).display());
        let foreign = UnixListener::bind(at("foreign")).unwrap();
        std::fs::write(at("file"), "precious").unwrap();
        let (a, b, c) = (socket("foreign"), socket("file"), socket("nowhere/s"));
        let told = agent.listen(listen(Handover::Relay, [&a, &b, &c])).await;
        let why = |n: usize| told[n].1.clone().unwrap();
        assert!(why(0).ends_with("is in use by another program"), "{}", why(0));
        assert!(why(1).contains("no socket"), "{}", why(1));
        assert!(why(2).contains("folder does not exist"), "{}", why(2));
        assert_eq!(std::fs::read_to_string(at("file")).unwrap(), "precious");
        // Nobody was disturbed to find out.
        foreign.set_nonblocking(true).unwrap();
        assert!(foreign.accept().is_err());
        assert!(std::fs::metadata(at("foreign")).unwrap().file_type().is_socket());
        drop(foreign);
        while agent.until_listening(7).await[0].1.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}
