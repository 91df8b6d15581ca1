//! Role: finds what is to be sent: an incremental depth-first walk over the roots of a session.
//! Owns: per session its roots, the stack of directories it is in, and a few open directory handles.
//! Implements: docs/PROTOCOL.md, "Files" (sources).
//!
//! Memory is bounded by the names of the directories on the stack, of each at most `NAMES_AT_ONCE`: a directory
//! with more is walked in several sorted runs, and so not sorted as a whole.

use super::digest::sha256;
use super::error::{forbidden, from_io, refuse, source_changed};
use super::fs::{File, FileOps, FileType, Listing, Local};
use super::jail::{DirHandle, Jail};
use super::names::{HIDDEN_PREFIX, check_relative, join, split_last};
use super::scratch::Scratch;
use super::sink::read_exact_at;
use crate::transfer::filter::{Filter, IgnoreFile, MAX_IGNORE_FILE_BYTES};
use crate::transfer::job::{
    EntryError, EntryKind, Inline, Location, Meta, SourceEntry, SourceRoot, StoreError, StoreErrorKind,
    UNKNOWN_SIZE,
};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// Most names of one directory held at once, and most bytes of names. Own choice: some MiB per level.
const NAMES_AT_ONCE: usize = 65_536;
const NAME_BYTES_AT_ONCE: usize = 4 << 20;
/// Handles of directories on the stack that stay open; those further up are opened again when the walk returns.
/// Few, since a server has many sessions.
const OPEN_FRAMES: usize = 8;
/// Handles of root directories that stay open for reading files below them.
const OPEN_ROOTS: usize = 2;
/// Bytes of small files after which an answer goes out, however few entries it has.
const INLINE_BYTES_AT_ONCE: u64 = 4 << 20;
/// Entries looked at for one answer, however many of them are left out.
const LOOKS_AT_ONCE: usize = 4096;
/// How often a small file is read again when it changes meanwhile.
const READ_ATTEMPTS: usize = 3;
const DOING: &str = "cannot be read";

/// Entries of one answer, and whether the roots are exhausted.
pub(crate) type Found = (Vec<Result<SourceEntry, EntryError>>, bool);

/// Where roots are looked up.
pub(crate) struct Places<'a> {
    /// For `Location::Jail`.
    pub(crate) jail: &'a Jail,
    /// For `Location::Scratch`.
    pub(crate) scratch: &'a Scratch,
}

enum Opened {
    Dir(Arc<DirHandle>),
    File(File),
}

#[derive(Debug)]
struct Root {
    spec: SourceRoot,
    dir: Option<Arc<DirHandle>>,
}

#[derive(Debug)]
struct Frame {
    /// Path below the root.
    below: Vec<u8>,
    dir: Option<Arc<DirHandle>>,
    /// Names still to be visited, the last one first.
    names: Vec<Vec<u8>>,
    /// The rest of a very large directory.
    more: Option<Listing>,
    /// Ignore files that hold here, with their directories below the root; the outermost first.
    ignores: Vec<(Vec<u8>, Arc<IgnoreFile>)>,
    meta: Meta,
}

/// The walk of a session.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    roots: Vec<Root>,
    /// The root that is walked, or is the next to be.
    at: usize,
    stack: Vec<Frame>,
    open_roots: VecDeque<usize>,
    filter: Filter,
    /// Patterns that cannot be read: nothing is found, so that nothing is sent by mistake.
    bad_filter: Option<String>,
    /// The directory of the file opened last.
    last_parent: Option<(u32, Vec<u8>, Arc<DirHandle>)>,
}

impl Walk {
    /// What is left out.
    pub(crate) fn set_filter(&mut self, filter: Result<Filter, String>) {
        match filter {
            Ok(filter) => self.filter = filter,
            Err(why) => self.bad_filter = Some(why),
        }
    }

    /// Adds a root.
    pub(crate) fn add_root(&mut self, spec: SourceRoot) {
        self.roots.push(Root { spec, dir: None });
    }

    /// The manifest path of something below a root.
    pub(crate) fn shown(&self, root: u32, below: &[u8]) -> Vec<u8> {
        match self.roots.get(root as usize) {
            Some(root) => {
                let path = join(&root.spec.name, below);
                if path.is_empty() { location_path(&root.spec.location).to_vec() } else { path }
            }
            None => below.to_vec(),
        }
    }

