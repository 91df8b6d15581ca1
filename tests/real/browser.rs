//! The report and the dashboard in a real browser: no errors, nothing beyond the edge of a phone, nothing unreadable.
//!
//! Chromium is driven through its debugging pipe (file descriptors 3 and 4, JSON with a NUL after each message). With
//! `FULMAR_SCREENSHOTS=DIR` the pages are kept as pictures.

use crate::support::{Lab, PATIENCE, need, noise, now, works};
use crate::watching::page_address;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// Letters on a phone are at least this high, in CSS pixels; below, they cannot be read at arm's length.
const LEAST_LETTERS: f64 = 9.0;

/// A browser with one page.
struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    next_id: u64,
    session: Option<String>,
    /// Console errors, exceptions, refused resources.
    errors: Vec<String>,
}

impl Browser {
    fn start(lab: &Lab) -> Self {
        let profile = format!("--user-data-dir={}", lab.path("profile").display());
        // The pipe is descriptors 3 and 4; the shell moves stdin and stdout there.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh", "chromium", "--headless"])
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"])
            .args([&profile, "about:blank"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromium starts");
        let commands = child.stdin.take().expect("piped");
        let mut answers = BufReader::new(child.stdout.take().expect("piped"));
        let (tell, messages) = channel();
        std::thread::spawn(move || {
            let mut raw = Vec::new();
            while matches!(answers.read_until(0, &mut raw), Ok(1..)) {
                let text = raw.strip_suffix(&[0]).unwrap_or(&raw);
                if tell.send(serde_json::from_slice(text).expect("JSON")).is_err() {
                    return;
                }
                raw.clear();
            }
        });
        let mut browser = Self { child, commands, messages, next_id: 0, session: None, errors: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Runtime", "Log", "Page"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Sends a command and waits for its answer.
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.next_id += 1;
        let mut command = json!({ "id": self.next_id, "method": method, "params": params });
        if let Some(session) = &self.session {
            command["sessionId"] = session.clone().into();
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).expect("chromium listens");
        loop {
            let message = self.messages.recv_timeout(PATIENCE).expect("chromium answers");
            if message["id"] == self.next_id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let params = &message["params"];
        let is_error = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => matches!(params["type"].as_str(), Some("error" | "assert")),
            Some("Log.entryAdded") => params["entry"]["level"] == "error",
            _ => false,
        };
        if is_error {
            self.errors.push(params.to_string());
        }
    }

    /// What an expression is.
    fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[allow(clippy::disallowed_methods)] // Tests of real processes live in real time.
    fn until(&mut self, expression: &str) {
        let start = now();
        while self.value(expression) != true {
            let shown = self.value("document.body.innerText");
            assert!(start.elapsed() < PATIENCE, "never true: {expression}\n{shown}\n{:?}", self.errors);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// A screen of that size, light or dark.
    fn screen(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
        self.until(&format!("location.href.startsWith({url:?}) && document.readyState === 'complete'"));
    }

    /// Fails if anything is wrong that every page must have right.
    fn check(&mut self, name: &str, width: u32) {
        let scroll = self.value("document.documentElement.scrollWidth").as_u64().expect("a width");
        assert!(scroll <= width.into(), "{name}: {scroll} pixels wide on a screen of {width}");
        let least = self.value(
            "Math.min(...[...document.querySelectorAll('svg text')].filter((t) => t.getClientRects().length \
             && t.textContent.trim()).map((t) => { const m = t.getScreenCTM(); \
             return parseFloat(getComputedStyle(t).fontSize) * Math.hypot(m.a, m.b); }))",
        );
        let least = least.as_f64().expect("there are plots with letters");
        assert!(least >= LEAST_LETTERS, "{name}: letters of {least} pixels on a screen of {width}");
        assert_eq!(self.errors, Vec::<String>::new(), "{name}");
        self.keep(name);
    }

    /// Keeps a picture of the whole page, if pictures are wanted.
    fn keep(&mut self, name: &str) {
        let Some(dir) = std::env::var_os("FULMAR_SCREENSHOTS") else { return };
        let params = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.call("Page.captureScreenshot", params);
        let text = picture["data"].as_str().expect("a picture");
        std::fs::write(std::path::Path::new(&dir).join(format!("{name}.png")), base64(text))
            .expect("written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Decodes RFC 4648, section 4.
fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        bits = bits << 6 | u32::from(value(c));
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}

fn has_chromium() -> bool {
    works("chromium", &["--version"])
}

/// Screens: a desk and a phone, light and dark.
const SCREENS: [(&str, u32, u32, &str); 3] =
    [("desk", 1280, 900, "light"), ("desk-dark", 1280, 900, "dark"), ("phone", 390, 844, "light")];

#[test]
fn reports_are_readable_on_a_desk_and_on_a_phone() {
    need!(has_chromium(), "needs chromium");
    let lab = Lab::new();
    lab.write("big.bin", noise(4, 2_000_000));
    let server = lab.serve(&[]);
    for (name, cc) in [("adaptive", "adaptive"), ("cubic", "cubic")] {
        let (target, trace) = (server.at(name), format!("{name}.sqlog"));
        let sim = "loss=3%,delay=10ms,rate=40mbit";
        lab.run(&["put", "big.bin", &target, "--cc", cc, "--sim", sim, "--trace", &trace, "-q"], 0);
    }
    lab.run(&["report", "adaptive.sqlog", "-o", "one.html", "-q"], 0);
    lab.run(&["report", "adaptive.sqlog", "cubic.sqlog", "-o", "two.html", "-q"], 0);
    let mut browser = Browser::start(&lab);
    for page in ["one", "two"] {
        for (name, width, height, scheme) in SCREENS {
            browser.screen(width, height, scheme);
            browser.open(&format!("file://{}", lab.path(format!("{page}.html")).display()));
            browser.check(&format!("report-{page}-{name}"), width);
            let shown =
                "[...document.querySelectorAll('svg')].filter((s) => s.getClientRects().length).length";
            let plots = browser.value(shown).as_u64().expect("a count");
            assert!(plots >= if page == "one" { 6 } else { 12 }, "{page}, {name}: {plots} plots");
            let background = browser.value("getComputedStyle(document.body).backgroundColor");
            assert_eq!(background == "rgb(255, 255, 255)", scheme == "light", "{background}");
        }
    }
    let values = "16KiB,64KiB,256KiB,1MiB,4MiB,16MiB";
    lab.run(&["bench", "window", "--values", values, "--size", "1MB", "--html", "bench.html", "-q"], 0);
    for (name, width, height, scheme) in SCREENS {
        browser.screen(width, height, scheme);
        browser.open(&format!("file://{}", lab.path("bench.html").display()));
        browser.check(&format!("bench-{name}"), width);
    }
}

#[test]
fn the_dashboard_lives_on_a_desk_and_on_a_phone() {
    need!(has_chromium(), "needs chromium");
    let lab = Lab::new();
    lab.write("a.bin", noise(5, 20_000_000));
    lab.write("<img src=x onerror=alert(1)>", "x");
    let server = lab.serve(&["--dashboard", "127.0.0.1:0"]);
    let dashboard = page_address(&server, "dashboard");
    lab.run(&["put", "<img src=x onerror=alert(1)>", &server.at(""), "-q"], 0);
    let arguments = ["put", "a.bin", &server.at(""), "--limit", "8mbit", "-q", "--client-id", "<b>lab</b>"];
    let _upload = lab.start(&arguments);
    let mut browser = Browser::start(&lab);
    for (name, width, height, scheme) in SCREENS {
        browser.screen(width, height, scheme);
        browser.open(&format!("http://{dashboard}/"));
        browser.until("document.getElementById('state').textContent === 'live'");
        browser.until("document.querySelectorAll('#rate-plot path').length === 2");
        browser.until("document.querySelectorAll('#sessions tbody tr').length === 1");
        browser.until("document.getElementById('rate-in').textContent.includes('Mbit/s')");
        // Names of peers are text, whatever they look like.
        let text = browser.value("document.body.innerText").as_str().expect("text").to_owned();
        for word in ["<b>lab</b>", "<img src=x onerror=alert(1)>", "a.bin"] {
            assert!(text.contains(word), "{word} is missing in: {text}");
        }
        browser.check(&format!("dashboard-{name}"), width);
    }
    server.stop();
    browser.errors.clear();
    browser.until("document.getElementById('state').className === 'lost'");
}
