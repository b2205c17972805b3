//! Who is who over HTTP: every operation, what is refused, and the pages for browsers.

use crate::support::{JSON, Server, conforms};
use serde_json::{Value, json};

fn expect(code: &str, status: u16, field: &str) -> (u16, String, String) {
    (status, code.into(), field.into())
}

/// Every request of an identity operation: path, body, what the service is asked, and what is answered.
fn posts() -> Vec<(&'static str, Value, &'static str, Value)> {
    let session = json!({
        "step": "session", "token": "s3ss", "principal": "/people/liu", "expires": "2023-11-14T22:13:20.000Z",
    });
    let certificate = json!({
        "chain": "chain", "bundle": "bundle", "spiffe": "spiffe://byname.internal/a",
        "expires": "2023-11-14T22:13:20.000Z", "token": "jwt",
    });
    vec![
        (
            "/v1/login",
            json!({"step": "password-start", "principal": "/people/liu", "message": "AP8H"}),
            r#"PasswordStart { principal: Name("/people/liu"), message: (3 bytes) }"#,
            json!({"step": "challenge", "attempt": "attempt", "message": "AP8H"}),
        ),
        (
            "/v1/login",
            json!({"step": "password-finish", "attempt": "a", "message": "AP8"}),
            "PasswordFinish { attempt: (secret), message: (2 bytes) }",
            session.clone(),
        ),
        (
            "/v1/login",
            json!({"step": "passkey-start", "principal": "/people/liu"}),
            r#"PasskeyStart { principal: Name("/people/liu") }"#,
            json!({"step": "challenge", "attempt": "attempt", "message": "e30"}),
        ),
        (
            "/v1/login",
            json!({"step": "passkey-finish", "attempt": "a", "credential": "{}"}),
            r#"PasskeyFinish { attempt: (secret), credential: "{}", device: None }"#,
            session.clone(),
        ),
        (
            "/v1/login",
            json!({"step": "passkey-finish", "attempt": "a", "credential": "{}", "device": "d"}),
            r#"PasskeyFinish { attempt: (secret), credential: "{}", device: Some((secret)) }"#,
            json!({"step": "handed-over"}),
        ),
        (
            "/v1/login",
            json!({"step": "instance", "instance": "i11", "credential": "c"}),
            "Instance { instance: InstanceId(33), credential: (secret) }",
            session,
        ),
        (
            "/v1/login",
            json!({"step": "page-start"}),
            "PageStart { principal: None }",
            json!({"step": "page", "attempt": "attempt", "path": "/login#x", "code": "ABCD-EFGH", "every_ms": 500}),
        ),
        (
            "/v1/login",
            json!({"step": "page-poll", "attempt": "a"}),
            "PagePoll { attempt: (secret) }",
            json!({"step": "pending"}),
        ),
        (
            "/v1/logout",
            json!({"everywhere": true, "principal": "/people/liu"}),
            r#"LogoutRequest { everywhere: true, principal: Some(Name("/people/liu")) }"#,
            json!({}),
        ),
        (
            "/v1/enrol",
            json!({"step": "password-start", "principal": "/people/liu", "message": "AP8H"}),
            r#"PasswordStart { principal: Name("/people/liu"), message: (3 bytes) }"#,
            json!({"step": "challenge", "message": "AP8H"}),
        ),
        (
            "/v1/enrol",
            json!({"step": "password-finish", "principal": "/people/liu", "message": "AP8H"}),
            r#"PasswordFinish { principal: Name("/people/liu"), message: (3 bytes) }"#,
            json!({"step": "done"}),
        ),
        (
            "/v1/enrol",
            json!({"step": "password-remove", "principal": "/people/liu"}),
            r#"PasswordRemove { principal: Name("/people/liu") }"#,
            json!({"step": "done"}),
        ),
        (
            "/v1/enrol",
            json!({"step": "passkey-page", "principal": "/people/liu"}),
            r#"PasskeyPage { principal: Name("/people/liu") }"#,
            json!({"step": "page", "path": "/enrol#link=x", "expires": "2023-11-14T22:13:20.000Z"}),
        ),
        (
            "/v1/enrol",
            json!({"step": "passkey-start", "link": "l"}),
            "PasskeyStart { link: (secret) }",
            json!({"step": "done"}),
        ),
        (
            "/v1/enrol",
            json!({"step": "passkey-finish", "attempt": "a", "credential": "{}", "label": "key"}),
            r#"PasskeyFinish { attempt: (secret), credential: "{}", label: "key" }"#,
            json!({"step": "done"}),
        ),
        (
            "/v1/enrol",
            json!({"step": "passkey-remove", "principal": "/people/liu", "label": "key"}),
            r#"PasskeyRemove { principal: Name("/people/liu"), label: "key" }"#,
            json!({"step": "done"}),
        ),
        (
            "/v1/enrol",
            json!({"step": "list", "principal": "/people/liu"}),
            r#"List { principal: Name("/people/liu") }"#,
            json!({"step": "credentials", "password": true, "passkeys": ["key"]}),
        ),
        (
            "/v1/certify",
            json!({"request": "csr", "instance": "i11", "validity": "10m", "audience": ["db"]}),
            r#"CertifyRequest { request: "csr", instance: Some(InstanceId(33)), principal: None, validity: Some(Span(600000)), audience: ["db"] }"#,
            certificate.clone(),
        ),
        (
            "/v1/introduce",
            json!({"name": "/BVODS/QS"}),
            r#"IntroduceRequest { name: Name("/BVODS/QS"), instance: None }"#,
            json!({
                "name": "/BVODS/QS", "instance": "i11", "ticket": "t1", "proof": "t2",
                "endpoints": [{"protocol": "tcp", "address": "127.0.0.1", "port": 4242}],
                "expires": "2023-11-14T22:13:20.000Z",
            }),
        ),
        (
            "/v1/verify",
            json!({"ticket": "t1", "instance": "i11", "credential": "c"}),
            "VerifyRequest { ticket: (secret), instance: Some(InstanceId(33)), credential: Some((secret)) }",
            json!({"client": "/people/liu", "client_id": "o5", "proof": "t1"}),
        ),
        (
            "/v1/invite",
            json!({"join_as": "agent", "computer": "/computers/bugs", "ttl": "1h"}),
            r#"InviteRequest { join_as: Agent, computer: Some(Name("/computers/bugs")), ttl: Some(Span(3600000)) }"#,
            json!({
                "secret": "join", "root": "ab", "servers": ["https://192.0.2.1:7600"],
                "expires": "2023-11-14T22:13:20.000Z",
            }),
        ),
        (
            "/v1/join",
            json!({"secret": "join", "computer": "/computers/bugs", "request": "csr"}),
            r#"JoinRequest { secret: (secret), computer: Name("/computers/bugs"), request: "csr", address: None }"#,
            json!({"certificate": certificate, "cluster_key": "join"}),
        ),
        (
            "/v1/join",
            json!({"secret": "join", "computer": "/byname/servers/new", "request": "csr", "address": "ns2:7777"}),
            r#"JoinRequest { secret: (secret), computer: Name("/byname/servers/new"), request: "csr", address: Some("ns2:7777") }"#,
            json!({"certificate": certificate, "cluster_key": "join"}),
        ),
        (
            "/v1/revoke",
            json!({"what": "instance", "instance": "i11"}),
            "Instance { instance: InstanceId(33) }",
            json!({}),
        ),
        (
            "/v1/revoke",
            json!({"what": "principal", "principal": "/people/liu"}),
            r#"Principal { principal: Name("/people/liu") }"#,
            json!({}),
        ),
    ]
}

