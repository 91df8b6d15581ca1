//! Requests that outlive their sessions, on virtual time.

use super::*;
use crate::endpoint::config::Secret;
use crate::impair::{Profile, Spec};
use crate::sim::{Report, Scenario, World};
use crate::store::memory::Content;
use crate::transfer::job::{Compression, Location, Overwrite};

const LINK: &str = "delay=20ms,rate=50mbit,loss=2%";
const BIG: u64 = 9_000_000;

fn profile(spec: &str) -> Profile {
    spec.parse::<Spec>().expect("a spec").outgoing
}

fn scenario(seed: u64) -> Scenario {
    Scenario::symmetric(seed, profile(LINK))
}

fn put() -> Request {
    Request::Put { dest: Vec::new(), into_dir: true, overwrite: Overwrite::Never, no_resume: false }
}

fn get(path: &[u8]) -> Request {
    Request::Get {
        paths: vec![path.to_vec()],
        compress: Compression::Auto,
        chunk_size: crate::transfer::DEFAULT_CHUNK_SIZE,
    }
}

fn dest() -> Option<Dest> {
    Some(Dest {
        location: Location::Jail(Vec::new()),
        into_dir: true,
        overwrite: Overwrite::Never,
        no_resume: false,
        name_prefix: Vec::new(),
    })
}

