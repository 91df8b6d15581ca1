//! Comparing first: what is equal does not travel, and a dry run changes nothing.

use crate::support::{Lab, noise};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

/// A tree with small and big files, a link, and modes.
fn tree(lab: &Lab) {
    fs::create_dir_all(lab.path("tree/sub/empty")).expect("made");
    for i in 0..300 {
        lab.write(format!("tree/f{i}"), noise(i, 100 + i as usize * 7));
    }
    lab.write("tree/sub/big", noise(7, 900_000));
    lab.write("tree/sub/none", "");
    symlink("big", lab.path("tree/sub/link")).expect("made");
}

#[test]
fn a_second_update_sends_nothing_and_a_third_what_changed() {
    let lab = Lab::new();
    tree(&lab);
    for (get, checksum) in [(false, false), (true, false), (false, true)] {
        let server = lab.serve(&[]);
        let (from, to) = if get {
            (server.at("tree"), "back/".to_owned())
        } else {
            ("tree".into(), server.address.clone())
        };
        let command = if get { "get" } else { "put" };
        let option = if checksum { "--checksum" } else { "--update" };
        let again = || lab.json(&[command, option, &from, &to], 0);
        let first = again();
        // Before the digests are compared, all is there already, though some with another time.
        assert_eq!(first["files_ok"], if checksum { 0 } else { 303 }, "{first}");
        let second = again();
        assert_eq!((&second["files_ok"], &second["bytes"]), (&0.into(), &0.into()), "{second}");
        assert_eq!(second["files_unchanged"], 303);
        assert!(second["wire_bytes_sent"].as_u64() < Some(60_000), "{second}");
        if checksum {
            continue;
        }
        let source = if get { "drop/tree" } else { "tree" };
        lab.write(format!("{source}/f3"), "other");
        lab.write(format!("{source}/sub/new"), noise(1, 40_000));
        fs::set_permissions(lab.path(format!("{source}/f9")), fs::Permissions::from_mode(0o600))
            .expect("set");
        let third = again();
        assert_eq!((&third["files_ok"], &third["files_unchanged"]), (&2.into(), &302.into()), "{third}");
        let there = if get { "back/tree" } else { "drop/tree" };
        assert_eq!(lab.read(format!("{there}/f3")), b"other");
        assert_eq!(lab.read(format!("{there}/sub/new")), noise(1, 40_000));
        let mode = fs::metadata(lab.path(format!("{there}/f9"))).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600, "a mode alone needs no bytes");
        // As it was, for the next one.
        lab.write("tree/f3", noise(3, 121));
        lab.write("drop/tree/f3", noise(3, 121));
        let _ = fs::remove_file(lab.path("tree/sub/new"));
        let _ = fs::remove_file(lab.path("drop/tree/sub/new"));
    }
}

#[test]
fn a_dry_run_lists_and_touches_nothing() {
    let lab = Lab::new();
    tree(&lab);
    let server = lab.serve(&[]);
    let said = |arguments: &[&str]| String::from_utf8(lab.run(arguments, 0).stdout).expect("UTF-8");
    let stdout = said(&["put", "-n", "tree", &server.at("new/place/")]);
    assert!(stdout.contains("would send   tree/sub/big\n"), "{stdout}");
    assert!(stdout.contains("would make   tree/sub/\n"), "{stdout}");
    assert!(stdout.contains("nothing was changed"), "{stdout}");
    assert_eq!(lab.names("drop"), [""; 0]);
    lab.run(&["put", "-q", "tree", &server.address], 0);
    lab.write("tree/f5", "changed");
    let object = lab.json(&["put", "--update", "--dry-run", "tree", &server.address], 0);
    assert_eq!((&object["files_planned"], &object["files_unchanged"]), (&1.into(), &302.into()), "{object}");
    let files = object["files"].as_array().expect("a list");
    let sent: Vec<_> = files.iter().filter(|f| f["action"] == "send").collect();
    assert_eq!((sent.len(), &sent[0]["path"]), (1, &"tree/f5".into()));
    assert_ne!(lab.read("drop/tree/f5"), b"changed");
    // What could not be done is told too.
    lab.fails(&["put", "-n", "tree/f5", &server.at("tree/f5")], 5, &["f5 exists"]);
    let stdout = said(&["get", "-n", &server.at("tree"), "back"]);
    assert!(stdout.contains("would send   tree/f299\n"), "{stdout}");
    assert!(!lab.has("back"));
}

#[test]
fn what_is_excluded_stays_behind_both_ways() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("tree/target/deep")).expect("made");
    fs::create_dir_all(lab.path("tree/src/target")).expect("made");
    for name in ["a.o", "a.c", "keep.o", "target/deep/x", "src/b.o", "src/target/y", "src/notes.txt"] {
        lab.write(format!("tree/{name}"), name);
    }
    lab.write("tree/.gitignore", "*.txt\n/src/target/\n");
    let server = lab.serve(&[]);
    let options =
        ["--exclude", "*.o", "--include", "keep.o", "--exclude", "/target", "--ignore-file", ".gitignore"];
    let expected = [".gitignore", "a.c", "keep.o", "src"];
    let with = |line: [&'static str; 3]| line.into_iter().chain(options).collect::<Vec<_>>();
    let mut up = with(["put", "-q", "tree"]);
    let (to, from) = (server.at("up/"), server.at("all/tree"));
    up.push(&to);
    lab.run(&up, 0);
    assert_eq!(lab.names("drop/up/tree"), expected);
    assert_eq!(lab.names("drop/up/tree/src"), [""; 0]);
    lab.run(&["put", "-q", "tree", &server.at("all/")], 0);
    let mut down = with(["get", "-q", "--overwrite=never"]);
    down.extend([from.as_str(), "down/"]);
    lab.run(&down, 0);
    assert_eq!(lab.names("down/tree"), expected);
    assert_eq!(lab.names("down/tree/src"), [""; 0]);
    // Includes alone: only these files.
    lab.run(&["get", "-q", "--include", "*.c", &server.at("all/tree"), "c/"], 0);
    assert_eq!(
        (lab.names("c/tree"), lab.names("c/tree/src")),
        (vec!["a.c".into(), "src".into(), "target".into()], vec!["target".into()])
    );
    lab.fails(&["put", "--exclude", "{a", "tree", &server.address], 2, &["--exclude", "{a"]);
    lab.fails(&["get", "--ignore-file", "a/b", &server.at("all"), "x"], 2, &["a/b"]);
}

