//! Role: collects what became of every file and how the session ended, and says so at the end.
//! Owns: the results of one command.
//! Implements: the closing summary and exit codes of `fulmar --help`.

use super::exit::{self, Failure, complain};
use super::json::{self, Ending, Spool};
use super::options::Output;
use super::{summary, terminal, text};
use crate::net::client::Outcome;
use crate::session::event::{CloseReason, Stats};
use crate::transfer::job::{EntryKind, StoreError, StoreErrorKind};
use std::time::{Duration, Instant};

/// Files whose digests the human summary lists; `--json` has them all.
const LISTED_FILES: usize = 16;
/// Error lines about single files; one more says how many there were. A full disk fails every file of a tree.
const PRINTED_ERRORS: u64 = 20;

/// What became of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileResult {
    /// Manifest path, or what the user wrote if it never got one.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes (files only).
    pub bytes: u64,
    /// SHA-256 (files only). For an echo, that of the original.
    pub sha256: Option<[u8; 32]>,
    /// Echo: SHA-256 of the server's copy.
    pub server_sha256: Option<[u8; 32]>,
    /// Echo: SHA-256 of what came back.
    pub received_sha256: Option<[u8; 32]>,
    /// Of `bytes`, those that an earlier run had brought already.
    pub resumed_bytes: u64,
    /// Why not.
    pub error: Option<String>,
}

impl Default for FileResult {
    fn default() -> Self {
        Self {
            path: Vec::new(),
            kind: EntryKind::File,
            bytes: 0,
            sha256: None,
            server_sha256: None,
            received_sha256: None,
            resumed_bytes: 0,
            error: None,
        }
    }
}

/// Counts of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files and links done.
    pub ok: u64,
    /// Entries failed.
    pub failed: u64,
    /// Directories done.
    pub dirs: u64,
    /// File bytes done.
    pub bytes: u64,
    /// Of these, the ones that earlier runs had brought already.
    pub resumed_bytes: u64,
    /// Files and links that were there already, equal.
    pub unchanged: u64,
    /// Their bytes.
    pub unchanged_bytes: u64,
    /// Entries removed at the destination (in a dry run: that would be).
    pub removed: u64,
    /// A dry run: entries that would go.
    pub planned: u64,
    /// Their bytes.
    pub planned_bytes: u64,
}

impl Totals {
    /// Entries of which anything was heard.
    pub fn heard(&self) -> u64 {
        self.ok + self.dirs + self.failed + self.unchanged + self.planned
    }
}

/// How the session went.
#[derive(Debug)]
pub struct Ended {
    /// Its end, or why there was none.
    pub outcome: Result<Outcome, Failure>,
    /// 130 or 143 if a signal came.
    pub signal: Option<u8>,
    /// The handshake was completed at some time.
    pub connected: bool,
    /// From start to end.
    pub elapsed: Duration,
}

impl Ended {
    /// There was nothing to connect for.
    pub fn without_session(start: Instant) -> Self {
        let outcome = Ok(Outcome { reason: CloseReason::Done, stats: Stats::default() });
        let elapsed = super::client::now().saturating_duration_since(start);
        Self { outcome, signal: None, connected: false, elapsed }
    }

    /// It failed before the engine was started.
    pub fn before_start(failure: Failure) -> Self {
        Self { outcome: Err(failure), signal: None, connected: false, elapsed: Duration::ZERO }
    }

    /// The request was carried out to its end, whatever became of single files.
    pub fn is_done(&self) -> bool {
        matches!(&self.outcome, Ok(outcome) if outcome.reason == CloseReason::Done)
    }
}

/// Results of one command.
#[derive(Debug)]
pub struct Report {
    command: &'static str,
    output: Output,
    /// Counts so far.
    pub totals: Totals,
    /// The first few files, for the summary.
    pub listed: Vec<FileResult>,
    /// Nothing is changed: what succeeds would be done.
    pub dry_run: bool,
    worst: u8,
    first_error: Option<String>,
    spool: Spool,
}

