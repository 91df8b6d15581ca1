//! Role: the files that are offered: has them compared, and answers.
//! Owns: offers that wait for their comparison.
//! Implements: docs/PROTOCOL.md, "Offers".

use super::removal::Removal;
use super::{Incoming, OVERHEAD_BYTES, Receiver};
use crate::session::event::{Direction, Event};
use crate::transfer::job::{EntryKind, FileId, Job};
use crate::transfer::sender::MAX_UNRESOLVED;
use crate::transfer::sync::{Offer, SyncOptions, Verdict};
use crate::wire::message::Message;
use std::collections::VecDeque;
use std::ops::Range;

/// Ranges of one answer: it fits a packet.
const MAX_ANSWER_RANGES: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Offers {
    enabled: bool,
    dry_run: bool,
    /// A digest is being computed for this one; the others wait, so that one file is open at a time.
    comparing: Option<FileId>,
    waiting: VecDeque<Box<Offer>>,
}

impl Receiver {
    /// What the client wishes; before the destination.
    pub fn set_options(&mut self, options: &SyncOptions, server: bool) {
        self.offers.enabled = options.offers();
        self.offers.dry_run = options.dry_run;
        self.tells_removal = server;
        if options.delete.is_some() {
            self.removal = Removal::Waits;
        }
        self.jobs.push_back(Job::SetOptions(Box::new(options.clone())));
    }

    pub(super) fn on_offer(&mut self, o: Offer) -> Result<(), &'static str> {
        if !self.offers.enabled || self.manifest_end || o.file.0 != self.next_id {
            return Err("an offer that nobody asked for, or out of order");
        }
        self.next_id += 1;
        if self.entries.len() >= 2 * MAX_UNRESOLVED {
            return Err("more unanswered entries than the window allows");
        }
        self.inline_bytes += OVERHEAD_BYTES;
        let incoming = Incoming::settled_by_store(o.path.clone(), EntryKind::File, o.size, OVERHEAD_BYTES);
        self.entries.insert(o.file.0, incoming);
        if o.sha256.is_none() {
            self.jobs.push_back(Job::Offer(Box::new(o)));
        } else {
            self.offers.waiting.push_back(Box::new(o));
            self.compare_next();
        }
        Ok(())
    }

    fn compare_next(&mut self) {
        if self.offers.comparing.is_none()
            && let Some(offer) = self.offers.waiting.pop_front()
        {
            self.offers.comparing = Some(offer.file);
            self.jobs.push_back(Job::Offer(offer));
        }
    }

    pub(super) fn on_offered(&mut self, file: FileId, verdict: Verdict) {
        if verdict == Verdict::More {
            return self.jobs.push_back(Job::Compare { file });
        }
        if self.offers.comparing == Some(file) {
            self.offers.comparing = None;
            self.compare_next();
        }
        if let Verdict::Refused(error) = verdict {
            return self.resolve(file, Err(error), true);
        }
        let Some(e) = self.entries.remove(&file.0) else { return };
        self.inline_bytes -= e.inline_bytes;
        let direction = Direction::Receiving;
        let equal = verdict == Verdict::Equal;
        if equal {
            let (path, kind, bytes) = (e.path, e.kind, e.size);
            self.events.push_back(Event::EntryUnchanged { direction, path, kind, bytes });
        } else if self.offers.dry_run {
            self.events.push_back(Event::EntryPlanned { direction, path: e.path, bytes: e.size });
        }
        let extended = match self.outbox.back_mut() {
            Some(Message::Unchanged(ranges)) if equal => add(ranges, file.0),
            Some(Message::Want(ranges)) if !equal => add(ranges, file.0),
            _ => false,
        };
        if !extended {
            let ranges = std::iter::once(file.0..file.0 + 1).collect();
            self.outbox.push_back(if equal { Message::Unchanged(ranges) } else { Message::Want(ranges) });
        }
    }
}

/// Adds a number to ascending ranges, if it is beyond them and they have room.
fn add(ranges: &mut Vec<Range<u64>>, id: u64) -> bool {
    let room = ranges.len() < MAX_ANSWER_RANGES;
    match ranges.last_mut() {
        Some(last) if last.end == id => last.end += 1,
        Some(last) if last.end < id && room => ranges.push(id..id + 1),
        _ => return false,
    }
    true
}
