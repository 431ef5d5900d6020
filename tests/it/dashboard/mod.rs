//! The dashboard: what it asks of the running daemon, and the page in a real browser.

mod browser;
mod page;
mod wire;
