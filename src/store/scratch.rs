//! Role: hidden working space below the jail for echo copies.
//! Owns: one locked directory per process, made at its first use, removed at the end.
//! Implements: docs/PROTOCOL.md, "Files" (echo).

use super::jail::{DirHandle, Jail, remove_tree};
use super::names::{SCRATCH_PREFIX, push_hex};
use super::partial::lacks_locks;
use std::io;
use std::sync::Arc;

/// Most stale scratch areas removed when a store opens; the next start goes on.
const MAX_STALE: usize = 1024;

/// The scratch area of a store.
#[derive(Debug)]
pub(crate) struct Scratch {
    name: Vec<u8>,
    /// Held open with an exclusive lock, by which other processes see that it is in use.
    area: Option<Arc<DirHandle>>,
}

impl Scratch {
    /// An area that is not there yet; `nonce` tells this process apart.
    pub(crate) fn new(nonce: [u8; 8]) -> Self {
        let mut name = SCRATCH_PREFIX.to_vec();
        push_hex(&mut name, &nonce);
        Self { name, area: None }
    }

    /// The area's handle, made when missing.
    pub(crate) fn area(&mut self, jail: &Jail) -> io::Result<Arc<DirHandle>> {
        if let Some(area) = &self.area {
            return Ok(Arc::clone(area));
        }
        let top = jail.handle()?;
        // Another process that starts now may remove it between these steps, since it is not locked yet.
        for _ in 0..8 {
            top.make_dir(&self.name, 0o700)?;
            let Ok(area) = top.open_dir(&self.name) else { continue };
            match area.lock() {
                // A file system without locks: nobody removes it then, since nobody gets its lock either.
                Err(e) if lacks_locks(&e) => {}
                other => other?,
            }
            if top.stat(&self.name).is_ok_and(|s| s.id == area.id) {
                let area = Arc::new(area);
                self.area = Some(Arc::clone(&area));
                return Ok(area);
            }
        }
        Err(io::Error::other("the scratch directory is removed as soon as it is made"))
    }

    /// The area's handle, if it has been made.
    pub(crate) fn existing(&self) -> Option<&Arc<DirHandle>> {
        self.area.as_ref()
    }

    /// Removes the whole area.
    pub(crate) fn remove(&mut self, jail: &Jail) {
        if self.area.take().is_some()
            && let Ok(top) = jail.handle()
            && let Err(error) = remove_tree(&top, &self.name)
        {
            log::warn!("the scratch directory could not be removed: {error}");
        }
    }

    /// Removes areas that a process left which is no more: nobody holds their lock.
    pub(crate) fn remove_stale(jail: &Jail) -> io::Result<()> {
        let top = jail.handle()?;
        let mut stale = Vec::new();
        for entry in top.list()? {
            let (name, _) = entry?;
            if name.starts_with(SCRATCH_PREFIX) && stale.len() < MAX_STALE {
                stale.push(name);
            }
        }
        for name in stale {
            let Ok(area) = top.open_dir(&name) else { continue };
            if area.lock().is_ok() {
                let _ = remove_tree(&top, &name);
            }
        }
        Ok(())
    }
}
