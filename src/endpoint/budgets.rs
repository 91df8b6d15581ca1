//! Role: divides the process's memory for data under way among the sessions that move data.
//! Owns: how many of them there are, and what chunks in assembly hold in all.
//! Implements: docs/PROTOCOL.md, "Flow control"; docs/ARCHITECTURE.md, "Budgets".
//!
//! A session gets its share when something happens to it, so that sessions that come and go cost the others nothing, and one that
//! stands still takes nothing from those that move.

use crate::transfer::MAX_CHUNK_SIZE;
use std::time::{Duration, Instant};

/// A session's share of the receive budget never falls below this: the largest datagram.
const MIN_RECEIVE_SHARE_BYTES: u64 = 64 * 1024;
/// Nor its share of the send budget below this: one chunk of the default size.
const MIN_SEND_SHARE_BYTES: u64 = 256 * 1024;
/// A session that has moved nothing for one to two of these does not count.
const EPOCH: Duration = Duration::from_secs(1);
/// Datagrams from this size on move data; smaller ones keep alive or give feedback.
const MOVING_BYTES: usize = 512;
/// Compressed chunks are assembled in memory, one for each session whatever its share. All of them together hold this many times
/// the receive budget at most.
const ASSEMBLY_FACTOR: u64 = 6;

/// What is kept of one session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    /// The epoch in which it was last seen to move data; 0: never.
    epoch: u64,
    /// What its chunks in assembly hold.
    assembly_bytes: u64,
    /// The shares that it was given last.
    shares: Shares,
}

/// What a session may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) receive_bytes: u64,
    pub(super) send_bytes: u64,
    /// What all sessions together may still reserve for chunks in assembly.
    pub(super) assembly_left: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Budgets {
    receive_bytes: u64,
    send_bytes: u64,
    epoch: u64,
    epoch_ends: Instant,
    moving: u64,
    moving_before: u64,
    assembly_bytes: u64,
}

impl Budgets {
    pub(super) fn new(now: Instant, receive_bytes: u64, send_bytes: u64) -> Self {
        Self {
            receive_bytes,
            send_bytes,
            epoch: 1,
            epoch_ends: now + EPOCH,
            moving: 0,
            moving_before: 0,
            assembly_bytes: 0,
        }
    }

    /// The shares of a session that joins now.
    pub(super) fn for_another(&self) -> Shares {
        self.among(self.moving.max(self.moving_before) + 1)
    }

    fn among(&self, sharers: u64) -> Shares {
        let sharers = sharers.max(1);
        Shares {
            receive_bytes: (self.receive_bytes / sharers).max(MIN_RECEIVE_SHARE_BYTES),
            send_bytes: (self.send_bytes / sharers).max(MIN_SEND_SHARE_BYTES),
            assembly_left: self.most_assembly().saturating_sub(self.assembly_bytes),
        }
    }

    /// However small the budget, two chunks find room.
    fn most_assembly(&self) -> u64 {
        (ASSEMBLY_FACTOR * self.receive_bytes).max(2 * u64::from(MAX_CHUNK_SIZE))
    }

    /// A datagram of so many bytes went to or came from a session.
    pub(super) fn note_datagram(&mut self, now: Instant, account: &mut Account, bytes: usize) {
        if now >= self.epoch_ends {
            // After a pause longer than an epoch nobody has moved in the one before.
            let one = now < self.epoch_ends + EPOCH;
            self.moving_before = if one { self.moving } else { 0 };
            self.moving = 0;
            self.epoch += 1;
            self.epoch_ends = now + EPOCH;
        }
        if bytes >= MOVING_BYTES && account.epoch != self.epoch {
            account.epoch = self.epoch;
            self.moving += 1;
        }
    }

    /// The shares of a session now, if they differ from those that it has.
    pub(super) fn renew(&self, account: &mut Account) -> Option<Shares> {
        let shares = self.among(self.moving.max(self.moving_before));
        let changed = shares != account.shares;
        account.shares = shares;
        changed.then_some(shares)
    }

    /// The chunks that a session assembles hold so much now (zero when it is gone).
    pub(super) fn note_assembly(&mut self, account: &mut Account, bytes: u64) {
        self.assembly_bytes = self.assembly_bytes - account.assembly_bytes + bytes;
        account.assembly_bytes = bytes;
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Only as an origin: the tests add to it.
mod tests {
    use super::*;

    #[test]
    fn those_that_move_share() {
        let start = Instant::now();
        let mut b = Budgets::new(start, 24 << 20, 40 << 20);
        let mut accounts = vec![Account::default(); 1000];
        assert_eq!(b.for_another().receive_bytes, 24 << 20);
        for (i, a) in accounts.iter_mut().enumerate() {
            // Only every tenth moves.
            b.note_datagram(start, a, if i % 10 == 0 { 1400 } else { 60 });
            b.note_datagram(start, a, 60);
        }
        assert_eq!(b.renew(&mut accounts[0]).map(|s| s.receive_bytes), Some((24 << 20) / 100));
        assert_eq!(b.renew(&mut accounts[0]), None, "nothing changed");
        // In the next epoch they still count; when they stand still, they do not.
        b.note_datagram(start + EPOCH, &mut accounts[0], 1400);
        assert_eq!(b.for_another().receive_bytes, (24 << 20) / 101);
        b.note_datagram(start + 2 * EPOCH, &mut accounts[0], 1400);
        assert_eq!(b.renew(&mut accounts[0]).map(|s| s.receive_bytes), Some(24 << 20));
        for a in &mut accounts {
            b.note_datagram(start + 2 * EPOCH, a, 1400);
        }
        let shares = b.for_another();
        assert_eq!((shares.receive_bytes, shares.send_bytes), (64 << 10, 256 << 10), "the least");
    }

    #[test]
    fn assembly_is_bounded_over_all() {
        let start = Instant::now();
        let mut b = Budgets::new(start, 2 << 20, 2 << 20);
        let mut accounts = [Account::default(); 2];
        b.note_assembly(&mut accounts[0], 4 << 20);
        b.note_assembly(&mut accounts[1], 1 << 20);
        assert_eq!(b.for_another().assembly_left, 7 << 20);
        b.note_assembly(&mut accounts[1], 9 << 20);
        assert_eq!(b.for_another().assembly_left, 0);
        b.note_assembly(&mut accounts[0], 0);
        assert_eq!(b.for_another().assembly_left, 3 << 20);
    }
}
