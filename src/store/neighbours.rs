//! Role: lets a file go on in another process that serves the same directory (`serve --workers`).
//! Owns: what the others have asked for and nobody has looked at yet.
//! Implements: docs/PROTOCOL.md, "Files" (the same file once more).
//!
//! The lock of a partial keeps two writers apart, whatever process they are in. But the same file from the same source, in
//! a later session, means that the earlier one is most likely dead: within a process the later one takes it over, and so it must
//! be when the two are in different workers. The later one *claims* the file; whoever has it lets go, and the lock is free.

use super::jail::DirHandle;
use super::journal::{HEADER_BYTES, Identity};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes of a claim between processes: the directory's device and inode, the identity of the file.
pub const CLAIM_BYTES: usize = 16 + HEADER_BYTES;
/// Claims that wait to be looked at; more are dropped, and their sender told that the file is in use.
const MAX_CLAIMS: usize = 256;
/// How often whoever holds partials looks for claims when there is nothing else to do.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a claim may take to be heard: the holder may be in the middle of a job, a sync at worst. Other jobs of the process
/// that claims wait as long.
pub(crate) const CLAIM_WAIT: Duration = Duration::from_millis(500);
/// Between two tries of the lock meanwhile.
pub(crate) const CLAIM_POLL: Duration = Duration::from_millis(5);

/// One file that another process wants to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    dir: (u64, u64),
    identity: Identity,
}

impl Claim {
    pub(crate) fn new(dir: &DirHandle, identity: Identity) -> Self {
        Self { dir: dir.id, identity }
    }

    fn to_bytes(self) -> [u8; CLAIM_BYTES] {
        let mut bytes = [0; CLAIM_BYTES];
        bytes[..8].copy_from_slice(&self.dir.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dir.1.to_le_bytes());
        bytes[16..].copy_from_slice(self.identity.as_bytes());
        bytes
    }
}

/// Hands a claim to all other processes.
type Ask = dyn Fn(&[u8; CLAIM_BYTES]) + Send + Sync;

/// The other processes, as the store sees them.
pub struct Neighbours {
    /// Hands a claim to all of them; it may get lost.
    ask: Box<Ask>,
    claims: Mutex<Vec<[u8; CLAIM_BYTES]>>,
}

impl std::fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Neighbours").field("claims", &self.claims().len()).finish_non_exhaustive()
    }
}

impl Neighbours {
    /// `ask` hands a claim to all other processes.
    pub fn new(ask: impl Fn(&[u8; CLAIM_BYTES]) + Send + Sync + 'static) -> Self {
        Self { ask: Box::new(ask), claims: Mutex::new(Vec::new()) }
    }

    /// Another process claims a file.
    pub fn claimed(&self, claim: [u8; CLAIM_BYTES]) {
        let mut claims = self.claims();
        if claims.len() < MAX_CLAIMS {
            claims.push(claim);
        }
    }

    pub(crate) fn ask(&self, claim: Claim) {
        (self.ask)(&claim.to_bytes());
    }

    /// What was claimed since the last time.
    pub(crate) fn take(&self) -> Vec<[u8; CLAIM_BYTES]> {
        std::mem::take(&mut *self.claims())
    }

    fn claims(&self) -> MutexGuard<'_, Vec<[u8; CLAIM_BYTES]>> {
        // Nothing that runs under the lock can leave the vector half changed.
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this is what was claimed.
pub(crate) fn is_claimed(claims: &[[u8; CLAIM_BYTES]], claim: Claim) -> bool {
    claims.contains(&claim.to_bytes())
}
