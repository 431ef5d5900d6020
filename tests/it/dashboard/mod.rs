//! The dashboard: what it asks of the running daemon, and the page in a real browser.

mod access;
pub mod browser;
mod lost;
mod many;
mod page;
mod wire;
