//! A page of a factory with many spaces.

use std::fmt::Write;

use super::browser::Browser;
use crate::daemon::factory::{Factory, SPACE};

/// Spaces whose clouds nobody can reach.
const DEAD: usize = 40;

#[test]
fn many_spaces_are_folded_up_and_many_troubles_told_in_bounds() {
    let factory = Factory::with_space("max_machines = 2", "");
    let mut text = String::new();
    for number in 0..DEAD {
        let space = format!("dead{number}.org");
        write!(
            text,
            "[space {space}]\napi = openstack\nurl = http://127.0.0.1:1/v3\ntenancy_name = t\n\
             username = u\npassword_base64 = c2VjcmV0c2VjcmV0\nmax_machines = 4\n{}",
            factory.machinetype(&space, "atlas", "")
        )
        .unwrap();
    }
    factory.conf("dead", &text);
    let daemon = factory.start();
    let browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{}/", factory.admin));
    browser.wait_for(".tiles", &format!("{DEAD} with an error"));
    browser.wait_for(".tiles", "Running 2 of 2 machines");
    let more = format!("and {} more, of {} spaces", DEAD - 25, DEAD - 25);
    browser.wait_for("#main", &more);
    assert_eq!(browser.texts(".attention tbody tr").len(), 25);
    // Its figures are there, its machinetypes are when somebody looks.
    let entry = format!("[id='space-{SPACE}']");
    browser.wait_for(&entry, "machines 2 of 2");
    let tables = format!("{entry} table");
    assert!(browser.texts(&tables).is_empty());
    browser.click(&format!("{entry} summary"));
    browser.wait_for(&format!("{entry} tbody tr"), "atlas 100 % of 100 % 2 0");
    browser.click(&format!("{entry} summary"));
    browser.wait_until_gone(&tables);
    let elements = browser.script("document.querySelectorAll('*').length");
    assert!(elements.as_u64() < Some(3000), "{elements}");
    daemon.end();
}
