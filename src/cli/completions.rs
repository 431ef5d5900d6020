//! `vcycled completions`: what a shell needs to complete commands and options.

use clap::{CommandFactory, ValueEnum};

use super::args::Arguments;

/// Shells that can be told.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    /// The usual one.
    Bash,
    /// Fish.
    Fish,
    /// Zsh.
    Zsh,
}

/// The completion for `shell`.
pub fn script(shell: Shell) -> Vec<u8> {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    let mut text = Vec::new();
    clap_complete::generate(generator, &mut Arguments::command(), "vcycled", &mut text);
    text
}