    /// Up to `max` more entries.
    pub(crate) fn next(
        &mut self,
        places: &Places<'_>,
        max: usize,
        inline_max_bytes: u64,
        list_only: bool,
    ) -> Found {
        let mut found = Vec::new();
        let (mut inline_bytes, mut looks) = (0, 0);
        let inline_max = if list_only { None } else { Some(inline_max_bytes) };
        while found.len() < max && inline_bytes < INLINE_BYTES_AT_ONCE && looks < LOOKS_AT_ONCE {
            looks += 1;
            let step = if let Some(frame) = self.stack.last_mut() {
                match frame.next_name() {
                    Ok(Some(name)) => self.visit(places, &name, inline_max),
                    Ok(None) => self.leave(list_only),
                    Err(e) => {
                        frame.more = None;
                        let path = join(&self.roots[self.at].spec.name, &frame.below);
                        Some(Err(EntryError { error: from_io(&path, DOING, &e), path }))
                    }
                }
            } else if self.at < self.roots.len() {
                self.enter_root(places, inline_max)
            } else {
                break;
            };
            if let Some(Ok(SourceEntry { inline: Some(inline), .. })) = &step {
                inline_bytes += inline.data.len() as u64;
            }
            found.extend(step);
        }
        (found, self.stack.is_empty() && self.at >= self.roots.len())
    }

    fn enter_root(
        &mut self,
        places: &Places<'_>,
        inline: Option<u64>,
    ) -> Option<Result<SourceEntry, EntryError>> {
        let at = self.at;
        let spec = &self.roots[at].spec;
        if let Some(why) = &self.bad_filter {
            self.at += 1;
            let path = spec.name.clone();
            return Some(Err(EntryError { error: refuse(StoreErrorKind::Forbidden, &path, why), path }));
        }
        let mut path = spec.name.clone();
        if path.is_empty() {
            path = split_last(location_path(&spec.location)).1.to_vec();
        }
        let shown = self.shown(at as u32, b"");
        if spec.location == Location::Stream {
            self.at += 1;
            return Some(stream_entry(at as u32, path, &shown));
        }
        let opened = open_root(places, &spec.location, &shown);
        let named = !spec.name.is_empty();
        match opened {
            Err(error) => {
                self.at += 1;
                Some(Err(EntryError { path: shown, error }))
            }
            Ok(Opened::File(file)) => {
                self.at += 1;
                Some(file_entry(file, at as u32, Vec::new(), path, inline))
            }
            Ok(Opened::Dir(dir)) => {
                self.keep_root(at, &dir);
                let opened = Frame::open(dir, Vec::new())
                    .map_err(|e| from_io(&shown, DOING, &e))
                    .and_then(|frame| frame.with_ignores(&self.filter, &[], &shown));
                let (meta, frame) = match opened {
                    Ok(frame) => (frame.meta, frame),
                    Err(error) => {
                        self.at += 1;
                        return Some(Err(EntryError { error, path: shown }));
                    }
                };
                self.stack.push(frame);
                let told = named && inline.is_some();
                told.then(|| Ok(entry(at as u32, Vec::new(), path, EntryKind::Dir, meta)))
            }
        }
    }

    /// Keeps a root's handle for the files below it.
    fn keep_root(&mut self, at: usize, dir: &Arc<DirHandle>) {
        self.roots[at].dir = Some(Arc::clone(dir));
        self.open_roots.push_back(at);
        if self.open_roots.len() > OPEN_ROOTS
            && let Some(old) = self.open_roots.pop_front()
            && old != self.at
        {
            self.roots[old].dir = None;
        }
    }

    /// All names of the innermost directory are done.
    fn leave(&mut self, list_only: bool) -> Option<Result<SourceEntry, EntryError>> {
        let frame = self.stack.pop()?;
        let root = self.at as u32;
        let path = join(&self.roots[self.at].spec.name, &frame.below);
        if self.stack.is_empty() {
            self.at += 1;
        }
        let told = !path.is_empty() && !list_only;
        told.then(|| Ok(entry(root, frame.below, path, EntryKind::DirEnd, frame.meta)))
    }

    fn visit(
        &mut self,
        places: &Places<'_>,
        name: &[u8],
        inline: Option<u64>,
    ) -> Option<Result<SourceEntry, EntryError>> {
        let below = join(&self.stack.last()?.below, name);
        let path = join(&self.roots[self.at].spec.name, &below);
        let found =
            self.inner_dir(places, &path).and_then(|dir| self.look(&dir, name, &below, &path, inline));
        found.map_err(|error| EntryError { path, error }).transpose()
    }

