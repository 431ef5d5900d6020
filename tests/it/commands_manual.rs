//! Each command and option of the program is in the manual pages, and the other way round.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use vcycle::cli::args::Arguments;

/// Options that every command of clap's has.
const OF_CLAP: [&str; 2] = ["help", "version"];

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("man/{name}.8"))
}

fn text(name: &str) -> Option<String> {
    fs::read_to_string(page(name)).ok()
}

/// The long options that a page describes in a list: `.It Fl -NAME ...`.
fn described(page: &str) -> BTreeSet<String> {
    let items = page
        .lines()
        .filter_map(|line| line.strip_prefix(".It Fl -"));
    items
        .map(|item| item.split([' ', '=']).next().unwrap().to_owned())
        .collect()
}

/// The long options of a command, without those that all have.
fn own_options(command: &clap::Command) -> BTreeSet<String> {
    let all = command.get_arguments().filter_map(clap::Arg::get_long);
    let own = all.filter(|name| !OF_CLAP.contains(name));
    own.map(str::to_owned).collect()
}

/// The same, with those of the commands below it.
fn options(command: &clap::Command) -> BTreeSet<String> {
    let below = command.get_subcommands().flat_map(options);
    own_options(command).into_iter().chain(below).collect()
}

#[test]
fn every_command_and_option_has_its_place_in_a_page_and_no_other_has() {
    let program = Arguments::command();
    let main = text("vcycled").unwrap();
    let mut of_main = own_options(&program);
    for command in program.get_subcommands() {
        let name = command.get_name();
        assert!(main.contains(&format!("\n.It Cm {name}\n")), "{name}");
        assert!(
            main.contains(&format!("\n.Cm {name}\n")) || name == "run",
            "{name}: synopsis"
        );
        match text(&format!("vcycled-{name}")) {
            // A page of its own has all options of the command, and is referred to.
            Some(own) => {
                assert_eq!(described(&own), options(command), "vcycled-{name}.8");
                for below in command.get_subcommands() {
                    let below = below.get_name();
                    assert!(own.contains(&format!(".It Cm {below}\n")), "{name} {below}");
                }
                assert!(main.contains(&format!(".Xr vcycled-{name} 8")), "{name}");
            }
            None => of_main.extend(options(command)),
        }
    }
    let described = described(&main);
    let inline = |name: &&String| main.contains(&format!("Fl -{name}"));
    let missing: Vec<_> = of_main
        .difference(&described)
        .filter(|name| !inline(name))
        .collect();
    assert!(missing.is_empty(), "vcycled.8 lacks {missing:?}");
    let unknown: Vec<_> = described.difference(&of_main).collect();
    assert!(unknown.is_empty(), "vcycled.8 has {unknown:?}");
}

#[test]
fn all_pages_are_well_formed() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let files = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let pages: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|ending| ending != "md"))
        .collect();
    assert!(pages.len() > 9, "{pages:?}");
    for page in pages {
        let linted = Command::new("mandoc")
            .args(["-T", "lint"])
            .arg(&page)
            .output();
        let Ok(linted) = linted else {
            println!("skipped: there is no mandoc");
            return;
        };
        let said = String::from_utf8_lossy(&linted.stdout).into_owned();
        // What it knows of other pages depends on the host.
        let elsewhere = ["mandoc.db", "referenced manual not found"];
        let complaints = said
            .lines()
            .filter(|line| !elsewhere.iter().any(|words| line.contains(words)));
        assert_eq!(
            complaints.collect::<Vec<_>>(),
            [""; 0],
            "{}",
            page.display()
        );
    }
}
