//! The page in a browser: what it shows, follows and survives.

use serde_json::{Value, json};

use super::browser::{Browser, ENTER, LEFT, TAB};
use crate::daemon::client;
use crate::daemon::factory::{FACTORY, Factory, PKI, SPACE, until};

/// The entry of the space on the first view.
const ENTRY: &str = "[id='space-example.org']";

fn base(factory: &Factory) -> String {
    format!("http://127.0.0.1:{}", factory.admin)
}

/// A space with machinetypes that should have three quarters and one quarter.
fn two_kinds(factory: &Factory, options: &str) -> String {
    let kind = |name: &str, share: u32| {
        let text = factory.machinetype(SPACE, name, "");
        text.replace("target_share = 1", &format!("target_share = {share}"))
    };
    factory.space(SPACE, options) + &kind("atlas", 3) + &kind("lhcb", 1)
}

/// A space whose cloud nobody can reach.
fn dead(factory: &Factory) -> String {
    format!(
        "[space dead.example.org]\napi = openstack\nurl = http://127.0.0.1:1/v3\n\
         tenancy_name = t\nusername = u\npassword_base64 = c2VjcmV0c2VjcmV0\nmax_machines = 4\n{}",
        factory.machinetype("dead.example.org", "atlas", "")
    )
}

/// Nothing went wrong in the page, and it asked nobody but the daemon.
fn assert_clean(browser: &Browser, factory: &Factory) {
    assert_eq!(browser.complaints(), [""; 0], "the console of the browser");
    assert_asked_only(browser, factory);
}

fn assert_asked_only(browser: &Browser, factory: &Factory) {
    let requests = browser.requests();
    assert!(!requests.is_empty());
    for url in requests {
        assert!(
            url.starts_with(&base(factory)) || url.starts_with("data:"),
            "{url}"
        );
    }
}

#[test]
fn it_shows_the_factory_follows_it_and_says_when_the_daemon_is_gone() {
    let factory = Factory::new();
    factory.conf("space", &two_kinds(&factory, "max_machines = 3\n"));
    factory.conf("dead", &dead(&factory));
    let daemon = factory.start();
    let browser = Browser::start();
    browser.open(&format!("{}/", base(&factory)));
    browser.wait_for("h1", FACTORY);
    browser.wait_for("#live", "live");
    browser.wait_for(ENTRY, "machines 3 of 3");
    let rows = format!("{ENTRY} tbody tr");
    browser.wait_for(&rows, "atlas 67 % of 75 % 2 0");
    browser.wait_for(&rows, "lhcb 33 % of 25 % 1 0");
    let trouble = browser.wait_for(".attention tbody tr", "cloud error");
    assert!(
        trouble.contains("dead.example.org") && trouble.contains("127.0.0.1:1"),
        "{trouble}"
    );
    browser.wait_for(".readout", "latest: running 3");
    browser.wait_for(".readout", "machinetypes backing off 0");

    // It follows without being loaded again.
    browser.script("window.stays = true");
    factory.conf("space", &two_kinds(&factory, "max_machines = 4\n"));
    browser.wait_for(&rows, "atlas 75 % of 75 % 3 0");
    browser.wait_for(".events tbody tr", "created as");
    assert_eq!(browser.script("window.stays"), true);

    // From the space to the story of a machine, the same as on the command line.
    browser.click(&format!("{ENTRY} a[href='#/space/example.org']"));
    browser.wait_for("#view", SPACE);
    browser.wait_for(".found", "1 to 4 of 4 machines");
    let name = factory.machines()[0].name().to_owned();
    browser.wait_for(".machines tbody tr", &name);
    browser.click(&format!("a[href='#/machine/{name}']"));
    let shown = browser.wait_for("main", "began to run, after");
    let story = factory.run(&["status", &name]).out;
    let address = story.lines().find(|line| line.contains("address")).unwrap();
    let address = address.split_whitespace().last().unwrap();
    for part in [address, "asked for", "machinetype", "Nothing so far."] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    browser.click("#path a[href='#/']");
    browser.wait_for(ENTRY, "machines 4 of 4");
    assert_clean(&browser, &factory);

    factory.conf("space", "[space example.org]\napi = paper\n");
    browser.wait_for(".banner[role=alert]", "The configuration has errors");
    browser.wait_for(".banner[role=alert] li", "space.conf:2");
    factory.conf("space", &two_kinds(&factory, "max_machines = 4\n"));
    browser.wait_until_gone(".banner");

    daemon.kill();
    browser.wait_for(".banner[role=alert]", "The daemon does not answer.");
    browser.wait_for("#live", "not connected");
    browser.wait_for(ENTRY, "machines 4 of 4");
    let daemon = factory.start();
    browser.wait_until_gone(".banner");
    browser.wait_for("#live", "live");
    browser.wait_for("#foot", &format!("process {}", daemon.child.id()));
    assert_eq!(browser.script("window.stays"), true);
    for line in browser.complaints() {
        let expected = [
            "ERR_CONNECTION_REFUSED",
            "ERR_INCOMPLETE_CHUNKED",
            "ERR_CONNECTION_RESET",
            "ERR_SOCKET_NOT_CONNECTED",
        ];
        assert!(expected.iter().any(|part| line.contains(part)), "{line}");
    }
    assert_asked_only(&browser, &factory);
    daemon.end();
}

