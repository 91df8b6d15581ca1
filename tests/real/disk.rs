//! A disk that is full, and one that was.

use crate::support::{FULMAR, Lab, Server, is_root, need, noise, works};
use std::path::PathBuf;
use std::process::Command;

const MOUNT: &str = "mount -t tmpfs -o size=4m,mode=755 tmpfs \"$1\" && shift && exec \"$@\"";

/// A server on a file system of 4 MiB that only it sees, and that is gone when it is.
fn on_a_small_disk(lab: &Lab) -> (Server, PathBuf) {
    let shell =
        ["--mount", "sh", "-c", MOUNT, "sh", "drop", FULMAR, "serve", "drop", "--listen", "127.0.0.1:0"];
    let server = Server::start(&mut lab.isolate(Command::new("unshare"), &shell));
    let seen = PathBuf::from(format!("/proc/{}/root", server.process.id()));
    let inside = lab.path("drop");
    (server, seen.join(inside.strip_prefix("/").expect("absolute")))
}

fn can_mount() -> bool {
    is_root() && works("unshare", &["--mount", "sh", "-c", "mount -t tmpfs tmpfs /tmp"])
}

#[test]
fn a_full_disk_is_code_5_and_the_server_goes_on() {
    need!(can_mount(), "needs root with the right to mount");
    let lab = Lab::new();
    let (server, inside) = on_a_small_disk(&lab);
    let names = || std::fs::read_dir(&inside).expect("seen").count();
    lab.write("big", noise(1, 8_000_000));
    lab.write("small", noise(2, 100_000));
    lab.fails(&["put", "big", &server.address], 5, &["big", "space"]);
    assert_eq!(names(), 0, "a partial that can never be finished only fills the disk");
    // There is room for another.
    lab.run(&["put", "-q", "small", &server.address], 0);
    assert_eq!(std::fs::read(inside.join("small")).expect("stored"), lab.read("small"));
    // What does not fit does not take the rest with it.
    let object = lab.json(&["put", "big", "small", &server.at("both/")], 5);
    assert_eq!((&object["files_ok"], &object["files_failed"]), (&1.into(), &1.into()));
    // An echo needs the room too.
    lab.fails(&["echo", "big", &server.address], 5, &["big", "space"]);
    assert!(!lab.has("received_big"));
    server.stop();
}

#[test]
fn a_full_disk_fails_the_small_files_of_a_tree_one_by_one() {
    need!(can_mount(), "needs root with the right to mount");
    let lab = Lab::new();
    let (server, inside) = on_a_small_disk(&lab);
    std::fs::create_dir(lab.path("tree")).expect("made");
    for n in 0..1_500 {
        lab.write(format!("tree/{n:04}"), noise(n, 4_096));
    }
    let object = lab.json(&["put", "tree", &server.address], 5);
    let (ok, failed) = (&object["files_ok"], &object["files_failed"]);
    assert_eq!(ok.as_u64().expect("a count") + failed.as_u64().expect("a count"), 1_500);
    assert!(failed.as_u64() > Some(400), "{failed}");
    // Each file that is there is whole, and each that was said to be stored is there.
    let mut stored = 0;
    for entry in std::fs::read_dir(inside.join("tree")).expect("seen") {
        let entry = entry.expect("readable");
        let name = entry.file_name().into_string().expect("UTF-8");
        assert_eq!(std::fs::read(entry.path()).expect("read"), lab.read(format!("tree/{name}")), "{name}");
        stored += 1;
    }
    assert_eq!(ok, stored);
    server.stop();
}

#[test]
fn a_full_disk_at_the_client() {
    need!(can_mount(), "needs root with the right to mount");
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("drop/big", noise(1, 8_000_000));
    std::fs::create_dir(lab.path("here")).expect("made");
    let shell = ["--mount", "sh", "-c", MOUNT, "sh", "here", FULMAR, "get", &server.at("big"), "here"];
    let mut command = lab.isolate(Command::new("unshare"), &shell);
    command.env("FULMAR_KEY_FILE", lab.path("state/fulmar/server.key"));
    let output = crate::support::checked(&["get"], command.output().expect("runs"), 5);
    crate::support::one_line(&output, &["big", "space"]);
    server.logs(&["ended"]);
}
