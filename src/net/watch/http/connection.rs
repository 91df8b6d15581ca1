//! Role: one HTTP connection: reads one request, writes one answer, or goes on writing snapshots.
//! Owns: its socket, what came in so far, what has not left yet.
//! Implements: RFC 9112, as far as one GET per connection needs it.

use super::answer::{Answer, Request};
use mio::net::TcpStream;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// Longest request: browsers send about one KiB.
const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// Header fields of a request at most.
const MAX_HEADERS: usize = 64;
/// How long a request may take to come, and an answer, or the rest of a snapshot, to be read.
const PATIENCE: Duration = Duration::from_secs(15);

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// When the socket is ready again.
    Waiting,
    /// Never: it can be closed.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reading,
    /// The answer leaves; then the connection ends.
    Answering,
    /// Snapshots leave as they come.
    Streaming,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    listener: usize,
    phase: Phase,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// When it counts as dead; moves on with everything that is read or written.
    deadline: Instant,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, listener: usize, now: Instant) -> Self {
        Self {
            stream,
            listener,
            phase: Phase::Reading,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            deadline: now + PATIENCE,
        }
    }

    /// Which listener it came through.
    pub(super) fn listener(&self) -> usize {
        self.listener
    }

    pub(super) fn is_stream(&self) -> bool {
        self.phase == Phase::Streaming
    }

    /// Whether nothing has moved for too long. A stream with nothing to read is only waiting for news.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        now >= self.deadline && !(self.is_stream() && self.output.is_empty())
    }

    /// The socket is ready for something. `answer` is called once, when the request is complete.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        answer: impl FnOnce(Result<Request<'_>, Answer>) -> Answer,
    ) -> Progress {
        match self.read() {
            Ok(false) => {}
            Ok(true) | Err(_) => return Progress::Over,
        }
        if self.phase == Phase::Reading {
            let answer = match parse(&self.input) {
                Parsed::Partial => return Progress::Waiting,
                Parsed::Request(request) => answer(Ok(request)),
                Parsed::Wrong(refusal) => answer(Err(refusal)),
            };
            self.phase = if answer.is_stream { Phase::Streaming } else { Phase::Answering };
            self.output = answer.bytes;
            self.input = Vec::new();
            self.deadline = now + PATIENCE;
        }
        self.write(now)
    }

    /// Takes what has come in; true at the end of the stream. After the request nothing is expected any more: it is
    /// dropped, only its end matters.
    fn read(&mut self) -> io::Result<bool> {
        let mut block = [0; 2048];
        loop {
            match self.stream.read(&mut block) {
                // A client that half-closes after its request still wants the answer.
                Ok(0) => return Ok(self.phase != Phase::Answering),
                Ok(n) if self.phase == Phase::Reading && self.input.len() < MAX_REQUEST_BYTES => {
                    self.input.extend_from_slice(&block[..n]);
                    if is_complete(&self.input) {
                        return Ok(false);
                    }
                }
                Ok(_) if self.phase == Phase::Reading => return Ok(false),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// A snapshot for a stream. One that has not read the last one yet is spared this one.
    pub(super) fn push(&mut self, now: Instant, event: &[u8]) -> Progress {
        if self.output.is_empty() {
            self.output.extend_from_slice(event);
            self.deadline = now + PATIENCE;
        }
        self.write(now)
    }

    fn write(&mut self, now: Instant) -> Progress {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Progress::Over,
                Ok(n) => {
                    self.written += n;
                    self.deadline = now + PATIENCE;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Progress::Waiting,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Progress::Over,
            }
        }
        self.output.clear();
        self.written = 0;
        if self.phase == Phase::Answering {
            // What the client has sent beyond its request must not turn the end into a reset.
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
            return Progress::Over;
        }
        Progress::Waiting
    }
}

/// Whether the end of the header fields is there, or more than is ever read.
fn is_complete(input: &[u8]) -> bool {
    input.len() >= MAX_REQUEST_BYTES || input.windows(4).any(|w| w == b"\r\n\r\n")
}

enum Parsed<'a> {
    Partial,
    Request(Request<'a>),
    Wrong(Answer),
}

fn parse(input: &[u8]) -> Parsed<'_> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(input) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if input.len() < MAX_REQUEST_BYTES => return Parsed::Partial,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Parsed::Wrong(Answer::short(431, "the request is too long"));
        }
        Err(_) => return Parsed::Wrong(Answer::short(400, "this is no HTTP request")),
    }
    let mut hosts = request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("host"));
    let host = hosts.next().and_then(|h| std::str::from_utf8(h.value).ok());
    let (Some(method), Some(path), Some(host), None) = (request.method, request.path, host, hosts.next())
    else {
        return Parsed::Wrong(Answer::short(400, "the request names no host"));
    };
    Parsed::Request(Request { method, path: path.split('?').next().unwrap_or(path), host })
}
