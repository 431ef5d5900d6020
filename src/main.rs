//! The `vcycled` command: hands over to [`vcycle::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vcycle::cli::main(std::env::args_os())
}
