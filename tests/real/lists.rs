//! `--files-from`: what a list names arrives under its own path, whatever the names are like.

use crate::sshd::{Sshd, has_sshd};
use crate::support::{Lab, checked, need, object, one_line};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Names that a shell, a terminal or a careless parser would trip over.
const NAMES: [&[u8]; 9] = [
    b"plain",
    b" two words ",
    b"q'u\"ote",
    b"$(touch pwned)",
    b"-rf",
    b"*[a]?",
    b"#no comment",
    b"\xff\xfe",
    b"deep/er/file",
];
/// And one that only a list with NULs can hold.
const LINE_END: &[u8] = b"new\nline";

/// A tree with these files, each holding its name, and one that no list names.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("deep/er")).expect("made");
    fs::create_dir_all(root.join("whole/in")).expect("made");
    for name in NAMES.into_iter().chain([LINE_END, b"whole/in/x", b"unnamed", b"deep/unnamed"]) {
        fs::write(root.join(OsStr::from_bytes(name)), name).expect("written");
    }
}

fn same(root: &Path, zero: bool) {
    for name in NAMES.into_iter().chain([LINE_END].into_iter().filter(|_| zero)) {
        let shown = String::from_utf8_lossy(name);
        let content = fs::read(root.join(OsStr::from_bytes(name))).unwrap_or_else(|e| panic!("{shown}: {e}"));
        assert_eq!(content, name, "{shown}");
    }
    assert_eq!(fs::read(root.join("whole/in/x")).expect("there"), b"whole/in/x");
    assert!(!root.join("unnamed").exists() && !root.join("deep/unnamed").exists());
    assert_eq!(root.join("new\nline").exists(), zero);
}

fn list(zero: bool) -> Vec<u8> {
    let end = if zero { b"\0" } else { b"\n" };
    let mut names: Vec<&[u8]> = NAMES.to_vec();
    // The directory, and something inside it that goes with it.
    names.extend([&b"./whole/"[..], b"whole/in/x"]);
    if zero {
        names.push(LINE_END);
    }
    names.join(&end[..])
}

/// With the list on stdin.
fn piped(mut command: Command, input: &[u8], code: i32) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), input).expect("written");
    checked(&["from stdin"], child.wait_with_output().expect("ends"), code)
}

#[test]
fn put_and_get_take_what_a_list_names() {
    let lab = Lab::new();
    tree(&lab.path("src"));
    lab.write("lines", list(false));
    lab.write("zeros", list(true));
    let server = lab.serve(&[]);
    lab.run(&["put", "-q", "--files-from", "lines", "src", &server.at("lines")], 0);
    same(&lab.path("drop/lines"), false);
    lab.run(&["put", "-q", "-0", "--files-from", "zeros", "src/", &server.at("zeros/")], 0);
    same(&lab.path("drop/zeros"), true);
    lab.run(&["get", "-q", "--from0", "--files-from", "zeros", &server.at("zeros"), "back/"], 0);
    same(&lab.path("back"), true);
    // All that is served is a base as well.
    lab.write("one", "zeros/deep/er/file\n");
    lab.run(&["get", "-q", "--files-from", "one", &server.address, "back/"], 0);
    assert_eq!(lab.read("back/zeros/deep/er/file"), b"deep/er/file");
    // From stdin, relative to this directory.
    let put = lab.client(&["put", "--json", "--files-from", "-", &server.at("stdin/")]);
    let object = object(&piped(put, b"src/plain\nsrc/deep\n", 0));
    assert_eq!(object["files_ok"], 3, "{object}");
    assert_eq!(lab.read("drop/stdin/src/deep/unnamed"), b"deep/unnamed");
    // The second time nothing need be sent.
    let again = lab.json(&["put", "-u", "--files-from", "lines", "src", &server.at("lines")], 0);
    assert_eq!((&again["files_ok"], &again["files_unchanged"]), (&0.into(), &10.into()), "{again}");
}

#[test]
fn what_is_wrong_with_a_list_names_it_and_its_line() {
    let lab = Lab::new();
    tree(&lab.path("src"));
    let server = lab.serve(&[]);
    lab.write("list", "plain\n\nmissing\ndeep/er/file\n");
    let output = lab.run(&["put", "-q", "--files-from", "list", "src", &server.address], 5);
    one_line(&output, &["list:3: cannot read src/missing", "no such file"]);
    assert_eq!(
        (lab.read("drop/plain"), lab.read("drop/deep/er/file")),
        (b"plain".to_vec(), b"deep/er/file".to_vec())
    );
    for (content, words) in [
        ("a\n/etc/passwd\n", ["list:2:", "relative to SRC"]),
        ("../x\n", ["list:1:", "leads out of SRC"]),
        ("a\0b\0", ["list:1:", "-0"]),
        ("\n\n", ["list", "names nothing"]),
    ] {
        lab.write("list", content);
        lab.fails(&["put", "--files-from", "list", "src", &server.address], 2, &words);
    }
    lab.fails(&["put", "--files-from", "no/list", "src", &server.address], 2, &["no/list", "no such file"]);
    lab.write("list", "plain\n");
    lab.fails(&["put", "--files-from", "list", "src", "src", &server.address], 2, &["one SRC"]);
    lab.fails(&["put", "-0", "src", &server.address], 2, &["--files-from"]);
    lab.write("list", "plain\nmissing\n");
    let output = lab.run(&["get", "-q", "--files-from", "list", &server.address, "out/"], 5);
    one_line(&output, &["missing"]);
    assert_eq!(lab.read("out/plain"), b"plain");
    let many: String = (0..2000).map(|i| format!("file-{i}\n")).collect();
    lab.write("list", many);
    lab.fails(
        &["get", "--files-from", "list", &server.address, "out/"],
        2,
        &["list has 2000 names", "fulmar cp"],
    );
}

#[test]
fn copies_take_what_a_list_names() {
    need!(has_sshd(), "needs sshd (openssh-server) and ssh");
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    tree(&lab.path("src"));
    lab.write("zeros", list(true));
    let cp = |arguments: &[&str], code: i32| {
        checked(arguments, sshd.cp(&lab, arguments).output().expect("runs"), code)
    };
    cp(&["-rq0", "--files-from", "zeros", "src", "box:up/"], 0);
    same(&lab.path("home/up"), true);
    cp(&["-rq0", "--files-from", "zeros", "box:up", "down/"], 0);
    same(&lab.path("down"), true);
    assert!(!lab.has("pwned") && !lab.has("home/pwned"));
    // Both ways an error names its line; a directory needs -r here too.
    lab.write("list", "plain\nwhole\nmissing\n");
    for (from, to) in [("src", "box:some/"), ("box:up", "some/")] {
        let output = cp(&["-q", "--files-from", "list", from, to], 5);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("list:2: ") && said.contains("add -r") && said.contains("list:3: "), "{said}");
        assert_eq!(said.lines().count(), 2, "{said}");
    }
    assert_eq!(
        (lab.names("home/some"), lab.names("some")),
        (vec!["plain".to_owned()], vec!["plain".to_owned()])
    );
    let output = piped(sshd.cp(&lab, &["-q", "--files-from", "-", "box:up", "piped/"]), b"plain\n", 0);
    assert!(output.stderr.is_empty());
    assert_eq!(lab.names("piped"), ["plain"]);
    let output = cp(&["--files-from", "list", "box:a", "box:b", "some"], 2);
    one_line(&output, &["one SRC"]);
}
