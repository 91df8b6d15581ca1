//! A server that is killed and started again while clients are at work: they finish by themselves.

use crate::support::{Lab, Server, Signal, noise, until};
use std::os::unix::process::ExitStatusExt;

const SIZE: usize = 16_000_000;
/// Some four seconds.
const PACE: [&str; 2] = ["--limit", "32mbit"];

fn kill(server: &mut Server) {
    server.process.signal(Signal::KILL);
    assert_eq!(server.process.end().signal(), Some(9));
}

/// A server on the same port, with the same key.
fn again(lab: &Lab, old: &Server) -> Server {
    Server::start(&mut lab.fulmar(&["serve", "drop", "--listen", &old.address, "--limit", "32mbit"]))
}

fn partial_bytes(lab: &Lab, directory: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let names = lab.names(directory).into_iter().filter(|name| name.ends_with(".part"));
    names.filter_map(|name| lab.path(directory).join(name).metadata().ok()).map(|m| m.blocks() * 512).sum()
}

#[test]
fn a_put_goes_on_by_itself_when_the_server_is_killed_and_started_again() {
    let lab = Lab::new();
    let mut server = lab.serve(&[]);
    lab.write("big", noise(3, SIZE));
    let mut client = lab.start(&[&["put", "--json"], &PACE[..], &["big", &server.address]].concat());
    for part in [1, 2] {
        until("a part of the file", || partial_bytes(&lab, "drop") > part * SIZE as u64 / 4);
        kill(&mut server);
        server = again(&lab, &server);
    }
    assert_eq!(client.code(), Some(0), "{:?}", client.stderr.all());
    assert!(lab.read("drop/big") == noise(3, SIZE));
    assert_eq!(lab.names("drop"), ["big"]);
    let json: serde_json::Value =
        serde_json::from_str(&client.stdout.all().join("\n")).expect("one JSON object");
    assert_eq!(json["files_ok"], 1);
    assert!(json["files"][0]["resumed_bytes"].is_null(), "no earlier run: {json}");
    // How many bytes that cost on a real link, tests/soak/kill-resume.sh shows: datagrams of 64 KiB are none.
    let line = server.logs(&["had come before"]);
    let before: u64 = line
        .split(" bytes of file")
        .next()
        .and_then(|l| l.rsplit(' ').next())
        .map_or(0, |n| n.parse().expect("a number"));
    assert!(before > SIZE as u64 / 4, "{line}");
    server.logs(&["stored big"]);
}

#[test]
fn a_get_goes_on_by_itself_when_the_server_is_killed_and_started_again() {
    let lab = Lab::new();
    let mut server = lab.serve(&PACE);
    lab.write("drop/big", noise(3, SIZE));
    std::fs::create_dir(lab.path("in")).expect("made");
    let mut client = lab.start(&["get", "-q", &server.at("big"), "in/"]);
    until("a part of the file", || partial_bytes(&lab, "in") > SIZE as u64 / 3);
    kill(&mut server);
    server = again(&lab, &server);
    assert_eq!(client.code(), Some(0), "{:?}", client.stderr.all());
    assert!(lab.read("in/big") == noise(3, SIZE));
    assert_eq!(lab.names("in"), ["big"]);
    server.stop();
}

#[test]
fn retry_waits_for_a_server_that_was_stopped_politely() {
    let lab = Lab::new();
    let mut server = lab.serve(&[]);
    lab.write("big", noise(3, SIZE));
    let options = ["put", "--retry", "5", "--connect-timeout", "2"];
    let mut client = lab.start(&[&options[..], &PACE[..], &["big", &server.address]].concat());
    until("a part of the file", || partial_bytes(&lab, "drop") > SIZE as u64 / 4);
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.code(), Some(0));
    server = again(&lab, &server);
    assert_eq!(client.code(), Some(0), "{:?}", client.stderr.all());
    assert!(lab.read("drop/big") == noise(3, SIZE));
    server.stop();
}

#[test]
fn retry_waits_for_a_server_that_is_not_there_yet() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let address = server.address.clone();
    server.stop();
    lab.write("a", "content");
    let mut client = lab.start(&["put", "--retry", "9", "--connect-timeout", "1", "a", &address]);
    client.stderr.wait_for(&["lost the server"]);
    let server = Server::start(&mut lab.fulmar(&["serve", "drop", "--listen", &address]));
    assert_eq!(client.code(), Some(0), "{:?}", client.stderr.all());
    assert_eq!(lab.read("drop/a"), b"content");
    server.stop();
}
