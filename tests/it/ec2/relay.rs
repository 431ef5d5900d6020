//! A listener that records requests to an EC2 and answers them, passes them on to moto, or keeps
//! moto's answer to itself. It stands for what moto does not show: the endpoints of OpenStack
//! (another path, service and version), capacity, throttling, and answers that get lost.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use url::form_urlencoded;

/// A request as it was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub form: Vec<(String, String)>,
    /// How many requests with this action came before.
    pub nth: usize,
}

impl Sent {
    pub fn action(&self) -> &str {
        self.value("Action").unwrap_or_default()
    }

    pub fn value(&self, key: &str) -> Option<&str> {
        let mut found = self.form.iter().filter(|(name, _)| name == key);
        found.next().map(|(_, value)| value.as_str())
    }

    pub fn header(&self, name: &str) -> &str {
        let mut found = self.headers.iter().filter(|(key, _)| key == name);
        found.next().map_or("", |(_, value)| value)
    }

    /// The tags of a request, from below `prefix`, in order.
    pub fn tags(&self, prefix: &str) -> Vec<(String, String)> {
        let keys = self.form.iter().filter_map(|(name, key)| {
            let number = name.strip_prefix(prefix)?.strip_suffix(".Key")?;
            let value = self.value(&format!("{prefix}{number}.Value"))?;
            Some((key.clone(), value.to_owned()))
        });
        let mut all: Vec<_> = keys.collect();
        all.sort();
        all
    }
}

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// It is passed on, and the answer back.
    Pass,
    /// The same, with one text in the place of another.
    PassWith(&'static str, &'static str),
    /// It is passed on, and the connection broken in place of the answer.
    Swallow,
    /// It is passed on, and nothing is said for as long as anybody waits.
    Hold,
    /// It is neither passed on nor answered for as long as anybody waits.
    Ignore,
    /// It is passed on, and the client tokens in the answer are made unreadable.
    Anonymous,
    /// It is answered here.
    Say(u16, String),
    /// It is answered here with 503, no code, and a request to wait for so many seconds.
    Busy(u32),
}

impl Act {
    /// An error of EC2.
    pub fn refuse(status: u16, code: &str, message: &str) -> Self {
        Self::Say(
            status,
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}\
                 </Code><Message>{message}</Message></Error></Errors><RequestID>r</RequestID>\
                 </Response>"
            ),
        )
    }
}

/// The running listener; its threads end with the process.
pub struct Relay {
    pub base: String,
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl Relay {
    /// Passes on to the address `behind`, when there is one.
    pub fn start(
        behind: Option<String>,
        script: impl Fn(&Sent) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let sent: Arc<Mutex<Vec<Sent>>> = Arc::default();
        let (seen, script) = (Arc::clone(&sent), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                let behind = behind.clone();
                std::thread::spawn(move || {
                    // A client that went away is its own affair.
                    let _ = serve(stream, behind.as_deref(), &seen, script.as_ref());
                });
            }
        });
        Self { base, sent }
    }

    pub fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }

    /// The requests with this action.
    pub fn of(&self, action: &str) -> Vec<Sent> {
        let sent = self.sent().into_iter();
        sent.filter(|sent| sent.action() == action).collect()
    }
}

fn serve(
    mut stream: TcpStream,
    behind: Option<&str>,
    seen: &Mutex<Vec<Sent>>,
    script: &dyn Fn(&Sent) -> Act,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let Some(mut sent) = receive(&mut stream)? else {
        return Ok(());
    };
    {
        let mut seen = seen.lock().unwrap();
        let same = seen.iter().filter(|one| one.action() == sent.action());
        sent.nth = same.count();
        seen.push(sent.clone());
    }
    let act = script(&sent);
    let answer = match act {
        Act::Pass => pass_on(&sent, behind.expect("there is nothing behind"))?,
        Act::PassWith(from, to) => {
            sent.body = sent.body.replace(from, to);
            pass_on(&sent, behind.expect("there is nothing behind"))?
        }
        Act::Swallow => {
            pass_on(&sent, behind.expect("there is nothing behind"))?;
            return Ok(());
        }
        Act::Hold | Act::Ignore => {
            if matches!(act, Act::Hold) {
                pass_on(&sent, behind.expect("there is nothing behind"))?;
            }
            // Ends when the client does.
            let _ = stream.read(&mut [0]);
            return Ok(());
        }
        Act::Anonymous => {
            let answer = pass_on(&sent, behind.expect("there is nothing behind"))?;
            without_tokens(answer)
        }
        Act::Say(status, body) => format!(
            "HTTP/1.1 {status} Said\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
        Act::Busy(seconds) => format!(
            "HTTP/1.1 503 Said\r\nRetry-After: {seconds}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        )
        .into_bytes(),
    };
    stream.write_all(&answer)
}

/// An answer of the same length with dashes for client tokens.
fn without_tokens(mut answer: Vec<u8>) -> Vec<u8> {
    const BEGIN: &[u8] = b"<clientToken>";
    let begins: Vec<usize> = (0..answer.len())
        .filter(|at| answer[..*at].ends_with(BEGIN))
        .collect();
    for begin in begins {
        let token = answer[begin..].iter_mut().take_while(|byte| **byte != b'<');
        token.for_each(|byte| *byte = b'-');
    }
    answer
}

/// Reads one request.
fn receive(stream: &mut TcpStream) -> std::io::Result<Option<Sent>> {
    let (mut bytes, mut piece) = (Vec::new(), [0_u8; 8192]);
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece[..count]);
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let target = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = bytes.split_off(head_end + 4);
    while body.len() < length {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(None);
        }
        body.extend_from_slice(&piece[..count]);
    }
    let body = String::from_utf8(body).unwrap();
    let form = form_urlencoded::parse(body.as_bytes());
    Ok(Some(Sent {
        target,
        headers,
        form: form.into_owned().collect(),
        body,
        nth: 0,
    }))
}

/// Sends a request to moto, which serves `/` only and knows its services by the signature's scope.
pub fn pass_on(sent: &Sent, behind: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(behind)?;
    stream.set_read_timeout(Some(Duration::from_secs(80)))?;
    let scope = sent.header("authorization");
    let scope = scope.replace("/openstack/aws4_request", "/ec2/aws4_request");
    let scope = scope.replace("/region_one/", "/us-east-1/");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {behind}\r\nAuthorization: {scope}\r\nX-Amz-Date: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        sent.header("x-amz-date"),
        sent.body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(sent.body.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}
