//! Role: the one JSON object that `--json` prints.
//! Owns: the entries collected so far, in memory up to a bound and then in a file without a name.
//! Implements: the `--json` fields listed in README.md.

use super::report::{FileResult, Totals};
use super::{terminal, text};
use crate::session::event::Stats;
use crate::transfer::job::{EntryKind, SourceEntry};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// Bytes of entries kept in memory: some 10,000 files; what exceeds it goes to a temporary file, so that a
/// million files cost no memory.
const SPOOL_MEMORY_BYTES: usize = 2 << 20;

/// One element of `files`.
#[derive(Debug, Serialize)]
struct FileObject {
    path: String,
    /// The exact bytes, when `path` is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime_s: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Everything after `files`.
#[derive(Debug, Serialize)]
struct Tail<'a> {
    files_ok: u64,
    files_failed: u64,
    files_unchanged: u64,
    files_planned: u64,
    files_removed: u64,
    bytes: u64,
    elapsed_s: f64,
    goodput_bits_per_sec: u64,
    wire_bytes_sent: u64,
    wire_bytes_received: u64,
    packets_sent: u64,
    packets_received: u64,
    packets_repaired: u64,
    packets_lost: u64,
    packets_corrupted: u64,
    packets_duplicate: u64,
    nacks_sent: u64,
    nacks_received: u64,
    loss_pct: f64,
    loss_in_pct: f64,
    min_rtt_ms: Option<f64>,
    smoothed_rtt_ms: Option<f64>,
    compression_ratio: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    exit_code: u8,
}

/// `files`, serialised one by one.
#[derive(Debug, Default)]
pub struct Spool {
    memory: Vec<u8>,
    disk: Option<File>,
    count: u64,
}

impl Spool {
    /// Adds the result of a file.
    pub fn add_result(&mut self, file: &FileResult) {
        self.add(&FileObject {
            path: String::from_utf8_lossy(&file.path).into_owned(),
            path_b64: exact(&file.path),
            kind: Some(kind_name(file.kind)).filter(|_| file.kind != EntryKind::File),
            bytes: file.bytes,
            resumed_bytes: Some(file.resumed_bytes).filter(|bytes| *bytes > 0),
            action: None,
            sha256: file.sha256.as_ref().map(|d| text::hex(d)),
            server_sha256: file.server_sha256.as_ref().map(|d| text::hex(d)),
            received_sha256: file.received_sha256.as_ref().map(|d| text::hex(d)),
            mode: None,
            mtime_s: None,
            target: None,
            error: file.error.as_ref().map(|e| text::one_line(e)),
        });
    }

    /// Adds an entry that was not moved: it is `unchanged`, or a dry run would `send` or `make` it.
    pub fn add_action(&mut self, path: &[u8], kind: EntryKind, bytes: u64, action: &'static str) {
        self.add(&FileObject {
            path: String::from_utf8_lossy(path).into_owned(),
            path_b64: exact(path),
            kind: Some(kind_name(kind)).filter(|_| kind != EntryKind::File),
            bytes,
            resumed_bytes: None,
            action: Some(action),
            sha256: None,
            server_sha256: None,
            received_sha256: None,
            mode: None,
            mtime_s: None,
            target: None,
            error: None,
        });
    }

    /// Adds an entry of a listing.
    pub fn add_listed(&mut self, entry: &SourceEntry) {
        let is_link = entry.kind == EntryKind::Symlink;
        self.add(&FileObject {
            path: String::from_utf8_lossy(&entry.path).into_owned(),
            path_b64: exact(&entry.path),
            kind: Some(kind_name(entry.kind)),
            bytes: entry.size,
            resumed_bytes: None,
            action: None,
            sha256: None,
            server_sha256: None,
            received_sha256: None,
            mode: Some(format!("{:04o}", entry.meta.mode)).filter(|_| !is_link),
            mtime_s: Some(entry.meta.mtime_s),
            target: is_link.then(|| String::from_utf8_lossy(&entry.target).into_owned()),
            error: None,
        });
    }

    fn add(&mut self, object: &FileObject) {
        if self.count > 0 {
            self.memory.push(b',');
        }
        self.count += 1;
        serde_json::to_writer(&mut self.memory, object).expect("strings and numbers serialise into memory");
        if self.memory.len() >= SPOOL_MEMORY_BYTES {
            self.spill();
        }
    }

