//! What is counted, and what Prometheus makes of it.

use super::snapshot::{Rates, percent};
use super::*;
use crate::transfer::job::{FileId, StoreError, StoreErrorKind};
use std::collections::HashMap;

/// A snapshot with something in every field.
pub(super) fn snapshot() -> Snapshot {
    let mut rtt = Histogram::default();
    [1, 15, 60, 5000].iter().for_each(|ms| rtt.observe(Duration::from_millis(*ms)));
    Snapshot {
        version: "0.1.0",
        listen: "[::]:5770".into(),
        started_unix_s: 1_700_000_000,
        uptime_s: 12.5,
        sessions_now: 1,
        sessions_max: 1024,
        half_open: 2,
        rates: Rates { loss_in_pct: 5.0, in_bits_per_sec: 40_000_000, ..Rates::default() },
        refusals: vec![("wrong_key", 3), ("busy", 0)],
        sessions: vec![SessionView {
            session: 1,
            remote: "192.0.2.7:4242".into(),
            client_id: "<script>alert(1)</script>".into(),
            request: "put".into(),
            path: "/in".into(),
            file: "a.iso".into(),
            age_s: 3.0,
            files: 1,
            failed: 0,
            file_bytes_done: 10,
            file_bytes_total: 20,
            in_bits_per_sec: 40_000_000,
            out_bits_per_sec: 0,
            goodput_bits_per_sec: 1,
            loss_in_pct: 5.0,
            loss_out_pct: 0.0,
            repaired: 0,
            rtt_ms: Some(60.0),
            min_rtt_ms: Some(59.0),
            queue_ms: None,
        }],
        files: Vec::new(),
        counters: Counters { sessions: 9, packets_sent: 100, ..Counters::default() },
        rtt,
        queue_delay: Histogram::default(),
    }
}

/// Reads the text format as strictly as its definition allows; the samples by name and labels.
pub(super) fn parse(text: &str) -> HashMap<String, f64> {
    let is_name = |name: &str| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    let mut samples = HashMap::new();
    let mut types: HashMap<String, String> = HashMap::new();
    let mut helped = String::new();
    assert!(text.ends_with('\n'), "the last line must end too");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(is_name(name) && !help.is_empty() && !types.contains_key(name), "{line}");
            helped = name.to_owned();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, helped, "TYPE follows HELP");
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(value.is_finite(), "{line}");
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect("closed")),
            None => (series, ""),
        };
        for label in labels.split(',').filter(|l| !l.is_empty()) {
            let (label, quoted) = label.split_once('=').expect("a label");
            let inner = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"')).expect("quoted");
            assert!(is_name(label) && !inner.contains(['"', '\\']), "{line}");
        }
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| {
                name.strip_suffix(suffix).filter(|b| types.get(*b).is_some_and(|t| t == "histogram"))
            })
            .unwrap_or(name);
        assert_eq!(base, helped, "samples of one metric stand together: {line}");
        assert!(is_name(name) && name.starts_with("fulmar_"), "{line}");
        assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
    }
    samples
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let text = metrics::text(&snapshot());
    let samples = parse(&text);
    assert_eq!(samples["fulmar_sessions"], 1.0);
    assert_eq!(samples["fulmar_sessions_total"], 9.0);
    assert_eq!(samples["fulmar_packets_total{direction=\"sent\"}"], 100.0);
    assert_eq!(samples["fulmar_refusals_total{reason=\"wrong_key\"}"], 3.0);
    assert_eq!(samples["fulmar_loss_ratio{direction=\"received\"}"], 0.05);
    // Buckets count everything up to their bound.
    for (bound, count) in
        [("0.001", 1.0), ("0.01", 1.0), ("0.02", 2.0), ("0.1", 3.0), ("2", 3.0), ("+Inf", 4.0)]
    {
        assert_eq!(samples[&format!("fulmar_rtt_seconds_bucket{{le=\"{bound}\"}}")], count, "{bound}");
    }
    assert_eq!(samples["fulmar_rtt_seconds_count"], 4.0);
    assert!((samples["fulmar_rtt_seconds_sum"] - 5.076).abs() < 1e-9);
    // A name from a peer is no label: nobody can make series without end.
    assert!(!text.contains("script") && !text.contains("192.0.2.7"));
}

