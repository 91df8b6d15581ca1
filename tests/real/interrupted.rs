//! Transfers that are killed, told to stop, or left alone: nothing shows under the final name, and whoever is left
//! ends cleanly.

use crate::support::{Lab, Running, Signal, noise, until};
use std::os::unix::process::ExitStatusExt;

/// Takes about 16 s when it is let.
const SLOW: [&str; 2] = ["--limit", "2mbit"];
const BIG: usize = 4_000_000;

#[test]
fn kill_9_of_the_client_in_mid_put() {
    let lab = Lab::new();
    let server = lab.serve(&["--timeout", "1"]);
    lab.write("big", noise(1, BIG));
    let mut client = lab.start(&[&["put"], &SLOW[..], &["big", &server.address]].concat());
    server.logs(&["receiving big"]);
    client.signal(Signal::KILL);
    assert_eq!(client.end().signal(), Some(9));
    server.logs(&["ended", "nothing heard for 1s"]);
    assert!(lab.visible("drop").is_empty());
    let listing = lab.run(&["ls", &server.address], 0);
    assert!(listing.stdout.is_empty(), "partials are hidden");
    // The same file again, at full speed.
    lab.run(&["put", "-q", "big", &server.address], 0);
    assert!(lab.read("drop/big") == noise(1, BIG));
    assert_eq!(lab.names("drop"), ["big"], "the partial became the file");
}

#[test]
fn kill_9_of_the_client_in_mid_get() {
    let lab = Lab::new();
    let server = lab.serve(&["--timeout", "1", "--limit", "2mbit"]);
    lab.write("drop/big", noise(1, BIG));
    let client = lab.start(&["get", &server.at("big"), "big"]);
    server.logs(&["sending big"]);
    client.signal(Signal::KILL);
    server.logs(&["ended", "nothing heard for 1s"]);
    assert!(!lab.has("big"));
}

#[test]
fn kill_9_of_the_server_in_mid_put() {
    let lab = Lab::new();
    let mut server = lab.serve(&[]);
    lab.write("big", noise(1, BIG));
    let mut client = lab.start(&[&["put", "--timeout", "1"], &SLOW[..], &["big", &server.address]].concat());
    server.logs(&["receiving big"]);
    server.process.signal(Signal::KILL);
    assert_eq!(server.process.end().signal(), Some(9));
    assert_eq!(client.code(), Some(3));
    let lines = client.stderr.all();
    assert!(lines.len() == 1 && lines[0].contains("nothing heard for 1s"), "{lines:?}");
    assert!(lab.visible("drop").is_empty());
    // A new server has no trouble with what the old one left.
    let server = lab.serve(&["-q"]);
    lab.run(&["put", "-q", "big", &server.address], 0);
    assert_eq!(lab.names("drop"), ["big"]);
}

#[test]
fn kill_9_of_the_server_in_mid_get_and_mid_echo() {
    let lab = Lab::new();
    let server = lab.serve(&["--limit", "4mbit"]);
    lab.write("drop/big", noise(1, BIG));
    lab.write("photo", noise(2, BIG));
    let get = lab.start(&["get", "--timeout", "1", &server.at("big"), "big"]);
    let echo = lab.start(&["echo", "--timeout", "1", "photo", &server.address]);
    server.logs(&["sending big"]);
    server.logs(&["sending photo"]);
    server.process.signal(Signal::KILL);
    for mut client in [get, echo] {
        assert_eq!(client.code(), Some(3));
        assert_eq!(client.stderr.all().len(), 1);
    }
    assert!(!lab.has("big") && !lab.has("received_photo"));
    // The echo's copy on the server goes with the next start.
    let server = lab.serve(&["-q"]);
    assert_eq!(lab.names("drop"), ["big"]);
    server.stop();
}

#[test]
fn sigterm_and_sigint_of_the_server_tell_the_client() {
    for signal in [Signal::TERM, Signal::INT] {
        let lab = Lab::new();
        let mut server = lab.serve(&[]);
        lab.write("big", noise(1, BIG));
        let mut client = lab.start(&[&["put"], &SLOW[..], &["big", &server.address]].concat());
        server.logs(&["receiving big"]);
        server.process.signal(signal);
        assert_eq!(server.process.code(), Some(0));
        // Long before the client's own time-out of 60 s.
        assert_eq!(client.code(), Some(3));
        let lines = client.stderr.all();
        assert!(lines.len() == 1 && lines[0].contains("ended the session"), "{lines:?}");
        assert!(lab.visible("drop").is_empty());
        let log = server.process.stderr.all();
        assert!(log.iter().any(|line| line.contains("stopping: 1 session")), "{log:?}");
    }
}

