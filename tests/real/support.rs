//! What the tests share: directories, processes that are never left behind, and waiting for events.

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use rustix::process::Signal;

/// How long anything may take before a test fails: far above what it takes on a busy machine with two cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a process that may have ended.
const POLL: Duration = Duration::from_millis(10);
/// Where skipped tests are counted, one line each; `ci.sh` sets it.
const SKIP_LIST: &str = "FULMAR_SKIP_LIST";

/// The binary under test.
pub(crate) const FULMAR: &str = env!("CARGO_BIN_EXE_fulmar");

/// Says that a test is skipped and why, where `ci.sh` counts it too. The test then returns.
pub(crate) fn skip(test: &str, reason: &str) {
    println!("SKIPPED: {test}: {reason}");
    if let Some(list) = std::env::var_os(SKIP_LIST) {
        let mut list =
            fs::OpenOptions::new().append(true).create(true).open(list).expect("the list is writable");
        writeln!(list, "SKIPPED: {test}: {reason}").expect("written");
    }
}

/// Leaves the test, as skipped, unless this holds.
macro_rules! need {
    ($condition:expr, $reason:expr) => {
        if !$condition {
            let name = std::thread::current().name().unwrap_or("a test").to_owned();
            crate::support::skip(&name, $reason);
            return;
        }
    };
}
pub(crate) use need;

/// Whether this command runs and succeeds: how tests find out about tools and rights.
pub(crate) fn works(program: &str, arguments: &[&str]) -> bool {
    let quiet = || Stdio::null();
    Command::new(program)
        .args(arguments)
        .stdin(quiet())
        .stdout(quiet())
        .stderr(quiet())
        .status()
        .is_ok_and(|status| status.success())
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[allow(clippy::disallowed_methods)] // Tests of real processes live in real time.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits until it holds. Only for what no line or event announces.
#[allow(clippy::disallowed_methods)] // Tests of real processes live in real time.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::sleep(POLL);
    }
}

/// A directory with everything a test needs in it.
#[derive(Debug)]
pub(crate) struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    /// With `drop/` in it, to be served.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("fulmar-test-").tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("drop")).expect("made");
        Self { dir }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("written");
        path
    }

    pub(crate) fn read(&self, name: impl AsRef<Path>) -> Vec<u8> {
        let path = self.path(name);
        fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub(crate) fn has(&self, name: impl AsRef<Path>) -> bool {
        fs::symlink_metadata(self.path(name)).is_ok()
    }

    /// Names in a directory, sorted. Hidden partials of interrupted transfers are counted apart.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).expect("a directory");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("readable").file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }

    /// Names that a user sees there.
    pub(crate) fn visible(&self, directory: &str) -> Vec<String> {
        self.names(directory).into_iter().filter(|name| !name.starts_with(".fulmar-")).collect()
    }

    /// A private key file.
    pub(crate) fn key_file(&self, name: &str, line: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.write(name, line);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("set");
        path
    }

    /// The command, away from the user's own keys and settings.
    pub(crate) fn fulmar(&self, arguments: &[&str]) -> Command {
        self.isolate(Command::new(FULMAR), arguments)
    }

    /// The same for another program that runs it.
    pub(crate) fn isolate(&self, mut command: Command, arguments: &[&str]) -> Command {
        command
            .current_dir(self.dir.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env("HOME", self.dir.path())
            .env_remove("FULMAR_KEY_FILE")
            .env_remove("FULMAR_CONFIG")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .args(arguments);
        command
    }

    /// A server for `drop/`, with its own key, or with what the options say.
    pub(crate) fn serve(&self, options: &[&str]) -> Server {
        self.serve_dir("drop", options)
    }

    pub(crate) fn serve_dir(&self, directory: &str, options: &[&str]) -> Server {
        Server::start(self.fulmar(&["serve", directory, "--listen", "127.0.0.1:0"]).args(options))
    }

    /// A client command with the server's key.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = self.fulmar(arguments);
        if !arguments.iter().any(|a| *a == "--insecure" || *a == "--key-file") {
            command.env("FULMAR_KEY_FILE", self.path("state/fulmar/server.key"));
        }
        command
    }

    /// Runs a client; its exit code must be this. On failure nothing but `fulmar: ...` lines may be on stderr.
    pub(crate) fn run(&self, arguments: &[&str], code: i32) -> Output {
        let output = self.client(arguments).output().expect("runs");
        checked(arguments, output, code)
    }

    /// Runs a client that must fail with this code and exactly one line on stderr, which contains these words.
    pub(crate) fn fails(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let output = self.run(arguments, code);
        one_line(&output, words);
        assert!(output.stdout.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    }

    /// Runs a client with `--json`, which must end with this code; the object.
    pub(crate) fn json(&self, arguments: &[&str], code: i32) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        object(&self.run(&arguments, code))
    }

    /// Starts a client and leaves it running.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.client(arguments))
    }
}

