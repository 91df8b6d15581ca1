//! Role: reads a trace, event by event, into what the report shows of each session.
//! Owns: the sessions of one trace.
//! Implements: docs/TRACES.md, "Records".

use super::bins::{Bins, Mean, Points};
use crate::cli::exit::{self, Failure};
use crate::cli::text;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Longest record that is read; those with the longest paths have some 20 KiB.
const MAX_RECORD_BYTES: u64 = 1 << 20;
/// Sessions of one trace at most; more are counted as left out by the caller, smallest first.
const MAX_SESSIONS: usize = 4096;
/// Missing numbers of one gap that are shown.
const MAX_GAP: u64 = 256;
/// What every event's name begins with.
const NAMESPACE: &str = "fulmar:";

/// The first record.
#[derive(Debug, Deserialize)]
struct Header {
    file_schema: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    trace: TraceHead,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TraceHead {
    common_fields: CommonFields,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CommonFields {
    reference_time: ReferenceTime,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ReferenceTime {
    wall_clock_time: String,
}

/// Any other record.
#[derive(Debug, Deserialize)]
struct Line<'a> {
    time: f64,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    group_id: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Data<'a>,
}

/// The fields of all events that are looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Data<'a> {
    header: PacketHeader,
    raw: Raw,
    #[serde(borrow)]
    stream: Option<Cow<'a, str>>,
    offset: u64,
    length: u64,
    attempt: u16,
    sent_time: f64,
    congestion_window: u64,
    bytes_in_flight: u64,
    pacing_rate: u64,
    smoothed_rtt: Option<f64>,
    min_rtt: Option<f64>,
    queue_delay: Option<f64>,
    file_bytes_done: u64,
    #[serde(borrow)]
    remote: Option<Cow<'a, str>>,
    #[serde(borrow)]
    side: Option<Cow<'a, str>>,
    #[serde(borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    label: Option<Cow<'a, str>>,
    stats: Option<Totals>,
    count: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PacketHeader {
    packet_number: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    length: u64,
}

/// Counts over a whole session.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Totals {
    pub(super) wire_bytes_sent: u64,
    pub(super) wire_bytes_received: u64,
    pub(super) packets_sent: u64,
    pub(super) packets_received: u64,
    pub(super) packets_repaired: u64,
    pub(super) packets_lost: u64,
    pub(super) packets_spurious: u64,
    pub(super) packets_corrupted: u64,
    pub(super) packets_duplicate: u64,
    pub(super) nacks_sent: u64,
    pub(super) nacks_received: u64,
    pub(super) file_bytes_done: u64,
    pub(super) datagram_bytes: u64,
}

/// What the sequence plot shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sequence {
    /// Offsets of chunk bytes sent.
    Chunks,
    /// Offsets of the control stream sent: small files.
    Control,
    /// Numbers of packets received.
    Numbers,
}

/// One session of a trace.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// The trace's file, and the session if there are several.
    pub(super) name: String,
    /// What the trace calls the session, if anything.
    label: Option<String>,
    /// The command line.
    pub(super) title: String,
    /// When the trace was begun.
    pub(super) begun: String,
    pub(super) is_server: bool,
    pub(super) remote: String,
    /// Milliseconds in the trace.
    started_ms: f64,
    ended_ms: f64,
    /// How it ended; `None`: the trace ends before.
    pub(super) reason: Option<String>,
    pub(super) bins: Bins,
    /// By stream: sent again; declared lost, at the time they were sent.
    pub(super) repairs: [Points; 2],
    pub(super) lost: [Points; 2],
    /// Packet numbers that were missing when a later one came.
    pub(super) missing: Points,
    expected_number: u64,
    pub(super) totals: Totals,
    pub(super) rtt: Mean,
    pub(super) min_rtt_ms: Option<f64>,
    pub(super) queue: Mean,
    pub(super) window: Mean,
    pub(super) key_updates: u64,
    pub(super) files_done: u64,
    pub(super) files_failed: u64,
    /// Records that the trace could not keep.
    pub(super) left_out: u64,
}

