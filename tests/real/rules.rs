//! What a server allows: overwriting, writing at all, sizes; and the walls of the served directory.

use crate::support::{Lab, noise};
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn overwriting_is_asked_for_and_may_be_refused() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let (old, new) = (noise(1, 200_000), noise(2, 300_000));
    lab.write("drop/a", &old);
    lab.write("a", &new);
    lab.fails(&["put", "a", &server.address], 5, &["a exists", "--overwrite always"]);
    lab.fails(&["put", "--overwrite", "never", "a", &server.address], 5, &["a exists"]);
    assert!(lab.read("drop/a") == old);
    lab.run(&["put", "-q", "--overwrite", "always", "a", &server.address], 0);
    assert!(lab.read("drop/a") == new);
    // The same on the way down.
    lab.write("b", &old);
    lab.fails(&["get", &server.at("a"), "b"], 5, &["b exists", "--overwrite always"]);
    assert!(lab.read("b") == old);
    lab.run(&["get", "-q", "--overwrite", "always", &server.at("a"), "b"], 0);
    assert!(lab.read("b") == new);
    // A server has the last word.
    let strict = lab.serve(&["--overwrite", "never"]);
    lab.write("a", &old);
    lab.fails(&["put", "--overwrite", "always", "a", &strict.address], 5, &["a"]);
    assert!(lab.read("drop/a") == new);
    assert_eq!(lab.names("drop"), ["a"]);
}

#[test]
fn a_tree_goes_into_one_that_is_there() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    fs::create_dir_all(lab.path("tree/sub")).expect("made");
    lab.write("tree/old", "old");
    lab.run(&["put", "-q", "tree", &server.address], 0);
    lab.write("tree/sub/new", "new");
    let object = lab.json(&["put", "tree", &server.address], 5);
    assert_eq!((&object["files_ok"], &object["files_failed"]), (&1.into(), &1.into()));
    assert_eq!(lab.read("drop/tree/sub/new"), b"new");
    // A file where a directory stands, and the other way round.
    lab.write("sub", "file");
    lab.fails(&["put", "sub", "--overwrite", "always", &server.at("tree/")], 5, &["sub"]);
    fs::create_dir(lab.path("old")).expect("made");
    lab.write("old/x", "x");
    lab.run(&["put", "old", "--overwrite", "always", &server.at("tree/")], 5);
    assert_eq!(lab.read("drop/tree/old"), b"old");
}

#[test]
fn read_only_means_that() {
    let lab = Lab::new();
    let server = lab.serve(&["--read-only"]);
    lab.write("a", "content");
    lab.write("drop/b", "there");
    lab.fails(&["put", "a", &server.address], 5, &["read-only"]);
    lab.fails(&["echo", "a", &server.address], 5, &["read-only"]);
    lab.run(&["get", "-q", &server.at("b"), "."], 0);
    assert_eq!(lab.read("b"), b"there");
    assert_eq!(lab.names("drop"), ["b"]);
}

#[test]
fn files_may_be_too_large() {
    let lab = Lab::new();
    let server = lab.serve(&["--max-file-size", "100000"]);
    for (name, len) in [("fits", 100_000), ("too_large", 100_001), ("tiny", 10)] {
        lab.write(name, noise(1, len));
    }
    let object = lab.json(&["put", "fits", "too_large", "tiny", &server.at("in/")], 5);
    let errors: Vec<_> =
        object["files"].as_array().expect("a list").iter().filter(|f| f.get("error").is_some()).collect();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0]["path"], "too_large");
    assert_eq!(lab.names("drop/in"), ["fits", "tiny"]);
}

#[test]
fn nothing_leads_out_of_the_served_directory() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("secret", "secret");
    lab.write("a", "content");
    fs::create_dir(lab.path("outside")).expect("made");
    symlink("../secret", lab.path("drop/link")).expect("linked");
    symlink("../outside", lab.path("drop/door")).expect("linked");
    symlink(lab.path("secret"), lab.path("drop/absolute")).expect("linked");
    for path in ["../secret", "x/../../secret", "door/../../secret"] {
        lab.fails(&["get", &server.at(path), "out"], 5, &["secret"]);
        lab.fails(&["put", "a", &server.at(path)], 5, &[]);
        lab.run(&["ls", &server.at(path)], 5);
    }
    for path in ["link", "absolute"] {
        // What a link points to outside is not sent, whether it goes as a link or is refused.
        let output = lab.client(&["get", "-q", &server.at(path), "out"]).output().expect("runs");
        let arrived = fs::symlink_metadata(lab.path("out"));
        assert!(!arrived.is_ok_and(|meta| meta.is_file()), "{output:?}");
        let _ = fs::remove_file(lab.path("out"));
    }
    lab.run(&["put", "a", &server.at("door/")], 5);
    lab.run(&["put", "a", &server.at("door/a")], 5);
    lab.fails(&["put", "--overwrite", "always", "-q", "a", &server.at("link")], 5, &["link"]);
    assert_eq!(lab.read("secret"), b"secret");
    assert!(lab.names("outside").is_empty());
    assert_eq!(lab.names(""), ["a", "drop", "outside", "secret", "state"]);
}

#[test]
fn names_kept_for_partials_are_refused_and_hidden() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("a", "content");
    lab.write("drop/.fulmar-0123456789abcdef01234567.part", "half");
    lab.fails(&["put", "a", &server.at(".fulmar-x")], 5, &[".fulmar-"]);
    lab.fails(&["get", &server.at(".fulmar-0123456789abcdef01234567.part"), "b"], 5, &[".fulmar-"]);
    assert!(lab.run(&["ls", &server.address], 0).stdout.is_empty());
}
