//! Role: divides the process's memory for data under way among the sessions that move data.
//! Owns: how many of them there are, what waits for the disk and what chunks in assembly hold in all.
//! Implements: docs/PROTOCOL.md, "Flow control".
//!
//! A session gets its share when something happens to it, so that sessions that come and go cost the others nothing, and one that
//! stands still takes nothing from those that move.

use crate::transfer::MAX_CHUNK_SIZE;
use std::time::{Duration, Instant};

/// A session's share of the receive budget never falls below this: ten full datagrams.
const MIN_RECEIVE_SHARE_BYTES: u64 = 16 * 1024;
/// All sessions together have this many times the receive budget waiting for the disk at most, and their least shares beyond it;
/// one has twice its share, since what was in flight when the window closed arrives too.
const WAITING_FACTOR: u64 = 2;
/// As that fills, a session gets one part in so many of what is left (dynamic thresholds, Choudhury and Hahne, 1998).
const WAITING_PART: u64 = 8;
/// The same two numbers hold for what is held to be sent: a session that holds much and does nothing leaves less to each of the
/// others, but all together never hold more than this many times the send budget, and their least shares beyond it.
const SENDING_FACTOR: u64 = 2;
/// When less than this share of what may wait for the disk is left, nobody keeps much of a control stream that cannot be read yet.
const TIGHT_SHARE: u64 = 4;
/// Nor its share of the send budget below this: one chunk of the default size.
const MIN_SEND_SHARE_BYTES: u64 = 256 * 1024;
/// A session that has moved nothing for one to two of these does not count.
const EPOCH: Duration = Duration::from_secs(1);
/// Datagrams from this size on move data; smaller ones keep alive or give feedback.
const MOVING_BYTES: usize = 512;
/// Compressed chunks are assembled in memory, one for each session whatever its share. All of them together hold this many times
/// the receive budget at most.
const ASSEMBLY_FACTOR: u64 = 6;
/// When less than this share of it is left, chunks that do not come are given up, and nobody gets more than half of the rest.
const ASSEMBLY_SHORT_SHARE: u64 = 4;

/// What is kept of one session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    /// The epoch in which it was last seen to move data; 0: never.
    epoch: u64,
    used: Used,
    /// The shares that it was given last.
    shares: Shares,
}

/// What a session holds of what it receives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// On its way to the disk.
    pub(crate) waiting_bytes: u64,
    /// Reserved for chunks in assembly.
    pub(crate) assembly_bytes: u64,
    /// Chunks and control messages on their way to the peer.
    pub(crate) sending_bytes: u64,
}

