//! The commands against a real server on the loopback interface: output, exit codes, signals, cleaning up.

use assert_cmd::cargo::CommandCargoExt;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A directory with a server for `drop` in it, and its key.
struct Fixture {
    dir: tempfile::TempDir,
    server: Child,
    address: String,
}

impl Fixture {
    fn new(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::create_dir(dir.path().join("drop")).expect("made");
        let mut server = fulmar(dir.path(), &["serve", "drop", "--listen", "127.0.0.1:0", "-q"])
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs");
        let mut line = String::new();
        BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let address =
            line.trim().strip_prefix("listening on ").expect("the line that is promised").to_owned();
        Self { dir, server, address }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).expect("written");
    }

    fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.address)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = fulmar(self.dir.path(), arguments);
        if !arguments.contains(&"--insecure") {
            command.env("FULMAR_KEY_FILE", self.path("state/fulmar/server.key"));
        }
        command
    }

    /// Runs a client command; its exit code must be this.
    fn run(&self, arguments: &[&str], code: i32) -> Output {
        let output = self.command(arguments).output().expect("runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        if code != 0 {
            assert!(stderr.lines().all(|line| line.starts_with("fulmar: ")), "{stderr}");
        }
        output
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn fulmar(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("fulmar").expect("built");
    command
        .current_dir(dir)
        .env_remove("FULMAR_KEY_FILE")
        .env_remove("RUST_LOG")
        .env("XDG_STATE_HOME", dir.join("state"))
        .args(arguments);
    command
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("exactly one JSON object on stdout")
}

/// Bytes that do not compress, from a fixed start.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64, Marsaglia 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn send_signal(child: &Child, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(id, signal).expect("it runs");
}

/// Waits for the end of a process, but not for ever.
#[allow(clippy::disallowed_methods)] // Tests of real processes live in real time.
fn end_of(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        if let Some(status) = child.try_wait().expect("waitable") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    panic!("still running after 20 s");
}

#[allow(clippy::disallowed_methods)] // Tests of real processes live in real time.
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[test]
fn there_and_back() {
    let f = Fixture::new(&[]);
    let content = noise(1_500_000);
    f.write("a", &content);
    let object = json(&f.run(&["put", "--json", "a", &f.address], 0));
    assert_eq!(object["bytes"], 1_500_000);
    assert_eq!(object["files"][0]["path"], "a");
    assert!(object["goodput_bits_per_sec"].as_u64().is_some_and(|rate| rate > 0));
    assert!(object["min_rtt_ms"].as_f64().is_some_and(|rtt| rtt > 0.0));
    let digest = object["files"][0]["sha256"].as_str().expect("a digest").to_owned();
    assert_eq!(std::fs::read(f.path("drop/a")).expect("stored"), content);

    let output = f.run(&["get", &f.at("a"), "b"], 0);
    let summary = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(summary.contains(&digest) && summary.contains("1 file"), "{summary}");
    assert_eq!(std::fs::read(f.path("b")).expect("got"), content);

    let listing = String::from_utf8(f.run(&["ls", &f.address], 0).stdout).expect("UTF-8");
    assert!(listing.contains("1.4 MiB") && listing.trim_end().ends_with('a'), "{listing}");
    let object = json(&f.run(&["ls", "--json", &f.address], 0));
    assert_eq!(object["files"][0]["bytes"], 1_500_000);

    let object = json(&f.run(&["echo", "--json", "--sim-back", "loss=10%,corrupt=10%", "a", &f.address], 0));
    for field in ["sha256", "server_sha256", "received_sha256"] {
        assert_eq!(object["files"][0][field], digest, "{field}");
    }
    assert_eq!(std::fs::read(f.path("received_a")).expect("back"), content);
    assert!(f.run(&["get", "-q", &f.at("a"), "c"], 0).stdout.is_empty());
}

#[test]
fn refusals_have_their_exit_codes() {
    let f = Fixture::new(&["--no-echo-sim"]);
    f.write("a", b"content");
    f.run(&["put", "a", &f.address], 0);
    let output = f.run(&["put", "a", &f.address], 5);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--overwrite always"));
    f.run(&["put", "--overwrite", "always", "a", &f.address], 0);
    f.run(&["get", &f.at("missing"), "x"], 5);
    f.run(&["get", &f.at("../secret"), "x"], 5);
    f.run(&["ls", &f.at("missing")], 5);
    f.run(&["echo", "a", &f.address], 5);
    assert!(!f.path("x").exists() && !f.path("received_a").exists());
    // One of two goes on when the other fails.
    let object = json(&f.run(&["put", "--json", "missing", "a", &f.at("two/")], 5));
    assert_eq!((&object["files_ok"], &object["files_failed"]), (&1.into(), &1.into()));
    assert!(f.path("drop/two/a").exists());
    // Other keys, and no key.
    f.write("wrong", b"password\n");
    std::fs::set_permissions(f.path("wrong"), PermissionsExt::from_mode(0o600)).expect("set");
    f.run(&["put", "--key-file", "wrong", "a", &f.at("b")], 4);
    f.run(&["put", "--insecure", "a", &f.at("b")], 4);
    assert!(!f.path("drop/b").exists());
    // The port is taken.
    let output = f.run(&["serve", "--listen", &f.address], 1);
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
}

#[test]
fn a_dead_port_is_one_line_and_code_3() {
    let f = Fixture::new(&[]);
    f.write("a", b"content");
    // Nothing answers here while the socket is held.
    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    let address = deaf.local_addr().expect("bound").to_string();
    let output = f.run(&["put", "--connect-timeout", "0.5", "--json", "a", &address], 3);
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    assert_eq!(json(&output)["exit_code"], 3);
}

#[test]
fn signals_end_politely() {
    let mut f = Fixture::new(&[]);
    f.write("big", &noise(4_000_000));
    for (signal, code) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
        let mut client = f.command(&["put", "--limit", "1mbit", "big", &f.address]);
        let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        pause(Duration::from_secs(1));
        send_signal(&client, signal);
        assert_eq!(end_of(&mut client), Some(code));
        assert!(!f.path("drop/big").exists());
    }
    send_signal(&f.server, rustix::process::Signal::TERM);
    assert_eq!(end_of(&mut f.server), Some(0));
}

#[test]
fn the_demo_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("temp dir");
    let temp = dir.path().join("tmp");
    std::fs::create_dir(&temp).expect("made");
    std::fs::write(dir.path().join("photo"), noise(2_000_000)).expect("written");
    let output = fulmar(dir.path(), &["demo", "photo"]).env("TMPDIR", &temp).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("equal") && text.contains("demo passed"), "{text}");
    assert_eq!(std::fs::read_dir(&temp).expect("there").count(), 0);
}
