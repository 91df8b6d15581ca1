//! Role: sources and sinks of files behind one trait: on disk (`file`), in memory (`memory`).
//! Owns: open files, partials, locks; never protocol state.
//! Implements: docs/PROTOCOL.md, "Files".

use crate::transfer::job::{Done, Job};
use std::time::Duration;

mod batch;
mod buffers;
mod dest;
mod digest;
mod error;
pub mod file;
pub(crate) mod fs;
pub(crate) mod jail;
mod journal;
mod leftovers;
pub mod memory;
pub(crate) mod names;
mod neighbours;
mod partial;
mod pipe;
pub(crate) mod quota;
mod scratch;
mod sink;
mod source;
mod standing;
pub mod stdout;
mod sweep;
#[cfg(test)]
mod tests;
mod walk;

pub(crate) use digest::sha256;
pub use journal::named_chunks;
pub use neighbours::{CLAIM_BYTES, Neighbours};

/// Tells apart the sessions that share one store; chosen by the endpoint, never reused.
pub type SessionKey = u64;

/// Runs jobs. One instance serves all sessions of a process; jobs of one session come in order.
pub trait Store: Send {
    /// Runs one job to its end and appends its answers to `done`, which belong to the sessions named with them.
    fn run(&mut self, session: SessionKey, job: Job, done: &mut Vec<(SessionKey, Done)>);
    /// The queue is empty: finish what was batched (syncs and renames of small files).
    fn idle(&mut self, done: &mut Vec<(SessionKey, Done)>);
    /// `idle` must be called again after so long, though no job comes; `None`: it need not.
    fn look_within(&self) -> Option<Duration> {
        None
    }
}

/// False for jobs about something that an earlier job of the session must have begun: without a session there is
/// nothing to do, and such a latecomer must not bring an ended one back to life.
fn may_begin_session(job: &Job) -> bool {
    matches!(
        job,
        Job::AddRoot(_)
            | Job::NextEntries { .. }
            | Job::SetOptions(_)
            | Job::SetDest(_)
            | Job::Continue
            | Job::Begin(_)
            | Job::RemoveScratch(_)
    )
}