    /// Moves what is in memory to the disk. If there is none to be had, memory must do.
    fn spill(&mut self) {
        if self.disk.is_none() {
            self.disk = nameless_file().ok();
        }
        if let Some(disk) = &mut self.disk {
            let Ok(whole) = disk.stream_position() else { return };
            if disk.write_all(&self.memory).is_ok() {
                self.memory.clear();
            } else {
                let _ = disk.set_len(whole).and_then(|()| disk.seek(SeekFrom::Start(whole)));
            }
        }
    }

    /// Writes all of it, in order.
    fn write_to(&mut self, out: &mut dyn FnMut(&[u8])) {
        if let Some(disk) = &mut self.disk {
            let mut block = vec![0; 64 << 10];
            if disk.rewind().is_ok() {
                while let Ok(n @ 1..) = disk.read(&mut block) {
                    out(&block[..n]);
                }
            }
        }
        out(&self.memory);
    }
}

/// A temporary file that is already unlinked.
fn nameless_file() -> std::io::Result<File> {
    let mut random = [0u8; 8];
    getrandom::fill(&mut random).map_err(std::io::Error::other)?;
    let path = std::env::temp_dir().join(format!("fulmar-json-{}", text::hex(&random)));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn exact(path: &[u8]) -> Option<String> {
    std::str::from_utf8(path).is_err().then(|| text::base64(path))
}

fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Dir | EntryKind::DirEnd => "dir",
        EntryKind::Symlink => "symlink",
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    /// The command's name.
    pub command: &'static str,
    /// Counts of files.
    pub totals: Totals,
    /// From start to end.
    pub elapsed: Duration,
    /// Figures of the session.
    pub stats: &'a Stats,
    /// See `report::loss_pct`.
    pub loss_pct: f64,
    /// What went wrong.
    pub error: Option<&'a str>,
    /// The exit code.
    pub exit_code: u8,
}

/// Writes the object, with a line end, in pieces.
pub fn write(ending: Ending<'_>, files: &mut Spool, out: &mut dyn FnMut(&[u8])) {
    out(format!("{{\"command\":\"{}\",\"files\":[", ending.command).as_bytes());
    files.write_to(out);
    let stats = ending.stats;
    let tail = Tail {
        files_ok: ending.totals.ok,
        files_failed: ending.totals.failed,
        files_unchanged: ending.totals.unchanged,
        files_planned: ending.totals.planned,
        files_removed: ending.totals.removed,
        bytes: ending.totals.bytes,
        elapsed_s: ending.elapsed.as_secs_f64(),
        goodput_bits_per_sec: super::report::bits_per_sec(ending.totals.bytes, ending.elapsed),
        wire_bytes_sent: stats.wire_bytes_sent,
        wire_bytes_received: stats.wire_bytes_received,
        packets_sent: stats.packets_sent,
        packets_received: stats.packets_received,
        packets_repaired: stats.packets_repaired,
        packets_lost: stats.packets_lost,
        packets_corrupted: stats.packets_corrupted,
        packets_duplicate: stats.packets_duplicate,
        nacks_sent: stats.nacks_sent,
        nacks_received: stats.nacks_received,
        loss_pct: ending.loss_pct,
        loss_in_pct: super::report::loss_in_pct(stats),
        min_rtt_ms: millis(stats.min_rtt),
        smoothed_rtt_ms: millis(stats.smoothed_rtt),
        compression_ratio: super::report::compression_ratio(stats),
        error: ending.error,
        exit_code: ending.exit_code,
    };
    let tail = serde_json::to_string(&tail).expect("strings and numbers serialise into memory");
    // The tail is an object of its own; its opening brace gives way to the end of `files`.
    out(b"],");
    out(&tail.as_bytes()[1..]);
    out(b"\n");
}

/// Prints the object to stdout.
pub fn print(ending: Ending<'_>, files: &mut Spool) {
    write(ending, files, &mut |piece| {
        terminal::stdout(piece);
    });
}

