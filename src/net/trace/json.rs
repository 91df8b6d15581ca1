//! Role: the text of a trace: one JSON object per record, framed as RFC 7464 wants it.
//! Owns: nothing.
//! Implements: docs/TRACES.md, "Records".

use super::{About, Item};
use crate::session::event::{Direction, Event, Stats};
use crate::session::trace::{Piece, Trace};
use crate::store::SessionKey;
use crate::transfer::Request;
use crate::transfer::job::EntryKind;
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

/// RFC 7464, section 2.2: before each text...
const RS: u8 = 0x1e;
/// ...and after it.
const LF: u8 = b'\n';

/// The first record. See draft-ietf-quic-qlog-main-schema, "QlogFileSeq".
pub(super) fn header(about: &About) -> Vec<u8> {
    let vantage_point = if about.is_server { "server" } else { "client" };
    let header = json!({
        "file_schema": "urn:ietf:params:qlog:file:sequential",
        "serialization_format": "application/qlog+json-seq",
        "title": about.title,
        "description": format!("fulmar {}", env!("CARGO_PKG_VERSION")),
        "trace": {
            "vantage_point": { "type": vantage_point },
            "event_schemas": ["urn:x-fulmar:events-1"],
            "common_fields": {
                "time_format": "relative_to_epoch",
                "reference_time": {
                    "clock_type": "monotonic",
                    "epoch": "unknown",
                    "wall_clock_time": about.wall_clock_time,
                },
            },
        },
    });
    let mut out = vec![RS];
    out.extend_from_slice(header.to_string().as_bytes());
    out.push(LF);
    out
}

/// One record. Times are milliseconds since `reference`.
pub(super) fn item(out: &mut Vec<u8>, reference: Instant, item: &Item) {
    let time = ms(item.at().saturating_duration_since(reference));
    match item {
        Item::Record(session, record) => match &record.what {
            Trace::Sent { number, bytes, piece } => {
                begin(out, time, "packet_sent", *session);
                packet(out, *number, Some(*bytes));
                push_piece(out, piece.as_ref());
                end(out);
            }
            Trace::Received { number, bytes } => {
                begin(out, time, "packet_received", *session);
                packet(out, Some(*number), Some(*bytes));
                end(out);
            }
            Trace::Duplicate { number } => {
                begin(out, time, "packet_dropped", *session);
                packet(out, Some(*number), None);
                push(out, format_args!(",\"trigger\":\"duplicate\""));
                end(out);
            }
            Trace::Lost { number, bytes, sent_at, piece } => {
                begin(out, time, "packet_lost", *session);
                packet(out, Some(*number), Some(*bytes));
                let sent = ms(sent_at.saturating_duration_since(reference));
                push(out, format_args!(",\"sent_time\":{sent}"));
                push_piece(out, piece.as_ref());
                end(out);
            }
            Trace::Spurious { number } => {
                begin(out, time, "packet_spurious", *session);
                packet(out, Some(*number), None);
                end(out);
            }
            rare => {
                let (name, data) = of_session(rare);
                whole(out, time, name, Some(*session), &data);
            }
        },
        Item::Event(session, _, event, stats) => {
            let (name, data) = of_event(event, stats.as_deref());
            whole(out, time, name, Some(*session), &data);
        }
        Item::Labelled(session, _, label) => {
            whole(out, time, "session_labelled", Some(*session), &json!({ "label": label }));
        }
        Item::LeftOut(_, count) => whole(out, time, "events_left_out", None, &json!({ "count": count })),
    }
}

/// Milliseconds with three decimals.
fn ms(duration: Duration) -> Value {
    Value::from(duration.as_micros() as f64 / 1e3)
}

fn push(out: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    // Writing to a vector cannot fail.
    let _ = out.write_fmt(what);
}

fn begin(out: &mut Vec<u8>, time: Value, name: &str, session: SessionKey) {
    out.push(RS);
    push(
        out,
        format_args!(
            "{{\"time\":{time},\"name\":\"fulmar:{name}\",\"group_id\":\"{session}\",\"data\":{{\"header\":{{"
        ),
    );
}

fn packet(out: &mut Vec<u8>, number: Option<u64>, bytes: Option<u32>) {
    match number {
        Some(number) => push(out, format_args!("\"packet_type\":\"data\",\"packet_number\":{number}}}")),
        None => push(out, format_args!("\"packet_type\":\"hello\"}}")),
    }
    if let Some(bytes) = bytes {
        push(out, format_args!(",\"raw\":{{\"length\":{bytes}}}"));
    }
}

fn push_piece(out: &mut Vec<u8>, piece: Option<&Piece>) {
    if let Some(Piece { is_control, offset, bytes, attempt }) = piece {
        let stream = if *is_control { "control" } else { "chunks" };
        push(
            out,
            format_args!(
                ",\"stream\":\"{stream}\",\"offset\":{offset},\"length\":{bytes},\"attempt\":{attempt}"
            ),
        );
    }
}

fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"}}\n");
}

fn whole(out: &mut Vec<u8>, time: Value, name: &str, session: Option<SessionKey>, data: &Value) {
    out.push(RS);
    push(out, format_args!("{{\"time\":{time},\"name\":\"fulmar:{name}\""));
    if let Some(session) = session {
        push(out, format_args!(",\"group_id\":\"{session}\""));
    }
    push(out, format_args!(",\"data\":{data}}}"));
    out.push(LF);
}