impl Report {
    /// For the command of this name.
    pub fn new(command: &'static str, output: Output) -> Self {
        Self {
            command,
            output,
            totals: Totals::default(),
            listed: Vec::new(),
            dry_run: false,
            worst: exit::DONE,
            first_error: None,
            spool: Spool::default(),
        }
    }

    /// The command's name.
    pub fn command(&self) -> &'static str {
        self.command
    }

    /// An entry of a listing, for `--json`.
    pub fn listed(&mut self, entry: &crate::transfer::job::SourceEntry) {
        self.totals.ok += 1;
        self.spool.add_listed(entry);
    }

    /// An entry is done.
    pub fn done(&mut self, file: FileResult) {
        if self.dry_run && file.kind != EntryKind::DirEnd {
            return self.would_go(&file.path, file.kind, file.bytes);
        }
        if matches!(file.kind, EntryKind::Dir | EntryKind::DirEnd) {
            self.totals.dirs += u64::from(file.kind == EntryKind::Dir);
            return;
        }
        self.totals.ok += 1;
        self.totals.bytes = self.totals.bytes.saturating_add(file.bytes);
        self.totals.resumed_bytes = self.totals.resumed_bytes.saturating_add(file.resumed_bytes);
        if self.output.json {
            self.spool.add_result(&file);
        } else if self.listed.len() < LISTED_FILES {
            self.listed.push(file);
        }
    }

    /// An entry is there already, equal.
    pub fn found_unchanged(&mut self, path: &[u8], kind: EntryKind, bytes: u64) {
        match kind {
            EntryKind::DirEnd => {}
            EntryKind::Dir => self.totals.dirs += 1,
            EntryKind::File | EntryKind::Symlink => {
                self.totals.unchanged += 1;
                self.totals.unchanged_bytes = self.totals.unchanged_bytes.saturating_add(bytes);
                if self.output.json {
                    self.spool.add_action(path, kind, bytes, "unchanged");
                }
            }
        }
    }

    /// A dry run: this entry would go.
    pub fn would_go(&mut self, path: &[u8], kind: EntryKind, bytes: u64) {
        self.totals.planned += 1;
        self.totals.planned_bytes = self.totals.planned_bytes.saturating_add(bytes);
        let action = if kind == EntryKind::Dir { "make" } else { "send" };
        if self.output.json {
            self.spool.add_action(path, kind, bytes, action);
        } else if !self.output.quiet {
            let slash = if kind == EntryKind::Dir { "/" } else { "" };
            terminal::stdout_line(&format!("would {action}   {}{slash}", text::bytes(path)));
        }
    }

    /// The source lacks it: it was removed, or would be in a dry run.
    pub fn was_removed(&mut self, path: &[u8], kind: EntryKind) {
        self.totals.removed += 1;
        if self.output.json {
            self.spool.add_action(path, kind, 0, if self.dry_run { "remove" } else { "removed" });
        } else if self.dry_run && !self.output.quiet {
            let slash = if kind == EntryKind::Dir { "/" } else { "" };
            terminal::stdout_line(&format!("would remove {}{slash}", text::bytes(path)));
        }
    }

    /// Nothing (more) was removed: that is a failure, though no file's.
    pub fn not_removed(&mut self, why: &str) {
        let message = text::one_line(why);
        complain(&message);
        self.worst = self.worst.max(exit::REFUSED);
        self.first_error.get_or_insert(message);
    }

    /// An entry failed: says so at once, and goes on.
    pub fn failed(&mut self, mut file: FileResult, error: &StoreError) {
        let message = explain(&file.path, error);
        self.totals.failed += 1;
        self.worst = self.worst.max(error.kind.exit_code());
        if self.totals.failed <= PRINTED_ERRORS {
            complain(&message);
        } else if self.totals.failed == PRINTED_ERRORS + 1 {
            complain("more files failed; only the first ones are named here, --json names all");
        }
        file.error = Some(message.clone());
        if self.output.json {
            self.spool.add_result(&file);
        } else if file.received_sha256.is_some() && self.listed.len() < LISTED_FILES {
            // Digests that differ are what an echo is there to show.
            self.listed.push(file);
        }
        self.first_error.get_or_insert(message);
    }

    /// The files' own verdict: exit code and, if any failed, a sentence.
    fn verdict(&self) -> (u8, Option<String>) {
        let error = self.first_error.as_ref().map(|first| match self.totals.failed {
            0 | 1 => first.clone(),
            failed => format!(
                "{failed} of {} failed, the first: {first}",
                text::plural(failed + self.totals.ok, "file")
            ),
        });
        (self.worst, error)
    }

    /// Prints the closing summary or the JSON object, and the session's error if there is one. Returns the exit
    /// code.
    pub fn finish(mut self, ended: &Ended) -> u8 {
        let none = Stats::default();
        let (reason, stats) = match &ended.outcome {
            Ok(outcome) => (Ok(&outcome.reason), &outcome.stats),
            Err(failure) => (Err(failure), &none),
        };
        let (file_code, file_error) = self.verdict();
        let session = session_error(reason, ended.signal);
        let (exit_code, error) = match &session {
            None => (file_code, file_error),
            Some(failure) if failure.exit_code >= exit::SIGNAL_BASE => {
                (failure.exit_code, Some(failure.message.clone()))
            }
            Some(failure) => (failure.exit_code.max(file_code), Some(failure.message.clone())),
        };
        let loss_pct = loss_pct(self.command, stats);
        if self.output.json {
            let error = error.as_deref().map(text::one_line);
            let error = error.as_deref();
            let (command, totals, elapsed) = (self.command, self.totals, ended.elapsed);
            json::print(
                Ending { command, totals, elapsed, stats, loss_pct, error, exit_code },
                &mut self.spool,
            );
        } else if !self.output.quiet && ended.connected && self.totals.heard() > self.totals.failed {
            terminal::stdout(summary::text(&self, stats, ended.elapsed).as_bytes());
        }
        if let Some(failure) = session {
            complain(&failure.message);
        }
        exit_code
    }
}

