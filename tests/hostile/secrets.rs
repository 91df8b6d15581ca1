//! A real server and real clients that log everything they can: the key is not in it, in no form.

use crate::together;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStderr, Command, Stdio};

const KEY: &str = "a-secret-that-nobody-may-read-0123456789";

/// Stops the server also when the test fails.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Starts a server on a free port; returns it, its log from now on, its address, and the log so far.
fn serve(dir: &std::path::Path) -> (Server, BufReader<ChildStderr>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fulmar"))
        .args(["serve", "--listen", "127.0.0.1:0", "--key-file", "key", "drop"])
        .current_dir(dir)
        .env("RUST_LOG", "trace")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut log = BufReader::new(child.stderr.take().expect("piped"));
    let mut said = String::new();
    let address = loop {
        let before = said.len();
        assert!(log.read_line(&mut said).expect("text") > 0, "no address in {said}");
        if let Some((_, rest)) = said[before..].split_once("listening on ") {
            break rest.split_whitespace().next().expect("an address").to_owned();
        }
    };
    (Server(child), log, address, said)
}

#[test]
fn no_log_shows_the_key() {
    let _together = together();
    let dir = tempfile::tempdir().expect("made");
    fs::create_dir(dir.path().join("drop")).expect("made");
    for (name, line) in [("key", KEY), ("wrong", "another-secret-that-nobody-may-read")] {
        fs::write(dir.path().join(name), format!("{line}\n")).expect("written");
        fs::set_permissions(dir.path().join(name), PermissionsExt::from_mode(0o600)).expect("set");
    }
    fs::write(dir.path().join("file"), vec![b'x'; 3_000_000]).expect("written");
    let (mut server, mut rest, address, mut said) = serve(dir.path());
    for (key, arguments) in [
        ("key", vec!["put", "file", &address]),
        ("wrong", vec!["put", "file", &address]),
        ("key", vec!["echo", "file", &address]),
    ] {
        let run = Command::new(env!("CARGO_BIN_EXE_fulmar"))
            .args(&arguments)
            .args(["--key-file", key])
            .current_dir(dir.path())
            .env("RUST_LOG", "trace")
            .output()
            .expect("runs");
        said += &String::from_utf8_lossy(&run.stderr);
        said += &String::from_utf8_lossy(&run.stdout);
    }
    let pid = rustix::process::Pid::from_child(&server.0);
    let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).expect("it runs");
    assert!(!String::from_utf8_lossy(&arguments).contains(KEY));
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    rest.read_to_string(&mut said).expect("text");
    server.0.wait().expect("it ends");
    assert!(said.contains("TRACE") || said.contains("DEBUG"), "all levels: {said}");
    assert!(said.contains("1 wrong_key"), "refusals are in the log:\n{said}");
    for key in [KEY, "another-secret-that-nobody-may-read"] {
        let reversed: Vec<u8> = key.bytes().rev().collect();
        let list = format!("{:?}", key.as_bytes());
        for form in [key.to_owned(), hex(key.as_bytes()), hex(&reversed), list[1..list.len() - 1].to_owned()]
        {
            assert!(!said.contains(&form), "the log shows {form}");
        }
        // Nor half of it.
        assert!(!said.contains(&key[..16]) && !said.contains(&key[16..32]), "half of {key}");
    }
}
