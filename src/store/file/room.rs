//! Role: tells the quota what begins, ends and stays.
//! Owns: nothing beyond `FileStore`.
//! Implements: docs/PROTOCOL.md, "Files" (quota).

use super::{Answers, FileStore};
use crate::store::SessionKey;
use crate::store::dest::Space;
use crate::store::jail::DirHandle;
use crate::store::quota::disk_bytes;
use crate::transfer::job::{Done, FileId, StoreError};

impl FileStore {
    /// Asks the quota for the room that a file takes; `there`: bytes of it that an earlier run has left.
    pub(super) fn charge(
        &mut self,
        (session, file): (SessionKey, FileId),
        size: u64,
        (dir, name, there): (&DirHandle, &[u8], u64),
        shown: &[u8],
    ) -> Result<(), StoreError> {
        let Some(quota) = &mut self.quota else { return Ok(()) };
        let state = self.sessions.get(&session);
        let scratch = state.and_then(|s| s.target.as_ref()).is_some_and(|t| t.plan.space == Space::Scratch);
        let replaced = dir.stat(name).map_or(0, |stat| disk_bytes(&stat));
        quota.begin((session, file), size, (there, replaced), (scratch, shown), &self.jail)
    }

    /// A file that was charged does not go on; `left` bytes of it stay.
    pub(super) fn uncharge(&mut self, (session, file): (SessionKey, FileId), left: u64) {
        if let Some(quota) = &mut self.quota {
            quota.dropped(session, file, left);
        }
    }

    /// Tells the quota what has become of files.
    pub(super) fn settle_quota(&mut self, done: &Answers) {
        let Some(quota) = &mut self.quota else { return };
        for (session, answer) in done {
            match answer {
                Done::Committed { file, result: Ok(_) } => quota.placed(*session, *file),
                Done::Committed { file, .. } | Done::Began { file, result: Err(_) } => {
                    quota.dropped(*session, *file, 0);
                }
                _ => {}
            }
        }
    }
}
