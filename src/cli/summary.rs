//! Role: the closing summary for people.
//! Owns: nothing.
//! Implements: the summary that README.md explains line by line.

use super::report::{self, FileResult, Report};
use super::text;
use crate::session::event::Stats;
use crate::units;
use std::fmt::Write as _;
use std::time::Duration;

/// The whole summary, several lines.
pub fn text(report: &Report, stats: &Stats, elapsed: Duration) -> String {
    let mut out = String::new();
    let totals = report.totals;
    let mut files = text::plural(totals.ok, "file");
    if totals.dirs > 0 {
        let _ = write!(
            files,
            ", {} director{}",
            text::count(totals.dirs),
            if totals.dirs == 1 { "y" } else { "ies" }
        );
    }
    if totals.failed > 0 {
        let _ = write!(files, ", {} failed", text::count(totals.failed));
    }
    let goodput = report::bits_per_sec(totals.bytes, elapsed);
    let mut line = |label: &str, value: String| {
        let _ = writeln!(out, "{label:<12} {value}");
    };
    line(report.command(), files);
    line(
        "bytes",
        format!(
            "{} ({}) in {}, goodput {}",
            text::count(totals.bytes),
            units::format_bytes(totals.bytes),
            units::format_duration(elapsed),
            units::format_rate(goodput)
        ),
    );
    if totals.unchanged > 0 {
        let count = text::plural(totals.unchanged, "file");
        line("unchanged", format!("{count} ({}), not sent", units::format_bytes(totals.unchanged_bytes)));
    }
    if totals.removed > 0 && !report.dry_run {
        line("removed", format!("{} that the source lacks", text::count(totals.removed)));
    }
    if report.dry_run {
        let entries = if totals.planned == 1 { "entry" } else { "entries" };
        let (count, planned) = (text::count(totals.planned), units::format_bytes(totals.planned_bytes));
        line("dry run", format!("{count} {entries} ({planned}) would be sent or made; nothing was changed"));
    }
    if totals.resumed_bytes > 0 {
        let text = format!("{} had come with an earlier run", units::format_bytes(totals.resumed_bytes));
        line("resumed", text);
    }
    link_lines(&mut line, stats, report.command());
    for file in &report.listed {
        file_lines(&mut out, file);
    }
    let listed = report.listed.iter().filter(|f| f.error.is_none()).count() as u64;
    if totals.ok > listed {
        let _ = writeln!(
            out,
            "{:<12} and {} (--json lists all)",
            "",
            text::plural(totals.ok - listed, "more file")
        );
    }
    out
}

/// The digest of a file; of an echo, all three.
fn file_lines(out: &mut String, file: &FileResult) {
    let hex = |digest: &Option<[u8; 32]>| digest.as_ref().map_or_else(|| "-".to_owned(), |d| text::hex(d));
    let name = text::bytes(&file.path);
    if file.received_sha256.is_none() {
        if file.sha256.is_some() {
            let _ = writeln!(out, "{:<12} {}  {name}", "sha256", hex(&file.sha256));
        }
        return;
    }
    let verdict = if file.error.is_none() { "equal" } else { "NOT equal" };
    let _ = writeln!(out, "{:<12} {name}: {verdict}", "sha256");
    for (label, digest) in
        [("original", &file.sha256), ("server", &file.server_sha256), ("received", &file.received_sha256)]
    {
        let _ = writeln!(out, "  {label:<10} {}", hex(digest));
    }
}

/// The figures of the link.
pub fn link_lines(line: &mut dyn FnMut(&str, String), stats: &Stats, command: &str) {
    let mut loss = format!("loss {:.1} %", report::loss_pct(command, stats));
    if command == "echo" || command == "demo" {
        let _ = write!(loss, " out and {:.1} % back", report::loss_in_pct(stats));
    }

    line(
        "packets",
        format!(
            "{} sent, {} repaired, {} received",
            text::count(stats.packets_sent),
            text::count(stats.packets_repaired),
            text::count(stats.packets_received)
        ),
    );
    line(
        "NACKs",
        format!("{} sent, {} received", text::count(stats.nacks_sent), text::count(stats.nacks_received)),
    );
    line(
        "link",
        format!(
            "{loss}, RTT {} (min {}), {} corrupted dropped",
            rtt(stats.smoothed_rtt),
            rtt(stats.min_rtt),
            text::count(stats.packets_corrupted)
        ),
    );
    line(
        "wire",
        format!(
            "{} sent, {} received, compression {:.2}",
            units::format_bytes(stats.wire_bytes_sent),
            units::format_bytes(stats.wire_bytes_received),
            report::compression_ratio(stats)
        ),
    );
}

/// A round-trip time, or a dash before the first sample.
pub fn rtt(time: Duration) -> String {
    if time.is_zero() { "-".into() } else { units::format_duration(time) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::Output;

    #[test]
    fn says_what_was_done() {
        let mut report = Report::new("put", Output::default());
        for n in 0..20 {
            report.done(FileResult {
                path: format!("f{n}").into_bytes(),
                bytes: 1_000,
                sha256: Some([7; 32]),
                ..FileResult::default()
            });
        }
        let stats =
            Stats { packets_sent: 12_345, packets_repaired: 99, packets_lost: 568, ..Stats::default() };
        let text = text(&report, &stats, Duration::from_secs(2));
        for expected in [
            "20 files",
            "20,000 (19.5 KiB) in 2.0",
            "80.0 kbit/s",
            "12,345 sent, 99 repaired",
            "loss 4.6 %, RTT - (min -)",
            "0707",
            "and 4 more files",
        ] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
    }
}
