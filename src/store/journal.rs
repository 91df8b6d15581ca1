//! Role: the journal beside a partial: which chunks were whole, and what they must look like.
//! Owns: one open journal per file being received.
//! Implements: docs/PROTOCOL.md, "Files" (resume).
//!
//! A header names the file that is being received; behind it, every chunk has a slot of its own for the CRC-32 of its
//! plain bytes. Nothing here is ever synced, and nothing depends on the order in which a disk persists things: a
//! header or slot counts only if its own check fits, and a chunk only if its bytes, read back, have the CRC-32 in its
//! slot. A torn, stale or lost slot costs its chunk, never more.

use super::digest::{Layout, sha256};
use super::fs::{File, FileType, How};
use super::jail::DirHandle;
use super::names::journal_name;
use super::sink::{read_exact_at, write_all_at};
use crate::codec::chunk::crc32;
use crate::transfer::job::Meta;
use std::io;

/// First bytes of a journal; the last one is the version of its format.
const MAGIC: &[u8; 8] = b"fulmarJ\x01";
/// Bytes of the header: magic, 128 bits of the name's SHA-256, size, chunk size, mtime, zeros, CRC-32.
pub(crate) const HEADER_BYTES: usize = 64;
/// Bytes of a slot: the CRC-32 of the plain chunk, and a CRC-32 over the header's, the chunk's number and that.
pub(crate) const SLOT_BYTES: usize = 8;
/// Slots read at once.
const READ_SLOTS: usize = 8192;

/// What a journal is about: a source of another size or time is another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    header: [u8; HEADER_BYTES],
}

impl Identity {
    /// For the file that is to be called `name`. The mode does not count: it does not change what is inside.
    pub(crate) fn new(name: &[u8], layout: Layout, meta: &Meta) -> Self {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..24].copy_from_slice(&sha256(name)[..16]);
        header[24..32].copy_from_slice(&layout.size.to_le_bytes());
        header[32..36].copy_from_slice(&layout.chunk_size.to_le_bytes());
        header[36..40].copy_from_slice(&meta.mtime_ns.to_le_bytes());
        header[40..48].copy_from_slice(&meta.mtime_s.to_le_bytes());
        let check = crc32(&header[..HEADER_BYTES - 4]);
        header[HEADER_BYTES - 4..].copy_from_slice(&check.to_le_bytes());
        Self { header }
    }

    /// What tells it apart.
    pub(crate) fn as_bytes(&self) -> &[u8; HEADER_BYTES] {
        &self.header
    }

    /// The slot of a chunk whose plain bytes have this CRC-32.
    pub(crate) fn slot(&self, chunk: u64, crc: u32) -> [u8; SLOT_BYTES] {
        let mut checked = [0; 16];
        // The header's own CRC-32 keeps slots of an earlier file in the same blocks apart.
        checked[..4].copy_from_slice(&self.header[HEADER_BYTES - 4..]);
        checked[4..12].copy_from_slice(&chunk.to_le_bytes());
        checked[12..].copy_from_slice(&crc.to_le_bytes());
        let mut slot = [0; SLOT_BYTES];
        slot[..4].copy_from_slice(&crc.to_le_bytes());
        slot[4..].copy_from_slice(&crc32(&checked).to_le_bytes());
        slot
    }

    /// The CRC-32 in a chunk's slot, if the slot is valid.
    pub(crate) fn read_slot(&self, chunk: u64, slot: &[u8]) -> Option<u32> {
        let crc = u32::from_le_bytes(slot.get(..4)?.try_into().ok()?);
        (slot == self.slot(chunk, crc)).then_some(crc)
    }
}

/// The chunks that the bytes of a journal name, ascending, each with the CRC-32 that its plain bytes must have; `None`: it is not
/// about the file with this name, size in bytes, chunk size and time. The same rules by which a store reads one from disk.
pub fn named_chunks(
    journal: &[u8],
    name: &[u8],
    (size, chunk_size): (u64, u32),
    meta: &Meta,
) -> Option<Vec<(u64, u32)>> {
    let layout = Layout { size, chunk_size: chunk_size.max(1) };
    let identity = Identity::new(name, layout, meta);
    let slots = journal.strip_prefix(&identity.header)?.chunks_exact(SLOT_BYTES);
    let named =
        (0..layout.count()).zip(slots).filter_map(|(n, slot)| Some((n, identity.read_slot(n, slot)?)));
    Some(named.collect())
}

