//! Role: what becomes of files under way: steps, commit, abort, directory ends, the end of a session.
//! Owns: nothing beyond `FileStore`.
//! Implements: docs/PROTOCOL.md, "Files" (commit), "A server that restarts" (CONTINUE).

use super::{Answers, FileStore, WaitingEnd};
use crate::store::SessionKey;
use crate::store::batch::What;
use crate::store::error::{exists, from_io, refuse};
use crate::store::jail::{DirHandle, remove_tree};
use crate::store::names::{check_relative, split_last};
use crate::store::sink::Sink;
use crate::store::standing::Standing;
use crate::transfer::job::{BeginEntry, Done, FileId, Job, StoreError, StoreErrorKind};
use std::io;
use std::sync::Arc;

impl FileStore {
    /// Runs one step of a file being received; if it fails, the file is dropped, and further jobs for it ignored.
    pub(super) fn with_sink(
        &mut self,
        session: SessionKey,
        file: FileId,
        done: &mut Answers,
        step: impl FnOnce(&mut Sink) -> Result<Done, StoreError>,
    ) {
        let state = self.sessions.entry(session).or_default();
        let Some(sink) = state.sinks.get_mut(file) else { return };
        let mut result = step(sink);
        if let Some(quota) = self.quota.as_mut().filter(|_| sink.is_stream())
            && !quota.grow(session, file, sink.disk_bytes())
            && result.is_ok()
        {
            let why = "takes more than the server's quota leaves; remove something there first";
            result = Err(refuse(StoreErrorKind::Quota, &sink.shown, why));
        }
        match result {
            Ok(answer) => done.push((session, answer)),
            Err(error) => {
                // A later run goes on with what is there, except with that of a peer that broke the rules.
                let Some(sink) = state.sinks.remove(file) else { return };
                done.push((session, Done::SinkFailed { file, error: error.clone() }));
                if error.kind == StoreErrorKind::Forbidden || sink.is_stream() {
                    self.throw_away(session, file, sink);
                } else {
                    self.let_go(session, file, sink);
                }
            }
        }
    }

    /// The file of a job that is about one that stands there already.
    pub(super) fn standing_of(&self, session: SessionKey, job: &Job) -> Option<FileId> {
        let file = match job {
            Job::Write { file, .. }
            | Job::FinishChunk { file, .. }
            | Job::WriteEncoded { file, .. }
            | Job::Commit { file, .. }
            | Job::Abort { file, .. } => file,
            _ => return None,
        };
        let state = self.sessions.get(&session)?;
        state.standing.contains_key(file).then_some(*file)
    }

    /// What stands under this name already, if an earlier session of the same request may have brought it.
    pub(super) fn standing(
        &mut self,
        session: SessionKey,
        dir: &Arc<DirHandle>,
        name: &[u8],
        entry: &BeginEntry,
    ) -> Result<Option<Standing>, StoreError> {
        if !self.session(session).continued {
            return Ok(None);
        }
        Standing::find(dir, name, (entry.size, &entry.meta), &entry.path)
            .map_err(|e| from_io(&entry.path, "cannot be read", &e))
    }

    pub(super) fn commit(&mut self, session: SessionKey, file: FileId, sha256: [u8; 32], done: &mut Answers) {
        if let Some(standing) = self.session(session).standing.remove(&file) {
            let error = match standing.has_digest(&sha256) {
                Ok(true) => {
                    // It may have got its name in the last moment of a server that was killed.
                    let what = What::Same { parent: standing.dir, digest: sha256 };
                    return self.batch.add(session, file, standing.shown, what, 0);
                }
                Ok(false) => exists(&standing.shown),
                Err(error) => from_io(&standing.shown, "cannot be read", &error),
            };
            return done.push((session, Done::Committed { file, result: Err(error) }));
        }
        let Some(mut sink) = self.session(session).sinks.remove(file) else { return };
        let (target, place) = (sink.target, sink.place.clone());
        match sink.seal(sha256) {
            Ok(()) => {
                let (overwrite, shown) = (sink.overwrite, sink.shown.clone());
                let (staged, handle) = sink.into_staged();
                let digest = Some(sha256);
                let what = What::Publish { staged, handle: Some(handle), locked: true, overwrite, digest };
                self.batch.add(session, file, shown, what, 0);
            }
            Err(error) => {
                let bad =
                    if error.kind == StoreErrorKind::DigestMismatch { sink.recheck() } else { Vec::new() };
                if !bad.is_empty() {
                    log::warn!("{} chunks of a file changed on the disk: they come again", bad.len());
                    let again = |chunk| (session, Done::ChunkStored { file, chunk, ok: false });
                    done.extend(bad.into_iter().map(again));
                    self.session(session).sinks.insert(file, sink);
                    return;
                }
                // With a wrong digest there is no telling what is wrong: the next run is to be clean. When the disk
                // has failed, what it can still read is worth keeping.
                let useless = error.kind == StoreErrorKind::DigestMismatch;
                done.push((session, Done::Committed { file, result: Err(error) }));
                return if useless || !sink.is_complete() || sink.is_stream() {
                    self.throw_away(session, file, sink);
                } else {
                    self.let_go(session, file, sink);
                };
            }
        }
        self.release_ends(session, target, &place);
    }

