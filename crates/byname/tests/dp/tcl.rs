//! Clients and services in Tcl, with the real tclsh8.6 (Debian's package tcl) and the package in `clients/tcl`.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use byname_testkit::{Options, Server, eventually};

use crate::raw::{Peer, server};
use crate::wire::grant;

/// The folder of the package.
const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../clients/tcl");

/// A script in this folder that has the package and knows these name servers.
fn script(folder: &Path, servers: &str, text: &str) -> Command {
    let text = format!("lappend auto_path {{{PACKAGE}}}\npackage require byname\n{text}");
    let file = tempfile::Builder::new().suffix(".tcl").tempfile_in(folder).unwrap().into_temp_path().keep().unwrap();
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("tclsh8.6");
    command.arg(file).env("BYNAME_DP", servers).env_remove("BYNAME_TOKEN").stdin(Stdio::null());
    command
}

#[track_caller]
fn text_of(output: Output) -> String {
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{talk}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs it, and gives what it wrote.
#[track_caller]
fn run(server: &Server, text: &str) -> String {
    text_of(script(server.scratch(), &server.dp(), text).output().expect("tclsh8.6: apt-get install tcl"))
}

/// A program in Tcl that has the package.
fn program(server: &Server, text: &str) -> String {
    let script = script(server.scratch(), "", text);
    script.get_args().next().unwrap().to_str().unwrap().to_owned()
}

/// The service of the package's example, registered as the original did it. Whoever shows nothing may start it.
fn register_hello(server: &Server, name: &str) {
    grant(server, "anyone", "launch", "/");
    run(
        server,
        &format!(
            "byname::identify {}
             ns_Register addService {name} localhost [list tclsh8.6 [file normalize {PACKAGE}/examples/hello.tcl]]",
            server.token()
        ),
    );
}

/// The paper's first code segment, with a loop in the place of its last comment.
const PICK_AND_LAUNCH: &str = r#"
set srvc [lindex [ns_ListServices *] 0]
# get a list of all the services and pick the first one
set hp [ns_FindServices $srvc]
# get the host port
if [catch "dp_MakeRPCClient $hp"] {
    # if the service has crashed
    ns_LaunchServices $srvc
    # ask the name server to launch it again
    # wait for the service to come up
    while {[lindex [ns_ServiceState $srvc] 0 1] ne "running"} { after 10 }
}
"#;

/// The paper's third code segment.
const AUTHENTICATE: &str = r#"
set ticketPair [ns_AuthenticateService /cms/bugs-bunny]
set myTicket [lindex $ticketPair 0]
# get client's ticket
set srvcTicket [lindex $ticketPair 1]
# get service's ticket
if {$srvcTicket!= [dp_RPC $srvc_fd ns_Authenticate $myTicket]} {
    error "Service authentication failed!"
}
"#;

#[test]
fn the_paper_s_client_launches_a_service_in_tcl_and_both_prove_themselves() {
    let server = server();
    register_hello(&server, "/cms/bugs-bunny");
    let told = run(
        &server,
        &format!(
            r#"{PICK_AND_LAUNCH}
            puts $srvc
            set hp [ns_FindServices $srvc]
            set srvc_fd [eval dp_MakeRPCClient $hp]
            puts [catch {{dp_RPC $srvc_fd hello Rob}} why]
            puts $why
            {AUTHENTICATE}
            puts [regsub {{[0-9]+}} [dp_RPC $srvc_fd hello Rob] PID]
            # The ticket was good once.
            puts <[dp_RPC $srvc_fd ns_Authenticate $myTicket]>
            # Only the name server introduces clients.
            puts [catch {{dp_RPC $srvc_fd ns_RecordTicket {{a b}}}} why]
            puts $why
            # Nobody calls what the service does not let others call.
            puts [catch {{dp_RPC $srvc_fd exec id}} why]
            puts $why
            puts [catch {{dp_RPC $srvc_fd "hello; exec id"}} why]
            # And a second time, over the same pair between service and name server.
            {AUTHENTICATE}
            puts done
            dp_CloseRPC $srvc_fd"#
        ),
    );
    let expect = "/cms/bugs-bunny\n1\nwho are you?\nHello, Rob, from PID\n<>\n1\nonly the name server introduces clients\n1\n\
                  invalid command name \"exec\"\n1\ndone\n";
    assert_eq!(told, expect);
    // The name server vouches for nobody else, and the client sees which.
    assert_eq!(run(&server, "puts <[ns_AuthenticateService /nobody]>"), "<>\n");
}

#[test]
fn the_ticket_on_standard_input_is_good_as_long_as_the_program_lives() {
    let server = server();
    grant(&server, "anyone", "launch", "/");
    // A program that advertises itself, again, elsewhere, and at last not any more; each step when a file appears.
    let folder = server.scratch().display().to_string();
    let service = format!(
        r#"
        proc await {{name}} {{ while {{![file exists {folder}/$name]}} {{ after 10 }} }}
        proc done {{name text}} {{ set f [open {folder}/$name.new w]; puts $f $text; close $f; file rename {folder}/$name.new {folder}/$name }}
        lassign [byname::launched] name ticket
        done ticket $ticket
        done told [list $name [string length $ticket] $argv [eof stdin] [info exists env(BYNAME_TICKET_FD)]]
        ns_AdvertiseService $name 127.0.0.1 1001 $ticket
        await again
        ns_AdvertiseService $name 127.0.0.1 1002 [pid] $ticket
        await wrong
        done refused [list [catch {{ns_AdvertiseService $name 127.0.0.1 1003 [pid] [string reverse $ticket]}} why] $why]
        await gone
        ns_UnadvertiseService $name $ticket
        after 60000"#
    );
    let file = program(&server, &service);
    let mut add = vec!["add", "/one/service", "--convention", "dp", "--", "tclsh8.6", &file, "more"];
    assert_eq!(server.byname(&add).status, 0);
    add[1] = "/another/service";
    assert_eq!(server.byname(&add).status, 0);
    let read = |name: &str| {
        eventually(name, || std::fs::read_to_string(server.scratch().join(name)).ok()).trim_end().to_owned()
    };
    let touch = |name: &str| std::fs::write(server.scratch().join(name), "").unwrap();
    let mut peer = Peer::connect(&server);
    peer.ask("ns_LaunchServices /one/*");
    assert_eq!(read("told"), "/one/service 64 {more -service /one/service} 0 0");
    let at = |port: u16| format!("{{/one/service {{127.0.0.1 {port}}} 0}}");
    let mut await_port = |port: u16| {
        eventually("the advertisement", || (peer.ask("ns_FindServices /one/service") == at(port)).then_some(()));
    };
    await_port(1001);
    touch("again");
    await_port(1002);
    touch("wrong");
    assert_eq!(read("refused"), "1 {Invalid ticket for /one/service}");
    await_port(1002);
    // It is in no file of the server, and in no environment.
    let ticket = read("ticket");
    let bytes = hex(&ticket);
    assert_eq!(bytes.len(), 32);
    let mut files = 0;
    each_file(server.data(), &mut |content| {
        files += 1;
        assert!(!holds(content, ticket.as_bytes()) && !holds(content, &bytes));
    });
    assert!(files > 5, "{files}");
    let pid =
        server.byname(&["status", "-o", "json", "/one/service"]).json()["services"][0]["instances"][0]["pid"].clone();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(!holds(&environment, ticket.as_bytes()) && !holds(&environment, b"TICKET"));
    touch("gone");
    eventually("the end", || (peer.ask("ns_FindServices /one/service") == "{/one/service {} 0}").then_some(()));
}

#[test]
fn what_does_not_hold_the_ticket_of_the_service_is_not_vouched_for() {
    let server = server();
    grant(&server, "anyone", "launch", "/");
    // What answers where the service said that it listens has another ticket, and nobody answers where the other said so.
    let impostor = r#"
        lassign [byname::launched] name ticket
        proc ns_Authenticate {ticket} { return [string repeat 0 64] }
        ns_AdvertiseService $name 127.0.0.1 [dp_MakeRPCServer] [pid] $ticket
        vwait forever"#;
    let silent = r#"
        lassign [byname::launched] name ticket
        set socket [socket -server list 0]
        set port [lindex [fconfigure $socket -sockname] 2]
        close $socket
        ns_AdvertiseService $name 127.0.0.1 $port [pid] $ticket
        vwait forever"#;
    // One that was started in another way has shown no ticket of this kind.
    let plain = ["add", "/plain", "--kind", "service", "--", "python3", "-m", "http.server", "${PORT}"];
    assert_eq!(server.byname(&plain).status, 0);
    assert_eq!(server.byname(&["find", "/plain"]).status, 0);
    for (name, text) in [("/impostor", impostor), ("/silent", silent)] {
        let file = program(&server, text);
        assert_eq!(server.byname(&["add", name, "--convention", "dp", "--", "tclsh8.6", &file]).status, 0);
        assert_eq!(server.byname(&["find", name]).status, 0);
    }
    let authenticate =
        |name: &str| run(&server, &format!("puts [catch {{ns_AuthenticateService {name}}} why]; puts $why"));
    assert_eq!(authenticate("/impostor"), "1\n/impostor is being tampered with\n");
    assert_eq!(authenticate("/silent"), "1\n/silent is not running\n");
    assert!(authenticate("/plain").starts_with("1\n`/plain` cannot be vouched for"));
    assert_eq!(authenticate("/nobody"), "0\n\n");
    let audit = server.byname(&["audit"]).out;
    assert!(audit.contains("authenticate"), "{audit}");
}

#[test]
fn a_client_goes_on_at_another_server() {
    let (mut first, second) = (server(), server());
    for (server, name) in [(&first, "/first"), (&second, "/second")] {
        assert_eq!(server.byname(&["add", name, "--kind", "service", "--", "true"]).status, 0);
    }
    let servers = format!("{},{}", first.dp(), second.dp());
    let text = r#"
        puts [ns_ListServices]; flush stdout
        gets stdin
        puts [ns_ListServices]
        puts [ns_AreYouAlive][ns_IsPrimary]"#;
    let mut client =
        script(first.scratch(), &servers, text).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(client.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "/first");
    first.kill();
    drop(client.stdin.take());
    assert_eq!(lines.next().unwrap().unwrap(), "/second");
    assert_eq!(lines.next().unwrap().unwrap(), "11");
    assert!(client.wait().unwrap().success());
}

#[test]
fn calls_go_both_ways_over_one_connection() {
    let text = r#"
        # A server and its client in one process: each waits for the other.
        proc ask_back {n} { expr {$n == 0 ? "end" : [dp_RPC $::rpcFile ask_back [expr {$n - 1}]]} }
        byname::export ask_back
        set file [dp_MakeRPCClient 127.0.0.1 [dp_MakeRPCServer]]
        puts [dp_RPC $file ask_back 5]
        puts [catch {dp_RPC $file -timeout 50 after 10000} why]
        dp_RDO $file -callback {set ::got} ask_back 0
        vwait ::got
        puts $::got
        # Odd words arrive as they are.
        proc same {args} { return $args }
        byname::export same
        set odd [list {} { } "a\nb" \{ \} \\ \" {$x} {[exit]} \u00e9\u4e16 {#}]
        puts [expr {[dp_RPC $file same {*}$odd] eq $odd}]
        puts [catch {dp_RPC $file same [string repeat x 1000000]} why]
        puts $why
        puts [string length [dp_RPC $file same [string repeat x 999000]]]
        dp_CloseRPC $file
        puts [catch {dp_RPC $file same} why]"#;
    let folder = tempfile::tempdir().unwrap();
    let told = text_of(script(folder.path(), "127.0.0.1:1", text).output().unwrap());
    assert_eq!(told, "end\n1\nend\n1\n1\nthe message is longer than a frame\n999000\n1\n");
}

#[test]
fn a_service_that_crashed_is_found_dead_and_launched_again() {
    let server = server();
    register_hello(&server, "/cms/bugs-bunny");
    let told = run(
        &server,
        &format!(
            r#"{PICK_AND_LAUNCH}
            set before [ns_FindServices $srvc]
            exec kill -9 {{*}}[regexp -inline {{[0-9]+}} [lindex [split [exec pgrep -f "hello.tcl -service $srvc"] \n] 0]]
            while {{![catch "dp_MakeRPCClient $before"]}} {{ after 10 }}
            ns_ServiceState $srvc dead
            {PICK_AND_LAUNCH}
            puts [expr {{[ns_FindServices $srvc] ne $before}}]"#
        ),
    );
    assert_eq!(told, "1\n");
}

#[test]
fn a_service_in_tcl_evaluates_nothing_that_a_peer_sends() {
    let folder = tempfile::tempdir().unwrap();
    let text = "proc hello {args} { return [llength $args] }\nbyname::export hello\nputs [dp_MakeRPCServer]\nflush stdout\nvwait forever";
    let mut service = script(folder.path(), "", text).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(service.stdout.as_mut().unwrap()), &mut line).unwrap();
    let mut peer = Peer::to(&format!("127.0.0.1:{}", line.trim()));
    assert_eq!(peer.line(), "Connection accepted\n");
    let file = folder.path().join("evaluated");
    let evil = format!("exec touch {}", file.display());
    assert_eq!(peer.ask(&format!("hello [{evil}]")), "3");
    assert_eq!(peer.ask(&format!("hello\n{evil}")), "3");
    assert_eq!(peer.ask("hello {a b} $x"), "2");
    for message in [format!("hello; {evil}"), evil.clone(), format!("[{evil}]"), "{hello".into(), "eval hello".into()] {
        assert!(peer.try_ask(&message).is_err(), "{message}");
    }
    assert!(!file.exists());
    service.kill().unwrap();
    service.wait().unwrap();
}

#[test]
fn the_pair_outlives_the_name_server() {
    let mut server = server();
    register_hello(&server, "/cms/bugs-bunny");
    run(&server, PICK_AND_LAUNCH);
    let before = run(&server, "puts [ns_FindServices /cms/bugs-bunny]");
    server.kill();
    server.start_again();
    let told = run(
        &server,
        &format!(
            r#"puts [ns_FindServices /cms/bugs-bunny]
            set srvc_fd [eval dp_MakeRPCClient [ns_FindServices /cms/bugs-bunny]]
            {AUTHENTICATE}
            puts [string length [dp_RPC $srvc_fd hello Rob]]"#
        ),
    );
    let (found, length) = told.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(found, before.trim_end());
    assert!(length.parse::<u32>().unwrap() > "Hello, Rob, from ".len() as u32);
}

#[test]
fn a_service_advertises_itself_as_the_paper_prints_it() {
    let server = server();
    grant(&server, "anyone", "launch", "/");
    // `bugs-bunny` is no host here, so it is where the call came from.
    let service = r#"
        set ticket [lindex [byname::launched] 1]
        ns_AdvertiseService /cms/bugs-bunny bugs-bunny 1234 $ticket
        vwait forever"#;
    let file = program(&server, service);
    assert_eq!(server.byname(&["add", "/cms/bugs-bunny", "--convention", "dp", "--", "tclsh8.6", &file]).status, 0);
    assert_eq!(server.byname(&["find", "-o", "name", "/cms/bugs-bunny"]).lines(), ["127.0.0.1:1234"]);
    assert_eq!(run(&server, "puts [ns_FindServices *]"), "{/cms/bugs-bunny {127.0.0.1 1234} 0}\n");
}

/// One server of several.
fn one_of(joins: Option<&Server>) -> Server {
    let mut arguments: Vec<String> = vec!["--dp".into(), "127.0.0.1:0".into()];
    if let Some(first) = joins {
        let invited = first.byname(&["cluster", "invite", "--name-server"]);
        arguments.extend(["--join".into(), invited.lines()[0].trim().into()]);
    }
    let options = Options { role: "server", arguments, ..Options::default() };
    Server::start_with(env!("CARGO_BIN_EXE_byname"), options)
}

#[test]
fn every_server_of_a_cluster_takes_what_is_asked_and_a_dead_primary_is_followed() {
    let mut first = one_of(None);
    let (second, third) = (one_of(Some(&first)), one_of(Some(&first)));
    eventually("all vote", || {
        let info = first.byname(&["cluster", "status", "-o", "json"]).json();
        let members = info["members"].as_array().cloned().unwrap_or_default();
        (members.len() == 3 && members.iter().all(|member| member["voter"] == true)).then_some(())
    });
    grant(&first, "anyone", "find,list,read,add", "/");
    let text = r#"
        foreach n {1 2 3} {
            byname::servers {*}[lrange $::argv $n-1 $n-1]
            ns_Register addService /service$n localhost {sleep 1}
            puts [list [ns_GetServerID] [ns_IsPrimary] [ns_WhoIsPrimary] [ns_ListServices /service$n]]
        }
        byname::servers {*}$argv
        puts [ns_GetServerID]; flush stdout
        gets stdin
        puts [lsort [ns_ListServices /service*]]
        # Whoever answers knows sooner or later who follows.
        while {[catch ns_WhoIsPrimary primary] || $primary == 1} { after 20 }
        ns_Register addService /after localhost {sleep 1}
        puts [expr {$primary in {2 3}}]"#;
    let servers = [first.dp(), second.dp(), third.dp()];
    let mut client = script(first.scratch(), "", text);
    let mut client = client.args(&servers).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(client.stdout.take().unwrap()));
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!([next(), next(), next()], ["1 1 1 /service1", "2 0 1 /service2", "3 0 1 /service3"]);
    assert_eq!(next(), "1");
    first.kill();
    drop(client.stdin.take());
    assert_eq!([next(), next()], ["/service1 /service2 /service3", "1"]);
    assert!(client.wait().unwrap().success());
}

