//! What is written, how it is framed, and what happens at the bounds.

use super::*;
use crate::session::event::CloseReason;
use crate::session::trace::Piece;
use serde_json::Value;

#[allow(clippy::disallowed_methods)] // Any instant will do.
fn start() -> Instant {
    Instant::now()
}

/// The texts of a JSON text sequence; fails on anything that RFC 7464 does not allow.
fn texts(raw: &[u8]) -> Vec<Value> {
    assert_eq!(raw.first(), Some(&0x1e));
    let parts = raw[1..].split(|byte| *byte == 0x1e);
    parts
        .map(|part| {
            assert_eq!(part.last(), Some(&b'\n'), "{}", String::from_utf8_lossy(part));
            serde_json::from_slice(part).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(part)))
        })
        .collect()
}

fn sent(at: Instant, number: u64) -> Item {
    let piece = Some(Piece { is_control: false, offset: 1000 * number, bytes: 1000, attempt: 2 });
    Item::Record(7, Record { at, what: Trace::Sent { number: Some(number), bytes: 1232, piece } })
}

/// What a thread with these limits makes of these batches.
fn written(reference: Instant, batches: Vec<Vec<Item>>, limits: (u64, u64)) -> Vec<Value> {
    let mut raw = Vec::new();
    let (queue, items) = sync_channel(batches.len());
    batches.into_iter().for_each(|batch| queue.send(batch).expect("room"));
    drop(queue);
    let file = BufWriter::new(&mut raw);
    Writer { file, reference, written: 0, left_out: 0, limits }.run(&items).expect("written");
    texts(&raw)
}

#[test]
fn every_kind_of_record_is_a_json_text() {
    let at = start();
    let remote = ([127, 0, 0, 1], 5770).into();
    let stats = Stats { smoothed_rtt: Duration::from_millis(20), window_bytes: 77, ..Stats::default() };
    let whats = [
        Trace::Started { remote, is_client: true },
        Trace::Sent { number: None, bytes: 1200, piece: None },
        Trace::Received { number: 1, bytes: 60 },
        Trace::Duplicate { number: 1 },
        Trace::Lost { number: 2, bytes: 1232, sent_at: at, piece: None },
        Trace::Spurious { number: 2 },
        Trace::Metrics(Box::new(stats.clone())),
        Trace::KeyUpdated { is_ours: false, number: 9 },
        Trace::MtuUpdated { bytes: 1452 },
        Trace::Moved { remote },
    ];
    let later = at + Duration::from_micros(1500);
    let mut items: Vec<Item> =
        whats.into_iter().map(|what| Item::Record(7, Record { at: later, what })).collect();
    let path = b"a \"quoted\"\n\xff name".to_vec();
    let events = [
        Event::Connected { remote, client_id: "lab \u{1e}".into() },
        Event::FileStarted {
            direction: crate::session::event::Direction::Sending,
            file: crate::transfer::job::FileId(3),
            path,
            bytes: 9,
        },
        Event::Completed,
        Event::Closed(CloseReason::Done),
    ];
    for event in events {
        items.push(Item::Event(7, later, event, Some(Box::new(stats.clone()))));
    }
    items.push(Item::LeftOut(later, 12));
    let values = written(at, vec![items], (u64::MAX, u64::MAX));
    let names: Vec<&str> = values.iter().map(|v| v["name"].as_str().expect("a name")).collect();
    let expected = [
        "connection_started",
        "packet_sent",
        "packet_received",
        "packet_dropped",
        "packet_lost",
        "packet_spurious",
        "recovery_metrics_updated",
        "key_updated",
        "mtu_updated",
        "migration_state_updated",
        "connection_state_updated",
        "file_started",
        "request_completed",
        "connection_closed",
        "events_left_out",
    ];
    assert_eq!(names, expected.map(|name| format!("fulmar:{name}")));
    assert!(values.iter().all(|v| v["time"] == 1.5 && v["data"].is_object()));
    assert!(values[..14].iter().all(|v| v["group_id"] == "7"));
    assert_eq!(values[6]["data"]["smoothed_rtt"], 20.0);
    assert_eq!(values[6]["data"]["congestion_window"], 77);
    assert_eq!(values[11]["data"]["path"], "a \"quoted\"\n\u{fffd} name");
    assert_eq!(values[13]["data"]["stats"]["packets_sent"], 0);
    assert_eq!(values[14]["data"]["count"], 12);
}

#[test]
fn records_of_a_batch_are_put_in_order() {
    let at = start();
    let batch = [3, 1, 2].map(|n| sent(at + Duration::from_millis(n), n)).into();
    let values = written(at, vec![batch], (u64::MAX, u64::MAX));
    let numbers: Vec<_> = values.iter().map(|v| v["data"]["header"]["packet_number"].as_u64()).collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
    let data = &values[0]["data"];
    assert_eq!((&data["offset"], &data["length"], &data["attempt"]), (&1000.into(), &1000.into(), &2.into()));
}