impl Run {
    fn new(header: &Header, started_ms: f64) -> Self {
        Self {
            name: String::new(),
            label: None,
            title: header.title.clone(),
            begun: header.trace.common_fields.reference_time.wall_clock_time.clone(),
            is_server: false,
            remote: String::new(),
            started_ms,
            ended_ms: started_ms,
            reason: None,
            bins: Bins::default(),
            repairs: Default::default(),
            lost: Default::default(),
            missing: Points::default(),
            expected_number: 0,
            totals: Totals::default(),
            rtt: Mean::default(),
            min_rtt_ms: None,
            queue: Mean::default(),
            window: Mean::default(),
            key_updates: 0,
            files_done: 0,
            files_failed: 0,
            left_out: 0,
        }
    }

    /// Seconds.
    pub(super) fn duration_s(&self) -> f64 {
        (self.ended_ms - self.started_ms) / 1e3
    }

    /// UDP payload bytes both ways.
    pub(super) fn wire_bytes(&self) -> u64 {
        self.totals.wire_bytes_sent + self.totals.wire_bytes_received
    }

    /// What tells most about this session: where the bytes went.
    pub(super) fn sequence(&self) -> Sequence {
        if self.totals.wire_bytes_received > self.totals.wire_bytes_sent {
            return Sequence::Numbers;
        }
        let most = |stream: usize| {
            self.bins.iter().filter_map(|(_, bin)| bin.fresh[stream].get()).map(|(_, to)| to).max()
        };
        if most(0) >= most(1) { Sequence::Chunks } else { Sequence::Control }
    }

    fn take(&mut self, time: f64, name: &str, data: &Data<'_>) {
        self.ended_ms = self.ended_ms.max(time);
        let at = time - self.started_ms;
        let stream = usize::from(data.stream.as_deref() == Some("control"));
        match name {
            "packet_sent" => {
                self.totals.packets_sent += 1;
                self.totals.wire_bytes_sent += data.raw.length;
                let bin = self.bins.at(at);
                bin.sent_bytes += data.raw.length;
                if data.attempt > 1 {
                    bin.repairs += 1;
                    self.totals.packets_repaired += 1;
                    self.repairs[stream].add(at, data.offset);
                } else if data.stream.is_some() {
                    bin.fresh[stream].add(data.offset, data.offset + data.length);
                }
            }
            "packet_received" => self.received(at, data),
            "packet_dropped" => self.totals.packets_duplicate += 1,
            "packet_lost" => {
                self.totals.packets_lost += 1;
                self.bins.at(at).lost += 1;
                if data.stream.is_some() {
                    self.lost[stream].add(data.sent_time - self.started_ms, data.offset);
                }
            }
            "packet_spurious" => self.totals.packets_spurious += 1,
            "recovery_metrics_updated" => self.metrics(at, data),
            "key_updated" => self.key_updates += 1,
            "session_labelled" => self.label = data.label.as_deref().map(str::to_owned),
            "connection_started" => {
                self.is_server = data.side.as_deref() == Some("server");
                self.remote = data.remote.as_deref().unwrap_or_default().to_owned();
            }
            "file_finished" if data.error.is_some() => self.files_failed += 1,
            "file_finished" if data.kind.as_deref() == Some("file") => self.files_done += 1,
            "connection_closed" => {
                self.reason = Some(data.reason.as_deref().unwrap_or("ended").to_owned());
                // What the session counted itself, which holds also where the trace has gaps.
                if let Some(totals) = &data.stats {
                    self.totals = totals.clone();
                }
            }
            _ => {}
        }
    }

    fn received(&mut self, at: f64, data: &Data<'_>) {
        self.totals.packets_received += 1;
        self.totals.wire_bytes_received += data.raw.length;
        let bin = self.bins.at(at);
        bin.received_bytes += data.raw.length;
        let Some(number) = data.header.packet_number else { return };
        bin.numbers.add(number, number);
        for gap in self.expected_number.max(number.saturating_sub(MAX_GAP))..number {
            self.missing.add(at, gap);
        }
        self.expected_number = self.expected_number.max(number.saturating_add(1));
    }

