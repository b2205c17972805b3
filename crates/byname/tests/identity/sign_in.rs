//! Signing in: what a listener on the wire learns of a password, and passkeys, of which the test plays the page.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use byname_identity::authenticator::Authenticator;
use byname_testkit::Server;
use serde_json::{Value, json};

use crate::support::{Talk, audit, contains, curl, dev, holds};

/// Somebody on the way between a client and a server, who writes down every byte.
struct Listener {
    url: String,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Listener {
    /// Listens in front of a server.
    fn before(server: &Server) -> Listener {
        let target = server.api().trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = heard.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&target)) else { return };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to, notes) = (from.try_clone().unwrap(), to.try_clone().unwrap(), notes.clone());
                    std::thread::spawn(move || pass_on(from, to, &notes));
                }
            }
        });
        Listener { url, heard }
    }

    fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, notes: &Mutex<Vec<u8>>) {
    let mut bytes = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        notes.lock().unwrap().extend(&bytes[..count]);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn a_password_is_on_no_wire_and_in_no_file_and_its_session_ends_with_logout() {
    let server = dev();
    let wire = Listener::before(&server);
    let password = "correct horse battery staple";
    server.byname(&["principal", "add", "/people/liu"]).lines();
    let at = ["--server", &*wire.url];
    let run = |words: &[&str], input: &str| server.byname_with(&[words, &at[..]].concat(), input);
    // The password is set over the wire, too, by the admin with the token.
    let token = server.data().join("token");
    let set = ["passwd", "/people/liu", "--password-file", "-", "--token-file", token.to_str().unwrap()];
    assert_eq!(run(&set, &format!("{password}\n")).status, 0);
    let login = ["login", "/people/liu", "--password-file", "-"];
    let wrong = run(&login, "correct horse battery stable\n");
    assert!(wrong.status == 4 && wrong.talk.contains("the name or the password is wrong"), "{wrong:#?}");
    let nobody = run(&["login", "/people/nobody", "--password-file", "-"], &format!("{password}\n"));
    assert_eq!((nobody.status, &nobody.talk), (4, &wrong.talk), "who is there is not told");
    let signed_in = run(&login, &format!("{password}\n"));
    assert_eq!(signed_in.status, 0, "{signed_in:#?}");
    assert_eq!(run(&["whoami", "-o", "name"], "").lines(), ["/people/liu"]);
    let heard = wire.heard();
    assert!(contains(&heard, b"/people/liu") && heard.len() > 1_000, "the listener heard what was said");
    let forms = [
        password.to_owned(),
        URL_SAFE_NO_PAD.encode(password),
        STANDARD.encode(password),
        STANDARD_NO_PAD.encode(password),
        password.replace(' ', "%20"),
        password.bytes().map(|byte| format!("{byte:02x}")).collect(),
    ];
    for form in &forms {
        assert!(!contains(&heard, form.as_bytes()), "{form} was heard");
        assert_eq!(holds(server.scratch(), form.as_bytes()), None, "{form} is in a file, or in the log");
    }
    let logins = audit(&server, &["--operation", "login"]);
    let outcomes: Vec<&str> = logins.iter().filter_map(|record| record["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["ok", "unauthenticated", "unauthenticated"], "{logins:?}");

    // The session of before is dead everywhere once it has ended.
    let session = session_token(&server);
    let ask = || {
        let words = ["-o", "answer", "-w", "%{http_code}", "-H", &format!("Authorization: Bearer {session}")];
        curl(&server, &[&words[..], &[&format!("{}/v1/whoami", server.api())]].concat()).out
    };
    assert_eq!(ask(), "200");
    assert_eq!(run(&["logout"], "").lines(), ["signed out /people/liu"]);
    assert_eq!(ask(), "401");
    assert!(run(&["whoami", "-o", "name"], "").lines() != ["/people/liu"]);
}

#[test]
fn whoever_guesses_passwords_is_slowed_down_though_the_server_is_never_told_of_a_guess() {
    let server = dev();
    server.byname(&["principal", "add", "/people/liu"]).lines();
    server.byname_with(&["passwd", "/people/liu", "--password-file", "-"], "correct horse battery staple").lines();
    // The first answer tells a guesser all there is to know: nobody needs to send the second message (RFC 9807).
    let guess = |name: &str| {
        let (_, message) = byname_identity::password::Login::start("correct horse").unwrap();
        let message = URL_SAFE_NO_PAD.encode(message);
        page_status(&server, "/v1/login", &json!({"step": "password-start", "principal": name, "message": message}))
    };
    let statuses: Vec<String> = (0..8).map(|_| guess("/people/liu")).collect();
    assert_eq!((statuses[0].as_str(), statuses[7].as_str()), ("200", "429"), "{statuses:?}");
    assert_eq!(guess("/People/LIU"), "429", "another spelling is no other name");
    assert_eq!(guess("/people/ann"), "200", "nor is somebody else kept out");
}

/// The token of the session that the command line keeps.
fn session_token(server: &Server) -> String {
    let folder = server.scratch().join("home/.local/state/byname/sessions");
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(file).unwrap();
    let start = text.find("bn1.").unwrap_or_else(|| panic!("no token in the session's file"));
    text[start..].split(|c: char| c == '"' || c.is_whitespace()).next().unwrap().to_owned()
}

/// What the page does with the interface, in the words of its script.
fn page(server: &Server, path: &str, body: &Value) -> Value {
    let url = format!("{}{path}", server.api());
    let words = ["-X", "POST", "-H", "content-type: application/json", "-d", &body.to_string(), &url];
    let reply = curl(server, &words).json();
    assert!(reply["code"].as_str().is_none_or(|code| code.contains('-') && code.len() < 12), "{reply}");
    reply
}

/// What a message of the server says to the authenticator.
fn options(reply: &Value) -> String {
    let message = reply["message"].as_str().unwrap_or_else(|| panic!("{reply}"));
    String::from_utf8(URL_SAFE_NO_PAD.decode(message).unwrap()).unwrap()
}

/// What the fragment of an address says.
pub(crate) fn fragment(url: &str, field: &str) -> String {
    let fragment = url.split_once('#').unwrap_or_else(|| panic!("{url} has no fragment")).1;
    let found = fragment.split('&').find_map(|part| part.strip_prefix(&format!("{field}=")));
    found.unwrap_or_else(|| panic!("{url} has no {field}")).to_owned()
}

/// The origin of the pages of a server on this host: a name that browsers trust.
pub(crate) fn origin(server: &Server) -> String {
    server.api().replace("127.0.0.1", "localhost")
}

/// Starts `byname login --passkey` and gives it with the address of the page and the code that it shows.
pub(crate) fn login_by_page(server: &Server, principal: &str) -> (Talk, String, String) {
    let words = ["login", "--passkey", "--no-browser", principal, "--server", &*server.api()];
    let mut command = server.command(&words);
    // It says where to sign in on standard error, and waits.
    let mut talk = Talk::start_merged(&mut command);
    let line = talk.line();
    let url = line.strip_prefix("Sign in at ").unwrap_or_else(|| panic!("{line}")).to_owned();
    let line = talk.line();
    let code = line.strip_prefix("The page shows the code ").unwrap_or_else(|| panic!("{line}"));
    let code = code.trim_end_matches('.').to_owned();
    (talk, url, code)
}

#[test]
fn a_passkey_is_made_on_a_page_and_signs_a_command_line_in() {
    let server = dev();
    let origin = origin(&server);
    server.byname(&["principal", "add", "/people/liu"]).lines();
    let link = server.byname(&["passkey", "add", "/people/liu"]);
    let link = link.lines()[0].to_owned();
    assert!(link.contains("/enrol#"), "{link}");
    let mut device = Authenticator::new();
    let start = page(&server, "/v1/enrol", &json!({"step": "passkey-start", "link": fragment(&link, "link")}));
    let credential = device.register(&options(&start), &origin).expect("options that an authenticator understands");
    let finish = json!({
        "step": "passkey-finish", "attempt": start["attempt"], "credential": credential, "label": "blue key",
    });
    assert_eq!(page(&server, "/v1/enrol", &finish)["step"], "done");
    assert_eq!(server.byname(&["passkey", "list", "/people/liu"]).lines(), ["blue key"]);
    let again = page_status(&server, "/v1/enrol", &json!({"step": "passkey-start", "link": fragment(&link, "link")}));
    assert_ne!(again, "200", "the link is good once");

    let (talk, url, code) = login_by_page(&server, "/people/liu");
    assert_eq!(fragment(&url, "code"), code);
    let start = page(&server, "/v1/login", &json!({"step": "passkey-start", "principal": "/people/liu"}));
    // An answer for a page of somebody else's is worth nothing.
    let elsewhere = Authenticator::new().login(&options(&start), &origin);
    assert!(elsewhere.is_none(), "another authenticator holds no key of liu's");
    let stolen = device.login(&options(&start), "http://evil.example").unwrap();
    let device_secret = fragment(&url, "device");
    let finish = |attempt: &Value, credential: &str| json!({"step": "passkey-finish", "attempt": attempt, "credential": credential, "device": device_secret});
    assert_eq!(page_status(&server, "/v1/login", &finish(&start["attempt"], &stolen)), "401");
    let start = page(&server, "/v1/login", &json!({"step": "passkey-start", "principal": "/people/liu"}));
    let credential = device.login(&options(&start), &origin).unwrap();
    let reply = page(&server, "/v1/login", &finish(&start["attempt"], &credential));
    assert!(
        reply.get("token").is_none() && !reply.to_string().contains("bn1."),
        "the page is given no session: {reply}"
    );
    let (status, said) = talk.end();
    assert_eq!(status, 0, "{said}");
    let who = server.byname(&["whoami", "-o", "json", "--server", &server.api()]).json();
    assert_eq!((&who["principal"], &who["mechanism"]), (&"/people/liu".into(), &"passkey".into()), "{who}");
    // Without its user's finger or PIN it is not enough.
    server.byname(&["passkey", "remove", "blue key", "/people/liu"]).lines();
    let start = page(&server, "/v1/login", &json!({"step": "passkey-start", "principal": "/people/liu"}));
    assert!(device.login(&options(&start), &origin).is_none(), "a passkey that was taken away is not asked for");
}

/// The status of a request.
fn page_status(server: &Server, path: &str, body: &Value) -> String {
    let url = format!("{}{path}", server.api());
    let words = ["-o", "answer", "-w", "%{http_code}", "-X", "POST", "-H", "content-type: application/json", "-d"];
    curl(server, &[&words[..], &[&body.to_string(), &url]].concat()).out
}
