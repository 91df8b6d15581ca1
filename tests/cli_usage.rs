//! What the command line does before any packet is sent: help, bad input, keys, sources and destinations.

use assert_cmd::Command;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

/// Runs `fulmar` in `dir`, away from the user's own keys and settings.
fn fulmar(dir: &Path, arguments: &[&str]) -> Output {
    Command::cargo_bin("fulmar")
        .expect("built")
        .current_dir(dir)
        .env_remove("FULMAR_KEY_FILE")
        .env_remove("RUST_LOG")
        .env("XDG_STATE_HOME", dir.join("state"))
        .args(arguments)
        .output()
        .expect("runs")
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("temp dir")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// One line on stderr that says it, nothing on stdout, and this exit code.
fn refused(output: &Output, code: i32, says: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("fulmar: "), "{text}");
    for part in says {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    assert!(output.stdout.is_empty());
}

fn json(output: &Output) -> Value {
    assert_eq!(output.stdout.iter().filter(|b| **b == b'\n').count(), 1);
    serde_json::from_slice(&output.stdout).expect("exactly one JSON object on stdout")
}

#[test]
fn help_is_the_manual() {
    let dir = temp();
    let output = fulmar(dir.path(), &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for part in ["serve", "put", "get", "echo", "demo", "keygen", "Exit codes:", "130", "FULMAR_KEY_FILE"] {
        assert!(text.contains(part), "`{part}` is missing");
    }
    for command in ["serve", "put", "get", "ls", "echo", "demo", "keygen"] {
        let output = fulmar(dir.path(), &[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("Examples:"), "{command}");
    }
    let output = fulmar(dir.path(), &["--version"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("fulmar "));
    assert_eq!(fulmar(dir.path(), &[]).status.code(), Some(2));
}

#[test]
fn bad_options_are_one_line_and_exit_2() {
    let dir = temp();
    std::fs::write(dir.path().join("a"), "x").expect("written");
    let cases: &[(&[&str], &[&str])] = &[
        (&["put", "--limit", "fast", "a", "host"], &["--limit", "fast"]),
        (&["put", "--window", "1KiB", "a", "host"], &["--window", "1KiB", "16KiB or more"]),
        (&["put", "--chunk-size", "8MiB", "a", "host"], &["--chunk-size", "8MiB", "4MiB"]),
        (&["put", "--cc", "bbr", "a", "host"], &["--cc", "bbr", "adaptive"]),
        (&["put", "--timeout", "0", "a", "host"], &["--timeout", "`0`"]),
        (&["put", "--max-retries", "none", "a", "host"], &["--max-retries", "none"]),
        (&["put", "--sim", "loss=200%", "a", "host"], &["--sim", "loss"]),
        (&["put", "--sim", "foo=1", "a", "host"], &["--sim", "foo"]),
        (&["put", "--overwrite", "maybe", "a", "host"], &["--overwrite", "maybe"]),
        (&["put", "--compress", "zip", "a", "host"], &["--compress", "zip"]),
        (&["put", "--compress", "zstd:20", "a", "host"], &["--compress", "zstd:20", "zstd:19"]),
        (&["put", "--nonsense", "a", "host"], &["--nonsense", "fulmar put --help"]),
        (&["put", "a"], &["only one argument", "`a`", "fulmar put --help"]),
        (&["get"], &["no arguments", "fulmar get --help"]),
        (&["echo", "--json=1"], &["--json", "fulmar echo --help"]),
        (&["ls"], &["required", "fulmar ls --help"]),
        (&["put", "a", "host:0"], &["host:0", "port"]),
        (&["put", "a", "udp://host/"], &["scheme"]),
        (&["put", "-4", "-6", "a", "host"], &["cannot be used with"]),
        (&["put", "--insecure", "--key-file", "k", "a", "host"], &["cannot be used with"]),
        (&["put", "--progress", "sometimes", "a", "host"], &["--progress", "sometimes"]),
        (&["put", "a", "127.0.0.1"], &["no key", "--key-file"]),
        (&["put", "--key-file", "none", "a", "127.0.0.1"], &["key file none", "keygen"]),
        (&["get", "h/a", "i/b", "."], &["one server"]),
        (&["get", "h/a", ""], &["DEST"]),
        (&["ls", "::1"], &["brackets"]),
        (&["echo", "--sim-back", "x", "a", "host"], &["--sim-back"]),
        (&["echo", "a", "host/path"], &["no path"]),
        (&["demo", "--sim", "x"], &["--sim"]),
        (&["serve", "--listen", "here"], &["--listen", "here"]),
        (&["serve", "--max-sessions", "0"], &["--max-sessions"]),
        (&["serve", "--sim", "loss=x"], &["--sim"]),
        (&["frobnicate"], &["frobnicate", "fulmar --help"]),
    ];
    for (arguments, says) in cases {
        refused(&fulmar(dir.path(), arguments), 2, says);
    }
    assert!(!dir.path().join("state").exists(), "a refused serve must not leave a key");
}

#[test]
fn json_is_one_object_on_failure_too() {
    let dir = temp();
    for arguments in [
        &["put", "--json", "--window", "1", "x", "host"][..],
        &["put", "--json", "--nonsense", "x", "host"],
        &["ls", "--json", "host:0"],
        &["get", "--json", "h/a", "i/b", "."],
    ] {
        let output = fulmar(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let object = json(&output);
        assert_eq!(object["command"], arguments[0]);
        assert_eq!(object["exit_code"], 2);
        let line = stderr(&output);
        assert_eq!(line, format!("fulmar: {}\n", object["error"].as_str().expect("text")), "{arguments:?}");
    }
    // Options may stand anywhere.
    let output = fulmar(dir.path(), &["put", "missing", "--json", "gone", "-q", "host"]);
    assert_eq!(output.status.code(), Some(5));
    let object = json(&output);
    assert_eq!(object["exit_code"], 5);
    assert_eq!(object["files"][0]["path"], "missing");
    assert!(object["files"][0]["error"].as_str().is_some_and(|e| e.contains("missing")));
    assert_eq!(object["files"][1]["path"], "gone");
    assert_eq!(object["bytes"], 0);
    assert!(object["error"].as_str().is_some_and(|e| e.starts_with("2 of 2 files failed")));
}

#[test]
fn a_full_disk_behind_stdout_is_an_error() {
    let dir = temp();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let status = std::process::Command::new(assert_cmd::cargo::cargo_bin!("fulmar"))
        .args(["keygen", "-"])
        .current_dir(dir.path())
        .stdout(full)
        .stderr(std::process::Stdio::null())
        .status()
        .expect("runs");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn missing_sources_need_no_server_and_no_key() {
    let dir = temp();
    refused(&fulmar(dir.path(), &["put", "missing", "203.0.113.1"]), 5, &["missing", "no such file"]);
    refused(&fulmar(dir.path(), &["echo", "missing", "203.0.113.1"]), 5, &["missing"]);
    refused(&fulmar(dir.path(), &["echo", ".", "203.0.113.1"]), 5, &["not a regular file"]);
    refused(&fulmar(dir.path(), &["demo", "missing"]), 5, &["missing"]);
    refused(&fulmar(dir.path(), &["serve", "missing"]), 5, &["missing"]);
    std::fs::write(dir.path().join("a"), "x").expect("written");
    std::fs::write(dir.path().join("received_a"), "x").expect("written");
    refused(&fulmar(dir.path(), &["echo", "a", "203.0.113.1"]), 5, &["received_a", "--overwrite always"]);
    refused(&fulmar(dir.path(), &["serve", "a"]), 5, &["a", "not a directory"]);
}

#[test]
fn destinations_are_checked_before_connecting() {
    let dir = temp();
    std::fs::write(dir.path().join("file"), "x").expect("written");
    refused(&fulmar(dir.path(), &["get", "h/a", "no/such/x"]), 5, &["no/such", "make it first"]);
    refused(&fulmar(dir.path(), &["get", "h/a", "h/b", "file"]), 5, &["file", "several sources"]);
    refused(&fulmar(dir.path(), &["get", "h/a", "h/b", "new"]), 5, &["new/"]);
}

#[test]
fn unknown_hosts_cannot_be_reached() {
    let dir = temp();
    std::fs::write(dir.path().join("a"), "x").expect("written");
    let output = fulmar(dir.path(), &["put", "--insecure", "a", "no-such-host.invalid"]);
    refused(&output, 3, &["no-such-host.invalid"]);
}

#[test]
fn keygen_makes_private_keys_and_overwrites_nothing() {
    let dir = temp();
    let output = fulmar(dir.path(), &["keygen"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let path = dir.path().join("fulmar.key");
    let key = std::fs::read_to_string(&path).expect("made");
    assert_eq!(key.len(), 65);
    assert!(key.trim_end().bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(std::fs::metadata(&path).expect("made").permissions().mode() & 0o7777, 0o600);
    assert!(!String::from_utf8_lossy(&output.stdout).contains(key.trim_end()));
    refused(&fulmar(dir.path(), &["keygen"]), 5, &["fulmar.key", "exists already"]);
    assert_eq!(std::fs::read_to_string(&path).expect("kept"), key);
    refused(&fulmar(dir.path(), &["keygen", "no/such/key"]), 5, &["no/such/key"]);
    let output = fulmar(dir.path(), &["keygen", "-"]);
    assert_eq!(output.stdout.len(), 65);
}

#[test]
fn key_files_that_others_can_read_are_warned_about() {
    let dir = temp();
    std::fs::write(dir.path().join("a"), "x").expect("written");
    let key = dir.path().join("k");
    std::fs::write(&key, "secret\n").expect("written");
    for (mode, warned) in [(0o644, true), (0o600, false)] {
        std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).expect("set");
        let output = fulmar(dir.path(), &["put", "--key-file", "k", "a", "no-such-host.invalid"]);
        assert_eq!(stderr(&output).contains("chmod 600"), warned, "{}", stderr(&output));
    }
}
