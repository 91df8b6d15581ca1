//! Role: sending from the store on disk: chunks and digests of sources.
//! Owns: nothing beyond `FileStore`.
//! Implements: docs/PROTOCOL.md, "Files" (sources).

use super::{Answers, FileStore};
use crate::store::SessionKey;
use crate::store::source::{Source, StreamStop};
use crate::store::walk::Places;
use crate::transfer::job::{Done, EncodeBudget, FileId, StoreError};

impl FileStore {
    /// The source, with its file open.
    pub(super) fn open_source(
        &mut self,
        session: SessionKey,
        file: FileId,
    ) -> Option<Result<&mut Source, StoreError>> {
        let state = self.sessions.get_mut(&session)?;
        let source = state.sources.get_mut(&file)?;
        if !source.is_open() {
            let places = Places { jail: &self.jail, scratch: &self.scratch };
            let shown = state.walk.shown(source.root, &source.below);
            let opened = state.walk.open_file(&places, source.root, &source.below, &shown);
            if let Err(error) = opened.and_then(|file| source.set_file(file)) {
                return Some(Err(error));
            }
            if let Some((s, f)) = self.open_sources.push(session, file)
                && let Some(old) = self.sessions.get_mut(&s).and_then(|state| state.sources.get_mut(&f))
            {
                old.close();
            }
        }
        self.sessions.get_mut(&session)?.sources.get_mut(&file).map(Ok)
    }

    pub(super) fn read_chunk(
        &mut self,
        session: SessionKey,
        (file, chunk): (FileId, u64),
        budget: EncodeBudget,
        done: &mut Answers,
    ) {
        let sharers = self.sessions.values().filter(|s| !s.sources.is_empty()).count();
        let (mut encoder, buffers) = (std::mem::take(&mut self.encoder), self.buffers.clone());
        let Some(source) = self.open_source(session, file) else {
            self.encoder = encoder;
            return;
        };
        let result = source.and_then(|source| match source.is_stream() {
            true => source.stream_chunk(chunk, &mut encoder, (budget, sharers)),
            false => source.chunk(chunk, (&mut encoder, &buffers), (budget, sharers)).map(Ok),
        });
        self.encoder = encoder;
        let answer = match result {
            Ok(Err(StreamStop::Ended(bytes))) => Done::StreamEnded { file, bytes },
            Ok(Err(StreamStop::Waits)) => Done::StreamWaits { file, chunk },
            Ok(Ok((plain_bytes, encoded))) => Done::Chunk {
                file,
                chunk,
                codec: encoded.codec,
                plain_bytes,
                crc32: encoded.crc32,
                data: encoded.data,
            },
            Err(error) => Done::SourceFailed { file, read: true, error },
        };
        done.push((session, answer));
    }

    pub(super) fn finish_source(&mut self, session: SessionKey, file: FileId, done: &mut Answers) {
        let Some(source) = self.open_source(session, file) else { return };
        let result = source.and_then(|source| {
            let result = source.finish();
            // Chunks may be asked for again, rarely: then it is opened again.
            source.close();
            result
        });
        self.open_sources.remove(session, file);
        let answer = match result {
            Ok(sha256) => Done::SourceDigest { file, sha256 },
            Err(error) => Done::SourceFailed { file, read: false, error },
        };
        done.push((session, answer));
    }
}
