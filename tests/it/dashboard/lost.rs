//! A page whose stream is refused, or whose daemon says nothing.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use rustix::process::Signal;

use super::browser::Browser;
use crate::daemon::endpoint::get;
use crate::daemon::factory::{Factory, SPACE};

/// Takes a place for a stream.
fn take_place(factory: &Factory) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", factory.admin)).unwrap();
    let head = b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(head).unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    assert!(line.contains(" 200 "), "{line}");
    stream
}

#[test]
fn one_page_too_many_says_so_and_begins_when_it_can() {
    let factory = Factory::with_space("max_machines = 1", "");
    let daemon = factory.start();
    assert_eq!(get(&factory, "/healthz").status, 200);
    let mut taken: Vec<_> = (0..16).map(|_| take_place(&factory)).collect();
    let browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{}/", factory.admin));
    let banner = browser.wait_for(".banner[role=alert]", "Too many pages may be open.");
    assert!(banner.contains("tries again by itself"), "{banner}");
    browser.wait_for("#live", "not connected");
    drop(taken.pop());
    browser.wait_until_gone(".banner");
    browser.wait_for(&format!("[id='space-{SPACE}']"), "machines 1 of 1");
    browser.wait_for("#live", "live");
    daemon.end();
}

#[test]
fn a_daemon_that_hangs_is_noticed_and_what_is_shown_is_told_to_be_old() {
    let factory = Factory::with_space("max_machines = 1", "");
    let daemon = factory.start();
    let browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{}/", factory.admin));
    let entry = format!("[id='space-{SPACE}']");
    browser.wait_for(&entry, "machines 1 of 1");
    daemon.signal(Signal::STOP);
    let banner = browser.wait_for(".banner[role=alert]", "The daemon does not answer.");
    assert!(banner.contains("What is below is what it said"), "{banner}");
    assert!(
        banner.contains("Machines that run go on without it."),
        "{banner}"
    );
    browser.wait_for("#live", "not connected");
    assert!(
        browser
            .script("document.title")
            .as_str()
            .unwrap()
            .starts_with("(no daemon)")
    );
    browser.wait_for(&entry, "machines 1 of 1");
    daemon.signal(Signal::CONT);
    browser.wait_until_gone(".banner");
    browser.wait_for("#live", "live");
    daemon.end();
}