#[test]
fn what_a_machine_says_is_text_and_nothing_else() {
    const HOSTILE: &str = "300 <img src=x onerror=\"window.taken=1\"><script>window.taken=1</script>\
        </td><a href=\"javascript:window.taken=1\">click</a> ${window.taken=1} \u{202e}evil";
    let factory = Factory::with_space("max_machines = 1\nsimulated_job_seconds = 4", "");
    let daemon = factory.start();
    let browser = Browser::start();
    browser.open(&format!("{}/#/space/example.org", base(&factory)));
    let machine = until("there is a machine", || {
        factory.machines().into_iter().next()
    });
    machine.wait_for("started");
    let path = format!("/machines/{}/joboutputs/shutdown_message", machine.name());
    let server = (factory.port, &PKI.ca.cert);
    let put = client::request(server, Some(&PKI.vm), ("PUT", &path), HOSTILE);
    assert_eq!(put.status, 201, "{put:?}");
    let row = browser.wait_for(".machines tbody tr", "onerror");
    assert!(row.contains("<script>window.taken=1</script>"), "{row}");
    // It has ended with a 300, so its machinetype backs off: that is shown, with a time.
    browser.wait_for("main", "backing off after an abort until");
    browser.click(&format!("a[href='#/machine/{}']", machine.name()));
    let said = browser.wait_for(".facts div", "shutdown message");
    assert!(
        said.contains("<img src=x onerror=\"window.taken=1\">"),
        "{said}"
    );
    browser.click("#path a[href='#/']");
    browser.wait_for(".attention tbody tr", "backoff");
    browser.wait_for(".events tbody tr", "onerror");
    assert_eq!(browser.script("window.taken === undefined"), true);
    let elements = "main img, main script, main iframe, main a:not([href^='#/'])";
    assert!(browser.texts(elements).is_empty());
    assert_clean(&browser, &factory);
    // The page could not do so if it wanted to.
    let refused = browser.script(
        "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'taken' } catch (e) { return e.name } })()",
    );
    assert_eq!(refused, "TypeError");
    let inline = browser.script(
        "(() => { const s = document.createElement('style'); s.textContent = 'body { color: red }'; \
         document.head.append(s); return getComputedStyle(document.body).color })()",
    );
    assert_ne!(inline, "rgb(255, 0, 0)");
    daemon.end();
}

