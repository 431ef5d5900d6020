//! Images from files and URLs: their signatures, where they are kept, and how they get to a cloud.

mod glance;
mod removal;
pub mod signed;
mod sites;
mod trouble;
