//! The HTTP interface as clients see it: every route, conditions, encodings, and every way to be refused.

use crate::support::{Answer, JSON, Server, conforms};
use serde_json::json;

const RECORD: &str = r#"{"kind":"record","value":"1"}"#;
const PATCH: (&str, &str) = ("Content-Type", "application/merge-patch+json");

fn expect(code: &str, status: u16, field: &str) -> (u16, String, String) {
    (status, code.into(), field.into())
}

#[tokio::test]
async fn an_object_is_made_read_changed_and_removed() {
    let server = Server::start().await;
    let made = server.put("/v1/names/x/r", RECORD).await;
    assert_eq!((made.status, made.header("location"), made.header("etag")), (201, "/v1/names/x/r", "\"v1\""));
    assert_eq!(made.json(), json!({"name": "/x/r", "outcome": "created", "version": "v1"}));

    let read = server.get("/v1/names/x/r").await;
    assert_eq!((read.status, read.header("etag")), (200, "\"v1\""));
    assert_eq!((read.header("cache-control"), read.header("x-content-type-options")), ("no-store", "nosniff"));
    assert_eq!(
        read.json(),
        json!({
            "name": "/x/r", "id": "o5", "version": "v1", "kind": "record", "value": "1",
            "created": {"at": "2023-11-14T22:13:20.000Z", "by": "token"},
            "modified": {"at": "2023-11-14T22:13:20.000Z", "by": "token"},
            "revision": 7, "age_ms": 0,
        })
    );

    let again = server.put("/v1/names/x/r", RECORD).await;
    assert_eq!((again.status, again.header("location"), again.header("etag")), (200, "", "\"v2\""));
    let patched = server.send("PATCH", "/v1/names/x/r", &[PATCH], r#"{"value":"2"}"#).await;
    assert_eq!((patched.status, patched.header("etag")), (200, "\"v3\""));
    let gone = server.send("DELETE", "/v1/names/x/r?recursive=true&stop=true", &[], "").await;
    assert_eq!(gone.json()["outcome"], "deleted");
    assert!(server.fake.last_call().contains("recursive: true, stop: true, if_version: None"));
    assert_eq!(server.get("/v1/names/x/r").await.problem(), expect("not-found", 404, ""));
}

#[tokio::test]
async fn the_root_is_read_and_changed_only() {
    let server = Server::start().await;
    assert_eq!(server.get("/v1/names/").await.json()["name"], "/");
    let refused = server.put("/v1/names/", "{}").await;
    assert_eq!(refused.problem(), expect("unsupported", 405, ""));
    assert_eq!(refused.header("allow"), "GET, PATCH, HEAD");
}

#[tokio::test]
async fn writes_can_depend_on_the_version() {
    let server = Server::start().await;
    server.put("/v1/names/r", RECORD).await;
    for (text, status) in [("\"v1\"", 200), ("v2", 200), ("\"v9\"", 409), ("*", 200)] {
        let put = server.send("PUT", "/v1/names/r", &[JSON, ("If-Match", text)], RECORD).await;
        assert_eq!(put.status, status, "{text}: {put:?}");
    }
    let absent = server.send("PUT", "/v1/names/none", &[JSON, ("If-Match", "*")], RECORD).await;
    assert_eq!(absent.problem(), expect("not-found", 404, ""));
    let taken = server.send("PUT", "/v1/names/r", &[JSON, ("If-None-Match", "*")], RECORD).await;
    assert_eq!(taken.problem(), expect("already-exists", 409, ""));
    let new = server.send("PUT", "/v1/names/s", &[JSON, ("If-None-Match", "*")], RECORD).await;
    assert_eq!(new.status, 201);
    for method in ["PATCH", "DELETE"] {
        let stale = server.send(method, "/v1/names/r", &[JSON, ("If-Match", "\"v1\"")], "{}").await;
        assert_eq!(stale.problem(), expect("conflict", 409, ""), "{method}");
        let odd = server.send(method, "/v1/names/r", &[JSON, ("If-None-Match", "*")], "{}").await;
        assert_eq!(odd.problem(), expect("invalid-argument", 400, "If-None-Match"), "{method}");
    }
    let both = [JSON, ("If-Match", "*"), ("If-None-Match", "*")];
    let never = server.send("PUT", "/v1/names/r", &both, RECORD).await;
    assert_eq!(never.problem(), expect("conflict", 409, "If-None-Match"));
    let odd = server.send("PUT", "/v1/names/r", &[JSON, ("If-Match", "W/\"v1\"")], RECORD).await;
    assert_eq!(odd.problem(), expect("invalid-argument", 400, "If-Match"));
}

#[tokio::test]
async fn null_in_a_patch_clears_and_inner_objects_are_merged() {
    let server = Server::start().await;
    let service = r#"{"kind":"service","ttl":"5s","attributes":{"a":1,"b":[2,3]},
        "launch":{"program":"p","ready":"notify","limits":{"memory":"2M","files":64}}}"#;
    assert_eq!(server.put("/v1/names/s", service).await.status, 201);
    let patch = r#"{"ttl":null,"attributes":{"a":null},"launch":{"ready":null,"limits":{"files":null,"cpu":0.5}}}"#;
    let done = server.send("PATCH", "/v1/names/s", &[PATCH], patch).await;
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(
        serde_json::to_value(server.fake.spec("/s")).unwrap(),
        json!({"kind": "service", "attributes": {"b": [2, 3]},
               "launch": {"program": "p", "limits": {"cpu": 0.5, "memory": "2M"}}})
    );
    for (patch, field) in [
        (r#"{"kind":null}"#, "clear"),
        (r#"{"launch":{"copies":7}}"#, "launch.copies"),
        (r#"{"launch":{"nonsense":7}}"#, "launch.nonsense"),
        ("[]", ""),
        ("null", ""),
    ] {
        let refused = server.send("PATCH", "/v1/names/s", &[PATCH], patch).await;
        assert_eq!(refused.problem(), expect("invalid-argument", 400, field), "{patch}");
    }
}

#[tokio::test]
async fn names_are_decoded_exactly_once() {
    let server = Server::start().await;
    for (path, name, location) in [
        ("a%3Ab", "/a:b", "a%3Ab"),
        ("caf%C3%A9", "/café", "caf%C3%A9"),
        ("100%2525", "/100%25", "100%2525"),
        ("a%20b/c", "/a b/c", "a%20b/c"),
        ("%42VODS", "/BVODS", "BVODS"),
    ] {
        let made = server.put(&format!("/v1/names/{path}"), RECORD).await;
        assert_eq!((made.status, made.header("location")), (201, format!("/v1/names/{location}").as_str()));
        assert_eq!(made.json()["name"], name);
        assert_eq!(server.get(made.header("location")).await.json()["name"], name);
    }
    for path in ["a%2Fb", "a%zz", "a%4", "%FF", "a//b", "a/", "a:b", "%2E%2E/x", "a*", "a%00", "a%0Ab", "%20a"] {
        let refused = server.get(&format!("/v1/names/{path}")).await;
        assert_eq!(refused.problem(), expect("invalid-name", 400, "name"), "{path}");
    }
    let found = server.send("POST", "/v1/services/a%3Alaunch:stop", &[], "").await;
    assert_eq!(found.json()["name"], "/a:launch");
}

#[tokio::test]
async fn find_takes_its_parameters() {
    let server = Server::start().await;
    server.put("/v1/names/BVODS/QS", r#"{"kind":"service","launch":{"program":"qs"}}"#).await;
    let found = server.get("/v1/find/BVODS/QS").await;
    assert_eq!(
        found.json(),
        json!({
            "name": "/BVODS/QS", "kind": "service", "version": "v1", "revision": 7, "age_ms": 0,
            "instances": [{
                "id": "i11", "computer": "/computers/bugs", "state": "running", "pid": 4711,
                "endpoints": [{"protocol": "tcp", "address": "127.0.0.1", "port": 4242}],
                "started": "2023-11-14T22:13:20.000Z",
            }],
        })
    );
    assert!(
        server.fake.last_call().contains("start: true, all: false, timeout: None, consistent: false, failed: None")
    );
    server.get("/v1/find/BVODS/QS?start=false&all=true&consistent=true&timeout=1500ms&failed=i11").await;
    let call = server.fake.last_call();
    assert!(
        call.contains(
            "start: false, all: true, timeout: Some(Span(1500)), consistent: true, failed: Some(InstanceId(33))"
        ),
        "{call}"
    );
    for (query, field) in [
        ("start=yes", "start"),
        ("all", "all"),
        ("timeout=soon", "timeout"),
        ("failed=x", "failed"),
        ("nonsense=1", "nonsense"),
        ("all=true&all=true", "all"),
        ("timeout=%zz", "timeout"),
    ] {
        let refused = server.get(&format!("/v1/find/BVODS/QS?{query}")).await;
        assert_eq!(refused.problem(), expect("invalid-argument", 400, field), "{query}");
    }
}

#[tokio::test]
async fn lists_and_states_take_patterns() {
    let server = Server::start().await;
    server.put("/v1/names/a/x", RECORD).await;
    server.put("/v1/names/b/y", RECORD).await;
    let page = server.get("/v1/list?pattern=/a/**&limit=5&next=t&set=s&consistent=true").await;
    assert_eq!(
        page.json(),
        json!({"entries": [{"name": "/a/x", "kind": "record", "version": "v1"}], "revision": 7, "age_ms": 0})
    );
    let call = server.fake.last_call();
    assert!(call.contains(r#"limit: Some(5), next: Some("t"), set: Some("s"), consistent: true"#), "{call}");
    assert_eq!(server.get("/v1/list").await.json()["entries"].as_array().unwrap().len(), 2);
    let refused = server.get("/v1/list?pattern=/a/%5B").await;
    assert_eq!(refused.problem(), expect("invalid-name", 400, "pattern"));
    for limit in ["0", "10001", "-1", "x", "99999999999999999999"] {
        let refused = server.get(&format!("/v1/list?limit={limit}")).await;
        assert_eq!(refused.problem(), expect("invalid-argument", 400, "limit"));
    }
    let states = server.get("/v1/status?pattern=*").await.json();
    assert_eq!((&states["services"][0]["name"], &states["services"][0]["starts"]), (&json!("/BVODS/QS"), &json!(1)));
}

#[tokio::test]
async fn services_are_started_and_stopped() {
    let server = Server::start().await;
    let acted = server.send("POST", "/v1/services/BVODS/QS:launch", &[JSON], r#"{"timeout":"2s"}"#).await;
    assert_eq!(
        (acted.status, &acted.json()["name"], &acted.json()["state"]),
        (200, &json!("/BVODS/QS"), &json!("running"))
    );
    assert!(server.fake.last_call().contains("verb: Launch"), "{}", server.fake.last_call());
    let failed = server.send("POST", "/v1/services/fails:restart", &[], "").await;
    assert_eq!(failed.problem(), expect("start-failed", 502, ""));
    server.send("POST", "/v1/services/a:stop", &[JSON], r#"{"hold":true,"now":true}"#).await;
    assert!(server.fake.last_call().contains("hold: true, now: true"));
    let many = server.send("POST", "/v1/services:reset", &[JSON], r#"{"patterns":["/fails","/b"]}"#).await;
    assert_eq!(many.status, 200);
    assert_eq!(many.json()["services"][0]["error"]["code"], "start-failed");
    for (path, body, field) in [
        ("/v1/services/a:launch", r#"{"hold":true}"#, "hold"),
        ("/v1/services/a:launch", r#"{"patterns":["/b"]}"#, "patterns"),
        ("/v1/services/a:launch", r#"{"timeout":"x"}"#, "timeout"),
        ("/v1/services:launch", r#"{"patterns":[]}"#, "patterns"),
        ("/v1/services:launch", "{}", "patterns"),
    ] {
        let refused = server.send("POST", path, &[JSON], body).await;
        assert_eq!(refused.problem(), expect("invalid-argument", 400, field), "{path} {body}");
    }
    let why = server.get("/v1/services/BVODS/QS:why").await.json();
    assert_eq!(why["story"][0]["what"], "started because somebody asked for it");
    assert_eq!(why["state"], "running");
}

#[tokio::test]
async fn services_advertise_and_withdraw() {
    let server = Server::start().await;
    let body = r#"{"endpoints":[{"port":4242}],"ttl":"5s","weight":3,"pid":7,"instance":"i11","ticket":"aa","credential":"bb"}"#;
    let done = server.send("POST", "/v1/services/x:advertise", &[JSON], body).await;
    assert_eq!(done.json(), json!({"instance": "i11", "credential": "ab", "ttl_ms": 30000}));
    let call = server.fake.last_call();
    assert!(
        call.contains(r#"endpoints: [Endpoint { protocol: "tcp", address: "", port: 4242 }], ticket: Some("aa")"#),
        "{call}"
    );
    let wrong = server.send("POST", "/v1/services/x:advertise", &[JSON], r#"{"endpoints":[{"port":70000}]}"#).await;
    assert_eq!(wrong.problem(), expect("invalid-argument", 400, "endpoints[0].port"));
    let done = server.send("POST", "/v1/services/x:withdraw", &[], "").await;
    assert_eq!(done.json(), json!({"withdrawn": ["i11"]}));
}

#[tokio::test]
async fn a_batch_changes_many() {
    let server = Server::start().await;
    let body = r#"{"ops":[{"op":"add","name":"/a","spec":{"kind":"record","value":1}},{"op":"delete","name":"/a"}]}"#;
    let done = server.send("POST", "/v1/batch", &[JSON], body).await;
    assert_eq!(done.json()["results"][1]["outcome"], "deleted");
    for (body, field) in [
        ("{}", ""),
        (r#"{"ops":[{"op":"explode","name":"/a"}]}"#, "ops[0]"),
        (r#"{"ops":[],"colour":1}"#, "colour"),
        (r#"{"ops":3}"#, "ops"),
    ] {
        let refused = server.send("POST", "/v1/batch", &[JSON], body).await;
        let problem = refused.problem();
        assert_eq!((problem.0, problem.1.as_str()), (400, "invalid-argument"), "{body}");
        assert!(problem.2.starts_with(field), "{body}: {problem:?}");
    }
}

#[tokio::test]
async fn a_key_makes_a_retry_recognisable() {
    let server = Server::start().await;
    let id = "0123456789abcdef0123456789abcdef.7";
    server.send("PUT", "/v1/names/r", &[JSON, ("Idempotency-Key", id)], RECORD).await;
    assert!(server.fake.last_call().starts_with(&format!("token {id} ")), "{}", server.fake.last_call());
    server.send("PUT", "/v1/names/r", &[JSON, ("Idempotency-Key", "order-17")], RECORD).await;
    let first = server.fake.last_call();
    // printf %s order-17 | sha256sum begins so, with the nibble that says "a hash" at its place.
    assert!(first.starts_with("token 72a90ea3da8b8dd01bde2f27314e02e2.1 "), "{first}");
    server.send("PUT", "/v1/names/r", &[JSON, ("Idempotency-Key", "order-17")], RECORD).await;
    assert_eq!(server.fake.last_call(), first);
    let refused = server.send("PUT", "/v1/names/r", &[JSON, ("Idempotency-Key", "a b")], RECORD).await;
    assert_eq!(refused.problem(), expect("invalid-argument", 400, "Idempotency-Key"));
}

#[tokio::test]
async fn problems_have_one_form() {
    let server = Server::start().await;
    let body = |answer: Answer| answer.json();
    assert_eq!(
        body(server.get("/v1/names/none").await),
        json!({"type": "/v1/errors/not-found", "title": "No such name", "status": 404,
               "detail": "there is no `/none`", "code": "not-found"})
    );
    assert_eq!(
        body(server.put("/v1/names/r", "{\"kind\":\"record\",\n \"value\":[]}").await),
        json!({"type": "/v1/errors/invalid-argument", "title": "A field is wrong", "status": 400,
               "detail": "the body is not what is wanted here: data did not match any variant of untagged enum Value at line 2 column 12",
               "code": "invalid-argument", "field": "value"})
    );
    assert_eq!(
        body(server.put("/v1/names/r", "{\"kind\":\n nonsense}").await),
        json!({"type": "/v1/errors/invalid-argument", "title": "A field is wrong", "status": 400,
               "detail": "the body is not JSON: expected ident at line 2 column 3",
               "code": "invalid-argument", "field": "kind"})
    );
    assert_eq!(
        body(server.get("/v1/nowhere").await),
        json!({"type": "/v1/errors/not-found", "title": "No such name", "status": 404,
               "detail": "there is no `/v1/nowhere` in this interface: GET /v1/openapi.json lists what there is",
               "code": "not-found"})
    );
    let page = server.get("/v1/errors/not-found").await;
    assert_eq!(page.json(), json!({"code": "not-found", "title": "No such name", "status": 404}));
}

#[tokio::test]
async fn a_defect_tells_the_client_nothing() {
    let server = Server::start().await;
    for name in ["broken", "panic"] {
        let failed = server.get(&format!("/v1/find/{name}")).await;
        assert_eq!(failed.problem(), expect("internal", 500, ""));
        assert!(!failed.body.contains("secret") && !failed.body.contains("panic"), "{failed:?}");
    }
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test]
async fn wrong_paths_methods_and_types_are_problems() {
    let server = Server::start().await;
    for path in
        ["/", "/v1", "/v1/", "/v2/names/x", "/v1/services/x", "/v1/services/x:explode", "/v1/list/", "/favicon.ico"]
    {
        assert_eq!(server.get(path).await.problem(), expect("not-found", 404, ""), "{path}");
    }
    for (method, path, allow) in [
        ("POST", "/v1/names/x", "GET, PUT, PATCH, DELETE, HEAD"),
        ("DELETE", "/v1/list", "GET, HEAD"),
        ("GET", "/v1/batch", "POST"),
        ("GET", "/v1/services/x:launch", "POST"),
        ("OPTIONS", "/v1/names/x", "GET, PUT, PATCH, DELETE, HEAD"),
        ("TRACE", "/livez", "GET, HEAD"),
        ("BREW", "/livez", "GET, HEAD"),
    ] {
        let refused = server.send(method, path, &[], "").await;
        assert_eq!(refused.problem(), expect("unsupported", 405, ""), "{method} {path}");
        assert_eq!(refused.header("allow"), allow);
    }
    for types in [&[][..], &[("Content-Type", "application/x-www-form-urlencoded")], &[("Content-Type", "text/json")]] {
        let refused = server.send("PUT", "/v1/names/x", types, RECORD).await;
        assert_eq!(refused.problem(), expect("invalid-argument", 415, "Content-Type"));
        let refused = server.send("POST", "/v1/services/x:stop", types, "{}").await;
        assert_eq!(refused.problem(), expect("invalid-argument", 415, "Content-Type"));
    }
    let charset = ("Content-Type", "Application/JSON; charset=utf-8");
    assert_eq!(server.send("PUT", "/v1/names/x", &[charset], RECORD).await.status, 201);
    for body in ["", " ", "{", "{}{}", "\u{feff}{}", "7", "{\"kind\":\"zebra\"}"] {
        let refused = server.put("/v1/names/x", body).await;
        assert_eq!(refused.problem().1, "invalid-argument", "{body}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(server.put("/v1/names/x", &deep).await.problem().1, "invalid-argument");
}

#[tokio::test]
async fn a_value_of_a_mebibyte_fits_and_a_body_of_more_than_four_does_not() {
    let server = Server::start().await;
    let value = |bytes: usize| format!("{{\"kind\":\"record\",\"value\":\"{}\"}}", "x".repeat(bytes));
    assert_eq!(server.put("/v1/names/r", &value(1 << 20)).await.status, 201);
    assert_eq!(server.put("/v1/names/r", &value((1 << 20) + 1)).await.problem(), expect("too-large", 413, "value"));
    assert_eq!(server.put("/v1/names/r", &value(5 << 20)).await.problem(), expect("too-large", 413, ""));
    let escaped = format!("{{\"kind\":\"record\",\"value\":\"{}\"}}", "\\n".repeat(1 << 20));
    assert_eq!(server.put("/v1/names/r", &escaped).await.status, 200);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = Server::start().await;
    server.put("/v1/names/r", RECORD).await;
    for path in ["/v1/names/r", "/v1/names/none", "/livez", "/v1/openapi.json"] {
        let get = server.get(path).await;
        let head = server.send("HEAD", path, &[], "").await;
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{path}");
        for header in ["content-type", "content-length", "etag", "cache-control"] {
            assert_eq!(head.header(header), get.header(header), "{path} {header}");
        }
    }
}

#[tokio::test]
async fn the_server_tells_about_itself() {
    let server = Server::start().await;
    assert_eq!(server.get("/v1/cluster").await.json()["primary"], true);
    assert_eq!(server.get("/v1/version").await.json(), json!({"version": env!("CARGO_PKG_VERSION"), "api": "v1"}));
    assert_eq!(server.get("/livez").await.body, "ok\n");
    assert_eq!(server.get("/readyz").await.body, "ok\n");
    *server.ready.lock().unwrap() = Err("the log is still being read".into());
    let unready = server.get("/readyz").await;
    assert_eq!(unready.problem(), expect("unavailable", 503, ""));
    assert_eq!(unready.json()["detail"], "the log is still being read");
    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.body, "byname_finds_total 1\n");
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert!(server.get("/v1/byname.proto").await.body.contains("package byname.v1;"));
    assert!(server.get("/v1/identity.proto").await.body.contains("service Identity {"));
}

#[tokio::test]
async fn the_document_lists_what_is_served() {
    let server = Server::start().await;
    let document = server.get("/v1/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.1");
    let paths = document["paths"].as_object().unwrap();
    let mut rows: Vec<String> = Vec::new();
    for (path, methods) in paths {
        let words: Vec<&str> = methods.as_object().unwrap().keys().map(String::as_str).collect();
        rows.push(format!("{} {path}", words.join(" ")));
        // What is documented is what a wrong method's answer allows.
        let target = path.replace("{path}", "x").replace("{code}", "not-found");
        let refused = server.send("OPTIONS", &target, &[], "").await;
        let mut allowed: Vec<String> = refused.header("allow").split(", ").map(str::to_ascii_lowercase).collect();
        let mut documented: Vec<String> = words.iter().map(ToString::to_string).collect();
        allowed.sort();
        documented.sort();
        assert_eq!(allowed, documented, "{path}");
    }
    rows.sort();
    assert_eq!(
        rows,
        [
            "delete get head patch put /v1/names/{path}",
            "delete put /v1/locks/{path}",
            "get head /assets/sign-in.css",
            "get head /assets/sign-in.js",
            "get head /enrol",
            "get head /livez",
            "get head /login",
            "get head /metrics",
            "get head /readyz",
            "get head /v1/access/",
            "get head /v1/access/{path}",
            "get head /v1/audit",
            "get head /v1/byname.proto",
            "get head /v1/cluster",
            "get head /v1/errors/{code}",
            "get head /v1/find/{path}",
            "get head /v1/identity.proto",
            "get head /v1/list",
            "get head /v1/openapi.json",
            "get head /v1/search",
            "get head /v1/services/{path}:logs",
            "get head /v1/services/{path}:why",
            "get head /v1/status",
            "get head /v1/trust",
            "get head /v1/version",
            "get head /v1/watch",
            "get head /v1/whoami",
            "get head patch /v1/names/",
            "post /v1/batch",
            "post /v1/certify",
            "post /v1/enrol",
            "post /v1/introduce",
            "post /v1/invite",
            "post /v1/join",
            "post /v1/login",
            "post /v1/logout",
            "post /v1/revoke",
            "post /v1/services/{path}:advertise",
            "post /v1/services/{path}:drain",
            "post /v1/services/{path}:launch",
            "post /v1/services/{path}:report",
            "post /v1/services/{path}:reset",
            "post /v1/services/{path}:restart",
            "post /v1/services/{path}:stop",
            "post /v1/services/{path}:withdraw",
            "post /v1/services:launch",
            "post /v1/services:reset",
            "post /v1/services:restart",
            "post /v1/services:stop",
            "post /v1/verify",
        ]
    );
}

#[tokio::test]
async fn answers_are_as_the_document_says() {
    let server = Server::start().await;
    let document = server.get("/v1/openapi.json").await.json();
    let service = r#"{"kind":"service","ttl":"5s","attributes":{"a":[1,true,"x"]},
        "launch":{"program":"p","ready":"notify","limits":{"memory":"2M"},"copies":{"min":0,"max":2}}}"#;
    for (method, target, template, body) in [
        ("PUT", "/v1/names/s", "/v1/names/{path}", service),
        ("GET", "/v1/names/s", "/v1/names/{path}", ""),
        ("PATCH", "/v1/names/s", "/v1/names/{path}", r#"{"ttl":null}"#),
        ("GET", "/v1/names/", "/v1/names/", ""),
        ("GET", "/v1/names/none", "/v1/names/{path}", ""),
        ("GET", "/v1/find/s", "/v1/find/{path}", ""),
        ("GET", "/v1/list", "/v1/list", ""),
        ("GET", "/v1/status", "/v1/status", ""),
        ("GET", "/v1/services/s:why", "/v1/services/{path}:why", ""),
        ("POST", "/v1/services/s:launch", "/v1/services/{path}:launch", ""),
        ("POST", "/v1/services/s:withdraw", "/v1/services/{path}:withdraw", ""),
        ("POST", "/v1/services/s:advertise", "/v1/services/{path}:advertise", "{}"),
        ("POST", "/v1/services:stop", "/v1/services:stop", r#"{"patterns":["/fails"]}"#),
        ("POST", "/v1/batch", "/v1/batch", r#"{"ops":[]}"#),
        ("GET", "/v1/cluster", "/v1/cluster", ""),
        ("GET", "/v1/version", "/v1/version", ""),
        ("GET", "/v1/errors/denied", "/v1/errors/{code}", ""),
        ("DELETE", "/v1/names/s", "/v1/names/{path}", ""),
    ] {
        let answer = server.send(method, target, &[JSON], body).await;
        conforms(&document, method, template, &answer);
    }
}

#[tokio::test]
async fn a_caller_s_way_in_decides_what_it_may() {
    let server = Server::start().await;
    server.put("/v1/names/r", RECORD).await;
    assert_eq!(server.send_as("GET", "/v1/names/r", &[], "").await.status, 200);
    assert!(server.fake.last_call().starts_with("anyone "));
    let refused = server.send_as("PUT", "/v1/names/r", &[JSON], RECORD).await;
    assert_eq!(refused.problem(), expect("denied", 403, ""));
    let wrong = server.send_as("GET", "/v1/names/r", &[("Authorization", "Bearer x")], "").await;
    assert_eq!(wrong.problem(), expect("unauthenticated", 401, "Authorization"));
    assert_eq!(wrong.header("www-authenticate"), "Bearer");
    assert_eq!(server.send("GET", "/v1/names/r", &[], "").await.status, 200);
    assert!(server.fake.last_call().starts_with("token "));

    assert_eq!(server.send_local("PUT", "/v1/names/r", &[JSON], RECORD).await.status, 200);
    // The socket's folder belongs to this process, and so does the other end.
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(server.folder()).unwrap());
    assert!(server.fake.last_call().starts_with(&format!("uid:{uid} ")), "{}", server.fake.last_call());
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused() {
    let server = Server::start().await;
    let own = format!("http://{}", server.tcp);
    for (headers, answer) in [
        (&[("Host", "evil.example")][..], Some(expect("denied", 403, "Host"))),
        (&[("Origin", "http://evil.example")], Some(expect("denied", 403, "Origin"))),
        (&[("Origin", "null")], Some(expect("denied", 403, "Origin"))),
        (&[("Origin", own.as_str())], None),
        (&[("Host", "localhost")], None),
    ] {
        for path in ["/v1/list", "/v1/nowhere", "/metrics"] {
            let got = server.send("GET", path, headers, "").await;
            match &answer {
                Some(problem) => assert_eq!(got.problem(), *problem, "{path} {headers:?}"),
                None => assert_ne!(got.status, 403, "{path} {headers:?}"),
            }
        }
    }
    let preflight = [("Origin", "http://evil.example"), ("Access-Control-Request-Method", "PUT")];
    let refused = server.send_as("OPTIONS", "/v1/names/x", &preflight, "").await;
    assert_eq!(refused.status, 403);
    assert!(!refused.headers.keys().any(|h| h.starts_with("access-control")));
    // Probes need no caller, but this host's name.
    assert_eq!(server.send_as("GET", "/livez", &[("Authorization", "Bearer x")], "").await.status, 200);
    assert_eq!(server.send_as("GET", "/readyz", &[("Host", "evil.example")], "").await.status, 403);
    assert_eq!(server.send_as("GET", "/metrics", &[("Authorization", "Bearer x")], "").await.status, 401);
}
