//! Role: the server's log: what each session does, in lines that a peer cannot forge.
//! Owns: one small record per session that has connected.
//! Implements: docs/ARCHITECTURE.md, "The server".

use crate::session::event::{CloseReason, Direction, Event, Stats};
use crate::session::refusal::Refusals;
use crate::store::SessionKey;
use crate::transfer::Request;
use crate::transfer::job::{EntryKind, StoreError};
use crate::units::format_rate;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Between two lines about the progress of a session.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Characters of a name from a peer that a line shows; a path may have thousands.
const SHOWN_CHARS: usize = 512;

/// A name from a peer: lossy UTF-8, control characters escaped, length bounded.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Four bytes are the longest character, so this cut leaves enough and bounds the work.
        let head = &self.0[..self.0.len().min(4 * SHOWN_CHARS)];
        let text = String::from_utf8_lossy(head);
        for c in text.chars().take(SHOWN_CHARS) {
            // Marks that turn the direction of text are no control characters, but forge lines as well.
            let turns =
                matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if c.is_control() || turns {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        if text.chars().nth(SHOWN_CHARS).is_some() || head.len() < self.0.len() {
            f.write_str("...")
        } else {
            Ok(())
        }
    }
}

/// What is kept of one session.
#[derive(Debug)]
struct Record {
    remote: SocketAddr,
    started: Instant,
    stats: Stats,
    /// Bytes that an earlier run had brought.
    resumed_bytes: u64,
    entries: u64,
    failed: u64,
}

/// The log of all sessions.
#[derive(Debug)]
pub(super) struct ServerLog {
    records: HashMap<SessionKey, Record>,
    next_progress: Instant,
    /// As last told.
    refusals: Refusals,
}

impl ServerLog {
    pub(super) fn new(now: Instant) -> Self {
        Self { records: HashMap::new(), next_progress: now + PROGRESS_EVERY, refusals: Refusals::default() }
    }

    /// One event of a session; `stats` as they are now, if the session still has any.
    pub(super) fn event(&mut self, now: Instant, session: SessionKey, event: &Event, stats: Option<Stats>) {
        if let (Some(record), Some(stats)) = (self.records.get_mut(&session), stats) {
            record.stats = stats;
        }
        match event {
            Event::Connected { remote, client_id } => {
                let stats = Stats::default();
                let record =
                    Record { remote: *remote, started: now, stats, resumed_bytes: 0, entries: 0, failed: 0 };
                self.records.insert(session, record);
                match client_id.as_str() {
                    "" => log::info!("session {session}: connected from {remote}"),
                    id => log::info!(
                        "session {session}: connected from {remote}, client {}",
                        Shown(id.as_bytes())
                    ),
                }
            }
            Event::Requested(request) => log::info!("session {session}: asks for {}", Asked(request)),
            Event::FileStarted { direction, path, bytes, .. } => {
                log::info!("session {session}: {} {}, {bytes} bytes", doing(*direction), Shown(path));
            }
            Event::FileResumed { file, bytes, .. } => {
                if let Some(record) = self.records.get_mut(&session) {
                    record.resumed_bytes += bytes;
                }
                log::info!("session {session}: {bytes} bytes of file {} had come before", file.0);
            }
            Event::EntryFinished { .. } => self.entry_finished(session, event),
            Event::EntryUnchanged { path, .. } => {
                if let Some(record) = self.records.get_mut(&session) {
                    record.entries += 1;
                }
                log::debug!("session {session}: {} is unchanged", Shown(path));
            }
            Event::EntryRemoved { path, .. } => log::info!("session {session}: removed {}", Shown(path)),
            Event::RemovalFailed(error) => {
                log::info!("session {session}: {}", Shown(error.message.as_bytes()));
            }
            Event::EntryPlanned { path, .. } => log::debug!("session {session}: {} would go", Shown(path)),
            Event::Listed(_) => {}
            Event::ImpairBack(spec) => {
                log::info!("session {session}: impairing the way back: {}", Shown(spec.as_bytes()));
            }
            Event::Completed => log::info!("session {session}: request done"),
            Event::Closed(reason) => self.closed(now, session, reason),
        }
    }

    fn entry_finished(&mut self, session: SessionKey, event: &Event) {
        let Event::EntryFinished { direction, path, kind, bytes, sha256, error, .. } = event else { return };
        if let Some(record) = self.records.get_mut(&session) {
            // The end of a directory is no entry of its own to anybody who reads a log.
            record.entries += u64::from(*kind != EntryKind::DirEnd);
            record.failed += u64::from(error.is_some());
        }
        if let Some(StoreError { message, .. }) = error {
            log::info!(
                "session {session}: {} {} failed: {}",
                doing(*direction),
                Shown(path),
                Shown(message.as_bytes())
            );
            return;
        }
        let done = match direction {
            Direction::Sending => "sent",
            Direction::Receiving => "stored",
        };
        match (kind, sha256) {
            (EntryKind::File, Some(sha256)) => {
                log::info!(
                    "session {session}: {done} {}, {bytes} bytes, sha256 {}",
                    Shown(path),
                    Hex(sha256)
                );
            }
            (EntryKind::File, None) => log::info!("session {session}: {done} {}, {bytes} bytes", Shown(path)),
            _ => log::debug!("session {session}: {done} {} ({kind:?})", Shown(path)),
        }
    }

