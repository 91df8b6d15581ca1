//! Comparing first: what travels, what does not, and how long that takes.

use super::*;
use crate::impair::Spec;
use crate::store::memory::{Content, Node};
use crate::transfer::job::Meta;
use crate::transfer::sync::{Compare, SyncOptions};

fn profile(spec: &str) -> Profile {
    spec.parse::<Spec>().expect("a spec").outgoing
}

fn pattern(seed: u64, size: u64) -> Content {
    Content::Pattern { seed, size }
}

fn meta(mtime_s: i64) -> Meta {
    Meta { mode: 0o644, mtime_s, mtime_ns: 5 }
}

fn scenario(spec: &str, options: SyncOptions) -> Scenario {
    let mut s = Scenario::symmetric(1, profile(spec));
    s.client.session.sync = options;
    s
}

fn update(compare: Compare) -> SyncOptions {
    SyncOptions { compare: Some(compare), ..SyncOptions::default() }
}

/// Runs a put or get of `tree`, replacing what differs.
fn run(w: &mut World, get: bool, overwrite: Overwrite) -> Report {
    let key = if get {
        let dest = Dest { overwrite, ..World::root_dest(b"") };
        let request = Request::Get {
            paths: vec![b"tree".to_vec()],
            compress: Compression::Auto,
            chunk_size: crate::transfer::DEFAULT_CHUNK_SIZE,
        };
        w.request(0, request, &[], Some(dest))
    } else {
        let request = Request::Put { dest: Vec::new(), into_dir: true, overwrite, no_resume: false };
        w.request(0, request, &[b"tree"], None)
    };
    w.run().expect("ends");
    let report = w.report(0, key);
    assert_eq!(report.closed, Some(CloseReason::Done), "{report:?}");
    report
}

/// The source and the destination, whichever way it goes.
fn stores(w: &mut World, get: bool, fill: impl Fn(&mut MemoryStore, bool)) {
    if get {
        fill(w.server_store(), true);
        fill(w.client_store(0), false);
    } else {
        fill(w.client_store(0), true);
        fill(w.server_store(), false);
    }
}

#[test]
fn ten_thousand_unchanged_files_take_a_few_round_trips_and_no_bytes() {
    for get in [false, true] {
        let mut w = World::new(&scenario("delay=50ms,rate=200mbit", update(Compare::SizeAndTime)));
        stores(&mut w, get, |store, _| {
            for i in 0..10_000u64 {
                let path = format!("tree/dir{:02}/a file of some name {i}", i % 100);
                store.insert_file(path.as_bytes(), pattern(i, 300 + i % 40_000), meta(i as i64));
            }
        });
        let r = run(&mut w, get, Overwrite::Always);
        assert_eq!((r.failures.len(), r.stats.file_bytes_total), (0, 0));
        assert_eq!(r.unchanged.iter().filter(|path| path.contains(&b' ')).count(), 10_000);
        // The bound that counts is 1 s and 4 round trips of 100 ms; here the disk takes no time.
        assert!(r.closed_at <= Duration::from_millis(800), "get {get}: {:?}", r.closed_at);
        let sent = r.stats.wire_bytes_sent.max(r.stats.wire_bytes_received);
        assert!(sent < 1_000_000, "{sent} bytes");
    }
}