    pub(super) fn abort(&mut self, session: SessionKey, file: FileId, keep_partial: bool) {
        let Some(sink) = self.session(session).sinks.remove(file) else { return };
        if keep_partial && !sink.is_stream() {
            self.let_go(session, file, sink);
        } else {
            self.throw_away(session, file, sink);
        }
    }

    /// Closes a file that has left its session; what came of it stays as a partial.
    pub(super) fn let_go(&mut self, session: SessionKey, file: FileId, sink: Sink) {
        self.uncharge((session, file), sink.disk_bytes());
        let (target, place) = (sink.target, sink.place.clone());
        drop(sink);
        self.release_ends(session, target, &place);
    }

    /// The same, but nothing stays.
    fn throw_away(&mut self, session: SessionKey, file: FileId, sink: Sink) {
        let (target, place) = (sink.target, sink.place.clone());
        sink.discard();
        self.uncharge((session, file), 0);
        self.release_ends(session, target, &place);
    }

    /// A file at this place is open no more: puts into the batch the directory ends that waited for it.
    fn release_ends(&mut self, session: SessionKey, target: u64, place: &[u8]) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        for end in state.sinks.release(target, place) {
            self.end_directory(session, end);
        }
    }

    /// Puts a directory's end into the batch. It comes after everything inside that is in the batch already, since a batch
    /// keeps its order.
    pub(super) fn end_directory(&mut self, session: SessionKey, end: WaitingEnd) {
        let (above, name) = split_last(&end.place);
        let (parent, below) = match self.dirs.parent((end.target, &end.base), above, &end.shown, None) {
            Ok(parent) => (parent, name.to_vec()),
            Err(_) => (end.base, end.place),
        };
        let preserve = self.session(session).preserve;
        let what = What::End { parent, below, meta: end.meta, preserve };
        self.batch.add(session, end.file, end.shown, what, 0);
    }

    pub(super) fn remove_scratch(&mut self, path: &[u8]) {
        let Some(area) = self.scratch.existing() else { return };
        if check_relative(path, false).is_err() {
            return;
        }
        let (above, name) = split_last(path);
        let removed = area.open_dir_below(above).and_then(|dir| remove_tree(&dir, name));
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("an echo copy could not be removed: {error}");
        }
    }

    pub(super) fn end_session(&mut self, session: SessionKey) {
        let kept = self.batch.drop_session(session);
        self.open_sources.remove_session(session);
        let Some(state) = self.sessions.remove(&session) else { return };
        if let Some(target) = &state.target {
            self.dirs.forget(Some(target.id));
        }
        for (file, bytes) in kept {
            self.uncharge((session, file), bytes);
        }
        for (file, sink) in state.sinks.iter() {
            let left = if sink.is_stream() { 0 } else { sink.disk_bytes() };
            self.uncharge((session, file), left);
        }
        // A stream cannot be gone on with.
        state.sinks.into_sinks().filter(Sink::is_stream).for_each(Sink::discard);
        for path in state.scratch {
            self.remove_scratch(&path);
        }
        if let Some(quota) = &mut self.quota {
            quota.end_session(session);
        }
    }
}