/// What a session records beside packets.
fn of_session(what: &Trace) -> (&'static str, Value) {
    match what {
        Trace::Started { remote, is_client } => {
            let side = if *is_client { "client" } else { "server" };
            ("connection_started", json!({ "remote": remote.to_string(), "side": side }))
        }
        Trace::Metrics(stats) => ("recovery_metrics_updated", metrics(stats)),
        Trace::KeyUpdated { is_ours, number } => {
            let trigger = if *is_ours { "local_update" } else { "remote_update" };
            ("key_updated", json!({ "trigger": trigger, "packet_number": number }))
        }
        Trace::MtuUpdated { bytes } => ("mtu_updated", json!({ "new": bytes })),
        Trace::Moved { remote } => {
            ("migration_state_updated", json!({ "new": "migration_complete", "remote": remote.to_string() }))
        }
        // Packets are written by their own functions, without a value in between.
        Trace::Sent { .. }
        | Trace::Received { .. }
        | Trace::Duplicate { .. }
        | Trace::Lost { .. }
        | Trace::Spurious { .. } => ("packet", Value::Null),
    }
}

fn metrics(s: &Stats) -> Value {
    let mut data = json!({
        "congestion_window": s.window_bytes,
        "bytes_in_flight": s.bytes_in_flight,
        "pacing_rate": s.rate_bytes_per_sec.saturating_mul(8),
        "file_bytes_done": s.file_bytes_done,
    });
    if !s.smoothed_rtt.is_zero() {
        data["smoothed_rtt"] = ms(s.smoothed_rtt);
        data["min_rtt"] = ms(s.min_rtt);
    }
    if let Some(delay) = s.queue_delay {
        data["queue_delay"] = ms(delay);
    }
    data
}

/// What a session tells the application.
fn of_event(event: &Event, stats: Option<&Stats>) -> (&'static str, Value) {
    match event {
        Event::Connected { remote, client_id } => {
            let data =
                json!({ "new": "handshake_complete", "remote": remote.to_string(), "client_id": client_id });
            ("connection_state_updated", data)
        }
        Event::Requested(request) => ("request_received", json!({ "request": request_name(request) })),
        Event::FileStarted { direction, file, path, bytes } => (
            "file_started",
            json!({ "direction": way(*direction), "file": file.0, "path": lossy(path), "length": bytes }),
        ),
        Event::FileResumed { direction, file, bytes } => {
            ("file_resumed", json!({ "direction": way(*direction), "file": file.0, "length": bytes }))
        }
        Event::EntryFinished { direction, file, path, kind, bytes, sha256, error } => {
            let mut data = json!({
                "direction": way(*direction),
                "path": lossy(path),
                "kind": kind_name(*kind),
                "length": bytes,
            });
            // An entry that failed before it was announced has no number.
            if file.0 != u64::MAX {
                data["file"] = file.0.into();
            }
            if let Some(digest) = sha256 {
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                data["sha256"] = hex.into();
            }
            if let Some(error) = error {
                data["error"] = error.message.clone().into();
            }
            ("file_finished", data)
        }
        Event::EntryUnchanged { direction, path, kind, bytes } => (
            "file_unchanged",
            json!({ "direction": way(*direction), "path": lossy(path), "kind": kind_name(*kind), "length": bytes }),
        ),
        Event::EntryPlanned { direction, path, bytes } => {
            ("file_planned", json!({ "direction": way(*direction), "path": lossy(path), "length": bytes }))
        }
        Event::EntryRemoved { direction, path, kind } => (
            "file_removed",
            json!({ "direction": way(*direction), "path": lossy(path), "kind": kind_name(*kind) }),
        ),
        Event::RemovalFailed(error) => ("removal_failed", json!({ "error": error.message })),
        Event::Listed(entry) => ("entry_listed", json!({ "path": lossy(&entry.path) })),
        Event::ImpairBack(spec) => ("impairment_requested", json!({ "spec": spec })),
        Event::Completed => ("request_completed", json!({})),
        Event::Closed(reason) => {
            let mut data = json!({ "reason": reason.to_string(), "exit_code": reason.exit_code() });
            if let Some(s) = stats {
                data["stats"] = totals(s);
            }
            ("connection_closed", data)
        }
    }
}

/// Final figures; the names are those of `--json`.
fn totals(s: &Stats) -> Value {
    json!({
        "wire_bytes_sent": s.wire_bytes_sent,
        "wire_bytes_received": s.wire_bytes_received,
        "packets_sent": s.packets_sent,
        "packets_received": s.packets_received,
        "packets_repaired": s.packets_repaired,
        "packets_lost": s.packets_lost,
        "packets_spurious": s.packets_spurious,
        "packets_corrupted": s.packets_corrupted,
        "packets_duplicate": s.packets_duplicate,
        "nacks_sent": s.nacks_sent,
        "nacks_received": s.nacks_received,
        "file_bytes_done": s.file_bytes_done,
        "datagram_bytes": s.datagram_bytes,
    })
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Sending => "sending",
        Direction::Receiving => "receiving",
    }
}

fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Dir => "dir",
        EntryKind::DirEnd => "dir_end",
        EntryKind::Symlink => "symlink",
    }
}

fn request_name(request: &Request) -> &'static str {
    match request {
        Request::Put { .. } => "put",
        Request::Get { .. } => "get",
        Request::List { .. } => "ls",
        Request::Echo { .. } => "echo",
    }
}
