//! Role: the files that a session receives, and the ends of directories that wait for them.
//! Owns: sinks by file, their places in order, and the waiting ends by place.
//! Implements: docs/PROTOCOL.md, "Files" (commit): a directory gets its mode and time after what is in it.

use super::WaitingEnd;
use crate::store::names::split_last;
use crate::store::sink::Sink;
use crate::transfer::job::FileId;
use std::collections::{BTreeMap, BTreeSet};

/// A destination's number, and a place below it.
type Place = (u64, Vec<u8>);

/// Sinks, and the ends that wait for them.
#[derive(Debug, Default)]
pub(super) struct Sinks {
    by_file: BTreeMap<FileId, Sink>,
    places: BTreeSet<(Place, FileId)>,
    waiting: BTreeMap<Place, Vec<WaitingEnd>>,
}

fn place_of(sink: &Sink) -> Place {
    (sink.target, sink.place.clone())
}

impl Sinks {
    pub(super) fn insert(&mut self, file: FileId, sink: Sink) {
        self.places.insert((place_of(&sink), file));
        self.by_file.insert(file, sink);
    }

    /// Takes a sink out. `release` may let ends go that waited for it.
    pub(super) fn remove(&mut self, file: FileId) -> Option<Sink> {
        let sink = self.by_file.remove(&file)?;
        self.places.remove(&(place_of(&sink), file));
        Some(sink)
    }

    pub(super) fn get(&self, file: FileId) -> Option<&Sink> {
        self.by_file.get(&file)
    }

    pub(super) fn get_mut(&mut self, file: FileId) -> Option<&mut Sink> {
        self.by_file.get_mut(&file)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (FileId, &Sink)> {
        self.by_file.iter().map(|(file, sink)| (*file, sink))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_file.is_empty()
    }

    /// All of them, without the ends.
    pub(super) fn into_sinks(self) -> impl Iterator<Item = Sink> {
        self.by_file.into_values()
    }

    /// True if a file at this place or below it is open.
    fn holds(&self, place: &Place) -> bool {
        let (target, dir) = place;
        let first = |from: Vec<u8>| {
            let from = ((*target, from), FileId(0));
            self.places.range(from..).next().filter(|((t, _), _)| t == target).map(|((_, path), _)| path)
        };
        if dir.is_empty() {
            return first(Vec::new()).is_some();
        }
        // In byte order other names may stand between a directory and what is in it: "a", "a-b", "a/c".
        let inside: Vec<u8> = [dir.as_slice(), b"/"].concat();
        first(dir.clone()).is_some_and(|path| path == dir)
            || first(inside.clone()).is_some_and(|path| path.starts_with(&inside))
    }

    /// An end that has come: given back if nothing below it is open.
    pub(super) fn end(&mut self, end: WaitingEnd) -> Option<WaitingEnd> {
        let place = (end.target, end.place.clone());
        if !self.holds(&place) {
            return Some(end);
        }
        self.waiting.entry(place).or_default().push(end);
        None
    }

    /// The ends that waited for a file at this place and need not any more, inner ones first.
    pub(super) fn release(&mut self, target: u64, place: &[u8]) -> Vec<WaitingEnd> {
        let mut free = Vec::new();
        let mut dir = place;
        while !self.waiting.is_empty() {
            let place = (target, dir.to_vec());
            if self.waiting.contains_key(&place) {
                if self.holds(&place) {
                    // Those above hold it too.
                    break;
                }
                free.extend(self.waiting.remove(&place).unwrap_or_default());
            }
            if dir.is_empty() {
                break;
            }
            dir = split_last(dir).0;
        }
        free
    }
}
