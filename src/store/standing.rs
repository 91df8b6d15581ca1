//! Role: a file that stands under its name already, since an earlier session of the same request has brought it.
//! Owns: its handle, until its digest has been compared.
//! Implements: docs/PROTOCOL.md, "A server that restarts" (CONTINUE).

use super::digest::{Layout, Sequential};
use super::fs::{File, FileType};
use super::jail::DirHandle;
use super::sink::read_exact_at;
use crate::transfer::job::{Done, Job, Meta};
use std::io;
use std::sync::Arc;

/// Bytes read at once for the digest of a file that has no chunks to be read by.
const READ_BYTES: u32 = 256 * 1024;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Standing {
    file: File,
    size: u64,
    /// The directory of its name.
    pub(crate) dir: Arc<DirHandle>,
    /// Its manifest path, for messages.
    pub(crate) shown: Vec<u8>,
}

impl Standing {
    /// The regular file `name`, if it has this size and mtime. What cannot be told by looking is an error, unless we
    /// may not look.
    pub(crate) fn find(
        dir: &Arc<DirHandle>,
        name: &[u8],
        (size, meta): (u64, &Meta),
        shown: &[u8],
    ) -> io::Result<Option<Self>> {
        let file = match dir.open_file(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            Err(error) => {
                let is_file = dir.stat(name).is_ok_and(|stat| stat.kind == FileType::RegularFile);
                return if is_file { Err(error) } else { Ok(None) };
            }
        };
        let stat = file.stat()?;
        let found = stat.meta;
        let same = stat.kind == FileType::RegularFile
            && stat.size == size
            && (found.mtime_s, found.mtime_ns) == (meta.mtime_s, meta.mtime_ns);
        Ok(same.then(|| Self { file, size, dir: Arc::clone(dir), shown: shown.to_vec() }))
    }

    /// Whether its contents have this SHA-256.
    pub(crate) fn has_digest(&self, sha256: &[u8; 32]) -> io::Result<bool> {
        let layout = Layout { size: self.size, chunk_size: READ_BYTES };
        let (mut digest, mut buffer) = (Sequential::default(), Vec::new());
        while let Some((offset, len)) = layout.extent(digest.next()) {
            read_exact_at(&*self.file, offset, len, &mut buffer)?;
            digest.take(digest.next(), &buffer);
        }
        Ok(digest.value() == *sha256)
    }

    /// What answers a job about bytes of it: they were under way before the sender knew that it is there.
    pub(crate) fn answer(job: &Job) -> Option<Done> {
        match job {
            Job::Write { file, data, .. } => Some(Done::Written { file: *file, bytes: data.len() as u64 }),
            Job::FinishChunk { file, chunk, .. } | Job::WriteEncoded { file, chunk, .. } => {
                Some(Done::ChunkStored { file: *file, chunk: *chunk, ok: true })
            }
            _ => None,
        }
    }
}