/// An address of this host that others would use, if it has one.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the kernel picks the way.
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|at| at.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[test]
fn a_peer_elsewhere_is_let_in_only_where_somebody_says_so() {
    let start = |more: &[&str]| {
        let mut arguments: Vec<String> = vec!["--dp".into(), "0.0.0.0:0".into()];
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        let options = Options { role: "server", arguments, ..Options::default() };
        Server::start_with(env!("CARGO_BIN_EXE_byname"), options)
    };
    let (closed, open) = (start(&[]), start(&["--dp-anyone"]));
    let port = |server: &Server| server.dp().rsplit(':').next().unwrap().to_owned();
    if let Some(outer) = outer_address() {
        let mut turned_away = Peer::to(&format!("{outer}:{}", port(&closed)));
        assert!(
            turned_away.line().starts_with("Connection refused: this protocol is spoken with callers on the same host")
        );
        turned_away.expect_end();
        let mut let_in = Peer::to(&format!("{outer}:{}", port(&open)));
        assert_eq!(let_in.line(), "Connection accepted\n");
        // What it shows could be read on the way.
        let error = let_in.try_ask(&format!("ns_Identify {}", open.token())).unwrap_err();
        assert!(error.contains("a token is taken from callers on the same host only"), "{error}");
    }
    // A server, unlike `dev`, lets nobody look who has not said who it is.
    let mut peer = Peer::to(&format!("127.0.0.1:{}", port(&closed)));
    assert_eq!(peer.line(), "Connection accepted\n");
    assert_eq!(peer.ask("ns_AreYouAlive"), "1");
    assert!(peer.try_ask("ns_ListServices *").is_err());
    assert!(peer.try_ask("ns_WhoIsPrimary").is_err());
    grant(&closed, "anyone", "find,list,read", "/");
    assert_eq!(peer.ask("ns_WhoIsPrimary"), "1");
    // What servers keep of themselves is not meant by `*`.
    assert_eq!(peer.ask("ns_ListServices *"), "");
    assert_eq!(peer.ask("ns_ListServices /byname/*"), "/byname/servers/1");
}

fn hex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn holds(content: &[u8], what: &[u8]) -> bool {
    content.windows(what.len()).any(|window| window == what)
}

fn each_file(folder: &Path, look: &mut impl FnMut(&[u8])) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            each_file(&entry.path(), look);
        } else if kind.is_file() {
            look(&std::fs::read(entry.path()).unwrap_or_default());
        }
    }
}
