//! A peer that has the key and keeps no rule, and everybody without the key: what they send is refused, counted, and
//! changes nothing. docs/SECURITY.md names these tests.

mod bombs;
mod document;
mod handshake;
mod packets;
mod paths;
mod secrets;
mod support;

use peak_alloc::PeakAlloc;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Counts the bytes in use, for the bounds that `bombs` checks.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Tests that measure memory hold it alone, all others together.
static TURN: RwLock<()> = RwLock::new(());

fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(PoisonError::into_inner)
}

fn together() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}