/// An open journal; the lock on its partial keeps others away from it.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    identity: Identity,
    /// Writing failed: what comes from now on is not journaled, and is sent again should this run break off.
    failed: bool,
}

impl Journal {
    /// Opens the journal of the file `name`. `true`: it is about this very file; otherwise (or with `anew`) it was
    /// begun anew.
    pub(crate) fn open(
        dir: &DirHandle,
        name: &[u8],
        identity: Identity,
        anew: bool,
    ) -> io::Result<(Self, bool)> {
        let file = open_private(dir, &journal_name(name))?;
        let mut header = Vec::new();
        let read = read_exact_at(&*file, 0, HEADER_BYTES, &mut header);
        let matches = match read {
            Ok(()) => !anew && header[..] == identity.header[..],
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => false,
            // What cannot be read now may be readable later, and is not to be thrown away.
            Err(e) => return Err(e),
        };
        if !matches {
            file.truncate(0)?;
            write_all_at(&*file, 0, &identity.header)?;
        }
        Ok((Self { file, identity, failed: false }, matches))
    }

    /// Notes that a chunk was written whole. That this fails is no reason to fail the file.
    pub(crate) fn note(&mut self, chunk: u64, crc: u32) {
        if self.failed {
            return;
        }
        let at = HEADER_BYTES as u64 + chunk * SLOT_BYTES as u64;
        if let Err(error) = write_all_at(&*self.file, at, &self.identity.slot(chunk, crc)) {
            log::debug!("a journal could not be written, so this file cannot be resumed from here: {error}");
            self.failed = true;
        }
    }

    /// Calls `visit` with every chunk that has a valid slot, ascending, and its CRC-32.
    pub(crate) fn read(&self, layout: Layout, mut visit: impl FnMut(u64, u32)) {
        let Ok(stat) = self.file.stat() else { return };
        let slots = stat.size.saturating_sub(HEADER_BYTES as u64) / SLOT_BYTES as u64;
        let end = slots.min(layout.count());
        let (mut chunk, mut block) = (0, Vec::new());
        while chunk < end {
            // A file may be announced large and never come: its journal is then one hole.
            chunk = chunk.max(self.next_data(chunk).unwrap_or(end));
            if chunk >= end {
                return;
            }
            let slots = (end - chunk).min(READ_SLOTS as u64);
            let at = HEADER_BYTES as u64 + chunk * SLOT_BYTES as u64;
            if read_exact_at(&*self.file, at, slots as usize * SLOT_BYTES, &mut block).is_ok() {
                for (n, slot) in (chunk..).zip(block.chunks_exact(SLOT_BYTES)) {
                    if let Some(crc) = self.identity.read_slot(n, slot) {
                        visit(n, crc);
                    }
                }
            }
            chunk += slots;
        }
    }
}

impl Journal {
    /// The first slot from `chunk` on that may have been written; `None` if there is none.
    fn next_data(&self, chunk: u64) -> Option<u64> {
        let at = HEADER_BYTES as u64 + chunk * SLOT_BYTES as u64;
        match self.file.next_data(at) {
            Ok(at) => Some(at?.saturating_sub(HEADER_BYTES as u64) / SLOT_BYTES as u64),
            // A file system that cannot tell.
            Err(_) => Some(chunk),
        }
    }
}

/// Opens a private file; whatever strange thing stands in its place is removed first.
fn open_private(dir: &DirHandle, name: &[u8]) -> io::Result<File> {
    let open = |how| (**dir).open_file(name, how);
    match open(How::Create) {
        Ok(file) => {
            let stat = file.stat()?;
            // A hard link would let somebody else change what we believe, or us change what is somebody else's.
            if stat.kind == FileType::RegularFile && stat.links == 1 {
                file.set_mode(0o600)?;
                return Ok(file);
            }
        }
        // A journal that cannot be opened now (no handle is left) is worth keeping.
        Err(e) if dir.stat(name).map_or(true, |stat| stat.kind == FileType::RegularFile) => return Err(e),
        Err(_) => {}
    }
    dir.unlink(name);
    open(How::CreateNew)
}
