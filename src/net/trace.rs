//! Role: `--trace`: takes what sessions record out of the loop and writes it as a qlog-style JSON text sequence.
//! Owns: the batch being filled, the bounded queue to the writing thread, and in that thread the file.
//! Implements: docs/TRACES.md.

use super::core::Core;
use crate::session::event::{Event, Stats};
use crate::session::trace::{Record, Trace};
use crate::store::SessionKey;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod json;

/// A batch goes to the thread when it holds so many items: some 2 ms of packets at 10 Gbit/s.
const BATCH_ITEMS: usize = 2048;
/// ...or when it is so old, so that a trace can be followed while it is written.
const BATCH_AGE: Duration = Duration::from_millis(100);
/// Batches that may wait for the thread, about 16 MiB; when the disk is slower than that, whole batches are left out
/// and counted.
const QUEUE_BATCHES: usize = 64;
/// Buffer of the file.
const BUFFER_BYTES: usize = 256 * 1024;
/// When the file has this size, single packets are left out of it and counted; the path's figures, files and sessions
/// are still written. About five million packets.
const MAX_PACKETS_BYTES: u64 = 1 << 30;
/// When it has this size, nothing more is written but the ends of sessions and of the trace.
const MAX_BYTES: u64 = MAX_PACKETS_BYTES + (1 << 28);

/// One thing to be written.
#[derive(Debug)]
enum Item {
    /// A session's record.
    Record(SessionKey, Record),
    /// What a session told the application; with the last event its final figures.
    Event(SessionKey, Instant, Event, Option<Box<Stats>>),
    /// What a session is called.
    Labelled(SessionKey, Instant, String),
    /// So many records could not be kept.
    LeftOut(Instant, u64),
}

impl Item {
    fn at(&self) -> Instant {
        match self {
            Self::Record(_, record) => record.at,
            Self::Event(_, at, ..) | Self::Labelled(_, at, _) | Self::LeftOut(at, _) => *at,
        }
    }

    /// One of very many.
    fn is_packet(&self) -> bool {
        let Self::Record(_, record) = self else { return false };
        matches!(
            record.what,
            Trace::Sent { .. }
                | Trace::Received { .. }
                | Trace::Duplicate { .. }
                | Trace::Lost { .. }
                | Trace::Spurious { .. }
        )
    }
}

/// What the first record of a trace says of it.
#[derive(Clone, Debug)]
pub struct About {
    /// `fulmar put`, say.
    pub title: String,
    /// Whether the traced side is a server.
    pub is_server: bool,
    /// The time now, RFC 3339.
    pub wall_clock_time: String,
}