    fn look(
        &mut self,
        dir: &Arc<DirHandle>,
        name: &[u8],
        below: &[u8],
        path: &[u8],
        inline: Option<u64>,
    ) -> Result<Option<SourceEntry>, StoreError> {
        let fail = |e: io::Error| from_io(path, DOING, &e);
        let stat = dir.stat(name).map_err(fail)?;
        let root = self.at as u32;
        let meta = stat.meta;
        if !self.filter.is_empty() && self.leaves_out(below, stat.kind == FileType::Directory) {
            return Ok(None);
        }
        match stat.kind {
            FileType::Directory => {
                if inline.is_some() {
                    let child = Arc::new(dir.open_dir(name).map_err(fail)?);
                    let frame = Frame::open(child, below.to_vec()).map_err(fail)?;
                    let above = self.stack.last().map_or(&[][..], |frame| &frame.ignores);
                    let frame = frame.with_ignores(&self.filter, above, path)?;
                    self.stack.push(frame);
                    if let Some(outer) = self.stack.len().checked_sub(OPEN_FRAMES + 1) {
                        self.stack[outer].dir = None;
                    }
                }
                Ok(Some(entry(root, below.to_vec(), path.to_vec(), EntryKind::Dir, meta)))
            }
            FileType::RegularFile => {
                let mut entry = entry(root, below.to_vec(), path.to_vec(), EntryKind::File, meta);
                entry.size = stat.size;
                if inline.is_some_and(|max| entry.size <= max) {
                    read_inline(&*dir.open_file(name).map_err(fail)?, &mut entry, inline.unwrap_or(0))?;
                }
                Ok(Some(entry))
            }
            FileType::Symlink => {
                let target = dir.read_link(name).map_err(fail)?;
                let meta = Meta { mode: 0, ..meta };
                let mut entry = entry(root, below.to_vec(), path.to_vec(), EntryKind::Symlink, meta);
                entry.target = target;
                Ok(Some(entry))
            }
            _ => Err(special(path)),
        }
    }

    fn leaves_out(&self, below: &[u8], is_dir: bool) -> bool {
        let ignores = self.stack.last().map_or(&[][..], |frame| &frame.ignores);
        let ignores: Vec<(&[u8], &IgnoreFile)> =
            ignores.iter().map(|(dir, file)| (dir.as_slice(), &**file)).collect();
        self.filter.leaves_out(below, is_dir, &ignores)
    }

    /// The innermost directory, opened again if its handle was given up.
    fn inner_dir(&mut self, places: &Places<'_>, path: &[u8]) -> Result<Arc<DirHandle>, StoreError> {
        if let Some(dir) = self.stack.last().and_then(|frame| frame.dir.as_ref()) {
            return Ok(Arc::clone(dir));
        }
        let top = self.root_dir(places, self.at as u32)?;
        let frame = self.stack.last_mut();
        let frame = frame.ok_or_else(|| refuse(StoreErrorKind::Io, path, "is in no directory"))?;
        let dir = top.open_dir_below(&frame.below).map_err(|e| from_io(path, DOING, &e))?;
        Ok(Arc::clone(frame.dir.insert(Arc::new(dir))))
    }

    fn root_dir(&mut self, places: &Places<'_>, root: u32) -> Result<Arc<DirHandle>, StoreError> {
        let shown = self.shown(root, b"");
        let at = root as usize;
        let unknown = || refuse(StoreErrorKind::Io, &shown, "is below no known root");
        let known = self.roots.get(at).ok_or_else(unknown)?;
        if let Some(dir) = &known.dir {
            return Ok(Arc::clone(dir));
        }
        match open_root(places, &known.spec.location, &shown)? {
            Opened::Dir(dir) => {
                self.keep_root(at, &dir);
                Ok(dir)
            }
            Opened::File(_) => Err(source_changed(&shown)),
        }
    }

    /// A file that the walk found, as it is now.
    pub(crate) fn find(
        &mut self,
        places: &Places<'_>,
        root: u32,
        below: Vec<u8>,
        inline_max_bytes: u64,
    ) -> Result<SourceEntry, EntryError> {
        let mut path = self.shown(root, &below);
        let name = self.roots.get(root as usize).map(|root| &root.spec.name);
        if below.is_empty() && name.is_some_and(Vec::is_empty) {
            path = split_last(&path).1.to_vec();
        }
        let fail = |path: Vec<u8>, error| EntryError { path, error };
        let file = match self.open_file(places, root, &below, &path) {
            Ok(file) => file,
            Err(error) => return Err(fail(path, error)),
        };
        let is_file = file.stat().is_ok_and(|stat| stat.kind == FileType::RegularFile);
        if !is_file {
            let error = source_changed(&path);
            return Err(fail(path, error));
        }
        file_entry(file, root, below, path, Some(inline_max_bytes))
    }