    fn closed(&mut self, now: Instant, session: SessionKey, reason: &CloseReason) {
        let reason_text = reason.to_string();
        let Some(record) = self.records.remove(&session) else {
            // It never got past the handshake: a scan, a wrong key. One line each, or a flood fills the disk.
            log::debug!("session {session}: ended before it was set up: {}", Shown(reason_text.as_bytes()));
            return;
        };
        let Record { remote, started, stats, resumed_bytes, entries, failed } = record;
        let elapsed = now.saturating_duration_since(started);
        let moved_bytes = stats.file_bytes_done.saturating_sub(resumed_bytes);
        let goodput = 8.0 * moved_bytes as f64 / elapsed.as_secs_f64().max(1e-3);
        log::info!(
            "session {session} from {remote} ended: {}; {entries} {}, {failed} failed, {} file bytes in {:.2} s \
             ({}); {} packets sent, {} repaired, {:.2} % lost, {} NACKs sent, {} received; {} corrupted and \
             {} duplicate packets dropped; RTT {:.1} ms (smallest {:.1} ms)",
            Shown(reason_text.as_bytes()),
            if entries == 1 { "entry" } else { "entries" },
            moved_bytes,
            elapsed.as_secs_f64(),
            format_rate(goodput as u64),
            stats.packets_sent,
            stats.packets_repaired,
            stats.loss_pct(),
            stats.nacks_sent,
            stats.nacks_received,
            stats.packets_corrupted,
            stats.packets_duplicate,
            stats.smoothed_rtt.as_secs_f64() * 1e3,
            stats.min_rtt.as_secs_f64() * 1e3,
        );
    }

    /// Every ten seconds, one line for each session that moved, and one if anything was refused since.
    pub(super) fn progress(
        &mut self,
        now: Instant,
        stats_of: impl Fn(SessionKey) -> Option<Stats>,
        refusals: impl FnOnce() -> Refusals,
    ) {
        if now < self.next_progress {
            return;
        }
        self.next_progress = now + PROGRESS_EVERY;
        for (session, record) in &mut self.records {
            let Some(stats) = stats_of(*session) else { continue };
            let moved = stats.file_bytes_done - record.stats.file_bytes_done.min(stats.file_bytes_done);
            if moved > 0 {
                log::info!(
                    "session {session}: {} of {} file bytes, {} packets repaired, {} corrupted packets dropped",
                    stats.file_bytes_done,
                    stats.file_bytes_total,
                    stats.packets_repaired,
                    stats.packets_corrupted,
                );
            }
            record.stats = stats;
        }
        self.refused(refusals());
    }

    /// One line with all that was refused so far, if that has changed.
    pub(super) fn refused(&mut self, refusals: Refusals) {
        if refusals != self.refusals {
            log::info!("refused so far: {refusals}");
            self.refusals = refusals;
        }
    }
}

fn doing(direction: Direction) -> &'static str {
    match direction {
        Direction::Sending => "sending",
        Direction::Receiving => "receiving",
    }
}

/// A request as a line shows it.
struct Asked<'a>(&'a Request);

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Request::Put { dest, .. } => write!(f, "put to /{}", Shown(dest)),
            Request::Get { paths, .. } => {
                let first = paths.first().map_or(&[][..], Vec::as_slice);
                match paths.len() {
                    0 | 1 => write!(f, "get of /{}", Shown(first)),
                    n => write!(f, "get of /{} and {} more", Shown(first), n - 1),
                }
            }
            Request::List { path } => write!(f, "a list of /{}", Shown(path)),
            Request::Echo { sim_back, .. } => write!(f, "echo, impaired by {}", Shown(sim_back.as_bytes())),
        }
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_peers_cannot_forge_lines() {
        assert_eq!(Shown(b"a\nb\x1b[0m").to_string(), "a\\nb\\u{1b}[0m");
        assert_eq!(Shown("x\u{202e}y".as_bytes()).to_string(), "x\\u{202e}y");
        assert_eq!(Shown(&[0xff, b'a']).to_string(), "\u{fffd}a");
        assert_eq!(Shown(&[b'a'; SHOWN_CHARS]).to_string().len(), SHOWN_CHARS);
        assert_eq!(Shown(&[b'a'; SHOWN_CHARS + 1]).to_string(), format!("{}...", "a".repeat(SHOWN_CHARS)));
        assert_eq!(Shown(&[b'a'; 100_000]).to_string(), format!("{}...", "a".repeat(SHOWN_CHARS)));
    }
}
