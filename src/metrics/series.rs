//! Series that can be forgotten: those of a space end with it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::family::Family;

use super::Label;

/// One metric with a series for each set of labels.
#[derive(Debug)]
pub struct Series<const N: usize, M> {
    family: Family<[Label; N], M, fn() -> M>,
    /// The labels that there are: a family does not tell.
    known: Mutex<BTreeSet<[Label; N]>>,
}

impl<const N: usize, M: Clone + Debug> Series<N, M> {
    /// None yet; `new` makes each.
    pub fn new(new: fn() -> M) -> Self {
        Self {
            family: Family::new_with_constructor(new),
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<[Label; N]>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The series with these labels.
    pub fn at(&self, labels: &[Label; N]) -> M {
        let mut known = self.known();
        if !known.contains(labels) {
            known.insert(labels.clone());
        }
        self.family.get_or_create_owned(labels)
    }

    /// Forgets the series with labels that `is_over` is true of.
    pub fn forget(&self, is_over: impl Fn(&[Label; N]) -> bool) {
        self.known().retain(|labels| {
            let over = is_over(labels);
            if over {
                self.family.remove(labels);
            }
            !over
        });
    }

    /// What a registry takes.
    pub fn family(&self) -> Family<[Label; N], M, fn() -> M> {
        self.family.clone()
    }
}