    /// Opens a file that the walk found.
    pub(crate) fn open_file(
        &mut self,
        places: &Places<'_>,
        root: u32,
        below: &[u8],
        shown: &[u8],
    ) -> Result<File, StoreError> {
        if below.is_empty() {
            let unknown = || refuse(StoreErrorKind::Io, shown, "is below no known root");
            let spec = &self.roots.get(root as usize).ok_or_else(unknown)?.spec;
            return match open_root(places, &spec.location, shown)? {
                Opened::File(file) => Ok(file),
                Opened::Dir(_) => Err(source_changed(shown)),
            };
        }
        check_below(below)?;
        let (above, name) = split_last(below);
        let fail = |e: io::Error| from_io(shown, DOING, &e);
        let parent = match &self.last_parent {
            Some((r, path, dir)) if *r == root && path == above => Arc::clone(dir),
            _ => {
                let top = self.root_dir(places, root)?;
                Arc::new(top.open_dir_below(above).map_err(fail)?)
            }
        };
        self.last_parent = Some((root, above.to_vec(), Arc::clone(&parent)));
        parent.open_file(name).map_err(fail)
    }
}

/// `below` comes from a walk, by way of the caller: it must not lead anywhere else.
fn check_below(below: &[u8]) -> Result<(), StoreError> {
    let strange = |name: &[u8]| name.is_empty() || name == b"." || name == b".." || name.contains(&0);
    if below.split(|&b| b == b'/').any(strange) {
        return Err(forbidden(below, "is no path below a root"));
    }
    Ok(())
}

impl Frame {
    fn open(dir: Arc<DirHandle>, below: Vec<u8>) -> io::Result<Self> {
        let meta = dir.stat_self()?.meta;
        let mut frame = Self {
            below,
            more: Some(dir.list()?),
            dir: Some(dir),
            names: Vec::new(),
            ignores: Vec::new(),
            meta,
        };
        frame.refill()?;
        Ok(frame)
    }

    /// Adds the ignore files in this directory to those above it.
    fn with_ignores(
        mut self,
        filter: &Filter,
        above: &[(Vec<u8>, Arc<IgnoreFile>)],
        shown: &[u8],
    ) -> Result<Self, StoreError> {
        self.ignores = above.to_vec();
        let Some(dir) = self.dir.as_ref().filter(|_| !filter.ignore_files().is_empty()) else {
            return Ok(self);
        };
        for name in filter.ignore_files() {
            let path = join(shown, name);
            let file = match dir.open_file(name) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(from_io(&path, DOING, &e)),
            };
            let mut text = Vec::with_capacity(MAX_IGNORE_FILE_BYTES + 1);
            // Up to its end, or one byte too many.
            while text.len() <= MAX_IGNORE_FILE_BYTES
                && file.read_at(text.len() as u64, &mut text).map_err(|e| from_io(&path, DOING, &e))? > 0
            {
            }
            if text.len() > MAX_IGNORE_FILE_BYTES {
                let why = "is too long for an ignore file (64 KiB); shorten it or do not name it";
                return Err(refuse(StoreErrorKind::Limit, &path, why));
            }
            self.ignores.push((self.below.clone(), Arc::new(IgnoreFile::parse(&text))));
        }
        Ok(self)
    }

    /// Takes in the next run of names.
    fn refill(&mut self) -> io::Result<()> {
        let Some(more) = &mut self.more else { return Ok(()) };
        let mut bytes = 0;
        while self.names.len() < NAMES_AT_ONCE && bytes < NAME_BYTES_AT_ONCE {
            let Some(item) = more.next() else {
                self.more = None;
                break;
            };
            let (name, _) = item?;
            if !name.starts_with(HIDDEN_PREFIX) {
                bytes += name.len();
                self.names.push(name);
            }
        }
        self.names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(())
    }

    fn next_name(&mut self) -> io::Result<Option<Vec<u8>>> {
        while self.names.is_empty() && self.more.is_some() {
            self.refill()?;
        }
        Ok(self.names.pop())
    }
}

fn location_path(location: &Location) -> &[u8] {
    let path = location.path();
    path.strip_suffix(b"/").unwrap_or(path)
}

