//! The pages for passkeys in a real browser: headless Chromium with its virtual authenticator (WebAuthn section 11), driven
//! over its DevTools pipe. BYNAME_SCREENSHOTS=FOLDER keeps pictures of the pages.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use byname_testkit::{PATIENCE, Server, eventually};
use serde_json::{Value, json};

use crate::sign_in::login_by_page;
use crate::support::{dev, tail};

/// A browser with one page.
struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    next: u64,
    session: Option<String>,
    /// What the page complained about: exceptions, and errors of the console.
    complaints: Vec<String>,
}

impl Browser {
    /// Starts it. What it keeps is in the server's scratch folder.
    fn start(server: &Server) -> Browser {
        let found = Command::new("chromium").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(
            found.is_ok_and(|status| status.success()),
            "the pages are tested with Chromium, and it is not there: `make test` installs it, or `apt-get install chromium`"
        );
        let log = std::fs::File::create(server.scratch().join("browser.log")).unwrap();
        let mut command = Command::new("sh");
        server.environment(&mut command);
        // Its pipe is at descriptors 3 and 4. It refuses its sandbox to root, and a test opens no other pages than ours.
        let script = "exec chromium \"$@\" 3<&0 4>&1 </dev/null >&2";
        let profile = server.scratch().join("profile");
        let mut child = command
            .args(["-c", script, "sh", "--headless", "--remote-debugging-pipe", "--no-sandbox", "--no-first-run"])
            .args(["--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let (tell, messages) = channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            while out.read_until(0, &mut bytes).is_ok_and(|count| count > 0) {
                bytes.pop_if(|last| *last == 0);
                if let Ok(message) = serde_json::from_slice(&bytes)
                    && tell.send(message).is_err()
                {
                    return;
                }
                bytes.clear();
            }
        });
        let mut browser = Browser { child, commands, messages, next: 0, session: None, complaints: Vec::new() };
        let log = server.scratch().join("browser.log");
        let target = browser.try_call("Target.createTarget", json!({"url": "about:blank"}));
        let target = target.unwrap_or_else(|why| panic!("{why}\n{}", tail(&log)));
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "WebAuthn"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    #[track_caller]
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.try_call(method, params).unwrap_or_else(|why| panic!("{method}: {why}"))
    }

    fn try_call(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.next += 1;
        let id = self.next;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let sent = self.commands.write_all(format!("{message}\0").as_bytes()).and_then(|()| self.commands.flush());
        sent.map_err(|e| format!("the browser takes no commands: {e}"))?;
        loop {
            let mut message = match self.messages.recv_timeout(PATIENCE) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => return Err("the browser does not answer".into()),
                Err(RecvTimeoutError::Disconnected) => return Err("the browser has ended".into()),
            };
            if message["id"] == id {
                return match message.get("error") {
                    Some(error) => Err(error.to_string()),
                    None => Ok(message["result"].take()),
                };
            }
            self.overhear(&message);
        }
    }

    /// Notes what the page complains about.
    fn overhear(&mut self, message: &Value) {
        let params = &message["params"];
        match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(params.to_string()),
            Some("Log.entryAdded") if params["entry"]["level"] == "error" => self.complaints.push(params.to_string()),
            Some("Runtime.consoleAPICalled") if params["type"] == "error" => self.complaints.push(params.to_string()),
            _ => {}
        }
    }

    /// Opens a page and waits until it is there.
    fn open(&mut self, url: &str) {
        // Only the fragment may differ from what is open: that would be no new page.
        self.call("Page.navigate", json!({"url": "about:blank"}));
        self.call("Page.navigate", json!({"url": url}));
        eventually("the page", || {
            (self.evaluate("location.protocol + document.readyState") == "http:complete").then_some(())
        });
    }

    /// The value of an expression within the page.
    #[track_caller]
    fn evaluate(&mut self, expression: &str) -> Value {
        let mut reply = self.call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
        assert!(reply.get("exceptionDetails").is_none(), "{expression}: {reply}");
        reply["result"]["value"].take()
    }

    fn text(&mut self, id: &str) -> String {
        let value = self.evaluate(&format!("document.getElementById('{id}').textContent"));
        value.as_str().unwrap_or_default().trim().to_owned()
    }

    fn shown(&mut self, id: &str) -> bool {
        self.evaluate(&format!("document.getElementById('{id}').checkVisibility()")) == true
    }

    /// Presses the button as somebody at the page would.
    fn press(&mut self, id: &str) {
        let place = self.evaluate(&format!(
            "(() => {{ const r = document.getElementById('{id}').getBoundingClientRect(); \
             return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Types into what has the focus.
    fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    /// Waits for what the page says in the end, or panics with its complaint.
    #[track_caller]
    fn told(&mut self, part: &str) {
        eventually(part, || {
            let error = self.text("error");
            assert!(error.is_empty(), "the page says: {error}");
            self.text("status").contains(part).then_some(())
        });
    }

    /// Gives the page a picture for whoever asked for some: light and dark, wide and narrow.
    fn picture(&mut self, name: &str) {
        let folder = std::env::var_os("BYNAME_SCREENSHOTS");
        for (scheme, width) in [("light", 1000), ("dark", 1000), ("light", 400), ("dark", 400)] {
            let size = json!({"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": false});
            self.call("Emulation.setDeviceMetricsOverride", size);
            let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
            self.call("Emulation.setEmulatedMedia", media);
            let wide = self.evaluate("document.documentElement.scrollWidth").as_u64().unwrap();
            assert!(wide <= width, "{name} is {wide} pixels wide and scrolls sideways on {width}");
            let Some(folder) = &folder else { continue };
            let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
            let png = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
            std::fs::write(Path::new(folder).join(format!("{name}-{scheme}-{width}.png")), png).unwrap();
        }
        self.call("Emulation.clearDeviceMetricsOverride", json!({}));
        self.call("Emulation.setEmulatedMedia", json!({"features": []}));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn somebody_makes_a_passkey_in_a_browser_and_signs_a_terminal_in_with_it() {
    let server = dev();
    server.byname(&["principal", "add", "/people/liu"]).lines();
    let mut browser = Browser::start(&server);
    let authenticator = json!({"options": {
        "protocol": "ctap2", "transport": "internal", "hasResidentKey": true, "hasUserVerification": true,
        "isUserVerified": true, "automaticPresenceSimulation": true,
    }});
    let authenticator = browser.call("WebAuthn.addVirtualAuthenticator", authenticator)["authenticatorId"].take();

    let link = server.byname(&["passkey", "add", "/people/liu"]);
    browser.open(link.lines()[0]);
    assert!(browser.shown("form"), "{}", browser.text("error"));
    assert!(!browser.evaluate("location.href").as_str().unwrap().contains("link="), "the link is in the address bar");
    assert_eq!(browser.evaluate("document.activeElement.id"), "label", "one can type at once");
    assert_eq!(browser.text("whose"), "for /people/liu");
    browser.picture("enrol");
    browser.write("laptop");
    // Somebody who does not prove to the device who they are, and then does.
    let verified = |browser: &mut Browser, yes: bool| {
        browser.call("WebAuthn.setUserVerified", json!({"authenticatorId": authenticator, "isUserVerified": yes}));
    };
    verified(&mut browser, false);
    browser.press("go");
    let error = eventually("a complaint", || Some(browser.text("error")).filter(|error| !error.is_empty()));
    assert!(error.contains("Try again"), "{error}");
    verified(&mut browser, true);
    browser.press("go");
    eventually("another try", || browser.text("error").is_empty().then_some(()));
    browser.told("The passkey is made.");
    browser.picture("enrol-done");
    assert_eq!(server.byname(&["passkey", "list", "/people/liu"]).lines(), ["laptop"]);

    let (talk, url, code) = login_by_page(&server, "/people/liu");
    browser.open(&url);
    assert_eq!(browser.text("code"), code, "both show the same code");
    assert_eq!(browser.evaluate("document.getElementById('principal').value"), "/people/liu");
    assert!(!browser.evaluate("location.href").as_str().unwrap().contains("device="));
    browser.picture("login");
    browser.press("go");
    browser.told("You are signed in.");
    browser.picture("login-done");
    let (status, said) = talk.end();
    assert_eq!(status, 0, "{said}");
    let who = server.byname(&["whoami", "-o", "json", "--server", &server.api()]).json();
    assert_eq!((&who["principal"], &who["mechanism"]), (&"/people/liu".into(), &"passkey".into()), "{who}");
    assert!(browser.complaints.is_empty(), "{:#?}", browser.complaints);

    // Used up, and incomplete: the pages say so.
    browser.open(link.lines()[0]);
    browser.write("again");
    browser.press("go");
    eventually("a refusal", || Some(browser.text("error")).filter(|error| !error.is_empty()));
    browser.picture("enrol-refused");
    let page = url.split('#').next().unwrap().to_owned();
    browser.open(&page);
    assert!(browser.text("error").contains("byname login --passkey"), "{}", browser.text("error"));
    assert!(!browser.shown("form"));
    browser.picture("login-incomplete");
}
