//! What is said, where, and in which form.

use crate::support::{Lab, Signal, noise, object};
use serde_json::Value;
use std::os::unix::ffi::OsStrExt;

/// The object has every field that scripts rely on, of the right type.
fn check_fields(object: &Value, command: &str, code: i32) {
    assert_eq!(object["command"], command);
    assert_eq!(object["exit_code"], code);
    for field in [
        "bytes",
        "goodput_bits_per_sec",
        "wire_bytes_sent",
        "packets_sent",
        "packets_repaired",
        "nacks_sent",
        "nacks_received",
        "files_ok",
        "files_failed",
    ] {
        assert!(object[field].is_u64(), "{field} in {object}");
    }
    for field in ["elapsed_s", "loss_pct", "compression_ratio"] {
        assert!(object[field].is_number(), "{field} in {object}");
    }
    for field in ["min_rtt_ms", "smoothed_rtt_ms"] {
        let value = object.get(field).unwrap_or_else(|| panic!("{field} in {object}"));
        assert!(value.is_number() || value.is_null(), "{field} in {object}");
    }
    assert_eq!(object.get("error").is_some_and(Value::is_string), code != 0, "error in {object}");
    for file in object["files"].as_array().unwrap_or_else(|| panic!("files in {object}")) {
        assert!(file["path"].is_string() && file["bytes"].is_u64(), "{file}");
    }
}

fn is_digest(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[test]
fn json_has_its_fields_on_success() {
    let lab = Lab::new();
    let server = lab.serve(&["--sim", "loss-in=20%,seed=1"]);
    lab.write("a", noise(1, 2_000_000));
    lab.write("b", "");
    let put = lab.json(&["put", "a", "b", &server.address], 0);
    check_fields(&put, "put", 0);
    assert_eq!((&put["bytes"], &put["files_ok"]), (&2_000_000.into(), &2.into()));
    assert!(put["files"].as_array().expect("a list").iter().all(|f| is_digest(&f["sha256"])), "{put}");
    assert!(put["min_rtt_ms"].as_f64() > Some(0.0) && put["smoothed_rtt_ms"].as_f64() > Some(0.0));
    assert!(put["wire_bytes_sent"].as_u64() > Some(2_000_000));
    assert!(put["packets_repaired"].as_u64() > Some(0) && put["nacks_received"].as_u64() > Some(0));
    assert!(put["loss_pct"].as_f64() > Some(0.5));
    let get = lab.json(&["get", &server.at("a"), "c"], 0);
    check_fields(&get, "get", 0);
    assert!(is_digest(&get["files"][0]["sha256"]) && get["files"][0]["bytes"] == 2_000_000);
    let echo = lab.json(&["echo", "a", &server.address], 0);
    check_fields(&echo, "echo", 0);
    let ls = lab.json(&["ls", &server.address], 0);
    check_fields(&ls, "ls", 0);
    assert_eq!(ls["files"].as_array().map(Vec::len), Some(2));
}

#[test]
fn json_has_its_fields_on_failure() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("a", "content");
    lab.key_file("wrong", "wrong\n");
    let missing = lab.json(&["get", &server.at("missing"), "x"], 5);
    check_fields(&missing, "get", 5);
    let cases: &[(&str, &[&str], i32)] = &[
        ("put", &["put", "gone", &server.address], 5),
        ("put", &["put", "a", "--limit", "x", &server.address], 2),
        ("put", &["put", "a", "--nonsense", &server.address], 2),
        ("put", &["put", "a", "--key-file", "wrong", &server.address], 4),
        ("ls", &["ls", &server.at("missing")], 5),
        ("echo", &["echo", "a", "--sim-back", "x", &server.address], 2),
        ("get", &["get", "--connect-timeout", "0.3", "127.0.0.1:1/a", "b"], 3),
    ];
    for (command, arguments, code) in cases {
        let object = lab.json(arguments, *code);
        check_fields(&object, command, *code);
    }
    // A file's own error stands with the file.
    let some = lab.json(&["put", "a", "gone", &server.address], 5);
    check_fields(&some, "put", 5);
    let files = some["files"].as_array().expect("a list");
    assert_eq!(files.iter().filter(|f| f["error"].is_string()).count(), 1);
    assert_eq!(files.iter().filter(|f| is_digest(&f["sha256"])).count(), 1);
}

#[test]
fn json_comes_after_a_signal_too() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("big", noise(1, 4_000_000));
    let mut client = lab.start(&["put", "--json", "--limit", "2mbit", "big", &server.address]);
    server.logs(&["receiving big"]);
    client.signal(Signal::INT);
    assert_eq!(client.code(), Some(130));
    let lines = client.stdout.all();
    assert_eq!(lines.len(), 1);
    check_fields(&serde_json::from_str(&lines[0]).expect("JSON"), "put", 130);
}

