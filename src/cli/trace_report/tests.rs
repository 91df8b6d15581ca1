//! Traces, from text to page.

use super::*;
use crate::cli::trace_report::read::Sequence;

/// A trace with a header and these records.
fn file(dir: &tempfile::TempDir, name: &str, records: &[String]) -> std::path::PathBuf {
    let header = r#"{"file_schema":"urn:ietf:params:qlog:file:sequential","title":"fulmar put <x>",
        "trace":{"common_fields":{"reference_time":{"wall_clock_time":"2026-01-01T00:00:00.000Z"}}}}"#;
    let mut raw = format!("\x1e{}\n", header.replace('\n', " "));
    records.iter().for_each(|record| raw.push_str(&format!("\x1e{record}\n")));
    let path = dir.path().join(name);
    std::fs::write(&path, raw).expect("written");
    path
}

fn event(time: f64, name: &str, group: &str, data: &str) -> String {
    format!(r#"{{"time":{time},"name":"fulmar:{name}","group_id":"{group}","data":{data}}}"#)
}

/// A sender: 1,000 packets, each tenth lost and sent again.
fn sender(group: &str) -> Vec<String> {
    let mut records =
        vec![event(5.0, "connection_started", group, r#"{"remote":"[::1]:5770","side":"client"}"#)];
    for i in 0..1000_u32 {
        let (time, offset) = (10.0 + f64::from(i), 1000 * i);
        let packet = |attempt: u32, number: u32| {
            format!(
                r#"{{"header":{{"packet_type":"data","packet_number":{number}}},"raw":{{"length":1040}},
                "stream":"chunks","offset":{offset},"length":1000,"attempt":{attempt}}}"#
            )
            .replace('\n', "")
        };
        records.push(event(time, "packet_sent", group, &packet(1, 2 * i)));
        if i % 10 == 0 {
            let lost = packet(1, 2 * i).replace("\"stream\"", &format!("\"sent_time\":{time},\"stream\""));
            records.push(event(time + 0.5, "packet_lost", group, &lost));
            records.push(event(time + 0.6, "packet_sent", group, &packet(2, 2 * i + 1)));
        }
        if i % 5 == 0 {
            let metrics = r#"{"congestion_window":100000,"bytes_in_flight":50000,"pacing_rate":8000000,
                "smoothed_rtt":50.5,"min_rtt":40.0,"queue_delay":1.5,"file_bytes_done":1000}"#;
            records.push(event(time, "recovery_metrics_updated", group, &metrics.replace('\n', "")));
        }
    }
    records.push(event(
        1010.0,
        "packet_received",
        group,
        r#"{"header":{"packet_number":0},"raw":{"length":60}}"#,
    ));
    records.push(event(1020.0, "file_finished", group, r#"{"kind":"file","path":"x","length":1000000}"#));
    let stats = r#"{"reason":"done","stats":{"packets_sent":1100,"packets_repaired":100,"packets_lost":100,
        "file_bytes_done":1000000,"wire_bytes_sent":1144000,"wire_bytes_received":60}}"#;
    records.push(event(1025.0, "connection_closed", group, &stats.replace('\n', "")));
    records
}

#[test]
fn a_sender_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().expect("temp dir");
    let runs = read::trace(&file(&dir, "a.sqlog", &sender("1"))).expect("a trace");
    let [run] = runs.as_slice() else { panic!("{} runs", runs.len()) };
    assert_eq!((run.name.as_str(), run.title.as_str()), ("a.sqlog", "fulmar put <x>"));
    assert_eq!((run.remote.as_str(), run.is_server), ("[::1]:5770", false));
    assert_eq!(run.reason.as_deref(), Some("done"));
    assert!((run.duration_s() - 1.02).abs() < 1e-9);
    assert_eq!(run.sequence(), Sequence::Chunks);
    assert_eq!((run.totals.packets_lost, run.totals.packets_repaired), (100, 100));
    assert_eq!(run.repairs[0].iter().count(), 100);
    // Lost packets stand where and when they were sent.
    let lost: Vec<(f64, u64)> = run.lost[0].iter().collect();
    assert_eq!(lost[1], (0.015, 10_000));
    assert_eq!(run.bins.iter().map(|(_, bin)| bin.sent_bytes).sum::<u64>(), 1100 * 1040);
    assert_eq!((run.rtt.get(), run.queue.most(), run.files_done), (Some(50.5), Some(1.5), 1));
}

