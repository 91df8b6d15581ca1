//! Role: sources whose size is known only at their end.
//! Owns: nothing beyond `Sender`.
//! Implements: docs/PROTOCOL.md, "Streams".

use super::Sender;
use crate::transfer::job::FileId;
use crate::wire::MAX_FILE_BYTES;
use crate::wire::message::Message;

/// Chunks that a stream may have at most.
pub(super) fn stream_chunks(chunk_size: u32) -> u64 {
    MAX_FILE_BYTES / u64::from(chunk_size.max(1))
}

impl Sender {
    /// The stream has so many bytes, all of which have been read.
    pub(super) fn on_stream_end(&mut self, file: FileId, bytes: u64) {
        self.end_read();
        let Some(o) = self.unresolved.get_mut(&file.0) else { return };
        let Some(c) = o.chunked.as_mut().filter(|c| c.open_ended) else { return };
        c.open_ended = false;
        c.awaited = false;
        c.chunk_count = bytes.div_ceil(c.chunk_size.into());
        c.next_read = c.chunk_count;
        o.size = bytes;
        self.outbox.push_back(Message::StreamEnd { file, bytes });
    }

    /// Nothing has come yet: it is asked for again with the next read-ahead.
    pub(super) fn on_stream_wait(&mut self, file: FileId, chunk: u64) {
        self.end_read();
        if let Some(c) = self.unresolved.get_mut(&file.0).and_then(|o| o.chunked.as_mut()) {
            c.awaited = false;
            c.next_read = chunk;
        }
    }

    /// A read that brought no chunk.
    fn end_read(&mut self) {
        self.reads_out = self.reads_out.saturating_sub(1);
        self.held_bytes = self.held_bytes.saturating_sub(self.chunk_size.into());
    }
}
