//! Role: a snapshot as Prometheus reads it.
//! Owns: nothing.
//! Implements: the Prometheus text exposition format 0.0.4; docs/ARCHITECTURE.md, "Watching a server".

use super::snapshot::{BUCKETS_MS, Histogram, Snapshot};
use std::fmt::{Display, Write as _};

/// What a scraper is told that this is.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of metrics under construction.
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP fulmar_{name} {help}\n# TYPE fulmar_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.0, "fulmar_{name} {value}"),
            _ => writeln!(self.0, "fulmar_{name}{{{labels}}} {value}"),
        };
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.line(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.line(name, "", value);
    }

    fn counters(&mut self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) {
        self.head(name, "counter", help);
        for (which, value) in values {
            self.line(name, &format!("{label}=\"{which}\""), value);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let mut up_to = 0;
        for (bound, count) in BUCKETS_MS.iter().zip(&histogram.counts) {
            up_to += count;
            let bound = *bound as f64 / 1e3;
            self.line(&format!("{name}_bucket"), &format!("le=\"{bound}\""), up_to);
        }
        self.line(&format!("{name}_bucket"), "le=\"+Inf\"", histogram.total);
        self.line(&format!("{name}_sum"), "", histogram.sum.as_secs_f64());
        self.line(&format!("{name}_count"), "", histogram.total);
    }
}

/// The page.
pub(super) fn text(s: &Snapshot) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    let c = &s.counters;
    page.head("build_info", "gauge", "Always 1; the version is a label.");
    page.line("build_info", &format!("version=\"{}\"", s.version), 1);
    page.gauge("start_time_seconds", "When the server was started, since the epoch.", s.started_unix_s);
    page.gauge("sessions", "Sessions alive.", s.sessions_now);
    page.gauge("sessions_limit", "Sessions allowed at once.", s.sessions_max);
    page.gauge("handshakes", "Handshakes under way.", s.half_open);
    page.counter("sessions_total", "Sessions set up.", c.sessions);
    page.counters(
        "sessions_ended_total",
        "Sessions that ended, by how.",
        "result",
        &[("done", c.sessions_done), ("refused", c.sessions_refused), ("failed", c.sessions_failed)],
    );
    page.head("files_total", "counter", "Files finished, by direction and result.");
    for (direction, files) in [("received", c.files_received), ("sent", c.files_sent)] {
        for (result, value) in [("done", files.done), ("failed", files.failed)] {
            page.line("files_total", &format!("direction=\"{direction}\",result=\"{result}\""), value);
        }
    }
    page.counters(
        "files_bytes_total",
        "Bytes of files that were finished.",
        "direction",
        &[("received", c.files_received.bytes), ("sent", c.files_sent.bytes)],
    );
    page.counter("delivered_bytes_total", "File bytes delivered, unfinished files included.", c.file_bytes);
    page.counters(
        "wire_bytes_total",
        "UDP payload bytes.",
        "direction",
        &[("received", c.wire_bytes_received), ("sent", c.wire_bytes_sent)],
    );
    page.counters(
        "packets_total",
        "Packets.",
        "direction",
        &[("received", c.packets_received), ("sent", c.packets_sent)],
    );
    page.counter("packets_repaired_total", "Packets sent that carry something again.", c.packets_repaired);
    page.counter("packets_lost_total", "Packets sent that were declared lost.", c.packets_lost);
    page.counter("packets_spurious_total", "Packets declared lost that had arrived.", c.packets_spurious);
    page.counter(
        "packets_corrupted_total",
        "Packets dropped because a checksum or tag did not fit.",
        c.packets_corrupted,
    );
    page.counter("packets_duplicate_total", "Packets received twice.", c.packets_duplicate);
    page.counters(
        "nacks_total",
        "Missing packets, reported to peers (sent) and by peers (received).",
        "direction",
        &[("received", c.nacks_received), ("sent", c.nacks_sent)],
    );
    page.head("loss_ratio", "gauge", "Loss since the last snapshot, by direction.");
    page.line("loss_ratio", "direction=\"received\"", s.rates.loss_in_pct / 100.0);
    page.line("loss_ratio", "direction=\"sent\"", s.rates.loss_out_pct / 100.0);
    page.counters("refusals_total", "What was turned away, by reason.", "reason", &s.refusals);
    page.histogram("rtt_seconds", "Smoothed RTTs, one per session every half second.", &s.rtt);
    page.histogram(
        "queue_delay_seconds",
        "Queueing delays on the way out, one per session every half second.",
        &s.queue_delay,
    );
    page.0
}