/// Prints the object of a command that failed before it could do anything.
pub fn print_failure(command: &'static str, error: &str, exit_code: u8) {
    let stats = Stats::default();
    let totals = Totals::default();
    let error = text::one_line(error);
    let error = Some(error.as_str());
    let ending =
        Ending { command, totals, elapsed: Duration::ZERO, stats: &stats, loss_pct: 0.0, error, exit_code };
    print(ending, &mut Spool::default());
}

/// Milliseconds; `None` before the first sample.
fn millis(time: Duration) -> Option<f64> {
    (!time.is_zero()).then_some(time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn object(ending: Ending<'_>, files: &mut Spool) -> Value {
        let mut text = Vec::new();
        write(ending, files, &mut |piece| text.extend_from_slice(piece));
        assert_eq!(text.iter().filter(|b| **b == b'\n').count(), 1);
        serde_json::from_slice(&text).expect("one JSON object")
    }

    fn ending<'a>(stats: &'a Stats, error: Option<&'a str>) -> Ending<'a> {
        Ending {
            command: "put",
            totals: Totals { ok: 1, failed: 1, bytes: 1_000_000, ..Totals::default() },
            elapsed: Duration::from_secs(2),
            stats,
            loss_pct: 4.5,
            error,
            exit_code: if error.is_some() { 5 } else { 0 },
        }
    }

    #[test]
    fn has_every_documented_field() {
        let stats = Stats {
            packets_sent: 7,
            min_rtt: Duration::from_micros(1_500),
            chunk_bytes_plain: 300,
            chunk_bytes_encoded: 100,
            ..Stats::default()
        };
        let mut spool = Spool::default();
        spool.add_result(&FileResult {
            path: b"dir/a \"b\"".to_vec(),
            bytes: 3,
            sha256: Some([0xab; 32]),
            ..FileResult::default()
        });
        spool.add_result(&FileResult {
            path: b"\xff\n".to_vec(),
            error: Some("no\nway".into()),
            ..FileResult::default()
        });
        let value = object(ending(&stats, Some("it broke")), &mut spool);
        for field in [
            "command",
            "files",
            "bytes",
            "elapsed_s",
            "goodput_bits_per_sec",
            "wire_bytes_sent",
            "packets_sent",
            "packets_repaired",
            "nacks_sent",
            "nacks_received",
            "loss_pct",
            "min_rtt_ms",
            "smoothed_rtt_ms",
            "compression_ratio",
            "error",
            "exit_code",
        ] {
            assert!(value.get(field).is_some(), "{field} is missing");
        }
        assert_eq!(value["goodput_bits_per_sec"], 4_000_000);
        assert_eq!(value["min_rtt_ms"], 1.5);
        assert_eq!(value["smoothed_rtt_ms"], Value::Null);
        assert_eq!(value["compression_ratio"], 3.0);
        assert_eq!(value["exit_code"], 5);
        assert_eq!(value["files"][0]["path"], "dir/a \"b\"");
        assert_eq!(value["files"][0]["sha256"], "ab".repeat(32));
        assert_eq!(value["files"][0].get("path_b64"), None);
        assert_eq!(value["files"][0].get("error"), None);
        assert_eq!(value["files"][1]["path_b64"], "/wo=");
        assert_eq!(value["files"][1]["error"], "no way");
    }

    #[test]
    fn success_has_no_error_field() {
        let value = object(ending(&Stats::default(), None), &mut Spool::default());
        assert_eq!(value.get("error"), None);
        assert_eq!(value["files"], Value::Array(Vec::new()));
        assert_eq!(value["compression_ratio"], 1.0);
    }

    #[test]
    fn many_files_leave_memory_and_keep_their_order() {
        let mut spool = Spool::default();
        for n in 0..40_000u32 {
            spool.add_result(&FileResult {
                path: format!("a/long/enough/name/{n}").into_bytes(),
                sha256: Some([1; 32]),
                ..FileResult::default()
            });
            assert!(spool.memory.len() <= SPOOL_MEMORY_BYTES);
        }
        assert!(spool.disk.is_some());
        let value = object(ending(&Stats::default(), None), &mut spool);
        let files = value["files"].as_array().expect("an array");
        assert_eq!(files.len(), 40_000);
        for (n, file) in files.iter().enumerate() {
            assert_eq!(file["path"], format!("a/long/enough/name/{n}"));
        }
    }
}
