//! Role: a rate limit that can be changed while a loop runs, from another thread.
//! Owns: the limit that holds now.
//! Implements: docs/ARCHITECTURE.md, "The event loop" (live limits).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stands for no limit.
const NONE: u64 = u64::MAX;

/// Shared by the loop, which looks ten times a second, and by whoever changes it.
#[derive(Clone, Debug)]
pub struct LiveLimit(Arc<AtomicU64>);

impl LiveLimit {
    /// With this limit at first, bytes a second; `None`: no limit.
    pub fn new(bytes_per_sec: Option<u64>) -> Self {
        Self(Arc::new(AtomicU64::new(bytes_per_sec.unwrap_or(NONE))))
    }

    /// Changes it; the loop follows within a tenth of a second.
    pub fn set(&self, bytes_per_sec: Option<u64>) {
        self.0.store(bytes_per_sec.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// As it is now.
    pub fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|rate| *rate != NONE)
    }
}

/// What the loop knows of it.
#[derive(Debug)]
pub(super) struct Follow {
    limit: LiveLimit,
    applied: Option<u64>,
}

impl Follow {
    /// `applied`: what the loop was started with.
    pub(super) fn new(limit: LiveLimit, applied: Option<u64>) -> Self {
        Self { limit, applied }
    }

    /// The limit, if it is another one than before.
    pub(super) fn change(&mut self) -> Option<Option<u64>> {
        let now = self.limit.get();
        (std::mem::replace(&mut self.applied, now) != now).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let limit = LiveLimit::new(Some(7));
        let mut follow = Follow::new(limit.clone(), Some(7));
        assert_eq!(follow.change(), None);
        limit.set(None);
        assert_eq!((follow.change(), follow.change()), (Some(None), None));
        limit.set(Some(9));
        assert_eq!((follow.change(), limit.get()), (Some(Some(9)), Some(9)));
    }
}