fn pattern(seed: u64, size: u64) -> Content {
    Content::Pattern { seed, size }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn cut(w: &mut World) {
    w.set_link(0, profile("loss=100%"), profile("loss=100%"));
}

fn mend(w: &mut World) {
    w.set_link(0, profile(LINK), profile(LINK));
}

fn assert_done(report: &Report, entries: usize) {
    assert_eq!(report.closed, Some(CloseReason::Done), "{report:?}");
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!(report.finished.len(), entries, "{:?}", report.finished);
}

#[test]
fn a_put_outlives_its_server() {
    for seed in 1..=20 {
        let mut w = World::new(&scenario(seed));
        w.client_store(0).insert_file(b"f", pattern(3, BIG), Default::default());
        w.pursue(0, put(), &[b"f"], None, 0);
        for _ in 0..3 {
            w.run_for(ms(500 + seed * 7));
            w.restart_server();
            w.run_for(ms(2_500));
        }
        w.run().expect("ends");
        let report = w.pursuit_report(0);
        assert_done(&report, 1);
        assert!(w.server_store().get(b"f") == w.client_store(0).get(b"f"));
        let resumed = w.notices(0).iter().filter(|n| **n == Notice::Resumed).count();
        assert!(resumed >= 1, "seed {seed}: {:?}", w.notices(0));
        let most = BIG * 125 / 98;
        assert!(report.stats.wire_bytes_sent < most, "seed {seed}: {}", report.stats.wire_bytes_sent);
    }
}

#[test]
fn a_get_outlives_its_server() {
    for seed in 1..=20 {
        let mut w = World::new(&scenario(seed));
        w.server_store().insert_file(b"f", pattern(3, BIG), Default::default());
        w.pursue(0, get(b"f"), &[], dest(), 0);
        w.run_for(ms(700 + seed * 7));
        let before = w.elapsed();
        w.restart_server();
        w.run().expect("ends");
        let report = w.pursuit_report(0);
        assert_done(&report, 1);
        assert!(w.server_store().get(b"f") == w.client_store(0).get(b"f"));
        assert_eq!(w.notices(0), [Notice::Silent, Notice::Resumed], "seed {seed}");
        assert!(report.stats.wire_bytes_received < BIG * 125 / 100, "{}", report.stats.wire_bytes_received);
        // One and a half seconds of transfer are left; the rest is what it takes to notice and to begin again.
        assert!(w.elapsed() - before < ms(6_000), "seed {seed}: {:?}", w.elapsed() - before);
    }
}

#[test]
fn a_tree_is_told_once_and_not_sent_twice() {
    for seed in 1..=10 {
        let mut w = World::new(&scenario(seed));
        let mut entries = 2;
        for i in 0..400u64 {
            let path = format!("t/d{}/f{i}", i % 7);
            w.client_store(0).insert_file(path.as_bytes(), pattern(i, (i % 50) * 1000), Default::default());
            entries += 1;
        }
        entries += 2 * 7;
        w.pursue(0, put(), &[b"t"], None, 0);
        w.run_for(ms(300 + seed * 83));
        w.restart_server();
        w.run().expect("ends");
        let report = w.pursuit_report(0);
        assert_done(&report, entries);
        let mut paths: Vec<_> = report.finished.iter().map(|(_, path, digest)| (path, digest)).collect();
        paths.sort();
        paths.dedup();
        // A directory and its end share a path.
        assert_eq!(paths.len(), entries - 8, "seed {seed}");
        for i in 0..400u64 {
            let path = format!("t/d{}/f{i}", i % 7);
            assert!(
                w.server_store().get(path.as_bytes()) == w.client_store(0).get(path.as_bytes()),
                "{path}"
            );
        }
        let bytes: u64 = (0..400u64).map(|i| (i % 50) * 1000).sum();
        assert_eq!(report.stats.file_bytes_done, bytes, "seed {seed}");
        // And back, over another restart.
        w.client_store(0).remove(b"t");
        w.pursue(0, get(b"t"), &[], dest(), 0);
        w.run_for(ms(300 + seed * 83));
        w.restart_server();
        w.run().expect("ends");
        let back = w.pursuit_report(0);
        assert_eq!((back.finished.len(), back.failures.len()), (2 * entries, 0), "seed {seed}");
    }
}

#[test]
fn an_echo_outlives_its_server() {
    for seed in 1..=10 {
        let mut w = World::new(&scenario(seed));
        for (name, size) in [(b"a", 2_000_000), (b"b", 3_000_000), (b"c", 100)] {
            w.client_store(0).insert_file(name, pattern(size, size), Default::default());
        }
        let request = Request::Echo {
            sim_back: String::new(),
            keep: false,
            overwrite: Overwrite::Never,
            no_resume: false,
        };
        let dest = dest().map(|dest| Dest { name_prefix: b"received_".to_vec(), ..dest });
        w.pursue(0, request, &[b"a", b"b", b"c"], dest, 0);
        w.run_for(ms(300 + seed * 103));
        w.restart_server();
        w.run().expect("ends");
        assert_done(&w.pursuit_report(0), 6);
        for name in ["a", "b", "c"] {
            let back = w.client_store(0).get(format!("received_{name}").as_bytes());
            assert!(back == w.client_store(0).get(name.as_bytes()), "{name}");
        }
    }
}

#[test]
fn an_outage_does_not_lose_the_session() {
    for (seed, outage) in (1..=12).flat_map(|seed| [1_500, 4_000, 20_000, 45_000].map(|o| (seed, o))) {
        let mut w = World::new(&scenario(seed));
        w.client_store(0).insert_file(b"f", pattern(3, BIG), Default::default());
        w.pursue(0, put(), &[b"f"], None, 0);
        w.run_for(ms(500));
        cut(&mut w);
        w.run_for(ms(outage));
        mend(&mut w);
        w.run().expect("ends");
        assert_done(&w.pursuit_report(0), 1);
        assert!(!w.notices(0).contains(&Notice::Resumed), "seed {seed}, {outage} ms: {:?}", w.notices(0));
        assert_eq!(w.server_reports().count(), 1, "seed {seed}: one session did it all");
    }
}

#[test]
fn total_silence_ends_within_the_idle_timeout() {
    for (receives, retries) in [(false, None), (true, None), (false, Some(12))] {
        let mut s = scenario(5);
        s.client.session.max_retries = retries;
        let mut w = World::new(&s);
        if receives {
            w.server_store().insert_file(b"f", pattern(3, BIG), Default::default());
            w.pursue(0, get(b"f"), &[], dest(), 0);
        } else {
            w.client_store(0).insert_file(b"f", pattern(3, BIG), Default::default());
            w.pursue(0, put(), &[b"f"], None, 0);
        }
        w.run_for(ms(500));
        cut(&mut w);
        w.run().expect("ends");
        let took = w.elapsed() - ms(500);
        match (w.pursuit_report(0).closed, retries) {
            (Some(CloseReason::TimedOut { .. }), None) => {
                assert!(took > ms(59_000) && took < ms(60_200), "{took:?}");
            }
            (Some(CloseReason::RetriesExhausted { times: 13 }), Some(12)) => {
                assert!(took < ms(10_000), "{took:?}");
            }
            (end, _) => panic!("{end:?} after {took:?}"),
        }
    }
}

/// The server gives the session up at the very end of an outage that the client has not given up yet.
#[test]
fn an_outage_that_only_the_server_timed_out_over() {
    for seed in 1..=10 {
        let mut s = scenario(seed);
        s.server.session.idle_timeout = Duration::from_secs(60);
        s.client.session.idle_timeout = Duration::from_secs(90);
        let mut w = World::new(&s);
        w.client_store(0).insert_file(b"f", pattern(3, BIG), Default::default());
        w.pursue(0, put(), &[b"f"], None, 1);
        w.run_for(ms(500));
        // One way only: the server still reaches the client, so that nothing seems wrong there for a minute.
        w.set_link(0, profile("loss=100%"), profile(LINK));
        w.run_for(ms(59_000));
        cut(&mut w);
        w.run_for(ms(2_000));
        mend(&mut w);
        w.run().expect("ends");
        assert_done(&w.pursuit_report(0), 1);
        assert!(w.elapsed() < ms(80_000), "seed {seed}: {:?}", w.elapsed());
    }
}

#[test]
fn a_server_that_stops_is_waited_for_only_on_request() {
    for retries in [0, 3] {
        let mut w = World::new(&scenario(3));
        w.client_store(0).insert_file(b"f", pattern(3, BIG), Default::default());
        w.pursue(0, put(), &[b"f"], None, retries);
        w.run_for(ms(800));
        w.stop_server();
        // Down for three seconds.
        w.run_for(ms(100));
        cut(&mut w);
        w.restart_server();
        w.run_for(ms(3_000));
        mend(&mut w);
        w.run().expect("ends");
        let report = w.pursuit_report(0);
        if retries == 0 {
            assert!(matches!(report.closed, Some(CloseReason::PeerClosed(_))), "{report:?}");
            continue;
        }
        assert_done(&report, 1);
        assert_eq!(w.notices(0), [Notice::Lost, Notice::Resumed]);
        assert!(report.stats.wire_bytes_sent < BIG * 125 / 98, "{}", report.stats.wire_bytes_sent);
    }
}

#[test]
fn a_server_that_never_comes_back_uses_up_the_retries() {
    let mut s = scenario(3);
    s.client.session.connect_timeout = Duration::from_secs(10);
    let mut w = World::new(&s);
    w.client_store(0).insert_file(b"f", pattern(3, BIG), Default::default());
    w.pursue(0, put(), &[b"f"], None, 2);
    w.run_for(ms(800));
    cut(&mut w);
    w.run().expect("ends");
    assert!(matches!(w.pursuit_report(0).closed, Some(CloseReason::TimedOut { .. })));
    assert_eq!(w.notices(0), [Notice::Silent, Notice::Lost, Notice::Lost]);
    // A minute of silence, pauses of 1 and 2 s, two attempts of 10 s each.
    assert!((83_000..84_500).contains(&(w.elapsed().as_millis() as u64)), "{:?}", w.elapsed());
}

#[test]
fn another_key_after_the_restart_is_named() {
    let mut s = scenario(3);
    let mut w = World::new(&s);
    w.client_store(0).insert_file(b"f", pattern(3, BIG), Default::default());
    w.pursue(0, put(), &[b"f"], None, 0);
    w.run_for(ms(800));
    s.server.secret = Secret::Insecure;
    w.replace_server(&s.server);
    w.run().expect("ends");
    let closed = w.pursuit_report(0).closed;
    assert!(matches!(closed, Some(CloseReason::SecurityMismatch(_))), "{closed:?}");
}