#[test]
fn sigterm_of_the_client_tells_the_server() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("big", noise(1, BIG));
    let mut client = lab.start(&[&["put"], &SLOW[..], &["big", &server.address]].concat());
    server.logs(&["receiving big"]);
    client.signal(Signal::TERM);
    assert_eq!(client.code(), Some(143));
    // Long before the server's own time-out of 60 s.
    server.logs(&["ended", "the peer ended the session"]);
    assert!(lab.visible("drop").is_empty());
}

/// Signals of a process that none of its threads has taken yet, as proc(5) has them; none when it is gone.
fn pending_signals(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap_or("0");
    u64::from_str_radix(mask.trim(), 16).expect("a mask")
}

#[test]
fn a_second_signal_ends_a_client_at_once() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("big", noise(1, BIG));
    // Last words take nearly half a second through this link, so that the second signal comes before they are out.
    let options = ["put", "--limit", "2mbit", "--sim", "delay=450ms"];
    let mut client = lab.start(&[&options[..], &["big", &server.address]].concat());
    server.logs(&["receiving big"]);
    client.signal(Signal::INT);
    // Two that are pending at once have no order.
    until("the first one to be taken", || pending_signals(client.id()) == 0);
    client.signal(Signal::TERM);
    // The first one alone would give 130.
    assert_eq!(client.code(), Some(143));
    assert!(lab.visible("drop").is_empty());
}

#[test]
fn a_server_without_clients_ends_at_once_with_0() {
    let lab = Lab::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = lab.serve(&[]);
        server.process.signal(signal);
        assert_eq!(server.process.code(), Some(0));
    }
    assert!(lab.names("drop").is_empty());
}

/// Some 20 MB that take about four seconds when they are let.
const LARGE: usize = 20_000_000;
const LARGE_PACE: [&str; 2] = ["--limit", "40mbit"];

/// Bytes of file data that a killed run has left, by the size of its journal: 8 bytes for a chunk of 256 KiB.
fn journaled(lab: &Lab, directory: &str) -> u64 {
    let journal = lab.names(directory).into_iter().find(|name| name.ends_with(".journal"));
    let journal = journal.map(|name| lab.path(directory).join(name));
    let bytes = journal.and_then(|path| std::fs::metadata(path).ok()).map_or(0, |meta| meta.len());
    bytes.saturating_sub(64) / 8 * 262_144
}

/// What a run that had `before` bytes to go on with may send, and what it must say about it.
fn assert_resumed(json: &serde_json::Value, wire_bytes: u64, before: u64) {
    let resumed = json["files"][0]["resumed_bytes"].as_u64().unwrap_or(0);
    // Not quite all that the journal has room for: chunks arrive out of order, and some come again before the
    // sender knows: on the loopback interface, megabytes. Headers and feedback make up for a tenth.
    let most = (LARGE as u64 - resumed) * 11 / 10 + 4_000_000;
    assert!(resumed > before / 2, "{resumed} of {before} bytes resumed");
    assert!(wire_bytes < most && wire_bytes < LARGE as u64, "{wire_bytes} bytes sent, {resumed} resumed");
}

/// Runs `put` or `get`, slowly, and lets `kill` strike when a fifth, two fifths and three fifths of the file have come.
/// Returns what the last one has left.
fn break_off(
    lab: &Lab,
    into: &str,
    mut begin: impl FnMut() -> Running,
    mut kill: impl FnMut(Running),
) -> u64 {
    for part in 1..4 {
        let client = begin();
        until("a part of the file", || journaled(lab, into) > part * LARGE as u64 / 5);
        kill(client);
    }
    journaled(lab, into)
}

#[test]
fn a_put_whose_client_is_killed_goes_on_where_it_was() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("large", noise(3, LARGE));
    let put = || lab.start(&[&["put"], &LARGE_PACE[..], &["large", &server.address]].concat());
    let before = break_off(&lab, "drop", put, |mut client| {
        client.signal(Signal::KILL);
        assert_eq!(client.end().signal(), Some(9));
    });
    // At once: the server still has the sessions of the dead ones.
    let json = lab.json(&["put", "large", &server.address], 0);
    assert_resumed(&json, json["wire_bytes_sent"].as_u64().expect("a number"), before);
    assert!(lab.read("drop/large") == noise(3, LARGE));
    assert_eq!(lab.names("drop"), ["large"]);
}

