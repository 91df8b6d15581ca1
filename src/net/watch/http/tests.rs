//! Requests over real sockets, good ones and bad ones.

use super::super::snapshot::Snapshot;
use super::super::tests::snapshot;
use super::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// A running thread, ended with the test.
struct Server {
    address: SocketAddr,
    snapshots: Option<SyncSender<Box<Snapshot>>>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(hosts: &[&str]) -> Self {
        let loopback = ([127, 0, 0, 1], 0).into();
        let hosts = hosts.iter().map(|&h| h.to_owned()).collect();
        let http = Http::bind(&WatchOptions { metrics: Some(loopback), dashboard: None, hosts });
        let mut http = http.expect("bound");
        // One port for both; with port 0 the options cannot say so.
        http.listeners[0].serves.dashboard = true;
        let (address, waker) = (http.listeners[0].address, http.waker());
        let (snapshots, incoming) = sync_channel(2);
        let thread = std::thread::spawn(move || http.run(&incoming));
        Self { address, snapshots: Some(snapshots), waker, thread: Some(thread) }
    }

    fn publish(&self) {
        self.snapshots.as_ref().expect("running").send(Box::new(snapshot())).expect("it runs");
        self.waker.wake().expect("woken");
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        stream
    }

    /// The whole answer to this request.
    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        // A server that has refused already may have closed it.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).expect("UTF-8")
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address))
    }

    fn ready(hosts: &[&str]) -> Self {
        let server = Self::start(hosts);
        server.publish();
        let mut tries = 0;
        while server.get("/metrics").starts_with("HTTP/1.1 503") {
            tries += 1;
            assert!(tries < 1000, "the snapshot does not arrive");
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.snapshots = None;
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

#[test]
fn pages_and_figures_are_served() {
    let server = Server::ready(&[]);
    let metrics = server.get("/metrics");
    let (head, body) = metrics.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("text/plain; version=0.0.4"));
    assert_eq!(super::super::tests::parse(body)["fulmar_sessions_total"], 9.0);
    for (path, kind) in [
        ("/", "text/html"),
        ("/?x=1", "text/html"),
        ("/dashboard.js", "text/javascript"),
        ("/dashboard.css", "text/css"),
        ("/snapshot.json", "application/json"),
    ] {
        let answer = server.get(path);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains(kind), "{path}: {head}");
        assert!(head.contains("Content-Security-Policy: default-src 'none'"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert!(!body.is_empty());
    }
    assert!(server.get("/other").starts_with("HTTP/1.1 404 "));
    let head = server.ask(&format!("HEAD / HTTP/1.1\r\nHost: {}\r\n\r\n", server.address));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn strangers_and_nonsense_are_refused() {
    let server = Server::ready(&["mon.example.org"]);
    let with_host = |host: &str| server.ask(&format!("GET /snapshot.json HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert!(with_host("evil.example").starts_with("HTTP/1.1 421 "));
    assert!(with_host("localhost:80").starts_with("HTTP/1.1 200 "));
    assert!(with_host("mon.example.org").starts_with("HTTP/1.1 200 "));
    assert!(with_host("127.0.0.1\r\nHost: evil.example").starts_with("HTTP/1.1 400 "), "two hosts");
    assert!(server.ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400 "), "no host");
    assert!(server.ask("\x16\x03\x01 hello\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let post = server.ask("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("Allow: GET, HEAD"));
    let long = server.ask(&format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(9000)));
    assert!(long.is_empty() || long.starts_with("HTTP/1.1 431 "), "{long}");
    // It goes on.
    assert!(server.get("/").starts_with("HTTP/1.1 200 "));
}

/// Reads until this has come so often.
fn read_until(stream: &mut TcpStream, what: &str, times: usize) -> String {
    let mut text = String::new();
    let mut block = [0; 4096];
    while text.matches(what).count() < times {
        let n = stream.read(&mut block).expect("events come");
        assert!(n > 0, "the stream ended: {text}");
        text.push_str(&String::from_utf8_lossy(&block[..n]));
    }
    text
}

#[test]
fn events_go_on_and_a_reader_who_sleeps_keeps_nobody_waiting() {
    let server = Server::ready(&[]);
    let request = format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    let mut reader = server.connect();
    reader.write_all(request.as_bytes()).expect("sent");
    let first = read_until(&mut reader, "event: snapshot\n", 1);
    assert!(first.contains("text/event-stream") && first.contains("event: history\ndata: [["), "{first}");
    let mut sleeper = server.connect();
    sleeper.write_all(request.as_bytes()).expect("sent");
    // Far more than the buffers of a connection hold: each is some KiB.
    for _ in 0..3000 {
        server.publish();
        if server.snapshots.is_none() {
            break;
        }
    }
    let more = read_until(&mut reader, "event: snapshot\n", 3);
    assert!(more.contains("alert(1)"), "names are in the data");
    assert!(server.get("/metrics").starts_with("HTTP/1.1 200 "));
}

#[test]
fn connections_are_bounded() {
    let server = Server::ready(&[]);
    let idle: Vec<TcpStream> = (0..MAX_CONNECTIONS + 1).map(|_| server.connect()).collect();
    // One more than allowed is closed without a word; the others wait for their requests.
    let mut byte = [0];
    let closed = idle.last().expect("many").read(&mut byte);
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    assert!(!server.get("/").starts_with("HTTP/1.1 200 "));
    drop(idle);
    let mut tries = 0;
    while !server.get("/").starts_with("HTTP/1.1 200 ") {
        tries += 1;
        assert!(tries < 1000, "places do not become free");
    }
}

#[test]
fn streams_are_bounded() {
    let server = Server::ready(&[]);
    let request = format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    let streams: Vec<TcpStream> = (0..MAX_STREAMS)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(request.as_bytes()).expect("sent");
            read_until(&mut stream, "event: snapshot\n", 1);
            stream
        })
        .collect();
    assert!(server.get("/events").starts_with("HTTP/1.1 503 "));
    assert!(server.get("/metrics").starts_with("HTTP/1.1 200 "), "who only asks is served");
    drop(streams);
}

#[test]
fn one_address_can_serve_both() {
    let options = |metrics: &str, dashboard: &str| WatchOptions {
        metrics: Some(metrics.parse().expect("an address")),
        dashboard: Some(dashboard.parse().expect("an address")),
        hosts: Vec::new(),
    };
    let both = Serves { metrics: true, dashboard: true };
    let shared = wanted(&options("127.0.0.1:5771", "127.0.0.1:5771"));
    assert_eq!(shared, [("127.0.0.1:5771".parse().expect("an address"), both)]);
    assert_eq!(wanted(&options("127.0.0.1:1", "127.0.0.1:2")).len(), 2);
    // Port 0 is two ports.
    assert_eq!(wanted(&options("127.0.0.1:0", "127.0.0.1:0")).len(), 2);
}

#[test]
fn who_says_nothing_is_given_up() {
    let now = now();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("bound");
    let stream = mio::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    let connection = Connection::new(stream, 0, now);
    assert!(!connection.is_overdue(now + Duration::from_secs(10)));
    assert!(connection.is_overdue(now + Duration::from_secs(20)));
}
