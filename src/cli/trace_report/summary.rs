//! Role: the figures of each session, for the page's table and for the terminal.
//! Owns: nothing.
//! Implements: `fulmar report --help`.

use super::read::Run;
use crate::cli::text;
use crate::units;

/// Width of a column on the terminal; with several, longer values are cut.
const COLUMN: usize = 24;

/// A figure's name and its value for a session.
type Row = (&'static str, fn(&Run) -> String);

/// All figures, in the order in which they are shown.
pub(super) const ROWS: [Row; 17] = [
    ("command", |r| r.title.clone()),
    ("side", |r| format!("{} of {}", if r.is_server { "server" } else { "client" }, r.remote)),
    ("begun", |r| r.begun.clone()),
    ("end", |r| r.reason.clone().unwrap_or_else(|| "the trace ends before the session".into())),
    ("duration", |r| format!("{:.2} s", r.duration_s())),
    ("files", |r| match r.files_failed {
        0 => text::count(r.files_done),
        failed => format!("{}, {} failed", text::count(r.files_done), text::count(failed)),
    }),
    ("file bytes", |r| bytes(r.totals.file_bytes_done)),
    ("goodput", |r| {
        let bits = 8.0 * r.totals.file_bytes_done as f64 / r.duration_s().max(1e-3);
        units::format_rate(bits as u64)
    }),
    ("wire, out / in", |r| {
        format!("{} / {}", bytes(r.totals.wire_bytes_sent), bytes(r.totals.wire_bytes_received))
    }),
    ("packets, out / in", |r| {
        format!("{} / {}", text::count(r.totals.packets_sent), text::count(r.totals.packets_received))
    }),
    ("repairs", |r| share(r.totals.packets_repaired, r.totals.packets_sent)),
    ("lost", |r| {
        share(r.totals.packets_lost.saturating_sub(r.totals.packets_spurious), r.totals.packets_sent)
    }),
    ("NACKs, out / in", |r| {
        format!("{} / {}", text::count(r.totals.nacks_sent), text::count(r.totals.nacks_received))
    }),
    ("RTT, mean (min)", |r| match (r.rtt.get(), r.min_rtt_ms) {
        (Some(mean), Some(min)) => format!("{mean:.1} ms ({min:.1} ms)"),
        _ => "not measured".into(),
    }),
    ("queue delay, mean (max)", |r| match (r.queue.get(), r.queue.most()) {
        (Some(mean), Some(most)) => format!("{mean:.1} ms ({most:.1} ms)"),
        _ => "not measured".into(),
    }),
    ("largest window", |r| r.window.most().map_or_else(|| "none".into(), |most| bytes(most as u64))),
    ("key updates", |r| text::count(r.key_updates)),
];

fn bytes(bytes: u64) -> String {
    units::format_bytes(bytes)
}

fn share(part: u64, whole: u64) -> String {
    let percent = if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 };
    format!("{} ({percent:.1} %)", text::count(part))
}

/// The table as lines.
pub(super) fn table(runs: &[Run]) -> Vec<String> {
    let line = |name: &str, cells: Vec<String>| {
        let mut line = format!("{name:<COLUMN$}");
        for (i, cell) in cells.iter().enumerate() {
            if i + 1 < cells.len() {
                line.push_str(&format!("{cell:<COLUMN$} "));
            } else {
                line.push_str(cell);
            }
        }
        line
    };
    // Beside others, a command line has no room.
    let many = runs.len() > 1;
    let cut = |cell: String| match cell.char_indices().nth(COLUMN) {
        Some(_) if many => cell.chars().take(COLUMN - 3).chain("...".chars()).collect(),
        _ => cell,
    };
    let mut lines = vec![line("trace", runs.iter().map(|run| cut(run.name.clone())).collect())];
    let rows = ROWS.iter().filter(|(name, _)| !(many && *name == "command"));
    lines.extend(
        rows.map(|(name, value)| {
            line(name, runs.iter().map(|run| cut(text::one_line(&value(run)))).collect())
        }),
    );
    for run in runs.iter().filter(|run| run.left_out > 0) {
        lines.push(format!("{}: {} records are missing", run.name, text::count(run.left_out)));
    }
    lines
}
