//! Role: has removed what the source lacks, when everything has come and nothing failed.
//! Owns: how far that is.
//! Implements: docs/PROTOCOL.md, "Removal".

use super::Receiver;
use crate::session::event::{Direction, Event};
use crate::transfer::job::{EntryKind, Job, StoreError, StoreErrorKind};
use crate::wire::message::Message;
use crate::wire::{MAX_MESSAGE_BYTES, MAX_TEXT_BYTES};

/// Paths of one message, in bytes: some room is left for their lengths.
const MAX_TOLD_BYTES: usize = MAX_MESSAGE_BYTES / 2;

/// How far the removal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Removal {
    /// Not wished.
    #[default]
    None,
    /// Waits for the end of the manifest and of all entries.
    Waits,
    /// The store is at it.
    Runs,
    /// Done, or refused.
    Over,
}

impl Removal {
    /// Nothing more is to be removed.
    pub(super) fn is_settled(self) -> bool {
        matches!(self, Self::None | Self::Over)
    }
}

impl Receiver {
    /// Begins with it when its time has come.
    pub fn pump_removal(&mut self) {
        if self.removal != Removal::Waits || !self.manifest_end || !self.entries.is_empty() {
            return;
        }
        if self.failures > 0 {
            let message = format!(
                "nothing was removed, since {} of the source failed: a list with holes is no list to remove by",
                if self.failures == 1 { "an entry".into() } else { format!("{} entries", self.failures) }
            );
            return self.end_removal(Some(StoreError { kind: StoreErrorKind::Forbidden, message }));
        }
        self.removal = Removal::Runs;
        self.jobs.push_back(Job::RemoveExtra);
    }

    /// The store has removed these.
    pub(super) fn on_removed(
        &mut self,
        paths: Vec<(Vec<u8>, EntryKind)>,
        more: bool,
        error: Option<StoreError>,
    ) {
        let (mut told, mut bytes) = (Vec::new(), 0);
        for (path, kind) in paths {
            bytes += path.len() + 4;
            if self.tells_removal {
                told.push((path.clone(), kind));
                if bytes > MAX_TOLD_BYTES - MAX_TEXT_BYTES {
                    bytes = 0;
                    self.outbox.push_back(Message::Removed(std::mem::take(&mut told)));
                }
            }
            self.events.push_back(Event::EntryRemoved { direction: Direction::Receiving, path, kind });
        }
        if !told.is_empty() {
            self.outbox.push_back(Message::Removed(told));
        }
        if more {
            self.jobs.push_back(Job::RemoveExtra);
        } else {
            self.end_removal(error);
        }
    }

    fn end_removal(&mut self, error: Option<StoreError>) {
        self.removal = Removal::Over;
        if self.tells_removal {
            self.outbox.push_back(Message::RemovalEnd(error.clone()));
        }
        if let Some(error) = error {
            self.events.push_back(Event::RemovalFailed(error));
        }
    }
}
