//! The `vcycled` command.

fn main() {}