/// What a session may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) receive_bytes: u64,
    pub(crate) send_bytes: u64,
    /// What it may still reserve for chunks in assembly, and whether all together have reserved most of what there is.
    pub(crate) assembly_left: u64,
    pub(crate) assembly_short: bool,
    /// Little is left for what waits for the disk.
    pub(crate) tight: bool,
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
    used: Used,
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
            used: Used::default(),
        }
    }

    /// The shares of a session that joins now.
    pub(super) fn for_another(&self) -> Shares {
        self.among(self.moving.max(self.moving_before) + 1)
    }

    fn among(&self, sharers: u64) -> Shares {
        let sharers = sharers.max(1);
        let left = (WAITING_FACTOR * self.receive_bytes).saturating_sub(self.used.waiting_bytes);
        let receive_bytes = (self.receive_bytes / sharers).min(left / WAITING_PART.min(sharers));
        let send_left = (SENDING_FACTOR * self.send_bytes).saturating_sub(self.used.sending_bytes);
        let send_bytes = (self.send_bytes / sharers).min(send_left / WAITING_PART.min(sharers));
        let assembly_left = self.most_assembly().saturating_sub(self.used.assembly_bytes);
        let assembly_short = assembly_left < self.most_assembly() / ASSEMBLY_SHORT_SHARE;
        Shares {
            receive_bytes: receive_bytes.max(MIN_RECEIVE_SHARE_BYTES),
            send_bytes: send_bytes.max(MIN_SEND_SHARE_BYTES),
            // The last places are for small chunks.
            assembly_left: if assembly_short { assembly_left / 2 } else { assembly_left },
            assembly_short,
            tight: left < WAITING_FACTOR * self.receive_bytes / TIGHT_SHARE,
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

    /// A session holds so much now (nothing when it is gone).
    pub(super) fn note_used(&mut self, account: &mut Account, used: Used) {
        let swap = |all: &mut u64, before: u64, now: u64| *all = *all - before + now;
        swap(&mut self.used.waiting_bytes, account.used.waiting_bytes, used.waiting_bytes);
        swap(&mut self.used.assembly_bytes, account.used.assembly_bytes, used.assembly_bytes);
        swap(&mut self.used.sending_bytes, account.used.sending_bytes, used.sending_bytes);
        account.used = used;
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
        assert_eq!((shares.receive_bytes, shares.send_bytes), ((24 << 20) / 1001, 256 << 10));
    }

    #[test]
    fn assembly_is_bounded_over_all() {
        let start = Instant::now();
        let mut b = Budgets::new(start, 2 << 20, 2 << 20);
        let mut accounts = [Account::default(); 2];
        let hold = |assembly_bytes| Used { assembly_bytes, ..Used::default() };
        b.note_used(&mut accounts[0], hold(4 << 20));
        b.note_used(&mut accounts[1], hold(1 << 20));
        assert_eq!((b.for_another().assembly_left, b.for_another().assembly_short), (7 << 20, false));
        b.note_used(&mut accounts[1], hold(6 << 20));
        assert_eq!((b.for_another().assembly_left, b.for_another().assembly_short), (1 << 20, true));
        b.note_used(&mut accounts[1], hold(9 << 20));
        assert_eq!(b.for_another().assembly_left, 0);
        b.note_used(&mut accounts[0], hold(0));
        assert_eq!((b.for_another().assembly_left, b.for_another().assembly_short), (3 << 20, false));
    }

    /// Also those that stand still hold what they hold: a slow disk closes everybody's window before memory runs out.
    #[test]
    fn what_waits_for_the_disk_is_bounded_over_all() {
        let start = Instant::now();
        let mut b = Budgets::new(start, 24 << 20, 40 << 20);
        let mut accounts = vec![Account::default(); 1000];
        let mut held = 0;
        // One after the other fills twice its share and falls silent.
        for (i, a) in accounts.iter_mut().enumerate() {
            let now = start + 2 * EPOCH * i as u32;
            b.note_datagram(now, a, 1400);
            b.renew(a);
            let waiting_bytes = 2 * a.shares.receive_bytes;
            b.note_used(a, Used { waiting_bytes, ..Used::default() });
            held += waiting_bytes;
        }
        let most = 2 * (24 << 20) + 1000 * 2 * MIN_RECEIVE_SHARE_BYTES;
        assert!(held <= most && held > 2 * (24 << 20), "{held} of {most}");
        assert!(b.for_another().tight);
    }

    /// The same for what is held to be sent; one that is alone has all of the budget, however much of it it holds already.
    #[test]
    fn what_is_held_to_be_sent_is_bounded_over_all() {
        let start = Instant::now();
        let mut b = Budgets::new(start, 24 << 20, 40 << 20);
        let mut accounts = vec![Account::default(); 1000];
        let mut held = 0;
        for (i, a) in accounts.iter_mut().enumerate() {
            b.note_datagram(start + 2 * EPOCH * i as u32, a, 1400);
            let mut sending_bytes = 0;
            // It reads ahead as long as its share lets it.
            while b.renew(a).is_some() || sending_bytes < a.shares.send_bytes {
                if sending_bytes + (256 << 10) > a.shares.send_bytes {
                    break;
                }
                sending_bytes += 256 << 10;
                b.note_used(a, Used { sending_bytes, ..Used::default() });
            }
            assert!(i > 0 || sending_bytes == 40 << 20, "{sending_bytes}");
            assert!(sending_bytes >= MIN_SEND_SHARE_BYTES);
            held += sending_bytes;
        }
        let most = 2 * (40 << 20) + 1000 * MIN_SEND_SHARE_BYTES;
        assert!(held <= most, "{held} of {most}");
    }
}
