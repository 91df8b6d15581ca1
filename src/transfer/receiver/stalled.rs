//! Role: gives back room that is reserved for encoded chunks which do not come, when others need it.
//! Owns: how far assembly has come since it was looked at last.
//! Implements: docs/PROTOCOL.md, "Flow control".

use super::{Assembly, Receiver};
use crate::transfer::job::FileId;
use std::time::{Duration, Instant};

/// Assembly is looked at after so long: several round trips of any path...
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// ...and has stalled if less than this share of what is reserved has come meanwhile: 16 kbit/s for a chunk of the default size.
const STALL_SHARE: u64 = 64;
/// Whoever has stalled reserves nothing for so long while room is short; twice as long each time, up to the second.
const BARRED: [Duration; 2] = [Duration::from_secs(4), Duration::from_secs(64)];

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Encoded bytes that have come so far, new ones only.
    pub(super) bytes: u64,
    /// When it was looked at, and how many there were.
    looked: Option<(Instant, u64)>,
    /// All sessions together have reserved most of what there is.
    pub(super) short: bool,
    barred_until: Option<Instant>,
    barred_for: Duration,
    /// Nothing more is reserved now.
    pub(super) barred: bool,
}

impl Progress {
    /// A chunk is whole: this session does send what it begins.
    pub(super) fn on_whole(&mut self) {
        self.barred_for = Duration::ZERO;
    }
}

impl Receiver {
    /// Looks whether chunks in assembly come at all; those that do not are given up if room is short, and asked for again.
    pub fn give_up_stalled(&mut self, now: Instant) {
        let p = &mut self.progress;
        p.barred = p.short && p.barred_until.is_some_and(|t| now < t);
        if self.reserved_bytes == 0 {
            p.looked = None;
            return;
        }
        let (since, before) = *p.looked.get_or_insert((now, p.bytes));
        if now < since + LOOK_EVERY {
            return;
        }
        if p.bytes - before >= self.reserved_bytes / STALL_SHARE {
            p.looked = Some((now, p.bytes));
        } else if p.short {
            p.barred_for = (2 * p.barred_for).clamp(BARRED[0], BARRED[1]);
            p.barred_until = Some(now + p.barred_for);
            p.barred = true;
            p.looked = None;
            self.give_up_assembly();
        }
    }

    fn give_up_assembly(&mut self) {
        let mut given_up = Vec::new();
        for (file, e) in &mut self.entries {
            e.open.retain(|chunk, a| {
                if a.encoded.is_some() {
                    self.open_chunks -= 1;
                    self.gaps -= a.received.range_count();
                    self.reserved_bytes -= a.data.len() as u64;
                    self.assembled_bytes -= Assembly::assembled_bytes(a);
                    given_up.push((FileId(*file), *chunk, a.generation));
                }
                a.encoded.is_none()
            });
        }
        given_up.sort_unstable();
        for (file, chunk, generation) in given_up {
            self.ask_again(file, chunk, generation);
        }
    }
}
