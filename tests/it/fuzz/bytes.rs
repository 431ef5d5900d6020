//! Mutation of bytes: what happens to files on the way, and what fuzzers try.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Bytes that are mostly text, shown as such.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) => write!(f, "{text:?}"),
            Err(_) => write!(f, "b\"{}\"", self.0.escape_ascii()),
        }
    }
}

/// One change of a text.
#[derive(Clone, Debug)]
pub enum Change {
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// Copies a part to another place.
    Splice(Index, Index, usize),
    Truncate(Index),
    /// Of a line: repeat it, drop it, or swap it with the next.
    RepeatLine(Index),
    DropLine(Index),
    SwapLines(Index),
    /// Puts something at the beginning of a line.
    Before(Index, Vec<u8>),
    /// Puts something at the end of a line.
    After(Index, Vec<u8>),
}

pub fn changes(tokens: &'static [&'static str]) -> impl Strategy<Value = Vec<Change>> {
    let token = || select(tokens).prop_map(|token| token.as_bytes().to_vec());
    let at = any::<Index>;
    let change = prop_oneof![
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Flip(at, byte)),
        4 => (at(), token()).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..4)).prop_map(|(at, b)| Change::Insert(at, b)),
        1 => (at(), 1..20usize).prop_map(|(at, length)| Change::Remove(at, length)),
        1 => (at(), at(), 1..60usize).prop_map(|(from, to, length)| Change::Splice(from, to, length)),
        1 => at().prop_map(Change::Truncate),
        1 => at().prop_map(Change::RepeatLine),
        1 => at().prop_map(Change::DropLine),
        1 => at().prop_map(Change::SwapLines),
        3 => (at(), token()).prop_map(|(at, bytes)| Change::Before(at, bytes)),
        3 => (at(), token()).prop_map(|(at, bytes)| Change::After(at, bytes)),
    ];
    prop::collection::vec(change, 1..8)
}

pub fn mutate(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        apply(&mut bytes, change);
    }
    bytes
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let length = bytes.len();
    let place = |at: &Index| at.index(length + 1);
    match change {
        Change::Flip(at, mask) if length > 0 => bytes[at.index(length)] ^= mask,
        Change::Flip(..) => {}
        Change::Insert(at, more) => insert(bytes, place(at), more),
        Change::Remove(at, count) => {
            let from = place(at);
            drop(bytes.drain(from..length.min(from + count)));
        }
        Change::Splice(from, to, count) => {
            let from = place(from);
            let part = bytes[from..length.min(from + count)].to_vec();
            insert(bytes, place(to), &part);
        }
        Change::Truncate(at) => bytes.truncate(place(at)),
        Change::RepeatLine(_)
        | Change::DropLine(_)
        | Change::SwapLines(_)
        | Change::Before(..)
        | Change::After(..) => apply_to_lines(bytes, change),
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, more: &[u8]) {
    bytes.splice(at..at, more.iter().copied());
}

fn apply_to_lines(bytes: &mut Vec<u8>, change: &Change) {
    let mut lines: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let count = lines.len();
    match change {
        Change::RepeatLine(at) => lines.insert(at.index(count), lines[at.index(count)].clone()),
        Change::DropLine(at) => drop(lines.remove(at.index(count))),
        Change::SwapLines(at) => lines.swap(at.index(count), (at.index(count) + 1) % count),
        Change::Before(at, more) => insert(&mut lines[at.index(count)], 0, more),
        Change::After(at, more) => lines[at.index(count)].extend(more),
        Change::Flip(..)
        | Change::Insert(..)
        | Change::Remove(..)
        | Change::Splice(..)
        | Change::Truncate(_) => {}
    }
    *bytes = lines.join(&b'\n');
}