#[test]
fn only_what_differs_travels_and_replaces() {
    for (get, compare) in [
        (false, Compare::SizeAndTime),
        (true, Compare::SizeAndTime),
        (false, Compare::Digest),
        (true, Compare::Digest),
    ] {
        let mut w = World::new(&scenario("delay=5ms,loss=5%", update(compare)));
        stores(&mut w, get, |store, source| {
            store.insert_file(b"tree/same", pattern(1, 70_000), meta(9));
            store.insert_file(b"tree/d/same too", pattern(2, 100), meta(9));
            store.insert_file(
                b"tree/d/other size",
                pattern(3, if source { 80_000 } else { 79_999 }),
                meta(9),
            );
            store.insert_file(b"tree/d/other time", pattern(4, 500), meta(if source { 9 } else { 8 }));
            store.insert_file(b"tree/d/other bytes", pattern(if source { 5 } else { 6 }, 600_000), meta(9));
            store.insert_symlink(b"tree/d/link", b"same");
            store.insert_symlink(b"tree/d/moved", if source { b"x" } else { b"y" });
            if source {
                store.insert_file(b"tree/new/inner", pattern(7, 20_000), meta(9));
                store.insert_file(b"tree/new/small", pattern(8, 20), meta(9));
            }
        });
        let r = run(&mut w, get, Overwrite::Always);
        assert_eq!(r.failures.len(), 0, "{r:?}");
        let mut sent: Vec<String> = r
            .finished
            .iter()
            .filter(|(_, _, digest)| digest.is_some())
            .map(|(_, path, _)| String::from_utf8_lossy(path).into_owned())
            .collect();
        sent.sort();
        sent.sort_by_key(|path| path.contains("other size") || path.contains("new"));
        let by_digest = compare == Compare::Digest;
        let differs = if by_digest { "tree/d/other bytes" } else { "tree/d/other time" };
        assert_eq!(sent, [differs, "tree/d/other size", "tree/new/inner", "tree/new/small"], "get {get}");
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for (store, out) in [(0, &mut theirs), (1, &mut ours)] {
            for (path, node) in w.nodes[store].store.nodes() {
                // Equal by size and time is taken for equal.
                if by_digest || path != b"tree/d/other bytes" {
                    out.push(match node {
                        Node::File(content, _) => (path, content.read(0, 1 << 20).to_vec()),
                        Node::Symlink(target, _) => (path, target.clone()),
                        Node::Dir(_) => (path, Vec::new()),
                    });
                }
            }
        }
        assert!(theirs == ours, "get {get}, {compare:?}");
    }
}

#[test]
fn without_leave_to_replace_only_new_files_are_added() {
    let mut w = World::new(&scenario("delay=5ms", update(Compare::SizeAndTime)));
    stores(&mut w, false, |store, source| {
        store.insert_file(b"tree/same", pattern(1, 70_000), meta(9));
        store.insert_file(b"tree/differs", pattern(2, 100), meta(if source { 9 } else { 8 }));
        if source {
            store.insert_file(b"tree/new", pattern(3, 100), meta(9));
        }
    });
    let r = run(&mut w, false, Overwrite::Never);
    let failed: Vec<_> = r.failures.iter().map(|(path, e)| (path.clone(), e.kind)).collect();
    assert_eq!(failed, [(b"tree/differs".to_vec(), crate::transfer::job::StoreErrorKind::Exists)]);
    assert_eq!(r.unchanged.len(), 2, "the directory and `same`");
    assert!(w.server_store().get(b"tree/new").is_some());
}

#[test]
fn a_dry_run_changes_nothing_and_tells_what_it_would_send() {
    for get in [false, true] {
        for compare in [None, Some(Compare::SizeAndTime)] {
            let options = SyncOptions { compare, dry_run: true, ..SyncOptions::default() };
            let mut w = World::new(&scenario("delay=5ms,loss=5%", options));
            stores(&mut w, get, |store, source| {
                store.insert_file(b"tree/same", pattern(1, 70_000), meta(9));
                store.insert_file(b"tree/differs", pattern(2, 100), meta(if source { 9 } else { 8 }));
                if source {
                    store.insert_file(b"tree/new/f", pattern(3, 100_000), meta(9));
                    store.insert_symlink(b"tree/new/link", b"f");
                }
            });
            let before = |w: &World| {
                w.nodes
                    .iter()
                    .map(|n| n.store.nodes().map(|(p, n)| (p, n.clone())).collect::<Vec<_>>())
                    .collect::<Vec<_>>()
            };
            let was = before(&w);
            let r = run(&mut w, get, Overwrite::Always);
            assert!(was == before(&w), "something was changed");
            let mut planned = r.planned.clone();
            planned.sort();
            let mut expected = vec![b"tree/differs".to_vec(), b"tree/new/f".to_vec(), b"tree/same".to_vec()];
            expected.truncate(if compare.is_some() { 2 } else { 3 });
            assert_eq!(planned, expected);
            assert_eq!((r.failures.len(), r.stats.file_bytes_total), (0, 0), "{r:?}");
        }
    }
}