/// What is wrong with the session as a whole, if anything.
fn session_error(reason: Result<&CloseReason, &Failure>, signal: Option<u8>) -> Option<Failure> {
    let interrupted = |code| {
        Failure::new(code, "interrupted: files that were not finished are not visible at their destination")
    };
    match (reason, signal) {
        (Ok(CloseReason::Done), _) => None,
        (_, Some(code)) => Some(interrupted(code)),
        (Ok(reason), None) => Some(Failure::new(reason.exit_code(), advise(reason))),
        (Err(failure), None) => Some(failure.clone()),
    }
}

/// A close reason with what to do about it, where the reason itself does not say.
fn advise(reason: &CloseReason) -> String {
    match reason {
        CloseReason::WrongKey => format!("{reason}; give the server's key with --key-file"),
        CloseReason::TimedOut { .. } => {
            format!("{reason}; check the link and the server, and run the same command again")
        }
        CloseReason::PeerClosed(_) => {
            format!("{reason}; run the same command again when it is back")
        }
        _ => reason.to_string(),
    }
}

/// A file's error as one sentence that names the file and, where there is one, the way out.
fn explain(path: &[u8], error: &StoreError) -> String {
    let (shown, message) = (text::bytes(path), text::one_line(&error.message));
    let base = text::bytes(super::paths::root_name(path));
    // The served directory itself has no name here.
    let named = shown.is_empty() || (!base.is_empty() && message.contains(&base));
    let mut sentence = if named { message } else { format!("{shown}: {message}") };
    if error.kind == StoreErrorKind::Exists && !sentence.contains("--overwrite") {
        sentence.push_str(" (--overwrite always replaces it)");
    }
    sentence
}

/// Loss in percent of the way on which the files went: for `get` and `ls` the way in (for `cp` whichever way most of it
/// went), else the way out, where what was declared lost counts, less what arrived after all.
pub fn loss_pct(command: &str, stats: &Stats) -> f64 {
    let coming = command == "cp" && stats.wire_bytes_received > stats.wire_bytes_sent;
    if command == "get" || command == "ls" || coming { loss_in_pct(stats) } else { stats.loss_pct() }
}