/// Standard input, of no known size, as of now.
fn stream_entry(root: u32, path: Vec<u8>, shown: &[u8]) -> Result<SourceEntry, EntryError> {
    let mut entry = entry(root, Vec::new(), path, EntryKind::File, super::pipe::new_meta());
    entry.size = UNKNOWN_SIZE;
    if entry.path.is_empty() {
        Err(EntryError { path: shown.to_vec(), error: special(shown) })
    } else {
        Ok(entry)
    }
}

fn special(path: &[u8]) -> StoreError {
    forbidden(
        path,
        "is a pipe, a socket or a device; only files, directories and links are sent; leave it out",
    )
}

fn entry(root: u32, below: Vec<u8>, path: Vec<u8>, kind: EntryKind, meta: Meta) -> SourceEntry {
    SourceEntry { root, below, path, kind, meta, size: 0, target: Vec::new(), inline: None }
}

fn file_entry(
    file: File,
    root: u32,
    below: Vec<u8>,
    path: Vec<u8>,
    inline: Option<u64>,
) -> Result<SourceEntry, EntryError> {
    let stat = match file.stat() {
        Ok(stat) => stat,
        Err(e) => return Err(EntryError { error: from_io(&path, DOING, &e), path }),
    };
    let mut entry = entry(root, below, path, EntryKind::File, stat.meta);
    entry.size = stat.size;
    if let Some(max) = inline.filter(|&max| entry.size <= max)
        && let Err(error) = read_inline(&*file, &mut entry, max)
    {
        return Err(EntryError { path: entry.path, error });
    }
    Ok(entry)
}

/// Reads a small file whole; size and mtime must be the same before and after. If it grew past `max` meanwhile,
/// it stays an ordinary file.
fn read_inline(file: &dyn FileOps, entry: &mut SourceEntry, max: u64) -> Result<(), StoreError> {
    let fail = |e: io::Error| from_io(&entry.path, DOING, &e);
    for _ in 0..READ_ATTEMPTS {
        let before = file.stat().map_err(fail)?;
        if before.kind != FileType::RegularFile {
            return Err(source_changed(&entry.path));
        }
        let size = before.size;
        if size > max {
            (entry.size, entry.meta) = (size, before.meta);
            return Ok(());
        }
        let mut data = Vec::with_capacity(size as usize);
        match read_exact_at(file, 0, size as usize, &mut data) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(e) => return Err(fail(e)),
        }
        let after = file.stat().map_err(fail)?;
        if (after.size, after.meta) == (size, before.meta) {
            (entry.size, entry.meta) = (size, after.meta);
            let sha256 = sha256(&data);
            entry.inline = Some(Inline { data: Bytes::from(data), sha256 });
            return Ok(());
        }
    }
    Err(source_changed(&entry.path))
}

fn open_root(places: &Places<'_>, location: &Location, shown: &[u8]) -> Result<Opened, StoreError> {
    let fail = |e: io::Error| from_io(shown, DOING, &e);
    let (parent, name) = match location {
        Location::Local(path) => {
            return match places.jail.open_local(path).map_err(fail)? {
                Local::Dir(dir) => Ok(Opened::Dir(Arc::new(dir))),
                Local::File(file) => Ok(Opened::File(file)),
                Local::Special => Err(special(shown)),
            };
        }
        Location::Stream => return super::pipe::stdin().map(Opened::File).map_err(fail),
        Location::Jail(path) if path.is_empty() => {
            return Ok(Opened::Dir(Arc::new(places.jail.handle().map_err(fail)?)));
        }
        Location::Jail(path) => {
            check_relative(path, false)?;
            let (parent, name) = places.jail.locate(path).map_err(fail)?;
            if name.is_empty() || name == b"." {
                return Ok(Opened::Dir(Arc::new(parent)));
            }
            (parent, name)
        }
        Location::Scratch(path) => {
            check_relative(path, false)?;
            let area = places.scratch.existing();
            let area = area.ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
            let (above, name) = split_last(path);
            (area.open_dir_below(above).map_err(fail)?, name.to_vec())
        }
    };
    let stat = parent.stat(&name).map_err(fail)?;
    match stat.kind {
        FileType::Directory => Ok(Opened::Dir(Arc::new(parent.open_dir(&name).map_err(fail)?))),
        FileType::RegularFile => Ok(Opened::File(parent.open_file(&name).map_err(fail)?)),
        FileType::Symlink => Err(fail(rustix::io::Errno::LOOP.into())),
        _ => Err(special(shown)),
    }
}
