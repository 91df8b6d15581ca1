//! What put and get can, through `fulmar cp` and a real sshd: comparing first, leaving out, removing; traces and settings.

use crate::sshd::{Sshd, has_sshd};
use crate::support::{Lab, checked, need, noise, object, one_line};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Output;

const WHY: &str = "needs sshd (openssh-server) and ssh";

fn cp(sshd: &Sshd, lab: &Lab, arguments: &[&str], code: i32) -> Output {
    checked(arguments, sshd.cp(lab, arguments).output().expect("runs"), code)
}

fn json(sshd: &Sshd, lab: &Lab, arguments: &[&str]) -> Value {
    object(&cp(sshd, lab, &[&["--json"], arguments].concat(), 0))
}

fn count(object: &Value, field: &str) -> u64 {
    object[field].as_u64().unwrap_or_else(|| panic!("{field}: {object}"))
}

#[test]
fn a_copy_compares_leaves_out_and_removes_both_ways() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    for (from, to, base) in [("tree", "box:", "home/tree"), ("box:tree", "back", "back/tree")] {
        // The second time it comes from there.
        let source = if base == "home/tree" { "tree" } else { "home/tree" };
        fs::create_dir_all(lab.path(source).join("sub")).expect("made");
        fs::create_dir_all(lab.path("back")).expect("made");
        for i in 0..40 {
            lab.write(format!("{source}/f{i}"), noise(i, 2_000));
        }
        lab.write(format!("{source}/sub/x.o"), "object");
        let go = |options: &[&str]| json(&sshd, &lab, &[&["-r"], options, &[from, to]].concat());
        let dry = go(&["-n", "--exclude", "*.o"]);
        assert_eq!(count(&dry, "files_ok"), 0, "{dry}");
        assert!(count(&dry, "files_planned") >= 40 && !lab.has(base), "{dry}");
        assert_eq!(count(&go(&["--exclude", "*.o"]), "files_ok"), 40);
        assert!(!lab.has(format!("{base}/sub/x.o")));
        let again = go(&["-u", "--exclude", "*.o"]);
        assert_eq!((count(&again, "files_unchanged"), count(&again, "bytes")), (40, 0), "{again}");
        // Another time, the same bytes: only the digest tells.
        let file = fs::File::open(lab.path(format!("{source}/f7"))).expect("there");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("set");
        let digests = go(&["--checksum", "--include", "f*", "--include", "*/"]);
        assert_eq!((count(&digests, "files_unchanged"), count(&digests, "bytes")), (40, 0), "{digests}");
        lab.write(format!("{base}/extra"), "to be removed");
        lab.write(format!("{base}/../beside"), "not sent, so not judged");
        let dry = go(&["-n", "-u", "--delete", "--exclude", "*.o"]);
        assert_eq!((count(&dry, "files_removed"), lab.has(format!("{base}/extra"))), (1, true), "{dry}");
        let removed = go(&["-u", "--delete", "--exclude", "*.o"]);
        assert_eq!((count(&removed, "files_removed"), lab.has(format!("{base}/extra"))), (1, false));
        assert!(lab.has(format!("{base}/../beside")));
    }
    // Of a source that cannot be read nobody knows what belongs to it.
    lab.write("home/tree/kept", "x");
    let output = cp(&sshd, &lab, &["-rq", "--delete", "tree", "missing", "box:"], 5);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("missing") && said.contains("nothing is removed"), "{said}");
    assert!(lab.has("home/tree/kept"));
    let output = cp(&sshd, &lab, &["-rq", "--delete", "box:tree", "box:missing", "back"], 5);
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing is removed"));
    // The contents of a directory: then the destination itself is judged.
    cp(&sshd, &lab, &["-rq", "--delete", "tree/.", "box:tree"], 0);
    assert!(!lab.has("home/tree/kept"));
}