/// Loss in percent on the way in: the gaps that this side saw, which takes reordered packets for lost ones.
pub fn loss_in_pct(stats: &Stats) -> f64 {
    let all = stats.packets_received.saturating_add(stats.nacks_sent);
    if all == 0 { 0.0 } else { 100.0 * stats.nacks_sent as f64 / all as f64 }
}

/// Bits per second.
pub fn bits_per_sec(bytes: u64, elapsed: Duration) -> u64 {
    if elapsed.is_zero() { 0 } else { (bytes as f64 * 8.0 / elapsed.as_secs_f64()).round() as u64 }
}

/// Plain bytes per encoded byte; 1 if nothing was encoded.
pub fn compression_ratio(stats: &Stats) -> f64 {
    if stats.chunk_bytes_encoded == 0 {
        1.0
    } else {
        stats.chunk_bytes_plain as f64 / stats.chunk_bytes_encoded as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: StoreErrorKind, message: &str) -> StoreError {
        StoreError { kind, message: message.into() }
    }

    fn outcome(reason: CloseReason) -> Ended {
        Ended {
            outcome: Ok(Outcome { reason, stats: Stats::default() }),
            signal: None,
            connected: false,
            elapsed: Duration::from_secs(1),
        }
    }

    fn report(errors: &[StoreErrorKind]) -> Report {
        let mut report = Report::new("put", Output { quiet: true, ..Output::default() });
        report.done(FileResult { bytes: 5, ..FileResult::default() });
        for kind in errors {
            report.failed(FileResult { path: b"x".to_vec(), ..FileResult::default() }, &error(*kind, "no"));
        }
        report
    }

    #[test]
    fn the_highest_code_wins_and_a_signal_beats_all() {
        use StoreErrorKind::{DigestMismatch, Exists, Io};
        assert_eq!(report(&[]).finish(&outcome(CloseReason::Done)), 0);
        assert_eq!(report(&[Io]).finish(&outcome(CloseReason::Done)), 1);
        assert_eq!(report(&[Io, DigestMismatch, Exists]).finish(&outcome(CloseReason::Done)), 6);
        assert_eq!(report(&[Exists]).finish(&outcome(CloseReason::WrongKey)), 5);
        assert_eq!(report(&[]).finish(&outcome(CloseReason::WrongKey)), 4);
        let mut interrupted = outcome(CloseReason::Interrupted);
        interrupted.signal = Some(130);
        assert_eq!(report(&[DigestMismatch]).finish(&interrupted), 130);
        let mut too_late = outcome(CloseReason::Done);
        too_late.signal = Some(143);
        assert_eq!(report(&[]).finish(&too_late), 0);
    }

    #[test]
    fn errors_name_the_file_once_and_the_way_out() {
        let sentence = explain(b"d/a", &error(StoreErrorKind::Exists, "exists"));
        assert_eq!(sentence, "d/a: exists (--overwrite always replaces it)");
        let sentence = explain(b"d/abc", &error(StoreErrorKind::NotFound, "cannot read abc: gone"));
        assert_eq!(sentence, "cannot read abc: gone");
        assert_eq!(explain(b"a\n", &error(StoreErrorKind::Io, "x\ny")), "a\\n: x y");
    }

    #[test]
    fn several_failures_become_one_sentence() {
        let (code, error) = report(&[StoreErrorKind::Io, StoreErrorKind::Exists]).verdict();
        assert_eq!(code, 5);
        assert_eq!(error.as_deref(), Some("2 of 3 files failed, the first: x: no"));
        assert_eq!(report(&[]).verdict(), (0, None));
    }

    #[test]
    fn figures() {
        assert_eq!(bits_per_sec(1_000, Duration::ZERO), 0);
        assert_eq!(bits_per_sec(1_000, Duration::from_millis(500)), 16_000);
        let stats = Stats {
            packets_received: 90,
            nacks_sent: 10,
            packets_sent: 100,
            packets_lost: 7,
            packets_spurious: 2,
            ..Stats::default()
        };
        assert_eq!(loss_pct("get", &stats), 10.0);
        assert_eq!(loss_pct("put", &stats), 5.0);
        assert_eq!(loss_pct("get", &Stats::default()), 0.0);
    }
}