    fn metrics(&mut self, at: f64, data: &Data<'_>) {
        let bin = self.bins.at(at);
        bin.window.add(data.congestion_window as f64);
        bin.in_flight.add(data.bytes_in_flight as f64);
        bin.pacing.add(data.pacing_rate as f64);
        self.window.add(data.congestion_window as f64);
        if let Some(rtt) = data.smoothed_rtt {
            bin.rtt.add(rtt);
            self.rtt.add(rtt);
        }
        if let Some(queue) = data.queue_delay {
            bin.queue.add(queue);
            self.queue.add(queue);
        }
        self.min_rtt_ms = data.min_rtt.or(self.min_rtt_ms);
        self.totals.file_bytes_done = self.totals.file_bytes_done.max(data.file_bytes_done);
    }
}

/// All sessions of a trace, in the order in which they began.
///
/// # Errors
/// The file cannot be read, or is no trace. A last record that is cut off is left out: the writer was killed.
pub(super) fn trace(path: &Path) -> Result<Vec<Run>, Failure> {
    let file = File::open(path).map_err(|error| Failure::io("read", path, &error))?;
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let mut record = Vec::new();
    let wrong = |what: &str| {
        Failure::new(
            exit::OTHER,
            format!("{} {what}: give a file that --trace has written", text::path(path)),
        )
    };
    let mut next = |record: &mut Vec<u8>| -> Result<bool, Failure> {
        record.clear();
        let mut bounded = (&mut reader).take(MAX_RECORD_BYTES);
        bounded.read_until(b'\n', record).map_err(|error| Failure::io("read", path, &error))?;
        Ok(!record.is_empty())
    };
    if !next(&mut record)? {
        return Err(wrong("is empty"));
    }
    let header: Header =
        serde_json::from_slice(body(&record)).map_err(|_| wrong("is not a trace of fulmar"))?;
    if !header.file_schema.starts_with("urn:ietf:params:qlog:file:sequential") {
        return Err(wrong("is not a trace of fulmar"));
    }
    let mut runs: Vec<Run> = Vec::new();
    let mut by_group: HashMap<String, usize> = HashMap::new();
    let (mut left_out, mut number) = (0, 1_u64);
    while next(&mut record)? {
        number += 1;
        let line: Line<'_> = match serde_json::from_slice(body(&record)) {
            Ok(line) => line,
            Err(_) if record.last() != Some(&b'\n') => break,
            Err(error) => {
                return Err(wrong(&format!("has a record that cannot be read ({number}: {error})")));
            }
        };
        let Some(name) = line.name.strip_prefix(NAMESPACE) else { continue };
        if name == "events_left_out" {
            left_out += line.data.count;
            continue;
        }
        let i = match by_group.get(line.group_id.as_ref()) {
            Some(i) => *i,
            None if runs.len() >= MAX_SESSIONS => continue,
            None => {
                by_group.insert(line.group_id.clone().into_owned(), runs.len());
                runs.push(Run::new(&header, line.time));
                runs.len() - 1
            }
        };
        runs[i].take(line.time, name, &line.data);
    }
    if runs.is_empty() {
        return Err(wrong("has no session in it"));
    }
    // Attempts at addresses that did not answer tell nothing beside one that did.
    if runs.iter().any(|run| run.totals.packets_received > 0) {
        runs.retain(|run| run.totals.packets_received > 0);
    }
    let file_name = super::file_name(path);
    let many = runs.len() > 1;
    for (i, run) in runs.iter_mut().enumerate() {
        run.name = match &run.label {
            Some(label) => format!("{file_name}: {label}"),
            None if many => format!("{file_name} #{}", i + 1),
            None => file_name.clone(),
        };
        run.left_out = left_out;
    }
    Ok(runs)
}

/// Without the marks of RFC 7464.
fn body(record: &[u8]) -> &[u8] {
    record.strip_prefix(&[0x1e]).unwrap_or(record).trim_ascii_end()
}