#[test]
fn a_file_that_changes_between_offer_and_want_is_sent_as_it_is_then() {
    let mut w = World::new(&scenario("delay=50ms", update(Compare::SizeAndTime)));
    w.client_store(0).insert_file(b"tree/f", pattern(1, 100), meta(9));
    let request =
        Request::Put { dest: Vec::new(), into_dir: true, overwrite: Overwrite::Always, no_resume: false };
    let key = w.request(0, request, &[b"tree"], None);
    w.run_for(Duration::from_millis(120));
    w.client_store(0).insert_file(b"tree/f", pattern(2, 40_000), meta(10));
    w.run().expect("ends");
    assert_eq!(w.report(0, key).closed, Some(CloseReason::Done));
    assert!(w.server_store().get(b"tree/f") == w.client_store(0).get(b"tree/f"));
}

/// A put of a stream of so many bytes, in chunks of 1 KiB.
fn put_stream(spec: &str, bytes: u64, fault: impl FnOnce(&mut World)) -> (World, Report) {
    let mut s = scenario(spec, SyncOptions::default());
    s.client.session.chunk_size = 1024;
    s.client.session.compress = [Compression::None, Compression::Lz4][bytes as usize % 2];
    let mut w = World::new(&s);
    w.client_store(0).insert_stream(pattern(1, bytes));
    fault(&mut w);
    let request = Request::Put {
        dest: b"in/x.tar".to_vec(),
        into_dir: false,
        overwrite: Overwrite::Never,
        no_resume: false,
    };
    let root = SourceRoot { location: Location::Stream, name: b"x.tar".to_vec() };
    let key = w.request_roots(0, request, vec![root], None);
    w.run().expect("ends");
    let report = w.report(0, key);
    (w, report)
}

#[test]
fn a_stream_of_any_length_arrives_whole() {
    for spec in ["delay=5ms", "delay=20ms,loss=15%,reorder=5%,dup=2%,rate=50mbit"] {
        for bytes in [0, 1, 1023, 1024, 1025, 2048, 100_001, 300_000] {
            let (mut w, r) = put_stream(spec, bytes, |_| {});
            assert_eq!((r.closed, r.failures.len()), (Some(CloseReason::Done), 0), "{spec}, {bytes}");
            let expected = pattern(1, bytes).read(0, bytes as usize);
            assert!(w.server_store().get(b"in/x.tar") == Some(expected), "{spec}, {bytes}");
            assert_eq!(r.stats.file_bytes_total, bytes);
            assert_eq!(r.stats.file_bytes_done, bytes);
            assert!(r.finished.iter().all(|(_, path, digest)| path == b"x.tar" && digest.is_some()));
        }
    }
}

#[test]
fn a_chunk_of_a_stream_that_came_wrong_is_sent_again() {
    for bytes in [10_240, 10_000] {
        let (mut w, r) = put_stream("delay=5ms", bytes, |w| w.server_store().flip_chunk_once(9));
        assert_eq!((r.closed, r.failures.len()), (Some(CloseReason::Done), 0));
        assert!(w.server_store().get(b"in/x.tar") == Some(pattern(1, bytes).read(0, bytes as usize)));
    }
}

#[test]
fn a_stream_beyond_the_servers_limit_or_disk_leaves_nothing() {
    let mut s = scenario("delay=5ms", SyncOptions::default());
    let config = s.server.server.as_mut().expect("a server");
    config.max_file_bytes = 50_000;
    let mut w = World::new(&s);
    w.client_store(0).insert_stream(pattern(1, 600_000));
    let request =
        Request::Put { dest: b"x".to_vec(), into_dir: false, overwrite: Overwrite::Never, no_resume: false };
    let root = SourceRoot { location: Location::Stream, name: b"x".to_vec() };
    let key = w.request_roots(0, request, vec![root], None);
    w.run().expect("ends");
    let r = w.report(0, key);
    assert_eq!(r.failures.len(), 1, "{r:?}");
    assert_eq!(r.failures[0].1.kind, crate::transfer::job::StoreErrorKind::Limit);
    let (mut w, r) = put_stream("delay=5ms", 300_000, |w| w.server_store().set_capacity(100_000));
    assert_eq!(r.failures[0].1.kind, crate::transfer::job::StoreErrorKind::NoSpace);
    assert!(w.server_store().get(b"in/x.tar").is_none());
    assert_eq!(w.server_store().partial_count(), (0, 0));
}
