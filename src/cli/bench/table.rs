//! Role: the results as a table for people, and as CSV.
//! Owns: nothing.
//! Implements: what `fulmar bench` prints, and `--csv`.

use super::result::{Point, Run, Sweep};
use crate::cli::text;
use crate::units;
use std::fmt::Write as _;

/// Column headings and widths; the first column has what was varied.
const COLUMNS: [(&str, usize); 8] = [
    ("goodput", 12),
    ("expected", 12),
    ("share", 6),
    ("time", 8),
    ("RTT", 9),
    ("queue", 9),
    ("repaired", 8),
    ("lost", 6),
];
/// Width of the first column.
const FIRST: usize = 16;

/// What is said above the rows.
pub fn head(sweep: &Sweep) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}: {}", text::one_line(&sweep.heading()), link(sweep));
    let _ = write!(out, "{:<FIRST$}", text::one_line(sweep.column()));
    for (name, width) in COLUMNS {
        let _ = write!(out, "  {name:>width$}");
    }
    out
}

/// What is known of the link, in words.
pub fn link(sweep: &Sweep) -> String {
    let link = &sweep.link;
    let mut parts = vec![text::one_line(&sweep.link_kind)];
    parts.extend(link.rate_bits_per_sec.map(units::format_rate));
    parts.extend(link.rtt_ms.map(|ms| format!("RTT {}", millis(Some(ms)))));
    if sweep.sweep != "loss" {
        parts.extend(link.loss_pct.map(|pct| format!("loss {pct:.1} %")));
    }
    parts.extend(link.queue_ms.map(|ms| format!("queue up to {}", millis(Some(ms)))));
    parts.extend(
        sweep.bdp_bytes.map(|bytes| format!("bandwidth-delay product {}", units::format_bytes(bytes))),
    );
    parts.extend(sweep.window_bytes.map(|bytes| format!("window {}", units::format_bytes(bytes))));
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

/// One row, its cells as they are shown.
pub fn row(point: &Point) -> String {
    let mut out = format!("{:<FIRST$}", text::one_line(&point.value));
    for (cell, (_, width)) in cells(point).iter().zip(COLUMNS) {
        let _ = write!(out, "  {cell:>width$}");
    }
    if let Some(error) = point.runs.iter().find_map(|run| run.error.as_deref()) {
        let _ = write!(out, "  {}", text::one_line(error));
    }
    out
}

/// The headings after the first.
pub fn headings() -> [&'static str; 8] {
    COLUMNS.map(|(name, _)| name)
}

/// The figures of a value: those of its median run.
pub fn cells(point: &Point) -> [String; 8] {
    let run = point.median();
    let share = point.expected_bits_per_sec.filter(|bits| *bits > 0);
    let share = share.map(|bits| run.goodput_bits_per_sec as f64 / bits as f64);
    [
        if run.error.is_none() { units::format_rate(run.goodput_bits_per_sec) } else { "failed".into() },
        point.expected_bits_per_sec.map_or_else(dash, units::format_rate),
        share.map_or_else(dash, |share| format!("{share:.2}")),
        format!("{:.1} s", run.elapsed_s),
        millis(run.rtt_ms.or(run.min_rtt_ms)),
        millis(run.queue_ms),
        format!("{:.1} %", run.repaired_pct()),
        format!("{:.1} %", run.loss_pct),
    ]
}

fn dash() -> String {
    "-".into()
}

fn millis(ms: Option<f64>) -> String {
    ms.map_or_else(dash, |ms| format!("{ms:.1} ms"))
}

/// All runs as CSV (RFC 4180), with a heading line.
pub fn csv(sweeps: &[Sweep]) -> String {
    let mut out = String::from(
        "sweep,value,number,seed,bytes,elapsed_s,goodput_bits_per_sec,expected_bits_per_sec,min_rtt_ms,rtt_ms,\
         queue_ms,queue_most_ms,packets_sent,packets_repaired,packets_lost,loss_pct,wire_bytes_sent,exit_code,\
         error\r\n",
    );
    for sweep in sweeps {
        for point in &sweep.points {
            for run in &point.runs {
                csv_line(&mut out, sweep, point, run);
            }
        }
    }
    out
}

fn csv_line(out: &mut String, sweep: &Sweep, point: &Point, run: &Run) {
    let number = |n: Option<f64>| n.map_or_else(String::new, |n| n.to_string());
    let fields = [
        quoted(sweep.column()),
        quoted(&point.value),
        number(point.number),
        run.seed.to_string(),
        run.bytes.to_string(),
        run.elapsed_s.to_string(),
        run.goodput_bits_per_sec.to_string(),
        point.expected_bits_per_sec.map_or_else(String::new, |bits| bits.to_string()),
        number(run.min_rtt_ms),
        number(run.rtt_ms),
        number(run.queue_ms),
        number(run.queue_most_ms),
        run.packets_sent.to_string(),
        run.packets_repaired.to_string(),
        run.packets_lost.to_string(),
        run.loss_pct.to_string(),
        run.wire_bytes_sent.to_string(),
        run.exit_code.to_string(),
        quoted(&text::one_line(run.error.as_deref().unwrap_or_default())),
    ];
    let _ = write!(out, "{}\r\n", fields.join(","));
}

/// A field that may hold anything.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_has_a_line_for_each_run_and_quotes_what_needs_it() {
        let mut point = Point { value: "a,\"b\"".into(), ..Point::default() };
        point.runs = vec![Run::default(), Run { error: Some("x\ny".into()), ..Run::default() }];
        let sweep = Sweep { sweep: "profile".into(), points: vec![point], ..Sweep::default() };
        let text = csv(&[sweep]);
        let lines: Vec<&str> = text.trim_end().split("\r\n").collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with("profile,\"a,\"\"b\"\"\",,0,"));
        assert!(lines[2].ends_with("x y"));
        // Commas inside quotes aside, every line has as many fields.
        assert_eq!(lines[1].matches(',').count(), lines[0].matches(',').count() + 1);
    }

    #[test]
    fn rows_line_up_with_the_head() {
        let sweep = Sweep { sweep: "cc".into(), ..Sweep::default() };
        let point = Point { value: "cubic".into(), expected_bits_per_sec: Some(10), ..Point::default() };
        let head = head(&sweep);
        assert_eq!(head.lines().last().map(str::len), Some(row(&point).len()));
    }
}