#[test]
fn a_put_whose_server_is_killed_goes_on_where_it_was() {
    let lab = Lab::new();
    lab.write("large", noise(3, LARGE));
    let server = std::cell::RefCell::new(lab.serve(&[]));
    let put = || {
        let address = server.borrow().address.clone();
        lab.start(&[&["put", "--timeout", "1"], &LARGE_PACE[..], &["large", &address]].concat())
    };
    let before = break_off(&lab, "drop", put, |mut client| {
        server.borrow().process.signal(Signal::KILL);
        assert_eq!(client.code(), Some(3));
        *server.borrow_mut() = lab.serve(&[]);
    });
    let address = server.borrow().address.clone();
    let json = lab.json(&["put", "large", &address], 0);
    assert_resumed(&json, json["wire_bytes_sent"].as_u64().expect("a number"), before);
    assert!(lab.read("drop/large") == noise(3, LARGE));
    assert_eq!(lab.names("drop"), ["large"]);
}

#[test]
fn a_get_whose_client_is_killed_goes_on_where_it_was() {
    let lab = Lab::new();
    let server = lab.serve(&LARGE_PACE);
    lab.write("drop/large", noise(3, LARGE));
    std::fs::create_dir(lab.path("in")).expect("made");
    let get = || lab.start(&["get", &server.at("large"), "in/"]);
    let before = break_off(&lab, "in", get, |mut client| {
        client.signal(Signal::KILL);
        assert_eq!(client.end().signal(), Some(9));
    });
    server.stop();
    let server = lab.serve(&[]);
    let json = lab.json(&["get", &server.at("large"), "in/"], 0);
    assert_resumed(&json, json["wire_bytes_received"].as_u64().expect("a number"), before);
    assert!(lab.read("in/large") == noise(3, LARGE));
    assert_eq!(lab.names("in"), ["large"]);
}

#[test]
fn no_resume_and_partial_ttl_forget_what_there_was() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("large", noise(3, LARGE));
    let put = || lab.start(&[&["put"], &LARGE_PACE[..], &["large", &server.address]].concat());
    break_off(&lab, "drop", put, |mut client| {
        client.signal(Signal::TERM);
        assert_eq!(client.code(), Some(143));
    });
    let server = lab.serve(&["--partial-ttl", "1h"]);
    assert!(journaled(&lab, "drop") > 0);
    let json = lab.json(&["put", "--no-resume", "large", &server.address], 0);
    assert!(json["files"][0]["resumed_bytes"].is_null(), "{json}");
    assert_eq!(lab.names("drop"), ["large"]);
    lab.write("drop/.fulmar-0123456789abcdef01234567.part", b"x");
    server.stop();
    lab.serve(&["--partial-ttl", "0"]).stop();
    assert_eq!(lab.names("drop"), ["large"]);
}

/// Most files of a tree are there, under their names, when it is broken off: the same command is not refused because of them.
#[test]
fn a_tree_goes_on_where_it_was() {
    let lab = Lab::new();
    let server = lab.serve(&["--limit", "20mbit"]);
    std::fs::create_dir(lab.path("tree")).expect("made");
    for i in 0..200 {
        lab.write(format!("tree/f{i}"), noise(i, 3_000));
    }
    lab.write("tree/z", noise(7, BIG));
    let path = server.at("tree");
    std::fs::create_dir(lab.path("back")).expect("made");
    for (words, arrived) in
        [(["put", "-q", "tree", &server.address], "drop/tree"), (["get", "-q", &path, "back"], "back/tree")]
    {
        let mut client = lab.start(&words);
        until("some files", || lab.has(arrived) && lab.visible(arrived).len() > 20);
        client.signal(Signal::KILL);
        assert_eq!(client.end().signal(), Some(9), "it was too quick");
        lab.run(&words, 0);
        assert_eq!(lab.visible(arrived), lab.visible("tree"));
        for name in lab.visible("tree") {
            assert!(lab.read(format!("tree/{name}")) == lab.read(format!("{arrived}/{name}")), "{name}");
        }
        // It came to its end: what stands there now is somebody's.
        let refused = lab.run(&words, 5);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("exists"));
    }
}
