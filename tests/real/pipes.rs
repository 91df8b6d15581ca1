//! Standard input and output as source and destination.

use crate::support::{Lab, Signal, checked, noise, one_line, until};
use std::io::{Read, Write};
use std::process::{Output, Stdio};

/// A put of these bytes from a pipe.
fn put(lab: &Lab, bytes: &[u8], arguments: &[&str], code: i32) -> Output {
    let mut command = lab.client(arguments);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("runs");
    let mut stdin = child.stdin.take().expect("piped");
    // It may end before it has read all.
    let _ = stdin.write_all(bytes);
    drop(stdin);
    checked(arguments, child.wait_with_output().expect("ends"), code)
}

#[test]
fn a_pipe_goes_up_and_comes_down() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    for (len, name) in [(0, "none"), (5, "few"), (262_144, "one chunk"), (3_000_000, "many")] {
        let bytes = noise(len as u64, len);
        put(&lab, &bytes, &["put", "-q", "-", &server.at(name)], 0);
        assert!(lab.read(format!("drop/{name}")) == bytes, "{name}");
        let output = lab.client(&["get", "--json", &server.at(name), "-"]).output().expect("runs");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == bytes, "{name}");
        let object: serde_json::Value =
            serde_json::from_slice(&output.stderr).expect("the object is on stderr");
        assert_eq!(object["bytes"], len);
    }
    // Text, which is compressed on the way, through a link that loses and corrupts.
    let text = "so many words and so few letters\n".repeat(60_000).into_bytes();
    let sim = ["--sim", "loss=5%,corrupt=3%,loss-in=5%"];
    put(&lab, &text, &["put", "-q", "-", &server.at("text"), sim[0], sim[1]], 0);
    let output = lab.run(&["get", "-q", &server.at("text"), "-", sim[0], sim[1]], 0);
    assert!(output.stdout == text);
}

#[test]
fn what_cannot_be_piped_is_said() {
    let lab = Lab::new();
    let server = lab.serve(&["--max-file-size", "100KiB"]);
    for (arguments, words) in [
        (vec!["put", "-", &server.address], "has no name"),
        (vec!["put", "-", "x", &server.at("y")], "together with files"),
        (vec!["put", "--update", "-", &server.at("y")], "--update"),
        (vec!["get", &server.address, "-"], "takes one file"),
    ] {
        lab.fails(&arguments, 2, &[words]);
    }
    std::fs::create_dir(lab.path("drop/dir")).expect("made");
    one_line(&lab.run(&["get", &server.at("dir"), "-"], 5), &["dir", "not a file"]);
    let output = put(&lab, &noise(1, 400_000), &["put", "-", &server.at("big")], 5);
    one_line(&output, &["big", "longer than"]);
    lab.write("drop/there", "old");
    one_line(&put(&lab, b"new", &["put", "-", &server.at("there")], 5), &["there exists"]);
    assert_eq!(lab.read("drop/there"), b"old");
    assert_eq!(lab.names("drop"), ["dir", "there"], "nothing half-done is left");
}

#[test]
fn an_interrupted_stream_leaves_nothing_and_a_gone_reader_is_an_error() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    // A source that never ends: the signal must end it all the same.
    let mut command = lab.client(&["put", "-q", "-", &server.at("x")]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(&noise(1, 1_000_000)).expect("taken");
    server.logs(&["receiving x"]);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).expect("it runs");
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    drop(stdin);
    until("the end of what had come", || lab.names("drop").is_empty());
    // A reader that has seen enough.
    lab.write("drop/big", noise(2, 8_000_000));
    let mut command = lab.client(&["get", "-q", &server.at("big"), "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut stdout = child.stdout.take().expect("piped");
    let mut head = [0; 10];
    stdout.read_exact(&mut head).expect("some");
    drop(stdout);
    let output = child.wait_with_output().expect("ends");
    one_line(&output, &["standard output", "has gone"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(head, noise(2, 10)[..]);
}