#[test]
fn names_that_are_not_text_have_their_exact_bytes() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    lab.write(std::path::Path::new(name), "content");
    let output = lab.client(&["put", "--json"]).arg(name).arg(&server.address).output().expect("runs");
    assert_eq!(object(&output)["files"][0]["path_b64"], "//4=");
    assert_eq!(lab.json(&["ls", &server.address], 0)["files"][0]["path_b64"], "//4=");
}

#[test]
fn stdout_has_the_summary_and_stderr_nothing() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("a", noise(1, 100_000));
    let text = String::from_utf8(lab.run(&["put", "a", &server.address], 0).stdout).expect("UTF-8");
    for word in [
        "1 file",
        "100,000",
        "goodput",
        "packets",
        "repaired",
        "NACKs",
        "loss",
        "RTT",
        "compression",
        "sha256",
    ] {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
    assert!(!text.contains('\x1b'), "no colours where there is no terminal");
    for arguments in [&["put", "-q", "a", &server.at("b")][..], &["get", "-q", &server.at("a"), "c"]] {
        assert!(lab.run(arguments, 0).stdout.is_empty(), "-q");
    }
    // -q is not for errors.
    lab.fails(&["put", "-q", "a", &server.address], 5, &["a exists"]);
}

#[test]
fn progress_and_logs_go_to_stderr() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("big", noise(1, 1_500_000));
    let mut client =
        lab.start(&["put", "--progress", "always", "--json", "--limit", "4mbit", "big", &server.address]);
    let line = client.stderr.wait_for(&["put:", "Mbit/s", "loss", "RTT"]);
    assert!(line.contains("ETA") || line.contains("finishing"), "{line}");
    assert_eq!(client.code(), Some(0));
    assert_eq!(client.stdout.all().len(), 1);
    let output = lab.client(&["ls", "-vv", &server.address]).output().expect("runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("DEBUG"), "-vv logs");
    assert!(String::from_utf8_lossy(&output.stdout).lines().all(|line| line.ends_with("  big")));
    let output = lab.client(&["ls", &server.address]).env("RUST_LOG", "debug").output().expect("runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("DEBUG"), "RUST_LOG logs");
}

#[test]
fn ls_shows_one_level() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    std::fs::create_dir_all(lab.path("drop/dir/inner")).expect("made");
    lab.write("drop/file", noise(1, 1536));
    lab.write("drop/dir/below", "x");
    std::os::unix::fs::symlink("file", lab.path("drop/link")).expect("linked");
    let text = String::from_utf8(lab.run(&["ls", &server.address], 0).stdout).expect("UTF-8");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with('d') && lines[0].ends_with(" dir/"), "{text}");
    assert!(
        lines[1].starts_with("-rw") && lines[1].contains("1.5 KiB") && lines[1].ends_with(" file"),
        "{text}"
    );
    assert!(lines[2].starts_with('l') && lines[2].ends_with(" link -> file"), "{text}");
    let object = lab.json(&["ls", &server.at("dir/")], 0);
    check_fields(&object, "ls", 0);
    let mut paths: Vec<&str> =
        object["files"].as_array().expect("a list").iter().filter_map(|f| f["path"].as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["dir/below", "dir/inner"]);
    let object = lab.json(&["ls", &server.at("file")], 0);
    assert_eq!((&object["files"][0]["path"], &object["files"][0]["bytes"]), (&"file".into(), &1536.into()));
    assert!(object["files"][0]["mtime_s"].is_i64() && object["files"][0]["mode"].is_string());
}

#[test]
fn keys_are_never_arguments() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let line = std::fs::read(format!("/proc/{}/cmdline", server.process.id())).unwrap_or_default();
    let key = lab.read("state/fulmar/server.key");
    assert!(!line.windows(64).any(|part| part == &key[..64]));
}

#[test]
fn the_demo_needs_nothing_and_leaves_nothing() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("tmp")).expect("made");
    lab.write("photo", noise(1, 2_000_000));
    let run = |options: &[&str]| {
        let mut command = lab.fulmar(&["demo", "photo"]);
        command.args(options).env("TMPDIR", lab.path("tmp")).output().expect("runs")
    };
    let text = crate::support::checked(&["demo"], run(&[]), 0).stdout;
    let text = String::from_utf8(text).expect("UTF-8");
    let digest = crate::support::sha256sum(&lab.path("photo"));
    assert!(text.contains("equal") && text.contains(&digest) && text.contains("demo passed"), "{text}");
    let value = object(&run(&["--json", "--sim", "loss=20%,seed=1"]));
    check_fields(&value, "demo", 0);
    for field in ["sha256", "server_sha256", "received_sha256"] {
        assert_eq!(value["files"][0][field], digest);
    }
    assert!(lab.names("tmp").is_empty() && !lab.has("state"));
    assert_eq!(lab.names(""), ["drop", "photo", "tmp"]);
}
