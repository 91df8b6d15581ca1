//! What goes wrong beneath a transfer: no more open files, a directory that is gone, a source that is another one by now.

use crate::support::{FULMAR, Lab, Running, Server, Signal, noise, until};
use std::fs;
use std::process::Command;

/// A server that may have so many files open, sockets and directories included.
fn with_few_files(lab: &Lab, files: u32, options: &[&str]) -> Server {
    let shell = format!("ulimit -n {files}; exec \"$@\"");
    let command = ["-c", &shell, "sh", FULMAR, "serve", "drop", "--listen", "127.0.0.1:0"];
    Server::start(&mut lab.isolate(Command::new("sh"), &[&command[..], options].concat()))
}

#[test]
fn too_many_open_files_fail_some_transfers_and_leave_the_others_alone() {
    let lab = Lab::new();
    let server = with_few_files(&lab, 64, &["--limit", "40mbit"]);
    let size = 1_000_000;
    let names: Vec<[String; 2]> = (0..24).map(|n| [format!("a{n}"), format!("b{n}")]).collect();
    for (n, pair) in (0..).zip(&names) {
        lab.write(&pair[0], noise(2 * n, size));
        lab.write(&pair[1], noise(2 * n + 1, size));
    }
    let put = |pair: &[String; 2]| lab.start(&["put", "-q", &pair[0], &pair[1], &server.address]);
    // Each has two files and their journals open, and a directory: far more than 64 in all.
    let mut clients: Vec<Running> = names.iter().map(put).collect();
    let (mut well, mut badly) = (0, 0);
    for (client, pair) in clients.iter_mut().zip(&names) {
        let (code, lines) = (client.code(), client.stderr.all());
        if code == Some(0) {
            assert!(lines.is_empty(), "{lines:?}");
            assert!(pair.iter().all(|name| lab.read(name) == lab.read(format!("drop/{name}"))));
            well += 1;
            continue;
        }
        // 1: a file could not be written; 5: the destination could not be used.
        assert!(matches!(code, Some(1 | 5)), "{code:?}: {lines:?}");
        let clear = |line: &String| line.contains("too many open files") && line.contains("ulimit -n");
        assert!(!lines.is_empty() && lines.iter().all(clear), "{lines:?}");
        badly += 1;
    }
    assert!(well > 0 && badly > 0, "{well} well, {badly} badly");
    // What they held is free again. Files that did come are in the way of their own repetition.
    for pair in &names {
        lab.run(&["put", "-q", "--overwrite", "always", &pair[0], &pair[1], &server.address], 0);
        assert!(pair.iter().all(|name| lab.read(name) == lab.read(format!("drop/{name}"))));
    }
    assert_eq!(lab.names("drop").len(), 48, "nothing hidden is left");
    server.stop();
}

#[test]
fn a_destination_that_is_removed_fails_its_files_and_no_others() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    fs::create_dir(lab.path("tree")).expect("made");
    lab.write("tree/big", noise(1, 4_000_000));
    lab.write("other", noise(2, 2_000_000));
    let slow = ["--limit", "8mbit", "--progress", "never"];
    let mut lost = lab.start(&[&["put"], &slow[..], &["tree", &server.at("gone/")]].concat());
    let mut kept = lab.start(&[&["put"], &slow[..], &["other", &server.at("kept/")]].concat());
    until("the partial", || lab.path("drop/gone/tree").is_dir() && !lab.names("drop/gone/tree").is_empty());
    fs::remove_dir_all(lab.path("drop/gone")).expect("removed");
    assert_eq!(lost.code(), Some(5), "{:?}", lost.stderr.all());
    let lines = lost.stderr.all();
    assert!(lines.iter().any(|line| line.contains("tree/big")), "{lines:?}");
    assert!(!lab.has("drop/gone/tree/big"));
    assert_eq!(kept.code(), Some(0), "{:?}", kept.stderr.all());
    assert!(lab.read("drop/kept/other") == noise(2, 2_000_000));
    // Once more, and all is well.
    lab.run(&["put", "-q", "tree", &server.at("gone/")], 0);
    assert!(lab.read("drop/gone/tree/big") == noise(1, 4_000_000));
    assert_eq!(lab.names("drop/gone/tree"), ["big"]);
    server.stop();
}

#[test]
fn a_source_directory_that_is_removed_fails_what_was_in_it() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    fs::create_dir_all(lab.path("tree/a")).expect("made");
    // Larger than what is read ahead.
    fs::File::create(lab.path("tree/a/big")).expect("made").set_len(1 << 30).expect("sparse");
    lab.write("tree/z", noise(3, 300_000));
    let options = ["--limit", "100mbit", "--compress", "none", "--progress", "never"];
    let mut client = lab.start(&[&["put"], &options[..], &["tree", &server.address]].concat());
    server.logs(&["receiving tree/a/big"]);
    // The handle stays good, so cut it off before it goes: as a program does that writes it anew.
    fs::File::options().write(true).open(lab.path("tree/a/big")).expect("there").set_len(1).expect("cut");
    fs::remove_dir_all(lab.path("tree/a")).expect("removed");
    assert_eq!(client.code(), Some(6));
    let lines = client.stderr.all();
    assert!(lines.iter().all(|line| line.contains("tree/a/big")) && !lines.is_empty(), "{lines:?}");
    assert!(lab.read("drop/tree/z") == noise(3, 300_000), "the rest has come");
    assert!(!lab.has("drop/tree/a/big"));
    server.stop();
}

/// Bytes of the same size and another time are another file: nothing of the old one may end up in the new one.
#[test]
fn a_source_that_changed_between_two_runs_arrives_as_it_is_now() {
    let lab = Lab::new();
    let server = lab.serve(&["--timeout", "1"]);
    let size = 6_000_000;
    lab.write("big", noise(1, size));
    let mut client = lab.start(&["put", "--limit", "16mbit", "--progress", "never", "big", &server.address]);
    until("some chunks", || {
        let journal = lab.names("drop").into_iter().find(|name| name.ends_with(".journal"));
        journal.is_some_and(|name| fs::metadata(lab.path("drop").join(name)).is_ok_and(|m| m.len() > 64 + 40))
    });
    client.signal(Signal::KILL);
    client.end();
    // Until then the name is kept for what was being sent.
    server.logs(&["ended"]);
    let mut changed = noise(1, size);
    changed[size / 2] ^= 1;
    changed[10] ^= 1;
    lab.write("big", &changed);
    lab.run(&["put", "-q", "big", &server.address], 0);
    assert!(lab.read("drop/big") == changed);
    assert_eq!(lab.names("drop"), ["big"]);
    server.stop();
}
