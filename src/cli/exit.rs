//! Exit codes, as vcycled(8) lists them; the numbers are those of sysexits.h, and for `health`
//! those of Nagios plugins.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// `health`: worth a look.
    Warning = 1,
    /// `health`: somebody has to act.
    Critical = 2,
    /// `health`: it cannot be told how it is.
    Unknown = 3,
    /// The command line cannot be understood.
    Usage = 64,
    /// An input (a snapshot) cannot be understood.
    Data = 65,
    /// A cloud cannot be reached or refuses.
    Unavailable = 69,
    /// Something that should not happen.
    Internal = 70,
    /// A file, directory, lock or address cannot be used.
    Io = 74,
    /// The configuration has errors.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed: the code, and what is said to the person who called it.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What is written to standard error; `None` when everything has been said already.
    pub message: Option<String>,
}

impl Failure {
    /// A failure with a message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: Some(message.into()),
        }
    }

    /// A failure that has been explained already.
    pub const fn silent(exit: Exit) -> Self {
        Self {
            exit,
            message: None,
        }
    }
}
