//! Role: the side of the store on disk that talks to other processes which serve the same directory.
//! Owns: nothing; see `neighbours`.
//! Implements: docs/PROTOCOL.md, "Files" (the same file once more).

use super::{Answers, FileStore, clock};
use crate::store::error::busy;
use crate::store::fs::File;
use crate::store::jail::DirHandle;
use crate::store::journal::Identity;
use crate::store::neighbours::{CLAIM_POLL, CLAIM_WAIT, Claim, LOOK_EVERY, Neighbours, is_claimed};
use crate::store::partial::Staged;
use crate::transfer::job::{Done, StoreError, StoreErrorKind};
use std::sync::Arc;
use std::time::Duration;

impl FileStore {
    /// Other processes serve this directory too.
    #[must_use]
    pub fn with_neighbours(mut self, neighbours: Arc<Neighbours>) -> Self {
        self.neighbours = Some(neighbours);
        self
    }

    /// Opens and locks a partial; one that another process has open is claimed and waited for.
    pub(super) fn open_or_claim(
        &self,
        dir: Arc<DirHandle>,
        name: &[u8],
        shown: &[u8],
        identity: Identity,
    ) -> Result<(Staged, File), StoreError> {
        let first = Staged::open_partial(Arc::clone(&dir), name, shown);
        let Some(neighbours) = &self.neighbours else { return first };
        if !first.as_ref().is_err_and(|e| e.kind == StoreErrorKind::Busy) {
            return first;
        }
        neighbours.ask(Claim::new(&dir, identity));
        let end = clock() + CLAIM_WAIT;
        loop {
            #[allow(
                clippy::disallowed_methods,
                reason = "the disk thread may wait; the lock tells nobody when it is free"
            )]
            std::thread::sleep(CLAIM_POLL);
            let opened = Staged::open_partial(Arc::clone(&dir), name, shown);
            if !opened.as_ref().is_err_and(|e| e.kind == StoreErrorKind::Busy) || clock() >= end {
                return opened;
            }
        }
    }

    /// Lets go of what other processes have claimed.
    pub(super) fn yield_claimed(&mut self, done: &mut Answers) {
        let Some(neighbours) = &self.neighbours else { return };
        let claims = neighbours.take();
        if claims.is_empty() {
            return;
        }
        let mut yielded = Vec::new();
        for (session, state) in &self.sessions {
            let sinks = state.sinks.iter().filter(|(_, sink)| is_claimed(&claims, sink.claim()));
            yielded.extend(sinks.map(|(file, _)| (*session, file)));
        }
        for (session, file) in yielded {
            let Some(sink) = self.session(session).sinks.remove(file) else { continue };
            done.push((session, Done::SinkFailed { file, error: busy(&sink.shown) }));
            self.let_go(session, file, sink);
        }
    }

    /// How long nobody need look for claims: as long as nothing is held, none can be granted.
    pub(super) fn claims_due(&self) -> Option<Duration> {
        let holds = self.neighbours.is_some() && self.sessions.values().any(|s| !s.sinks.is_empty());
        holds.then_some(LOOK_EVERY)
    }
}
