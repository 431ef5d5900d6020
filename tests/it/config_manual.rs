//! The manual page and the table of options agree.

use vcycle::config::options::{OPTIONS, OptionSpec, Preset, SectionKind};

const MANUAL_PAGE: &str = include_str!("../../man/vcycle.conf.5");

/// An option as the manual page has it: `.It Cm NAME Ar TYPE` below a heading, and what it says.
#[derive(Debug)]
struct PageItem {
    section: SectionKind,
    name: String,
    value: String,
    text: String,
}

fn page_items() -> Vec<PageItem> {
    let mut section = None;
    let mut items: Vec<PageItem> = Vec::new();
    for line in MANUAL_PAGE.lines() {
        if let Some(heading) = line.strip_prefix(".Sh ") {
            section = match heading {
                "SPACES" => Some(SectionKind::Space),
                "MACHINETYPES" => Some(SectionKind::Machinetype),
                "VACUUM PIPES" => Some(SectionKind::VacuumPipe),
                "THE SERVER" => Some(SectionKind::Server),
                _ => None,
            };
        } else if let (Some(section), Some(item)) = (section, line.strip_prefix(".It Cm ")) {
            let (name, value) = item.split_once(" Ar ").unwrap();
            items.push(PageItem {
                section,
                name: name.to_owned(),
                value: value.to_owned(),
                text: String::new(),
            });
        } else if let (Some(_), Some(item)) = (section, items.last_mut()) {
            item.text.push_str(line);
            item.text.push('\n');
        }
    }
    items
}

#[test]
fn the_manual_page_has_every_option_of_the_table() {
    let items = page_items();
    let is_of = |item: &PageItem, option: &OptionSpec| {
        item.section == option.section && item.name == option.name
    };
    let says = |item: &PageItem, option: &OptionSpec| {
        let preset = match option.preset {
            Preset::Required => item.text.contains("Required"),
            Preset::Text(text) => item.text.contains(&format!("Default {text}")),
            Preset::Off | Preset::Told => !item.text.contains("Required"),
        };
        let names = option.names().skip(1);
        preset
            && names
                .into_iter()
                .all(|name| item.text.contains(&format!(".Cm {name}")))
    };
    for option in OPTIONS {
        let on_page: Vec<_> = items.iter().filter(|item| is_of(item, option)).collect();
        let agrees = |item: &&&PageItem| item.value == option.value && says(item, option);
        assert!(
            on_page.iter().any(|item| agrees(&item)),
            "{} is not on the page as in the table: {on_page:?}",
            option.name
        );
    }
}

#[test]
fn the_table_has_every_option_of_the_manual_page() {
    let items = page_items();
    assert!(items.len() > 50, "{}", items.len());
    for item in items {
        let known = OPTIONS
            .iter()
            .any(|option| option.section == item.section && option.name == item.name);
        assert!(known, "{item:?}");
    }
}