#[test]
fn a_trace_is_bounded_and_says_what_is_missing() {
    let at = start();
    let batch = |from: u64| (from..from + 50).map(|n| sent(at, n)).collect::<Vec<_>>();
    let metrics = Item::Record(7, Record { at, what: Trace::Metrics(Box::default()) });
    let closed = Item::Event(7, at, Event::Closed(CloseReason::Done), None);
    let values = written(at, vec![batch(0), vec![metrics, closed]], (1000, 1 << 20));
    let packets = values.iter().filter(|v| v["name"] == "fulmar:packet_sent").count();
    assert!((1..10).contains(&packets), "{packets}");
    let rest: Vec<&str> = values[packets..].iter().filter_map(|v| v["name"].as_str()).collect();
    assert_eq!(
        rest,
        ["fulmar:recovery_metrics_updated", "fulmar:connection_closed", "fulmar:events_left_out"]
    );
    assert_eq!(values.last().expect("not empty")["data"]["count"], 50 - packets);

    let metrics = Item::Record(7, Record { at, what: Trace::Metrics(Box::default()) });
    let closed = Item::Event(7, at, Event::Closed(CloseReason::Done), None);
    let values = written(at, vec![batch(0), vec![metrics, closed]], (1000, 1000));
    assert_eq!(values[values.len() - 2]["name"], "fulmar:connection_closed");
    assert_eq!(values.last().expect("not empty")["data"]["count"], 51 - packets);
}

/// A core that has as many records as it is asked for.
struct Busy(u64);

impl Core for Busy {
    fn handle_datagram(
        &mut self,
        _: Instant,
        _: std::net::SocketAddr,
        _: Option<crate::endpoint::Ecn>,
        _: &mut [u8],
    ) {
    }
    fn handle_timeout(&mut self, _: Instant) {}
    fn poll_timeout(&mut self) -> Option<Instant> {
        None
    }
    fn poll_transmit(&mut self, _: Instant, _: &mut Vec<u8>, _: usize) -> Option<crate::endpoint::Transmit> {
        None
    }
    fn handle_too_large(&mut self, _: Instant, _: Option<SessionKey>, _: usize) {}
    fn poll_job(&mut self) -> Option<(SessionKey, crate::transfer::job::Job)> {
        None
    }
    fn handle_done(&mut self, _: Instant, _: SessionKey, _: crate::transfer::job::Done) {}
    fn poll_event(&mut self) -> Option<(SessionKey, Event)> {
        None
    }
    fn take_traces(&mut self, out: &mut Vec<(SessionKey, Record)>) -> u64 {
        let at = start();
        out.extend((0..self.0).map(|number| (1, Record { at, what: Trace::Duplicate { number } })));
        5
    }
}

#[test]
fn a_slow_disk_costs_records_not_time() {
    let (queue, batches) = sync_channel(QUEUE_BATCHES);
    let mut trace = TraceFile {
        reference: start(),
        label: None,
        can_wait: false,
        path: "x".into(),
        batch: Vec::new(),
        batch_since: None,
        records: Vec::new(),
        left_out: 0,
        queue: Some(queue),
        first_session: 0,
        last_session: Arc::default(),
        thread: None,
    };
    // Nobody takes batches: more than fit are counted, and nothing waits.
    let mut core = Busy(BATCH_ITEMS as u64);
    for _ in 0..QUEUE_BATCHES + 3 {
        trace.collect(start(), &mut core);
    }
    let told: u64 = batches
        .try_iter()
        .flatten()
        .filter_map(|item| if let Item::LeftOut(_, count) = item { Some(count) } else { None })
        .sum();
    let collected = 5 * (QUEUE_BATCHES as u64 + 3);
    assert_eq!(told + trace.left_out, collected + 3 * BATCH_ITEMS as u64);
}

#[test]
fn a_whole_trace_reaches_the_disk() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("t.sqlog");
    let about =
        About { title: "x".into(), is_server: true, wall_clock_time: "2026-01-01T00:00:00.000Z".into() };
    let trace = TraceFile::create(&path, &about).expect("made");
    trace.finish(start(), &mut Busy(10));
    let values = texts(&std::fs::read(&path).expect("there"));
    assert_eq!(values.len(), 12, "header, ten records, and how many are missing");
    assert_eq!(values[0]["file_schema"], "urn:ietf:params:qlog:file:sequential");
    assert_eq!(values[0]["trace"]["vantage_point"]["type"], "server");
    // It has the time of the end, and the others were made a little later.
    let left_out = values.iter().find(|v| v["name"] == "fulmar:events_left_out").expect("told");
    assert_eq!(left_out["data"]["count"], 5);
}
