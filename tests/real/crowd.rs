//! Many clients at once, through losses and bit flips both ways.

use crate::support::{Lab, Running, Signal, all_succeed, noise, sixteen_up_and_down};

const BAD_LINK: &str = "loss=10%,corrupt=10%,loss-in=10%,corrupt-in=10%";

#[test]
fn thirty_two_clients_up_and_down_at_once() {
    let lab = Lab::new();
    let server = lab.serve(&["-q", "--sim", BAD_LINK]);
    sixteen_up_and_down(&lab, &server);
    assert_eq!(lab.names("drop").len(), 32, "nothing is left behind");
    // It is as good as new.
    lab.run(&["get", "-q", &server.at("up3"), "again"], 0);
    server.stop();
}

#[test]
fn bit_flips_are_never_a_wrong_key() {
    let lab = Lab::new();
    let server = lab.serve(&["-q", "--sim", BAD_LINK]);
    lab.write("a", noise(1, 1024));
    for round in 0..3 {
        let names: Vec<String> = (0..16).map(|n| format!("{round}-{n}")).collect();
        let mut clients: Vec<Running> =
            names.iter().map(|name| lab.start(&["put", "-q", "a", &server.at(name)])).collect();
        all_succeed(&mut clients);
    }
    assert_eq!(lab.names("drop").len(), 48);
}

#[test]
fn one_session_too_many_is_refused_with_a_sentence() {
    let lab = Lab::new();
    let server = lab.serve(&["--max-sessions", "1"]);
    lab.write("big", noise(1, 4_000_000));
    lab.write("small", "x");
    let mut slow = lab.start(&["put", "-q", "--limit", "2mbit", "big", &server.address]);
    server.logs(&["receiving big"]);
    lab.fails(&["put", "small", &server.address], 5, &["session"]);
    assert!(slow.is_running());
    slow.signal(Signal::TERM);
    assert_eq!(slow.code(), Some(143));
    // The place is free again.
    lab.run(&["put", "-q", "small", &server.address], 0);
}
