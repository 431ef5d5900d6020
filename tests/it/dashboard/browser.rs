//! A real browser: Chromium without a window, driven over its DevTools protocol.
//!
//! The program is `chromium-headless-shell`, which is in `packaging/setup --tests`; a test that needs
//! it fails without it. Commands go to its descriptor 3 and answers come from 4, each a JSON object
//! and a zero byte (`--remote-debugging-pipe`), so no other program and no port is needed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::factory::until;

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A key, as the protocol names it: its name, its number, and the text that it makes.
#[derive(Clone, Copy, Debug)]
pub struct Key(&'static str, u32, &'static str);

pub const TAB: Key = Key("Tab", 9, "");
pub const ENTER: Key = Key("Enter", 13, "\r");
pub const LEFT: Key = Key("ArrowLeft", 37, "");

/// A browser with one page; it ends with the test.
pub struct Browser {
    process: Child,
    commands: RefCell<ChildStdin>,
    messages: Receiver<Value>,
    /// What happened in the page and was not asked for yet.
    events: RefCell<Vec<Value>>,
    number: Cell<u64>,
    session: Option<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one with a profile of its own. It finds no host but this one.
    pub fn start() -> Self {
        Self::start_for(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// The same for another address of this host.
    pub fn start_for(address: IpAddr) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let script = "exec chromium-headless-shell \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>&1";
        let mut process = Command::new("sh")
            .args(["-c", script, "sh", "--remote-debugging-pipe"])
            // Tests run as root, too, and in containers.
            .args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"])
            .args(["--no-first-run", "--disable-background-networking"])
            .arg(format!(
                "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE {address}"
            ))
            .arg("--window-size=1280,900")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for message in answers.split(0) {
                let Ok(message) = message else { return };
                let message = serde_json::from_slice(&message).unwrap();
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            commands: RefCell::new(process.stdin.take().unwrap()),
            process,
            messages,
            events: RefCell::default(),
            number: Cell::new(0),
            session: None,
            _profile: profile,
        };
        let page = browser.command("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let session = browser.command("Target.attachToTarget", &attach);
        browser.session = Some(session["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.command(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// A command of the DevTools protocol, and what comes of it.
    pub fn command(&self, method: &str, parameters: &Value) -> Value {
        loop {
            let mut message = self.answer(method, parameters);
            // A page that is left takes the question with it: it is for the next one.
            let is_left = message["error"]["message"] == "Inspected target navigated or closed";
            if is_left && method == "Runtime.evaluate" {
                continue;
            }
            assert_eq!(message["error"], Value::Null, "{method}: {message}");
            return message["result"].take();
        }
    }

    fn answer(&self, method: &str, parameters: &Value) -> Value {
        let number = self.number.get() + 1;
        self.number.set(number);
        let mut command = json!({"id": number, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        let mut text = command.to_string().into_bytes();
        text.push(0);
        let sent = self.commands.borrow_mut().write_all(&text);
        sent.expect("no browser: packaging/setup --tests installs chromium-headless-shell");
        loop {
            let message = self.messages.recv_timeout(PATIENCE);
            let message = message
                .expect("no browser: packaging/setup --tests installs chromium-headless-shell");
            if message["id"] != number {
                self.events.borrow_mut().push(message);
                continue;
            }
            return message;
        }
    }

    /// Goes to a page, or to another part of the same page, and waits until it is loaded.
    pub fn open(&self, url: &str) {
        let gone = self.command("Page.navigate", &json!({ "url": url }));
        assert_eq!(gone["errorText"], Value::Null, "{url}: {gone}");
        until("the page is loaded", || {
            let loaded = "document.readyState === 'complete' && location.href";
            (self.script(loaded) == url).then_some(())
        });
    }

    /// The value of an expression in the page.
    pub fn script(&self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.command("Runtime.evaluate", &asked);
        assert_eq!(
            answer["exceptionDetails"],
            Value::Null,
            "{expression}: {answer}"
        );
        answer["result"]["value"].take()
    }

    /// The texts of all elements that a selector finds, as they are seen.
    pub fn texts(&self, selector: &str) -> Vec<String> {
        let texts = self.script(&format!(
            "[...document.querySelectorAll({})].map(e => (e.innerText ?? '').replace(/\\s+/g, ' ').trim())",
            json!(selector)
        ));
        let texts = texts.as_array().unwrap().iter();
        texts
            .map(|text| text.as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until one of the elements of a selector has `part` in its text, and gives that text.
    pub fn wait_for(&self, selector: &str, part: &str) -> String {
        until(&format!("{selector} shows {part:?}"), || {
            let mut texts = self.texts(selector).into_iter();
            texts.find(|text| text.contains(part))
        })
    }

    /// Waits until a selector finds nothing.
    pub fn wait_until_gone(&self, selector: &str) {
        until(&format!("{selector} is gone"), || {
            self.texts(selector).is_empty().then_some(())
        });
    }

    /// Clicks as a person does, on an element that can be seen.
    pub fn click(&self, selector: &str) {
        let place = until(&format!("{selector} can be seen"), || {
            let place = self.script(&format!(
                "(() => {{ const e = document.querySelector({});
                   if (!e) return null;
                   e.scrollIntoView({{ block: 'center', behavior: 'instant' }});
                   const box = e.getClientRects()[0];
                   if (!box) return null;
                   const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                   return e.contains(document.elementFromPoint(x, y)) ? [x, y] : null; }})()",
                json!(selector)
            ));
            place.is_array().then_some(place)
        });
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.command("Input.dispatchMouseEvent", &event);
        }
    }

    /// Presses and releases a key, wherever the focus is.
    pub fn press(&self, Key(name, number, text): Key) {
        for kind in ["keyDown", "keyUp"] {
            let event = json!({
                "type": kind, "key": name, "code": name, "windowsVirtualKeyCode": number,
                "text": if kind == "keyDown" { text } else { "" },
            });
            self.command("Input.dispatchKeyEvent", &event);
        }
    }

    /// Types a text, wherever the focus is.
    pub fn enter(&self, text: &str) {
        self.command("Input.insertText", &json!({ "text": text }));
    }

    /// What has the focus: the name of its tag and its text.
    pub fn focused(&self) -> String {
        let focused = "document.activeElement.tagName + ' ' \
            + (document.activeElement.textContent || '').replace(/\\s+/g, ' ').trim()";
        self.script(focused).as_str().unwrap().to_owned()
    }

    /// What the events since the last time have to say, if `look` finds something in them.
    fn heard(&self, look: impl Fn(&str, &Value) -> Option<String>) -> Vec<String> {
        // What has happened so far comes before the answer.
        self.script("1");
        let events = self.events.borrow();
        let found = events
            .iter()
            .filter_map(|event| look(event["method"].as_str()?, &event["params"]));
        found.collect()
    }

    /// Errors and warnings of the page so far, and what it wrote to its console.
    pub fn complaints(&self) -> Vec<String> {
        self.heard(|method, event| match method {
            "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" => Some(event.to_string()),
            "Log.entryAdded" => Some(event["entry"].to_string()),
            _ => None,
        })
    }

    /// The statuses that requests for URLs that begin so were answered with, also when the page was
    /// not told: method, URL, status.
    pub fn statuses(&self, start: &str) -> Vec<(String, String, u64)> {
        self.script("1");
        let events = self.events.borrow();
        let of = |method: &'static str| {
            let events = events.iter();
            events.filter_map(move |event| (event["method"] == method).then_some(&event["params"]))
        };
        let asked: BTreeMap<&str, (&str, &str)> = of("Network.requestWillBeSent")
            .filter_map(|event| {
                let request = &event["request"];
                let asked = (request["method"].as_str()?, request["url"].as_str()?);
                Some((event["requestId"].as_str()?, asked))
            })
            .collect();
        of("Network.responseReceivedExtraInfo")
            .filter_map(|event| {
                let (method, url) = asked.get(event["requestId"].as_str()?)?;
                let status = event["statusCode"].as_u64()?;
                url.starts_with(start)
                    .then(|| ((*method).to_owned(), (*url).to_owned(), status))
            })
            .collect()
    }

    /// The URLs that pages have asked for so far.
    pub fn requests(&self) -> Vec<String> {
        self.heard(|method, event| {
            let url = event["request"]["url"].as_str()?.to_owned();
            (method == "Network.requestWillBeSent").then_some(url)
        })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
