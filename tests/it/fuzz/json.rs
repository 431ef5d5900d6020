//! Mutation of JSON documents: in their structure, and in the bytes of the result.

use std::io::Write;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::bytes::{self, changes};

/// What may stand in the place of any value.
const ODD_TEXTS: [&str; 24] = [
    "",
    " ",
    "\n",
    "a\u{1b}[2J\r\nb",
    "null",
    "0",
    "-1",
    "é\u{202e}\u{feff}",
    "\u{0}",
    "../../etc",
    "ACTIVE",
    "SHUTOFF",
    "DELETED",
    "deleting",
    "next",
    "public",
    "compute",
    "image",
    "v3",
    "[",
    "9999-99-99T99:99:99Z",
    "+262142-12-31T23:59:59Z",
    "1969-12-31T23:59:59Z",
    "http://[::1",
];
const ODD_NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "1",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "1e400",
    "1.5",
    "-0",
    "1e-7",
];

/// One change of a document's structure, at a place that is counted through the whole document.
#[derive(Clone, Debug)]
pub enum Change {
    /// Puts another value in its place.
    Put(Index, Value),
    Remove(Index),
    /// Adds a copy of a member or item under another name or beside it.
    Copy(Index, Index),
    /// Wraps it in lists, so deep.
    Wrap(Index, usize),
    Repeat(Index, usize),
}

/// What happens to the text of a document.
#[derive(Clone, Debug)]
pub enum Form {
    AsItIs,
    Bytes(Vec<bytes::Change>),
    /// A member twice in one object.
    Doubled(Index),
    /// A number that no `Value` holds, in the place of the nth number.
    Number(Index, &'static str),
    Html(&'static str),
    Gzip,
    Repeated(&'static str, usize),
}

pub fn value(secrets: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        select(ODD_TEXTS.as_slice()).prop_map(Value::from),
        select(secrets).prop_map(Value::from),
        "[ -~é\n\t\u{1b}]{0,20}".prop_map(Value::from),
        (1..3000usize).prop_map(|length| Value::from("x ".repeat(length))),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(|eighths| json!(f64::from(eighths) / 8.0)),
        Just(json!([])),
        Just(json!({})),
    ]
}

pub fn structure(secrets: &'static [&'static str]) -> impl Strategy<Value = Vec<Change>> {
    let at = any::<Index>;
    let change = prop_oneof![
        4 => (at(), value(secrets)).prop_map(|(at, value)| Change::Put(at, value)),
        2 => at().prop_map(Change::Remove),
        2 => (at(), at()).prop_map(|(from, to)| Change::Copy(from, to)),
        1 => (at(), prop_oneof![1..4usize, Just(200)]).prop_map(|(at, deep)| Change::Wrap(at, deep)),
        1 => (at(), 1..30usize).prop_map(|(at, times)| Change::Repeat(at, times)),
    ];
    prop::collection::vec(change, 0..5)
}

pub fn form() -> impl Strategy<Value = Form> {
    const PAGES: &[&str] = &[
        "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
        "<!DOCTYPE html><script>",
        "",
        "upstream connect error",
    ];
    const TOKENS: &[&str] = &[
        "\"", "{", "}", "[", "]", ",", ":", "null", "1e999", "\\u0000", "\\ud800", "\0",
        "\u{feff}", "\n",
    ];
    prop_oneof![
        16 => Just(Form::AsItIs),
        4 => changes(TOKENS).prop_map(Form::Bytes),
        2 => any::<Index>().prop_map(Form::Doubled),
        4 => (any::<Index>(), select(ODD_NUMBERS.as_slice())).prop_map(|(at, n)| Form::Number(at, n)),
        1 => select(PAGES).prop_map(Form::Html),
        1 => Just(Form::Gzip),
        1 => (select(&["[", "{\"a\":", " ", "[[],"][..]), 1..20_000usize).prop_map(|(t, n)| Form::Repeated(t, n)),
    ]
}

/// All places of a document, parents first.
fn places(value: &Value, path: &str, all: &mut Vec<String>) {
    all.push(path.to_owned());
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                places(item, &format!("{path}/{at}"), all);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                places(member, &format!("{path}/{}", escaped(key)), all);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

pub fn restructure(mut document: Value, changes: &[Change]) -> Value {
    for change in changes {
        let mut all = Vec::new();
        places(&document, "", &mut all);
        let place = |at: &Index| all[at.index(all.len())].as_str();
        match change {
            Change::Put(at, value) => *document.pointer_mut(place(at)).unwrap() = value.clone(),
            Change::Remove(at) => remove(&mut document, place(at)),
            Change::Copy(from, to) => {
                let copy = document.pointer(place(from)).unwrap().clone();
                if copy.to_string().len() < 20_000 {
                    *document.pointer_mut(place(to)).unwrap() = copy;
                }
            }
            Change::Wrap(at, deep) => {
                let inside = document.pointer_mut(place(at)).unwrap();
                for _ in 0..*deep {
                    *inside = json!([inside.take()]);
                }
            }
            Change::Repeat(at, times) => {
                if let Some(Value::Array(items)) = document.pointer_mut(place(at))
                    && items.len() < 200
                {
                    *items = vec![items.as_slice(); *times].concat();
                }
            }
        }
    }
    document
}

fn remove(document: &mut Value, place: &str) {
    let Some((parent, last)) = place.rsplit_once('/') else {
        return;
    };
    match document.pointer_mut(parent).unwrap() {
        Value::Array(items) => drop(items.remove(last.parse().unwrap())),
        Value::Object(members) => {
            members.remove(&last.replace("~1", "/").replace("~0", "~"));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

pub fn render(document: &Value, form: &Form) -> Vec<u8> {
    let text = document.to_string();
    match form {
        Form::AsItIs => text.into_bytes(),
        Form::Bytes(changes) => bytes::mutate(text.into_bytes(), changes),
        Form::Doubled(at) => doubled(&text, *at).into_bytes(),
        Form::Number(at, number) => other_number(&text, *at, number).into_bytes(),
        Form::Html(page) => page.as_bytes().to_vec(),
        Form::Gzip => [
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00".as_slice(),
            text.as_bytes(),
        ]
        .concat(),
        Form::Repeated(part, times) => part.repeat(*times).into_bytes(),
    }
}

/// Puts a copy of a member of an object beside it.
fn doubled(text: &str, at: Index) -> String {
    let opens: Vec<usize> = text.match_indices('{').map(|(at, _)| at).collect();
    if opens.is_empty() {
        return text.to_owned();
    }
    let open = opens[at.index(opens.len())] + 1;
    let rest = &text[open..];
    let end = rest.find([',', '{', '[', '}']).unwrap_or(0);
    match rest.as_bytes().get(end) {
        Some(b',') => format!("{}{},{rest}", &text[..open], &rest[..end]),
        _ => text.to_owned(),
    }
}

fn other_number(text: &str, at: Index, number: &str) -> String {
    let bytes = text.as_bytes();
    let starts: Vec<usize> = (1..bytes.len())
        .filter(|i| bytes[i - 1] == b':' && (bytes[*i].is_ascii_digit() || bytes[*i] == b'-'))
        .collect();
    if starts.is_empty() {
        return text.to_owned();
    }
    let start = starts[at.index(starts.len())];
    let end = text[start..]
        .find([',', '}', ']'])
        .map_or(text.len(), |end| start + end);
    let mut out = Vec::new();
    write!(out, "{}{number}{}", &text[..start], &text[end..]).unwrap();
    String::from_utf8(out).unwrap()
}
