//! `fulmar serve`: its address, its log, its start and what stops it from starting.

use crate::support::{Lab, need, noise, one_line};
use std::net::UdpSocket;

#[test]
fn port_0_is_a_free_port_and_stdout_has_one_line() {
    let lab = Lab::new();
    let one = lab.serve(&[]);
    let two = lab.serve(&[]);
    assert_ne!(one.address, two.address);
    for server in [one, two] {
        let stdout = server.process.stdout.clone();
        assert!(server.address.starts_with("127.0.0.1:") && !server.address.ends_with(":0"));
        server.stop();
        assert_eq!(stdout.all().len(), 1);
    }
}

#[test]
fn one_socket_serves_both_families() {
    need!(UdpSocket::bind("[::1]:0").is_ok(), "needs IPv6");
    let lab = Lab::new();
    lab.write("a", "content");
    let server = crate::support::Server::start(&mut lab.fulmar(&["serve", "drop", "--listen", "[::]:0"]));
    let port = server.address.rsplit(':').next().expect("a port");
    lab.run(&["put", "-q", "a", &format!("127.0.0.1:{port}/four")], 0);
    lab.run(&["put", "-q", "a", &format!("[::1]:{port}/six")], 0);
    lab.run(&["put", "-q", "-4", "a", &format!("localhost:{port}/name")], 0);
    assert_eq!(lab.names("drop"), ["four", "name", "six"]);
    lab.fails(&["put", "-6", "a", &format!("127.0.0.1:{port}/x")], 3, &["IPv6"]);
}

#[test]
fn the_log_tells_the_story_of_a_session() {
    let lab = Lab::new();
    let server = lab.serve(&["--sim", "loss=5%,corrupt-in=5%"]);
    let file = lab.write("photo", noise(1, 400_000));
    lab.run(&["put", "-q", "--client-id", "laboratory 3", "photo", &server.at("in/")], 0);
    server.logs(&["ended"]);
    let log = server.stop();
    let has = |words: &[&str]| log.iter().any(|line| words.iter().all(|word| line.contains(word)));
    for words in [
        &["listening on 127.0.0.1:", "serving drop"][..],
        &["connected from 127.0.0.1:", "laboratory 3"],
        &["put to /in"],
        &["receiving photo", "400000 bytes"],
        &["stored photo", "400000 bytes", &crate::support::sha256sum(&file)],
        &["ended", "400000 file bytes", "repaired", "corrupted", "NACKs", "RTT"],
        &["stopping"],
    ] {
        assert!(has(words), "no line with {words:?} in:\n{}", log.join("\n"));
    }
}

#[test]
fn noise_and_strangers_do_no_harm() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("bound");
    for len in [0, 1, 17, 200, 1200, 1472, 60_000] {
        for seed in 0..8 {
            stranger.send_to(&noise(seed, len), &server.address).expect("sent");
        }
    }
    lab.write("a", "content");
    lab.run(&["put", "-q", "a", &server.address], 0);
    server.stop();
}

#[test]
fn what_cannot_be_served_is_said_in_one_line() {
    let lab = Lab::new();
    lab.write("file", "x");
    let cases: &[(&[&str], i32, &str)] = &[
        (&["serve", "missing"], 5, "missing"),
        (&["serve", "file"], 5, "not a directory"),
        (&["serve", "--listen", "192.0.2.1:0"], 1, "192.0.2.1"),
        (&["serve", "--listen", "nonsense"], 2, "nonsense"),
        (&["serve", "--key-file", "missing"], 2, "missing"),
        (&["serve", "--sim", "loss=x"], 2, "--sim"),
        (&["serve", "--limit", "much"], 2, "much"),
    ];
    for (arguments, code, word) in cases {
        let output = lab.fulmar(arguments).output().expect("runs");
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty());
        one_line(&output, &[word]);
    }
}

#[test]
fn a_restart_has_the_same_port_and_key() {
    let lab = Lab::new();
    lab.write("a", noise(1, 50_000));
    let first = lab.serve(&[]);
    let address = first.address.clone();
    lab.run(&["put", "-q", "a", &first.at("one")], 0);
    first.stop();
    // The port is free at once, and the key is the same.
    let command = &mut lab.fulmar(&["serve", "drop", "--listen", &address]);
    let second = crate::support::Server::start(command);
    lab.run(&["put", "-q", "a", &second.at("two")], 0);
    assert_eq!(lab.names("drop"), ["one", "two"]);
}
