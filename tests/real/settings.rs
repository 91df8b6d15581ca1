//! The user's file and the environment.

use crate::support::{Lab, checked, noise, one_line};
use std::fs;

/// Writes the user's file.
fn configure(lab: &Lab, content: &str) {
    fs::create_dir_all(lab.path(".config/fulmar")).expect("made");
    lab.write(".config/fulmar/config.toml", content);
}

#[test]
fn a_host_of_the_file_is_all_that_a_put_needs() {
    let lab = Lab::new();
    let key = lab.key_file("lab.key", "a password");
    let server = lab.serve(&["--key-file", key.to_str().expect("UTF-8")]);
    let content = format!(
        "[defaults]\nexclude = [\"*.o\"]\n\n[host.lab]\naddress = \"{}\"\nkey-file = \"~/lab.key\"\nclient-id = \"me\"\n",
        server.address
    );
    configure(&lab, &content);
    fs::create_dir(lab.path("dir")).expect("made");
    lab.write("dir/a", noise(1, 5000));
    lab.write("dir/a.o", "x");
    let output = lab.fulmar(&["put", "-q", "dir", "lab/in/"]).output().expect("runs");
    checked(&["put"], output, 0);
    assert_eq!(lab.names("drop/in/dir"), ["a"]);
    server.logs(&["client me"]);
    let output = lab.fulmar(&["ls", "lab/in/dir"]).env("FULMAR_JSON", "1").output().expect("runs");
    let object = crate::support::object(&checked(&["ls"], output, 0));
    assert_eq!(object["files"][0]["path"], "dir/a");
}

#[test]
fn show_says_which_value_comes_from_where() {
    let lab = Lab::new();
    configure(&lab, "[defaults]\nlimit = \"20mbit\"\n[host.lab]\nwindow = \"64KiB\"\n");
    let line = ["config", "show", "put", "--timeout", "9", "x", "lab"];
    let output = lab.fulmar(&line).env("FULMAR_CHUNK_SIZE", "1MiB").output().expect("runs");
    let stdout = String::from_utf8(checked(&line, output, 0).stdout).expect("UTF-8");
    let words = |name: &str| {
        let line = stdout.lines().find(|line| line.starts_with(&format!("{name} = "))).expect(name);
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let file = lab.path(".config/fulmar/config.toml").display().to_string();
    assert_eq!(words("limit"), format!("limit = 20mbit {file}:2 [defaults]"));
    assert_eq!(words("window"), format!("window = 64KiB {file}:4 [host.lab]"));
    assert_eq!(words("chunk-size"), "chunk-size = 1MiB env FULMAR_CHUNK_SIZE");
    assert_eq!(words("timeout"), "timeout = 9 option --timeout");
    assert_eq!(words("compress"), "compress = - default");
    let output = lab.fulmar(&["config", "show", "--json", "serve"]).output().expect("runs");
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let listen = list.as_array().expect("a list").iter().find(|s| s["option"] == "listen").expect("there");
    assert_eq!((&listen["value"], &listen["source"]), (&"[::]:5770".into(), &"default".into()));
}

#[test]
fn a_mistake_in_the_file_names_its_line() {
    let lab = Lab::new();
    configure(&lab, "[defaults]\n\nlimitt = \"20mbit\"\n");
    let output = lab.fulmar(&["put", "x", "h"]).output().expect("runs");
    one_line(&output, &["config.toml:3: ", "did you mean `limit`?"]);
    assert_eq!(output.status.code(), Some(2));
    configure(&lab, "[defaults]\nlimit = \"fast\"\n");
    let output = lab.fulmar(&["put", "x", "h"]).output().expect("runs");
    one_line(&output, &["--limit", "fast"]);
    let output = lab.fulmar(&["keygen", "k"]).env("FULMAR_CONFIG", "missing.toml").output().expect("runs");
    one_line(&output, &["missing.toml"]);
}