#[tokio::test]
async fn every_step_is_taken_and_answered_as_the_document_says() {
    let server = Server::start().await;
    let document = server.get("/v1/openapi.json").await.json();
    for (path, body, asked, reply) in posts() {
        let answer = server.send("POST", path, &[JSON], &body.to_string()).await;
        assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
        assert_eq!(answer.json(), reply, "{path} {body}");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        let call = server.fake.last_call();
        assert!(call.ends_with(&format!(" {asked}")), "{call}");
        conforms(&document, "POST", path, &answer);
    }
    let plain = server.send("POST", "/v1/logout", &[], "").await;
    assert_eq!(plain.json(), json!({}));
    assert!(server.fake.last_call().contains("everywhere: false, principal: None"));
    let whoami = server.get("/v1/whoami").await;
    assert_eq!(
        whoami.json(),
        json!({
            "principal": "token", "id": "o5", "instance": "i11", "mechanism": "token", "admin": true,
            "expires": "2023-11-14T22:13:20.000Z", "groups": ["/byname/admins"],
        })
    );
    conforms(&document, "GET", "/v1/whoami", &whoami);
    let trust = server.get("/v1/trust").await;
    assert_eq!(trust.json()["domain"], "byname.internal");
    conforms(&document, "GET", "/v1/trust", &trust);
}