#[test]
fn what_is_kept_of_a_copy_can_be_chosen() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    let path = lab.write("a", "content");
    fs::File::open(&path).and_then(|f| f.set_modified(std::time::SystemTime::UNIX_EPOCH)).expect("set");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("set");
    let of = |name: &str| {
        let meta = fs::metadata(lab.path(name)).expect("there");
        (meta.mode() & 0o777 == 0o600, meta.mtime() == 0)
    };
    for (options, expected) in [
        (&[][..], (true, true)),
        (&["-p"], (true, true)),
        (&["--no-preserve", "times"], (true, false)),
        (&["--no-preserve", "mode"], (false, true)),
        (&["--preserve", "none"], (false, false)),
    ] {
        for name in ["home/up", "down"] {
            let _ = fs::remove_file(lab.path(name));
        }
        cp(&sshd, &lab, &[options, &["-q", "a", "box:up"]].concat(), 0);
        assert_eq!(of("home/up"), expected, "{options:?} up");
        fs::copy(&path, lab.path("home/a")).expect("copied");
        let there = fs::File::open(lab.path("home/a")).expect("there");
        there.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("set");
        cp(&sshd, &lab, &[options, &["-q", "box:a", "down"]].concat(), 0);
        assert_eq!(of("down"), expected, "{options:?} down");
    }
    // The option says more than a setting.
    let mut command = sshd.cp(&lab, &["-pq", "a", "box:up"]);
    checked(&["cp", "-p"], command.env("FULMAR_NO_PRESERVE", "times").output().expect("runs"), 0);
    assert_eq!(of("home/up"), (true, true));
    let output = cp(&sshd, &lab, &["-p", "--no-preserve", "times", "a", "box:up"], 2);
    one_line(&output, &["--no-preserve"]);
}

#[test]
fn settings_and_the_key_log_are_for_copies_too() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    fs::create_dir_all(lab.path(".config/fulmar")).expect("made");
    lab.write(
        ".config/fulmar/config.toml",
        "[defaults]\nexclude = [\"*.o\"]\n[host.box]\naddress = \"unused.invalid:1\"\nno-preserve = \"times\"\n",
    );
    fs::create_dir(lab.path("dir")).expect("made");
    lab.write("dir/a.o", "x");
    let path = lab.write("dir/a", "x");
    fs::File::open(&path).and_then(|f| f.set_modified(std::time::SystemTime::UNIX_EPOCH)).expect("set");
    for (from, to, log) in [("dir", "box:", "up.log"), ("box:dir", "back/", "down.log")] {
        let mut command = sshd.cp(&lab, &["-r", from, to]);
        command.env("FULMAR_KEYLOG", lab.path(log)).env("FULMAR_QUIET", "1");
        let output = checked(&["cp"], command.output().expect("runs"), 0);
        assert!(output.stdout.is_empty(), "{output:?}");
        let secrets = String::from_utf8(lab.read(log)).expect("text");
        assert_eq!(secrets.lines().count(), 2, "one line for each direction: {secrets}");
    }
    assert_eq!(lab.names("home/dir"), ["a"]);
    assert_ne!(fs::metadata(lab.path("home/dir/a")).expect("there").mtime(), 0);
    assert_eq!(lab.names("back"), ["a"]);
}

#[test]
fn both_attempts_of_a_copy_are_in_its_trace() {
    need!(has_sshd(), WHY);
    let lab = Lab::new();
    let sshd = Sshd::start(&lab);
    lab.write("a", noise(3, 100_000));
    let options = ["-q", "--connect-timeout", "0.5", "--fallback", "ssh", "--trace", "t.sqlog"];
    cp(&sshd, &lab, &[&options[..], &["a", "dark:"]].concat(), 0);
    assert_eq!(lab.read("home/a"), lab.read("a"));
    let trace = String::from_utf8(lab.read("t.sqlog")).expect("text");
    let started: Vec<Value> = trace
        .split('\u{1e}')
        .filter(|text| text.contains(":connection_started\""))
        .map(|text| serde_json::from_str(text).expect("JSON"))
        .collect();
    assert_eq!(started.len(), 2, "by UDP and over ssh: {started:?}");
    assert_eq!(trace.matches(":connection_closed\"").count(), 2);
    let sessions: std::collections::BTreeSet<String> =
        started.iter().map(|s| s["group_id"].to_string()).collect();
    assert_eq!(sessions.len(), 2, "{started:?}");
    lab.run(&["report", "-q", "t.sqlog"], 0);
}