#[test]
fn it_works_with_keys_alone_on_a_phone_and_in_the_dark() {
    let factory = Factory::new();
    factory.conf("space", &two_kinds(&factory, "max_machines = 2\n"));
    factory.conf("dead", &dead(&factory));
    let daemon = factory.start();
    let browser = Browser::start();
    browser.open(&format!("{}/", base(&factory)));
    browser.wait_for(ENTRY, "machines 2 of 2");
    browser.wait_for(".attention tbody tr", "cloud error");
    browser.wait_for("figure", "latest: running 2");
    readable(&browser);

    // The first key leads past what is the same on all views.
    browser.press(TAB);
    assert_eq!(browser.focused(), "A Skip to the content");
    browser.press(ENTER);
    assert!(
        browser.focused().starts_with("MAIN"),
        "{}",
        browser.focused()
    );
    tab_to(&browser, "svg");
    let label = |browser: &Browser| {
        let label = "document.activeElement.getAttribute('aria-label')";
        browser.script(label).as_str().unwrap().to_owned()
    };
    assert!(
        label(&browser).contains("latest: running 2"),
        "{}",
        label(&browser)
    );
    browser.press(LEFT);
    assert!(!label(&browser).contains("latest"), "{}", label(&browser));
    tab_to(&browser, "A machines of example.org");
    // Neither what comes in nor the passing of time takes the focus away.
    let before = browser.texts("#foot");
    until("something has changed", || {
        (browser.texts("#foot") != before).then_some(())
    });
    assert_eq!(browser.focused(), "A machines of example.org");
    browser.press(ENTER);
    browser.wait_for("#view", SPACE);
    assert!(
        browser.focused().starts_with("H2 example.org"),
        "{}",
        browser.focused()
    );
    browser.wait_for(".found", "2 machines");
    tab_to(&browser, "SELECT");
    tab_to(&browser, "INPUT");
    browser.enter("lhcb");
    browser.wait_for(".found", "1 to 1 of 1 machine");
    tab_to(&browser, "A vcycle-lhcb-");
    browser.press(ENTER);
    browser.wait_for("main", "asked for");

    // Each part of the page has a name, each table its heads.
    browser.open(&format!("{}/#/space/example.org", base(&factory)));
    browser.wait_for(".found", "2 machines");
    let nameless = browser.script(
        "[...document.querySelectorAll('table')].filter(t => !t.caption || !t.tHead).length \
         + [...document.querySelectorAll('section')].filter(s => !s.getAttribute('aria-labelledby') \
         && !s.getAttribute('role')).length",
    );
    assert_eq!(nameless, 0);
    for landmark in ["header", "nav", "main", "footer", "[aria-live=polite]"] {
        assert_eq!(browser.texts(landmark).len().min(1), 1, "{landmark}");
    }

    let phone = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
    browser.command("Emulation.setDeviceMetricsOverride", &phone);
    for view in ["", "#/space/example.org", "#/space/dead.example.org"] {
        browser.open(&format!("{}/{view}", base(&factory)));
        browser.wait_for("#live", "live");
        browser.wait_for("main", SPACE);
        until("the page is as wide as the phone", || {
            let width = browser.script("document.documentElement.scrollWidth");
            (width.as_u64() <= Some(360)).then_some(())
        });
        let light = ground(&browser);
        readable(&browser);
        scheme(&browser, "dark");
        assert_ne!(ground(&browser), light);
        readable(&browser);
        scheme(&browser, "light");
    }
    assert_clean(&browser, &factory);
    daemon.end();
}

/// Presses Tab until something that begins so has the focus, and sees that the focus shows.
fn tab_to(browser: &Browser, start: &str) {
    for _ in 0..60 {
        browser.press(TAB);
        if browser.focused().starts_with(start) {
            let outline = "getComputedStyle(document.activeElement).outlineStyle";
            assert_ne!(
                browser.script(outline),
                "none",
                "{start}: the focus is not seen"
            );
            return;
        }
    }
    panic!("no Tab leads to {start}; the last is {}", browser.focused());
}

fn scheme(browser: &Browser, name: &str) {
    let media = json!({"features": [{"name": "prefers-color-scheme", "value": name}]});
    browser.command("Emulation.setEmulatedMedia", &media);
}

fn ground(browser: &Browser) -> Value {
    browser.script("getComputedStyle(document.body).backgroundColor")
}

/// All text has a contrast of at least 4.5 to what is behind it, as WCAG 2 counts it.
fn readable(browser: &Browser) {
    let faint = browser.script(
        "(() => { const parse = c => c.match(/[\\d.]+/g).map(Number);
         const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
           .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
           .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
         const behind = e => { for (; e; e = e.parentElement) {
           const c = parse(getComputedStyle(e).backgroundColor);
           if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
         return [...document.querySelectorAll('body *')]
           .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.nodeValue.trim()))
           .filter(e => e.getClientRects().length && !e.closest('noscript'))
           .map(e => { const style = getComputedStyle(e);
             const ink = light(parse(e.namespaceURI.endsWith('svg') ? style.fill : style.color));
             const ground = light(behind(e));
             const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
             return [ratio, e.tagName, e.className.baseVal || e.className, e.textContent.slice(0, 40)]; })
           .filter(([ratio]) => ratio < 4.5).map(each => each.join(' ')) })()",
    );
    assert_eq!(faint, json!([]), "too faint");
}