/// Checks exit code and stderr of a client.
pub(crate) fn checked(arguments: &[&str], output: Output, code: i32) -> Output {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?} ({}): {stderr}", output.status);
    if code == 0 {
        assert_eq!(stderr, "", "{arguments:?}");
    } else {
        assert!(stderr.lines().all(|line| line.starts_with("fulmar: ")), "{arguments:?}: {stderr}");
        assert!(!stderr.is_empty(), "{arguments:?} says nothing about what is wrong");
    }
    output
}

/// Exactly one line on stderr, which contains these words.
pub(crate) fn one_line(output: &Output, words: &[&str]) {
    let stderr = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(stderr.lines().count(), 1, "not one line: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "`{word}` is missing in: {stderr}");
    }
}

/// The one object on stdout.
pub(crate) fn object(output: &Output) -> Value {
    assert_eq!(output.stdout.iter().filter(|b| **b == b'\n').count(), 1, "one line");
    serde_json::from_slice(&output.stdout).expect("exactly one JSON object on stdout")
}

/// What has been read of a stream so far.
#[derive(Debug, Default)]
struct Collected {
    lines: Vec<String>,
    ended: bool,
}

/// Lines of a stream, collected by a thread, so that a test can wait for one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    shared: Arc<(Mutex<Collected>, Condvar)>,
}

impl Lines {
    fn collect(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let theirs = lines.clone();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut raw = Vec::new();
            while matches!(stream.read_until(b'\n', &mut raw), Ok(1..)) {
                let line = String::from_utf8_lossy(&raw).trim_end().to_owned();
                theirs.change(|c| c.lines.push(line));
                raw.clear();
            }
            theirs.change(|c| c.ended = true);
        });
        lines
    }

    // A test that fails while it waits poisons the lock; the thread must still read on.
    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Collected)) {
        change(&mut self.lock());
        self.shared.1.notify_all();
    }

    /// Waits for a line that has all these words; returns it.
    pub(crate) fn wait_for(&self, words: &[&str]) -> String {
        let deadline = now() + PATIENCE;
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.iter().find(|line| words.iter().all(|word| line.contains(word))) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(now());
            assert!(
                !state.ended && !left.is_zero(),
                "no line with {words:?} in:\n{}",
                state.lines.join("\n")
            );
            let waited = self.shared.1.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything, after the end of the stream.
    pub(crate) fn all(&self) -> Vec<String> {
        let waited = self.shared.1.wait_timeout_while(self.lock(), PATIENCE, |state| !state.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.lines.clone()
    }
}

/// A process that is killed when the test ends.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
        let stdout = Lines::collect(child.stdout.take().expect("piped"));
        let stderr = Lines::collect(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .expect("it runs");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("waitable").is_none()
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let mut ended = None;
        until("the end of the process", || {
            ended = self.child.try_wait().expect("waitable");
            ended.is_some()
        });
        ended.expect("until waited for it")
    }

    /// Waits for its end; the exit code.
    pub(crate) fn code(&mut self) -> Option<i32> {
        self.end().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `fulmar serve`.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) process: Running,
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(command: &mut Command) -> Self {
        let process = Running::start(command);
        let line = process.stdout.wait_for(&["listening on "]);
        let address = line.strip_prefix("listening on ").expect("the whole line").to_owned();
        Self { process, address }
    }

    /// `HOST:PORT/path`
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.address)
    }

    /// A line of its log.
    pub(crate) fn logs(&self, words: &[&str]) -> String {
        self.process.stderr.wait_for(words)
    }

    /// Ends it politely.
    pub(crate) fn stop(mut self) -> Vec<String> {
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.code(), Some(0));
        self.process.stderr.all()
    }
}