/// A trace being written.
#[derive(Debug)]
pub struct TraceFile {
    path: PathBuf,
    reference: Instant,
    batch: Vec<Item>,
    batch_since: Option<Instant>,
    records: Vec<(SessionKey, Record)>,
    left_out: u64,
    queue: Option<SyncSender<Vec<Item>>>,
    /// Sessions are numbered from here on, so that those of a second loop are not taken for the first one's.
    first_session: SessionKey,
    /// The highest number so far, of all parts.
    last_session: Arc<AtomicU64>,
    /// What sessions with a number above this one are called.
    label: Option<(SessionKey, String)>,
    /// Nothing runs behind this trace that could not wait for the disk.
    can_wait: bool,
    /// None in a part.
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl TraceFile {
    /// Makes the file, or empties it, and starts the thread that writes to it. Times in it count from now.
    ///
    /// # Errors
    /// The file cannot be made or written, or there can be no thread.
    #[allow(clippy::disallowed_methods, reason = "the loop's clock does not run yet")]
    pub fn create(path: &Path, about: &About) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?);
        let head = json::header(about);
        file.write_all(&head)?;
        file.flush()?;
        let (queue, batches) = sync_channel(QUEUE_BATCHES);
        let reference = Instant::now();
        let writer = Writer {
            file,
            reference,
            written: head.len() as u64,
            left_out: 0,
            limits: (MAX_PACKETS_BYTES, MAX_BYTES),
        };
        let thread = std::thread::Builder::new().name("trace".into()).spawn(move || writer.run(&batches))?;
        Ok(Self {
            path: path.to_owned(),
            reference,
            batch: Vec::with_capacity(BATCH_ITEMS),
            batch_since: None,
            records: Vec::new(),
            left_out: 0,
            queue: Some(queue),
            first_session: 0,
            last_session: Arc::default(),
            label: None,
            can_wait: false,
            thread: Some(thread),
        })
    }

    /// For a loop that is one of several, one after the other: writes into the same file, of which `self` stays the
    /// owner.
    #[must_use]
    pub fn part(&self) -> Self {
        Self {
            path: self.path.clone(),
            reference: self.reference,
            batch: Vec::with_capacity(BATCH_ITEMS),
            batch_since: None,
            records: Vec::new(),
            left_out: 0,
            queue: self.queue.clone(),
            first_session: self.last_session.load(Ordering::Relaxed),
            last_session: self.last_session.clone(),
            label: None,
            can_wait: false,
            thread: None,
        }
    }

    /// From when on times in it count.
    pub fn reference(&self) -> Instant {
        self.reference
    }

    /// Gives all sessions to come a name, which the report shows.
    #[must_use]
    pub fn labelled(mut self, label: &str) -> Self {
        self.label = Some((self.first_session, label.to_owned()));
        self
    }

    /// Takes what the sessions of a simulation did. Virtual time waits for the disk, so nothing is left out here.
    pub fn simulated(
        &mut self,
        now: Instant,
        records: Vec<(SessionKey, Record)>,
        events: Vec<(SessionKey, Instant, Event, Option<Stats>)>,
        left_out: u64,
    ) {
        self.can_wait = true;
        self.left_out += left_out;
        for (session, record) in records {
            self.push(now, Item::Record(self.number(session), record));
        }
        for (session, at, event, stats) in events {
            self.push(now, Item::Event(self.number(session), at, event, stats.map(Box::new)));
        }
    }

    fn number(&self, session: SessionKey) -> SessionKey {
        let number = self.first_session + session;
        self.last_session.fetch_max(number, Ordering::Relaxed);
        number
    }

    /// Takes what the core's sessions have recorded; call it every turn.
    pub(super) fn collect(&mut self, now: Instant, core: &mut impl Core) {
        let mut records = std::mem::take(&mut self.records);
        self.left_out += core.take_traces(&mut records);
        for (session, record) in records.drain(..) {
            self.push(now, Item::Record(self.number(session), record));
        }
        self.records = records;
        if self.batch_since.is_some_and(|since| now >= since + BATCH_AGE) {
            self.hand_over(now);
        }
    }

    /// What a session told; `stats` are wanted with its last event only.
    pub(super) fn event(&mut self, now: Instant, session: SessionKey, event: &Event, stats: Option<Stats>) {
        self.push(now, Item::Event(self.number(session), now, event.clone(), stats.map(Box::new)));
    }

    fn push(&mut self, now: Instant, item: Item) {
        if let (Some((last, label)), Item::Record(session, _) | Item::Event(session, ..)) =
            (&mut self.label, &item)
            && *session > *last
        {
            *last = *session;
            self.batch.push(Item::Labelled(*session, item.at(), label.clone()));
        }
        self.batch.push(item);
        self.batch_since.get_or_insert(now);
        if self.batch.len() >= BATCH_ITEMS {
            self.hand_over(now);
        }
    }

    /// Gives the batch to the thread, without waiting for it.
    fn hand_over(&mut self, now: Instant) {
        self.batch_since = None;
        let mut batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH_ITEMS));
        let Some(queue) = &self.queue else { return };
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            batch.push(Item::LeftOut(now, left_out));
        }
        let sent = if self.can_wait {
            queue.send(batch).map_err(|error| TrySendError::Disconnected(error.0))
        } else {
            queue.try_send(batch)
        };
        match sent {
            Ok(()) => {}
            Err(TrySendError::Full(batch)) => {
                let items = batch.iter().filter(|item| !matches!(item, Item::LeftOut(..))).count();
                self.left_out = left_out + items as u64;
            }
            // The thread has ended with an error, which `finish` tells.
            Err(TrySendError::Disconnected(_)) => self.queue = None,
        }
    }

    /// Writes what is left and waits for the thread. A trace that could not be written is worth a warning only.
    pub(super) fn finish(mut self, now: Instant, core: &mut impl Core) {
        self.collect(now, core);
        if self.left_out > 0 {
            self.batch.push(Item::LeftOut(now, self.left_out));
        }
        self.close();
    }

    fn close(&mut self) {
        if let Some(queue) = self.queue.take() {
            // Now there is time to wait for the disk.
            let _ = queue.send(std::mem::take(&mut self.batch));
        }
        let Some(thread) = self.thread.take() else { return };
        let why = match thread.join() {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the thread that writes it has failed".into(),
        };
        log::warn!("the trace {} is not complete: {why}", self.path.display());
    }
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        self.close();
    }
}

/// The writing thread.
struct Writer<W: Write> {
    file: BufWriter<W>,
    reference: Instant,
    written: u64,
    left_out: u64,
    /// Above the first, no packets; above the second, nothing but ends.
    limits: (u64, u64),
}

impl<W: Write> Writer<W> {
    fn run(mut self, batches: &Receiver<Vec<Item>>) -> io::Result<()> {
        let mut text = Vec::new();
        let mut last = self.reference;
        while let Ok(mut batch) = batches.recv() {
            // Each session's records are in order; together they are not.
            batch.sort_by_key(Item::at);
            for item in &batch {
                last = last.max(item.at());
                text.clear();
                self.write(item, &mut text)?;
            }
            self.file.flush()?;
        }
        if self.left_out > 0 {
            text.clear();
            json::item(&mut text, self.reference, &Item::LeftOut(last, self.left_out));
            self.file.write_all(&text)?;
        }
        self.file.flush()
    }

    fn write(&mut self, item: &Item, text: &mut Vec<u8>) -> io::Result<()> {
        let (packets, all) = self.limits;
        let is_end = matches!(item, Item::Event(_, _, Event::Closed(_), _));
        if self.written >= packets && item.is_packet() || self.written >= all && !is_end {
            self.left_out += if let Item::LeftOut(_, count) = item { *count } else { 1 };
            return Ok(());
        }
        json::item(text, self.reference, item);
        self.written += text.len() as u64;
        self.file.write_all(text)
    }
}

#[cfg(test)]
mod tests;
