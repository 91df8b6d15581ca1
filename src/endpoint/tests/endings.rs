//! How requests end whose sources fail: both sides must know what became of every entry.

use crate::endpoint::config::Secret;
use crate::impair::{Profile, Spec};
use crate::session::event::CloseReason;
use crate::sim::{Scenario, World};
use crate::store::memory::Content;
use crate::transfer::job::StoreErrorKind;
use std::time::Duration;

fn profile(spec: &str) -> Profile {
    spec.parse::<Spec>().expect("a spec").outgoing
}

/// The last open entry fails at its source: the word of it must arrive, though half of what the client says is lost.
#[test]
fn the_server_learns_that_the_last_source_failed() {
    for seed in 1..=60 {
        let mut s = Scenario::symmetric(seed, profile("delay=10ms,rate=50mbit"));
        s.up = profile("delay=10ms,rate=50mbit,loss=40%");
        // The file is not read whole before it fails.
        s.client.send_budget_bytes = 1 << 20;
        let mut w = World::new(&s);
        let content = Content::Pattern { seed: 3, size: 9_000_000 };
        w.client_store(0).insert_file(b"f", content, Default::default());
        let key = w.put(0, &[b"f"]);
        w.run_for(Duration::from_millis(700));
        w.client_store(0).insert_file(
            b"f",
            Content::Pattern { seed: 4, size: 8_999_999 },
            Default::default(),
        );
        w.run().expect("ends");
        w.run_for(Duration::from_secs(5));
        let report = w.report(0, key);
        assert_eq!(report.closed, Some(CloseReason::Done), "seed {seed}: {report:?}");
        let kinds = |failures: &[(Vec<u8>, crate::transfer::job::StoreError)]| {
            failures.iter().map(|(_, e)| e.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&report.failures), [StoreErrorKind::SourceChanged], "seed {seed}");
        let server: Vec<_> = w.server_reports().collect();
        assert_eq!(server.len(), 1, "{server:?}");
        assert_eq!(kinds(&server[0].failures), [StoreErrorKind::SourceChanged], "seed {seed}");
        assert_eq!(server[0].closed, Some(CloseReason::Done), "seed {seed}");
        assert_eq!(w.server_store().partial_count(), (0, 0), "seed {seed}: nothing was kept");
    }
}

#[test]
fn a_wrong_key_is_named_though_no_source_can_be_sent() {
    let mut s = Scenario::symmetric(1, profile("delay=20ms"));
    s.client.secret = Secret::Key(b"another key".to_vec().into());
    let mut w = World::new(&s);
    let key = w.put(0, &[b"missing"]);
    w.run().expect("ends");
    let report = w.report(0, key);
    assert_eq!(report.closed, Some(CloseReason::WrongKey), "{report:?}");
    assert_eq!(report.failures.len(), 1);
}

#[test]
fn what_is_refused_is_not_counted_as_done() {
    let mut s = Scenario::symmetric(1, profile("delay=20ms,rate=50mbit"));
    s.server.server.as_mut().expect("a server").max_file_bytes = 1_000_000;
    let mut w = World::new(&s);
    w.client_store(0).insert_file(b"t/big", Content::Pattern { seed: 1, size: 1 << 40 }, Default::default());
    w.client_store(0).insert_file(b"t/fits", Content::Pattern { seed: 2, size: 500_000 }, Default::default());
    let key = w.put(0, &[b"t"]);
    w.run().expect("ends");
    w.run_for(Duration::from_secs(1));
    let report = w.report(0, key);
    assert_eq!((report.closed, report.failures.len()), (Some(CloseReason::Done), 1));
    let server = w.server_reports().next().expect("a session");
    for stats in [&report.stats, &server.stats] {
        assert_eq!((stats.file_bytes_done, stats.file_bytes_total), (500_000, 500_000), "{stats:?}");
    }
}

/// A client that has got another address before anything of its session has reached it: the Hello that it repeats from
/// there asks for nothing new, and its session finds it.
#[test]
fn a_client_that_moves_before_its_session_is_open_has_one_session() {
    for at_ms in (0..400).step_by(7) {
        let s = Scenario::symmetric(at_ms, profile("delay=50ms,rate=50mbit"));
        let mut w = World::new(&s);
        w.client_store(0).insert(b"f", &b"small"[..]);
        w.client_store(0).insert_file(b"g", Content::Pattern { seed: 3, size: 300_000 }, Default::default());
        let key = w.put(0, &[b"f", b"g"]);
        w.run_for(Duration::from_millis(at_ms));
        w.move_client(0);
        w.run().expect("ends");
        w.run_for(Duration::from_secs(5));
        let report = w.report(0, key);
        assert_eq!((report.closed, report.failures.len()), (Some(CloseReason::Done), 0), "at {at_ms} ms");
        assert_eq!(report.finished.len(), 2, "at {at_ms} ms");
        assert_eq!(w.server_reports().count(), 1, "at {at_ms} ms");
    }
}
