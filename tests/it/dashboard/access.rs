//! Who may see the page: a browser that knows the token, and no page of another site.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use serde_json::json;

use super::browser::Browser;
use crate::daemon::endpoint::{get, outer_address};
use crate::daemon::factory::{Factory, SPACE, until};

/// A factory that asks everybody for the token, and where a browser finds it.
fn asking() -> (Factory, SocketAddr) {
    let factory = Factory::with_space("max_machines = 1", "");
    factory.server(&format!("admin_listen = 0.0.0.0:{}\n", factory.admin));
    let outer = outer_address();
    if outer.is_none() {
        println!("this host has no address but loopback ones; trying at one of those");
    }
    let address = outer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let place = (address, factory.admin).into();
    (factory, place)
}

#[test]
fn a_browser_logs_in_and_a_page_says_when_its_token_is_the_right_one_no_more() {
    let (factory, place) = asking();
    let daemon = factory.start();
    let path = factory.state("admin_token");
    let token = fs::read_to_string(&path).unwrap();
    let browser = Browser::start_for(place.ip());
    let go = |url: String| browser.command("Page.navigate", &json!({ "url": url }));
    go(format!("http://{place}/"));
    let base = format!("http://{place}/");
    until("the page is refused", || {
        let refused = (String::from("GET"), base.clone(), 401);
        browser.statuses(&base).contains(&refused).then_some(())
    });
    assert!(browser.texts("#main").is_empty(), "nothing is shown");

    // A bookmark with the token in it; what the page itself asks for has it, too.
    go(format!("http://admin:{}@{place}/", token.trim()));
    browser.wait_for("#live", "live");
    browser.wait_for(&format!("[id='space-{SPACE}']"), "machines 1 of 1");
    browser.click(&format!("a[href='#/space/{SPACE}']"));
    browser.wait_for(".found", "1 to 1 of 1 machine");
    browser.wait_for(".readout", "latest: running 1");
    let shown = browser.script("document.documentElement.outerHTML");
    assert!(!shown.as_str().unwrap().contains(token.trim()));

    // A daemon with another token: the page says so, and asks for nothing but to be loaded again.
    daemon.end();
    fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
    let daemon = factory.start();
    let banner = browser.wait_for(".banner[role=alert]", "The daemon asks for its token.");
    assert!(banner.contains("Load again"), "{banner}");
    browser.wait_for("#live", "not connected");
    go(format!(
        "http://admin:0123456789abcdef0123456789abcdef@{place}/"
    ));
    browser.wait_for("#live", "live");
    browser.wait_until_gone(".banner");
    daemon.end();
    let log = factory.log();
    assert!(!log.contains(token.trim()), "{log}");
    let told = factory.log_lines("with a token that is not the one in admin_token");
    assert_eq!(told.len(), 1, "once a minute: {told:?}");
    assert!(
        told[0].contains(&format!("client={}", place.ip())),
        "{told:?}"
    );
}

#[test]
fn only_who_can_be_a_person_is_asked_for_a_password() {
    let (factory, place) = asking();
    let daemon = factory.start();
    let challenge = |accept: &str| {
        let mut stream = TcpStream::connect(place).unwrap();
        let head = format!("GET /v1/stream HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let lines = BufReader::new(stream).lines().map(Result::unwrap);
        let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
        assert!(head[0].starts_with("HTTP/1.1 401"), "{head:?}");
        let has = |scheme: &str| {
            let line = format!("www-authenticate: {scheme}");
            head.iter().any(|found| found.starts_with(&line))
        };
        assert!(has("Bearer"), "{head:?}");
        has("Basic")
    };
    assert!(challenge("text/html,application/xhtml+xml,*/*;q=0.8"));
    assert!(challenge("*/*"));
    assert!(!challenge("text/event-stream"));
    assert!(!challenge("application/json"));
    daemon.end();
}

/// Serves one page, whatever is asked for, for as long as the test runs.
fn other_site(page: String) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = BufReader::new(&stream).lines();
            while head
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close";
            let _gone = write!(
                stream,
                "{head}\r\nContent-Length: {}\r\n\r\n{page}",
                page.len()
            );
        }
    });
    port
}

#[test]
fn a_page_of_another_site_gets_nothing_and_does_nothing() {
    let factory = Factory::with_space("max_machines = 1", "");
    let daemon = factory.start();
    assert_eq!(get(&factory, "/healthz").status, 200);
    let base = format!("http://127.0.0.1:{}", factory.admin);
    let page = format!(
        "<!doctype html><title>other</title><a id=link href='{base}/'>the dashboard</a>\
         <iframe src='{base}/'></iframe><img src='{base}/v1/status'>\
         <script src='{base}/v1/status?machines=no'></script>\
         <form id=form method=post action='{base}/v1/log?level=debug' target=hidden></form>\
         <iframe name=hidden></iframe>"
    );
    let other = format!("http://127.0.0.1:{}/", other_site(page));
    let browser = Browser::start();
    browser.open(&other);
    browser.script("document.getElementById('form').submit()");
    let tried = browser.script(&format!(
        "(async () => {{
           const tell = (promise) => promise.then(async (a) => a.type + (await a.text()), (e) => e.name);
           const stream = await new Promise((done) => {{
             const source = new EventSource('{base}/v1/stream');
             source.onmessage = () => done('message');
             source.onerror = () => {{ source.close(); done('error'); }}; }});
           return [stream,
             await tell(fetch('{base}/v1/status')),
             await tell(fetch('{base}/metrics', {{ mode: 'no-cors' }})),
             await tell(fetch('{base}/v1/log?level=debug', {{ method: 'POST', mode: 'no-cors' }})),
             await tell(fetch('{base}/v1/log', {{ method: 'PUT' }}))]; }})()"
    ));
    assert_eq!(tried[0], "error", "{tried}");
    assert!(!tried.to_string().contains("space"), "{tried}");
    let statuses = until("everything has been tried", || {
        let statuses = browser.statuses(&base);
        let tried = |part: &str| statuses.iter().any(|(_, url, _)| url.ends_with(part));
        let all = [
            "/",
            "/v1/status",
            "machines=no",
            "/v1/stream",
            "/metrics",
            "level=debug",
        ];
        all.into_iter().all(tried).then_some(statuses)
    });
    for (method, url, status) in &statuses {
        assert!(matches!(status, 403 | 405), "{method} {url}: {status}");
    }
    assert!(statuses.iter().any(|(method, ..)| method == "POST"));
    assert!(factory.log_lines("the log is at level").is_empty());
    // A link to the dashboard leads there.
    browser.click("#link");
    browser.wait_for("#live", "live");
    browser.wait_for(&format!("[id='space-{SPACE}']"), "machines 1 of 1");
    daemon.end();
}
