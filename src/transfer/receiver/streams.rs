//! Role: files whose size is known only at their end.
//! Owns: nothing beyond `Receiver`.
//! Implements: docs/PROTOCOL.md, "Streams".

use super::{Incoming, Receiver};
use crate::transfer::job::{FileId, Job, StoreError, StoreErrorKind};
use crate::wire::MAX_FILE_BYTES;

/// The most that a stream can have: a whole number of chunks.
pub(super) fn most_of_stream(chunk_size: u32) -> u64 {
    MAX_FILE_BYTES / u64::from(chunk_size.max(1)) * u64::from(chunk_size)
}

impl Incoming {
    /// Length of a raw chunk of a stream, given a segment of it that ends at `end`; only the last segment of a chunk
    /// carries a CRC-32, so that it tells the length.
    pub(super) fn stream_chunk_bytes(&mut self, chunk: u64, end: u64, is_last: bool) -> u64 {
        let full = u64::from(self.chunk_size);
        match self.short {
            Some((short, bytes)) if short == chunk => bytes,
            None if is_last && end < full => {
                self.short = Some((chunk, end));
                end
            }
            _ => full,
        }
    }
}

impl Receiver {
    /// The stream has this size.
    pub(super) fn on_stream_end(&mut self, file: FileId, bytes: u64) -> Result<(), &'static str> {
        if file.0 >= self.next_id {
            return Err("the end of an unknown stream");
        }
        let Some(e) = self.entries.get_mut(&file.0) else { return Ok(()) };
        if !e.open_ended {
            return Err("the end of a stream that is none, or has ended");
        }
        let chunk_size = u64::from(e.chunk_size);
        let count = bytes.div_ceil(chunk_size);
        let last_bytes = bytes % chunk_size;
        let beyond = e.stored.max().is_some_and(|chunk| chunk >= count)
            || e.open.keys().chain(e.finishing.keys()).any(|chunk| *chunk >= count);
        // A last chunk that is not whole can neither be stored yet nor end elsewhere than it has ended.
        let last = count.saturating_sub(1);
        let settled = last_bytes > 0 && (e.stored.contains(last) || e.finishing.contains_key(&last));
        let strange = e.short.is_some_and(|short| short != (last, last_bytes));
        if beyond || settled || strange {
            return Err("a stream that ends elsewhere than its chunks do");
        }
        e.size = bytes;
        e.open_ended = false;
        // A peer may claim what it likes.
        self.counters.bytes_total = self.counters.bytes_total.saturating_add(bytes);
        let whole = e.open.get(&last).is_some_and(|a| {
            a.encoded.is_none() && a.crc32.is_some() && a.received.contains_range(0..last_bytes.max(1))
        });
        // What was put together so far goes before, under the old size.
        self.flush_join();
        self.jobs.push_back(Job::SetSize { file, bytes });
        if whole && last_bytes > 0 {
            self.finish_chunk(file, last);
        }
        if bytes > self.max_file_bytes {
            self.refuse_stream(file);
        }
        self.commit_if_whole(file);
        Ok(())
    }

    /// A stream that has become longer than files may be here.
    pub(super) fn refuse_stream(&mut self, file: FileId) {
        let Some(e) = self.entries.get(&file.0) else { return };
        let (path, most) = (String::from_utf8_lossy(&e.path), self.max_file_bytes);
        let message = format!(
            "{path}: the stream is longer than the {most} bytes that this server accepts for one file"
        );
        self.jobs.push_back(Job::Abort { file, keep_partial: false });
        self.resolve(file, Err(StoreError { kind: StoreErrorKind::Limit, message }), true);
    }
}
