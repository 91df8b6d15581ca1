//! Keys: made, kept, given by file or environment, and never shown to `ps`.

use crate::support::{Lab, checked, one_line};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

#[test]
fn a_server_makes_a_key_once_and_prints_what_to_paste() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let path = lab.path("state/fulmar/server.key");
    let key = fs::read_to_string(&path).expect("made").trim().to_owned();
    assert!(key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit()), "{key}");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&lab.path("state/fulmar")), 0o700);
    let paste = server.logs(&["umask 077; echo", &key]);
    // The line works as it stands.
    let mut shell = std::process::Command::new("sh");
    shell.current_dir(lab.path("")).args(["-c", paste.trim()]);
    assert!(shell.status().expect("runs").success());
    assert_eq!(mode(&lab.path("fulmar.key")), 0o600);
    lab.write("a", "content");
    lab.run(&["put", "-q", "--key-file", "fulmar.key", "a", &server.address], 0);
    server.stop();

    let server = lab.serve(&[]);
    assert_eq!(fs::read_to_string(&path).expect("kept").trim(), key, "a restart has the same");
    lab.run(&["ls", "--key-file", "fulmar.key", &server.address], 0);
    let log = lab.serve(&["-q"]).stop();
    assert!(!log.iter().any(|line| line.contains(&key)), "-q shows no key");
}

#[test]
fn a_password_does_as_well_as_a_generated_key() {
    let lab = Lab::new();
    lab.write("a", "content");
    let password = lab.key_file("password", "correct horse battery staple\n");
    let without_end = lab.key_file("same", "correct horse battery staple");
    let server = lab.serve(&["--key-file", "password"]);
    assert!(!lab.has("state"), "no other key is made");
    lab.run(&["put", "-q", "--key-file", "same", "a", &server.address], 0);
    // From the environment; the option has the first word.
    let get = |key_file: &Path, options: &[&str]| {
        let mut command = lab.fulmar(&["ls", &server.address]);
        command.args(options).env("FULMAR_KEY_FILE", key_file).output().expect("runs")
    };
    checked(&["environment"], get(&without_end, &[]), 0);
    let wrong = lab.key_file("wrong", "incorrect horse\n");
    checked(&["environment"], get(&wrong, &[]), 4);
    checked(&["both"], get(&wrong, &["--key-file", password.to_str().expect("UTF-8")]), 0);
}

#[test]
fn without_a_key_a_client_says_what_to_do() {
    let lab = Lab::new();
    lab.write("a", "content");
    let output = lab.fulmar(&["put", "a", "127.0.0.1"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
    one_line(&output, &["no key", "--key-file", "FULMAR_KEY_FILE"]);
}

#[test]
fn keygen_makes_a_key_for_both_sides() {
    let lab = Lab::new();
    lab.write("a", "content");
    checked(&["keygen"], lab.fulmar(&["keygen", "k"]).output().expect("runs"), 0);
    assert_eq!(mode(&lab.path("k")), 0o600);
    let server = lab.serve(&["--key-file", "k"]);
    lab.run(&["put", "-q", "--key-file", "k", "a", &server.address], 0);
    let output = lab.fulmar(&["keygen", "k"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(5));
    one_line(&output, &["k exists already"]);
}