#[test]
fn a_receiver_shows_what_was_missing() {
    let dir = tempfile::tempdir().expect("temp dir");
    let records: Vec<String> = [0, 1, 2, 5, 4, 9]
        .iter()
        .enumerate()
        .map(|(i, n)| {
            let data = format!(r#"{{"header":{{"packet_number":{n}}},"raw":{{"length":1000}}}}"#);
            event(i as f64, "packet_received", "1", &data)
        })
        .collect();
    let runs = read::trace(&file(&dir, "b.sqlog", &records)).expect("a trace");
    assert_eq!(runs[0].sequence(), Sequence::Numbers);
    let missing: Vec<u64> = runs[0].missing.iter().map(|(_, number)| number).collect();
    assert_eq!(missing, [3, 4, 6, 7, 8]);
    assert_eq!(runs[0].reason, None);
}

#[test]
fn pages_are_self_contained_and_say_what_is_missing() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut records = sender("1");
    records.extend(sender("2"));
    records.push(r#"{"time":2000,"name":"fulmar:events_left_out","data":{"count":7}}"#.into());
    let one = read::trace(&file(&dir, "one.sqlog", &sender("1"))).expect("a trace");
    let two = read::trace(&file(&dir, "two.sqlog", &records)).expect("a trace");
    assert_eq!(two.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(), ["two.sqlog #1", "two.sqlog #2"]);
    let page_of_one = page::page("one", &one, 0).expect("drawn");
    let page_of_two = page::page("two", &two, 3).expect("drawn");
    // Six plots, wide and narrow; two of each, narrow alone.
    assert_eq!(page_of_one.matches("<svg ").count(), 12);
    assert_eq!(page_of_two.matches("<svg ").count(), 12);
    assert!(!page_of_one.contains("close up"), "too short for one");
    assert!(page_of_two.contains("7 records are missing") && page_of_two.contains("3 sessions left out"));
    assert!(!page_of_one.contains("missing, because"));
    for page in [page_of_one, page_of_two] {
        assert!(page.contains("fulmar put &lt;x&gt;") && page.contains("100 (9.1 %)"));
        for forbidden in ["http:", "https:", "<script", "src=", "@import", "url(", "//"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }
}

#[test]
fn what_is_no_trace_is_refused_and_what_was_cut_off_is_read() {
    let dir = tempfile::tempdir().expect("temp dir");
    let write = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    };
    let message = |path: &Path| read::trace(path).expect_err("refused").message;
    assert!(message(&write("empty", b"")).contains("empty is empty"));
    assert!(message(&write("json", b"{}\n")).contains("is not a trace of fulmar"));
    assert!(message(&write("noise", &[0xff; 5000])).contains("is not a trace"));
    assert!(message(&dir.path().join("none")).contains("cannot read"));
    assert!(message(&file(&dir, "bare", &[])).contains("no session"));
    let torn = file(&dir, "torn", &[event(1.0, "packet_received", "1", "{}"), "{\"time\":".into()]);
    assert!(message(&torn).contains("record that cannot be read (3:"), "{}", message(&torn));

    let whole = std::fs::read(file(&dir, "whole", &sender("1"))).expect("there");
    let cut = write("cut", &whole[..whole.len() / 2]);
    assert_eq!(read::trace(&cut).expect("as far as it goes").len(), 1);
}

#[test]
fn of_many_sessions_the_largest_are_shown() {
    let dir = tempfile::tempdir().expect("temp dir");
    let records: Vec<String> = (0..20_u32)
        .map(|i| {
            let data = format!(r#"{{"header":{{"packet_number":1}},"raw":{{"length":{}}}}}"#, 1000 + i);
            event(f64::from(i), "packet_received", &i.to_string(), &data)
        })
        .collect();
    let mut runs = read::trace(&file(&dir, "many", &records)).expect("a trace");
    assert_eq!(keep_largest(&mut runs), 8);
    assert_eq!(runs.len(), MAX_RUNS);
    assert!(runs.iter().all(|run| run.wire_bytes() >= 1008));
}

#[test]
fn a_quiet_middle_has_no_close_up() {
    let dir = tempfile::tempdir().expect("temp dir");
    let packet = |time: f64, number: u32| {
        let data = format!(
            r#"{{"header":{{"packet_number":{number}}},"raw":{{"length":99}},"stream":"control","offset":{number},"length":1,"attempt":1}}"#
        );
        event(time, "packet_sent", "1", &data)
    };
    let metrics = event(0.0, "recovery_metrics_updated", "1", r#"{"smoothed_rtt":0.5,"min_rtt":0.5}"#);
    let records = [metrics, packet(1.0, 1), packet(99.0, 2), packet(100.0, 3)];
    let runs = read::trace(&file(&dir, "quiet", &records)).expect("a trace");
    let page = page::page("quiet", &runs, 0).expect("drawn");
    assert!(page.contains("<svg ") && !page.contains("close up"));
}