#[test]
fn what_the_source_lacks_is_removed_where_that_is_allowed() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("tree/sub")).expect("made");
    lab.write("tree/a", "a");
    lab.write("tree/sub/b", "b");
    let strict = lab.serve(&[]);
    lab.run(&["put", "-q", "tree", &strict.address], 0);
    lab.write("drop/beside", "not below what is sent");
    for name in ["old", "sub/old", "keep.o"] {
        lab.write(format!("drop/tree/{name}"), name);
    }
    fs::create_dir_all(lab.path("drop/tree/gone/deep")).expect("made");
    lab.write("drop/tree/gone/deep/x", "x");
    symlink("../../tree", lab.path("drop/tree/link")).expect("made");
    let before = lab.names("drop/tree");
    lab.fails(&["put", "--update", "--delete", "tree", &strict.address], 5, &["--allow-delete"]);
    assert_eq!(lab.names("drop/tree"), before);
    drop(strict);
    let server = lab.serve(&["--allow-delete"]);
    let put = |more: &[&'static str], code: i32| {
        let mut line = vec!["put", "--update", "--delete", "--exclude", "*.o"];
        line.extend(more);
        line.extend(["tree", &server.address]);
        lab.json(&line, code)
    };
    // A dry run tells; a source with a hole removes nothing.
    assert_eq!(put(&["-n"], 0)["files_removed"], 6);
    assert_eq!(lab.names("drop/tree"), before);
    let hole = put(&["missing"], 5);
    assert_eq!((&hole["files_removed"], lab.names("drop/tree")), (&0.into(), before));
    let object = put(&[], 0);
    assert_eq!(object["files_removed"], 6, "{object}");
    assert_eq!(lab.names("drop/tree"), ["a", "keep.o", "sub"], "what is excluded is not removed either");
    assert_eq!(
        (lab.names("drop/tree/sub"), lab.names("drop")),
        (vec!["b".into()], vec!["beside".into(), "tree".into()])
    );
    assert!(lab.has("tree/a"), "no link is followed");
    // The contents of a directory: then the destination itself is one of those that are sent. The same way down.
    lab.write("drop/tree/other", "other");
    lab.run(&["put", "-q", "--update", "--delete", "tree/.", &server.at("tree/")], 0);
    assert_eq!(lab.names("drop/tree"), ["a", "sub"]);
    fs::create_dir_all(lab.path("mirror/tree/sub")).expect("made");
    lab.write("mirror/tree/sub/extra", "x");
    lab.write("mirror/extra", "x");
    lab.run(&["get", "-q", "--delete", &server.at("tree"), "mirror/"], 0);
    assert_eq!(
        (lab.names("mirror"), lab.names("mirror/tree/sub")),
        (vec!["extra".into(), "tree".into()], vec!["b".into()])
    );
    lab.run(&["get", "-q", "--update", "--delete", &format!("{}/", server.address), "mirror/"], 0);
    assert_eq!(lab.names("mirror"), ["beside", "tree"]);
}

#[test]
fn modes_and_times_are_kept_or_not() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    fs::create_dir_all(lab.path("tree")).expect("made");
    for (name, bytes) in [("small", 10), ("big", 200_000)] {
        lab.write(format!("tree/{name}"), noise(1, bytes));
        fs::set_permissions(lab.path(format!("tree/{name}")), fs::Permissions::from_mode(0o751))
            .expect("set");
        let mut touch = std::process::Command::new("touch");
        let status =
            touch.args(["-d", "2001-02-03T04:05:06Z"]).arg(lab.path(format!("tree/{name}"))).status();
        assert!(status.expect("runs").success());
    }
    for (option, mode, old) in
        [("mode,times", true, true), ("times", false, true), ("mode", true, false), ("none", false, false)]
    {
        let dest = format!("{}/", option.replace(',', "-"));
        lab.run(&["put", "-q", "--preserve", option, "tree", &server.at(&dest)], 0);
        lab.run(&["get", "-q", "--preserve", option, &server.at(&format!("{dest}tree")), &dest], 0);
        for top in ["drop/", ""] {
            for name in ["small", "big"] {
                let meta = fs::metadata(lab.path(format!("{top}{dest}tree/{name}"))).expect("there");
                assert_eq!(meta.mode() & 0o777 == 0o751, mode, "{option}, {top}{name}: {:o}", meta.mode());
                assert_eq!(meta.mtime() == 981_173_106, old, "{option}, {top}{name}");
            }
        }
    }
}
