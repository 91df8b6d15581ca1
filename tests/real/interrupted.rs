//! Transfers that are killed, told to stop, or left alone: nothing shows under the final name, and whoever is left
//! ends cleanly.

use crate::support::{Lab, Signal, noise, until};
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
