//! Limits of a running transfer: by the clock, by a file that changes, on whichever side sends.

use crate::sshd::{Sshd, has_sshd};
use crate::support::{Lab, Running, need, noise, now, until};
use std::time::{Duration, Instant};

/// Bytes of the files here; at `SLOW` they would take more than a minute, without a limit some milliseconds.
const BYTES: usize = 8_000_000;
const SLOW: &str = "1mbit";
/// Far below what `SLOW` takes, far above what no limit takes.
const SOON: Duration = Duration::from_secs(30);

fn ends_soon(mut run: Running, begun: Instant) {
    assert_eq!(run.code(), Some(0), "{:?}", run.stderr.all());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

/// Runs for a second under the slow limit, and still runs.
fn is_slow(run: &mut Running, begun: Instant) {
    until("a second of it", || begun.elapsed() > Duration::from_secs(1));
    assert!(run.is_running(), "8 MB at 1 Mbit/s take longer: {:?}", run.stderr.all());
}

#[test]
fn a_file_changes_the_limit_of_a_running_put_and_get() {
    let lab = Lab::new();
    lab.write("a", noise(1, BYTES));
    let server = lab.serve(&[]);
    for (from, to) in [("a".to_owned(), server.address.clone()), (server.at("a"), "b".to_owned())] {
        let command = if from == "a" { "put" } else { "get" };
        lab.write("limit", SLOW);
        let begun = now();
        let mut run = lab.start(&[command, "--compress", "none", "--limit-file", "limit", &from, &to]);
        is_slow(&mut run, begun);
        // Nonsense changes nothing and is said.
        lab.write("limit", "quick");
        run.stderr.wait_for(&["the limit stays as it is", "quick"]);
        assert!(run.is_running());
        lab.write("limit", "off\n");
        ends_soon(run, begun);
    }
    assert!(lab.read("drop/a") == lab.read("a") && lab.read("b") == lab.read("a"));
}

#[test]
fn a_file_changes_the_limit_of_a_server() {
    let lab = Lab::new();
    lab.write("drop/a", noise(1, BYTES));
    lab.write("limit", "off");
    let server = lab.serve(&["--limit-file", "limit"]);
    lab.run(&["get", "-q", &server.at("a"), "fast"], 0);
    lab.write("limit", format!("# for now\n{SLOW}\n"));
    server.logs(&["the limit is now 1.0 Mbit/s"]);
    let begun = now();
    let mut one = lab.start(&["get", "-q", &server.at("a"), "one"]);
    let mut other = lab.start(&["get", "-q", &server.at("a"), "other"]);
    is_slow(&mut one, begun);
    assert!(other.is_running());
    lab.write("limit", "off");
    ends_soon(one, begun);
    ends_soon(other, begun);
    assert!(["fast", "one", "other"].iter().all(|name| lab.read(name) == lab.read("drop/a")));
}

#[test]
fn a_timetable_is_a_limit_by_the_clock_here() {
    let lab = Lab::new();
    lab.write("a", noise(1, BYTES));
    let server = lab.serve(&[]);
    // All day long, whatever time it is.
    let table = format!("00:00,{SLOW} 12:00,{SLOW}");
    let begun = now();
    let mut run = lab.start(&["put", "-q", "--limit", &table, "a", &server.address]);
    is_slow(&mut run, begun);
    drop(run);
    let begun = now();
    lab.run(&["put", "-q", "--limit", "00:00,off 12:00,1gbit", "a", &server.at("b")], 0);
    assert!(begun.elapsed() < SOON);
    lab.fails(&["put", "--limit", "8,1mbit", "a", &server.address], 2, &["--limit", "HH:MM"]);
    lab.fails(&["serve", "--limit-file", "none"], 2, &["--limit-file", "none", "no such file"]);
}

#[test]
fn a_plain_limit_holds_for_what_comes_too() {
    let lab = Lab::new();
    lab.write("drop/a", noise(1, 400_000));
    let server = lab.serve(&[]);
    let begun = now();
    lab.run(&["get", "-q", "--limit", "2mbit", &server.at("a"), "b"], 0);
    // 3.2 Mbit; what leaves before the limit is known there is small.
    assert!(begun.elapsed() > Duration::from_millis(1_200), "{:?}", begun.elapsed());
}

#[test]
fn copies_are_limited_both_ways() {
    need!(has_sshd(), "needs sshd (openssh-server) and ssh");
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    lab.write("a", noise(1, BYTES));
    for (from, to) in [("a", "box:a"), ("box:a", "b")] {
        lab.write("limit", SLOW);
        let begun = now();
        let mut command = sshd.cp(&lab, &["-q", "--compress", "none", "--limit-file", "limit", from, to]);
        let mut run = Running::start(&mut command);
        is_slow(&mut run, begun);
        lab.write("limit", "1gbit");
        ends_soon(run, begun);
    }
    assert!(lab.read("b") == lab.read("a"));
    // As scp has it.
    let begun = now();
    lab.write("small", noise(2, 300_000));
    let mut run = Running::start(&mut sshd.cp(&lab, &["-q", "-l", "2000", "small", "box:"]));
    assert_eq!(run.code(), Some(0));
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
}