#[tokio::test]
async fn whoever_is_not_known_yet_may_sign_in_and_join() {
    let server = Server::start().await;
    for (path, body, asked, _) in posts() {
        let answer = server.send_as("POST", path, &[JSON], &body.to_string()).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let call = server.fake.last_call();
        assert!(call.starts_with("anyone ") && call.ends_with(asked), "{call}");
    }
    assert_eq!(server.send_as("GET", "/v1/whoami", &[], "").await.json()["mechanism"], "none");
}

#[tokio::test]
async fn what_is_wrong_in_a_body_is_refused() {
    let server = Server::start().await;
    for (path, body, _, _) in posts() {
        // One field more, one of another type, one less.
        let fields = body.as_object().unwrap();
        let with = |name: &str, value: Value| {
            let mut changed = fields.clone();
            changed.insert(name.into(), value);
            Value::Object(changed).to_string()
        };
        let mut bodies = vec![with("colour", json!(1)), "[]".into(), "{".into()];
        if let Some(word) = ["step", "what"].into_iter().find(|word| fields.contains_key(*word)) {
            bodies.extend([with(word, json!("fly")), with(word, json!(null)), "{}".into()]);
        }
        bodies.extend(fields.keys().map(|name| with(name, json!([[]]))));
        for body in bodies {
            let refused = server.send("POST", path, &[JSON], &body).await;
            assert_eq!(refused.problem().1, "invalid-argument", "{path} {body}");
            assert_eq!(refused.status, 400, "{path} {body}");
        }
        let refused = server.send("POST", path, &[("Content-Type", "text/plain")], &body.to_string()).await;
        assert_eq!(refused.problem(), expect("invalid-argument", 415, "Content-Type"), "{path}");
        let refused = server.get(path).await;
        assert_eq!((refused.status, refused.header("allow")), (405, "POST"), "{path}");
    }
    for (path, body) in [
        ("/v1/login", r#"{"step":"passkey-start","principal":"liu"}"#),
        ("/v1/login", r#"{"step":"password-start","principal":"/people/liu","message":"no base64!"}"#),
        ("/v1/invite", r#"{"join_as":"guest"}"#),
    ] {
        assert_eq!(server.send("POST", path, &[JSON], body).await.problem().1, "invalid-argument", "{body}");
    }
    // What is sent of a secret is not said again.
    let refused = server.send("POST", "/v1/verify", &[JSON], r#"{"ticket":"hunter2","credential":7}"#).await;
    assert!(!refused.body.contains("hunter2"), "{refused:?}");
}

#[tokio::test]
async fn a_stranger_s_body_is_64_kib_at_most() {
    let server = Server::start().await;
    for (path, bytes, status) in [("/v1/login", 65_000, 200), ("/v1/login", 66_000, 413), ("/v1/enrol", 66_000, 413)] {
        let credential = "x".repeat(bytes);
        let body = json!({"step": "passkey-finish", "attempt": "a", "credential": credential});
        let body = if path == "/v1/enrol" { json!({"label": "l", "body": body}) } else { body };
        let answer = server.send_as("POST", path, &[JSON], &body.to_string()).await;
        assert_eq!(answer.status, status, "{path} {bytes}");
        if status == 413 {
            assert_eq!(answer.json()["detail"], "the body is 64 KiB (65536 bytes) at most");
        }
    }
}

#[tokio::test]
async fn a_key_makes_an_introduction_recognisable() {
    let server = Server::start().await;
    let id = "0123456789abcdef0123456789abcdef.7";
    let headers = [JSON, ("Idempotency-Key", id)];
    server.send("POST", "/v1/introduce", &headers, r#"{"name":"/a"}"#).await;
    assert!(server.fake.last_call().starts_with(&format!("token {id} ")), "{}", server.fake.last_call());
}

#[tokio::test]
async fn access_is_asked_of_a_name() {
    let server = Server::start().await;
    let document = server.get("/v1/openapi.json").await.json();
    for (target, template, asked) in [
        ("/v1/access/", "/v1/access/", r#"AccessRequest { name: Name("/"), who: None, right: None }"#),
        (
            "/v1/access/a/b?who=/people/liu&right=launch",
            "/v1/access/{path}",
            r#"AccessRequest { name: Name("/a/b"), who: Some(Named(Name("/people/liu"))), right: Some(Launch) }"#,
        ),
        (
            "/v1/access/a?who=uid:7",
            "/v1/access/{path}",
            r#"AccessRequest { name: Name("/a"), who: Some(User(7)), right: None }"#,
        ),
    ] {
        let answer = server.get(target).await;
        assert!(server.fake.last_call().ends_with(asked), "{}", server.fake.last_call());
        conforms(&document, "GET", template, &answer);
    }
    let answer = server.get("/v1/access/a?right=launch").await;
    assert_eq!(
        answer.json(),
        json!({
            "name": "/a", "who": "authenticated",
            "decisions": [{
                "right": "launch", "allowed": true, "at": "/", "through": ["/groups/all"], "because": "it is granted",
                "entry": {"who": "anyone", "rights": ["find"]},
            }],
            "lists": [{"name": "/", "owner": "byname", "acl": [{"who": "anyone", "rights": ["find"]}]}],
        })
    );
    for (query, code, field) in [
        ("who=liu", "invalid-argument", "who"),
        ("who=/a//b", "invalid-name", "who"),
        ("right=fly", "invalid-argument", "right"),
        ("rights=read", "invalid-argument", "rights"),
    ] {
        let refused = server.get(&format!("/v1/access/a?{query}")).await;
        assert_eq!(refused.problem(), expect(code, 400, field), "{query}");
    }
}

#[tokio::test]
async fn the_audit_log_is_asked_with_parameters() {
    let server = Server::start().await;
    let document = server.get("/v1/openapi.json").await.json();
    let plain = server.get("/v1/audit").await;
    assert_eq!((plain.json()["records"][0]["count"].as_u64(), &plain.json()["verified"]), (Some(2), &Value::Null));
    conforms(&document, "GET", "/v1/audit", &plain);
    let call = server.fake.last_call();
    assert!(call.contains("by: None") && call.contains("limit: 100, next: None, verify: false"), "{call}");

    let query = "by=/people/liu&name=/a/**&operation=add&outcome=denied&since=2023-11-14T22:13:20Z\
                 &until=2023-11-14T23:13:20%2B01:00&limit=5&next=n&verify=true";
    let whole = server.get(&format!("/v1/audit?{query}")).await;
    assert_eq!(whole.json()["verified"]["trouble"], "a record is missing");
    conforms(&document, "GET", "/v1/audit", &whole);
    let call = server.fake.last_call();
    let at = "Some(Timestamp(1700000000000))";
    assert!(
        call.ends_with(&format!(
            r#"AuditRequest {{ by: Some("/people/liu"), name: Some("/a/**"), operation: Some("add"), outcome: Some(Denied), since: {at}, until: {at}, limit: 5, next: Some("n"), verify: true }}"#
        )),
        "{call}"
    );
    for (query, field) in
        [("outcome=well", "outcome"), ("since=yesterday", "since"), ("limit=1001", "limit"), ("verify=1", "verify")]
    {
        let refused = server.get(&format!("/v1/audit?{query}")).await;
        assert_eq!(refused.problem(), expect("invalid-argument", 400, field), "{query}");
    }
}

#[tokio::test]
async fn the_pages_are_for_everybody_and_run_nothing_foreign() {
    let server = Server::start().await;
    for (path, content_type, part) in [
        ("/login", "text/html; charset=utf-8", "data-page=\"login\""),
        ("/enrol", "text/html; charset=utf-8", "data-page=\"enrol\""),
        ("/assets/sign-in.js", "text/javascript; charset=utf-8", "navigator.credentials"),
        ("/assets/sign-in.css", "text/css; charset=utf-8", ":root"),
    ] {
        // A browser that shows an old session gets the page all the same.
        for headers in [&[][..], &[("Authorization", "Bearer old")]] {
            let page = server.send_as("GET", path, headers, "").await;
            assert_eq!((page.status, page.header("content-type")), (200, content_type), "{path}");
            assert_eq!(
                page.header("content-security-policy"),
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                 frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
            );
            assert_eq!((page.header("referrer-policy"), page.header("cache-control")), ("no-referrer", "no-store"));
            assert_eq!(page.header("x-content-type-options"), "nosniff");
            assert!(page.body.contains(part), "{path}");
            assert!(!page.body.contains("style=") && !page.body.contains("innerHTML"), "{path}");
        }
        let foreign = server.send_as("GET", path, &[("Host", "evil.example")], "").await;
        assert_eq!(foreign.problem(), expect("denied", 403, "Host"), "{path}");
    }
    // Whatever the pages load is served.
    for path in ["/login", "/enrol"] {
        let page = server.get(path).await.body;
        let loaded: Vec<&str> =
            page.split('"').filter(|text| text.starts_with('/') && text.contains("/assets/")).collect();
        assert_eq!(loaded, ["/assets/sign-in.css", "/assets/sign-in.js"]);
        for path in loaded {
            assert_eq!(server.get(path).await.status, 200);
        }
    }
}

#[tokio::test]
async fn principals_secrets_and_lists_are_declared() {
    let server = Server::start().await;
    let document = server.get("/v1/openapi.json").await.json();
    for (name, spec) in [
        ("p", json!({"kind": "principal", "disabled": true, "certified": "signed", "audit": "reads"})),
        ("s", json!({"kind": "secret", "fingerprint": "ab"})),
        ("g", json!({"kind": "group", "members": ["/p"], "member_ids": {"/p": "o5"}})),
        (
            "d",
            json!({
                "kind": "directory",
                "acl": [
                    {"who": "/people/liu", "rights": ["find", "read"], "certified": true},
                    {"who": "anyone", "rights": ["all"], "allow": false},
                ],
            }),
        ),
    ] {
        let target = format!("/v1/names/{name}");
        let made = server.put(&target, &spec.to_string()).await;
        assert_eq!(made.status, 201, "{made:?}");
        let read = server.get(&target).await;
        for (field, value) in spec.as_object().unwrap() {
            assert_eq!(&read.json()[field], value, "{name}");
        }
        conforms(&document, "GET", "/v1/names/{path}", &read);
    }
    let cleared =
        server.send("PATCH", "/v1/names/p", &[JSON], r#"{"disabled":null,"certified":null,"audit":null}"#).await;
    assert_eq!(cleared.status, 200, "{cleared:?}");
    assert_eq!(server.get("/v1/names/p").await.json()["disabled"], Value::Null);
    let refused = server.put("/v1/names/x", r#"{"kind":"directory","acl":[{"who":"liu","rights":"all"}]}"#).await;
    assert_eq!(refused.problem(), expect("invalid-argument", 400, "acl[0].who"));
}