/// The loop's side without a thread.
fn watch(now: Instant) -> (Watch, std::sync::mpsc::Receiver<Box<Snapshot>>) {
    let poll = mio::Poll::new().expect("a poll");
    let (snapshots, incoming) = std::sync::mpsc::sync_channel(QUEUE_SNAPSHOTS);
    let about = About { listen: ([127, 0, 0, 1], 5770).into(), max_sessions: 7 };
    let waker = Arc::new(Waker::new(poll.registry(), mio::Token(0)).expect("a waker"));
    let watch = Watch::new(now, about, snapshots, waker);
    (watch, incoming)
}

fn core(now: Instant) -> Endpoint {
    use crate::endpoint::config::{EndpointConfig, Secret};
    Endpoint::new(EndpointConfig::new(Secret::Insecure), [7; 32], now)
}

fn finished(path: &[u8], error: Option<StoreError>) -> Event {
    Event::EntryFinished {
        direction: Direction::Receiving,
        file: FileId(0),
        path: path.to_vec(),
        kind: EntryKind::File,
        bytes: 100,
        sha256: None,
        error,
    }
}

#[test]
#[allow(clippy::disallowed_methods)] // Any instant will do.
fn ended_sessions_stay_in_the_sums() {
    let now = Instant::now();
    let (mut watch, snapshots) = watch(now);
    let remote = ([192, 0, 2, 7], 4242).into();
    watch.event(now, 1, &Event::Connected { remote, client_id: "lab".into() }, None);
    let error = StoreError { kind: StoreErrorKind::Exists, message: "exists".into() };
    watch.event(now, 1, &finished(b"a", None), None);
    watch.event(now, 1, &finished(b"b", Some(error)), None);
    let stats = Stats { packets_sent: 5, wire_bytes_received: 77, ..Stats::default() };
    watch.event(now, 1, &Event::Closed(CloseReason::Done), Some(&stats));
    watch.event(now, 2, &Event::Closed(CloseReason::WrongKey), Some(&stats));
    watch.publish(now, &core(now));
    let snapshot = snapshots.try_recv().expect("published");
    let c = &snapshot.counters;
    assert_eq!((c.sessions, c.sessions_done, c.sessions_failed), (2, 1, 1));
    assert_eq!((c.packets_sent, c.wire_bytes_received), (10, 154));
    assert_eq!((c.files_received.done, c.files_received.failed, c.files_received.bytes), (1, 1, 100));
    assert_eq!(snapshot.files[0].path, "b", "the newest comes first");
    assert!(watch.records.is_empty());
}

#[test]
#[allow(clippy::disallowed_methods)] // Any instant will do.
fn snapshots_are_rare_bounded_and_never_waited_for() {
    let now = Instant::now();
    let (mut watch, snapshots) = watch(now);
    for i in 0..MAX_FILES as u64 + 5 {
        watch.event(now, i, &finished(&vec![b'x'; 5000], None), None);
    }
    let core = core(now);
    for turn in 0..1000_u32 {
        watch.publish(now + Duration::from_millis(10) * turn, &core);
    }
    // Nobody has taken any: as many as the queue holds are there, the others are gone.
    let taken: Vec<_> = snapshots.try_iter().collect();
    assert_eq!(taken.len(), QUEUE_SNAPSHOTS);
    assert_eq!(taken[0].files.len(), MAX_FILES);
    assert!(taken[0].files[0].path.len() <= MAX_NAME_BYTES + 3);
    let published = (0..1000_u32).filter(|turn| {
        watch.publish(now + Duration::from_secs(60) + Duration::from_millis(10) * *turn, &core);
        snapshots.try_recv().is_ok()
    });
    assert_eq!(published.count(), 20, "ten seconds of two a second");
}

#[test]
fn rates_need_two_looks() {
    let before = Counters { wire_bytes_sent: 1000, packets_sent: 10, ..Counters::default() };
    let after = Counters { wire_bytes_sent: 2000, packets_sent: 30, packets_lost: 5, ..before.clone() };
    assert_eq!(after.rates_since(&before, None).out_bits_per_sec, 0);
    let rates = after.rates_since(&before, Some(0.5));
    assert_eq!((rates.out_bits_per_sec, rates.loss_out_pct), (16_000, 25.0));
    assert_eq!((percent(1, 0), percent(9, 3)), (0.0, 100.0));
}