/// Bytes that do not compress, the same for every run; `seed` makes files differ.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (seed << 1);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        // xorshift64, Marsaglia 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// What `sha256sum` says about a file.
pub(crate) fn sha256sum(path: &Path) -> String {
    let output = Command::new("sha256sum").arg("-b").arg(path).output().expect("sha256sum runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Names with unusual characters are marked by a backslash before the digest.
    text.trim_start_matches('\\').split(' ').next().expect("the digest").to_owned()
}

/// One thing in a tree, with all that must be kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    path: Vec<u8>,
    kind: &'static str,
    mode: u32,
    mtime: (i64, i64),
    content: Vec<u8>,
}

/// All of a tree, sorted; the tree's own root first.
pub(crate) fn tree(root: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    walk(root, root, &mut entries);
    entries.sort();
    entries
}

fn walk(root: &Path, at: &Path, entries: &mut Vec<Entry>) {
    let meta = fs::symlink_metadata(at).unwrap_or_else(|e| panic!("{}: {e}", at.display()));
    let path = at.strip_prefix(root).expect("below").as_os_str().as_bytes().to_vec();
    let (kind, mode, mtime, content) = if meta.is_symlink() {
        let target = fs::read_link(at).expect("a link").into_os_string();
        // A link's own time and mode mean nothing to anybody.
        ("link", 0, (0, 0), target.as_bytes().to_vec())
    } else if meta.is_dir() {
        ("dir", meta.mode() & 0o7777, (meta.mtime(), meta.mtime_nsec()), Vec::new())
    } else {
        ("file", meta.mode() & 0o7777, (meta.mtime(), meta.mtime_nsec()), fs::read(at).expect("readable"))
    };
    entries.push(Entry { path, kind, mode, mtime, content });
    if kind == "dir" {
        for child in fs::read_dir(at).expect("a directory") {
            walk(root, &child.expect("readable").path(), entries);
        }
    }
}

/// Fails with the names of what differs.
pub(crate) fn assert_same_tree(one: &Path, other: &Path) {
    let (one, other) = (tree(one), tree(other));
    let brief =
        |e: &&Entry| format!("{} {} {:o} {:?}", String::from_utf8_lossy(&e.path), e.kind, e.mode, e.mtime);
    let only_one: Vec<String> = one.iter().filter(|e| !other.contains(e)).map(|e| brief(&e)).collect();
    let only_other: Vec<String> = other.iter().filter(|e| !one.contains(e)).map(|e| brief(&e)).collect();
    assert!(
        only_one.is_empty() && only_other.is_empty(),
        "only here: {only_one:#?}\nonly there: {only_other:#?}"
    );
}

/// Each of them ends with exit code 0.
pub(crate) fn all_succeed(clients: &mut [Running]) {
    for client in clients {
        let code = client.code();
        assert_eq!(code, Some(0), "{:?}", client.stderr.all());
    }
}

/// Thirty-two clients at once, half of them each way: all succeed, and what arrives is what was sent.
pub(crate) fn sixteen_up_and_down(lab: &Lab, server: &Server) {
    let content = |n: u64| noise(n, 100_000 + 1_000 * n as usize);
    for n in 0..16 {
        lab.write(format!("drop/down{n}"), content(100 + n));
        lab.write(format!("up{n}"), content(n));
    }
    let mut clients: Vec<Running> = Vec::new();
    for n in 0..16 {
        clients.push(lab.start(&["put", "-q", &format!("up{n}"), &server.address]));
        clients.push(lab.start(&["get", "-q", &server.at(&format!("down{n}")), &format!("got{n}")]));
    }
    all_succeed(&mut clients);
    for n in 0..16 {
        assert!(lab.read(format!("drop/up{n}")) == content(n), "up{n}");
        assert!(lab.read(format!("got{n}")) == content(100 + n), "got{n}");
    }
}
