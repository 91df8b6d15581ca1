//! Role: what is answered to which request, and who may ask.
//! Owns: the newest snapshot, its text as an event, the history of the last minutes.
//! Implements: docs/ARCHITECTURE.md, "Watching a server".

use super::super::metrics;
use super::super::snapshot::Snapshot;
use std::collections::VecDeque;
use std::net::IpAddr;

/// Points of the history: ten minutes of two a second.
const MAX_HISTORY: usize = 1200;
/// Sent with everything: nobody may store it, frame it or take it for another type.
const SAFETY: &str = "Cache-Control: no-store\r\n\
    X-Content-Type-Options: nosniff\r\n\
    Referrer-Policy: no-referrer\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\n\
    Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n";

/// What an address serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Serves {
    /// `/metrics`
    pub(in super::super) metrics: bool,
    /// `/` and what belongs to it
    pub(in super::super) dashboard: bool,
}

/// A request, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// Without a query.
    pub(super) path: &'a str,
    /// The Host field.
    pub(super) host: &'a str,
}

/// A whole answer, ready to be written.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    /// Snapshots follow as they come.
    pub(super) is_stream: bool,
}

impl Answer {
    /// An answer with a body.
    fn page(content_type: &str, body: &[u8], with_body: bool) -> Self {
        let mut bytes = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{SAFETY}\
             Connection: close\r\n\r\n",
            body.len()
        )
        .into_bytes();
        if with_body {
            bytes.extend_from_slice(body);
        }
        Self { bytes, is_stream: false }
    }

    /// A refusal of one sentence.
    pub(super) fn short(status: u16, sentence: &str) -> Self {
        let reason = match status {
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            421 => "Misdirected Request",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let allow = if status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        let bytes = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             {allow}{SAFETY}Connection: close\r\n\r\n{sentence}\n",
            sentence.len() + 1
        )
        .into_bytes();
        Self { bytes, is_stream: false }
    }

    /// The beginning of a stream of events, which ends with the connection.
    fn stream(first: &[&[u8]]) -> Self {
        let mut bytes = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{SAFETY}Connection: close\r\n\r\n"
        )
        .into_bytes();
        first.iter().for_each(|event| bytes.extend_from_slice(event));
        Self { bytes, is_stream: true }
    }
}

/// One point of the history: seconds, bits per second in and out, loss in percent in and out, sessions.
type Point = (f64, u64, u64, f64, f64, usize);

/// What is known.
#[derive(Debug)]
pub(super) struct State {
    hosts: Vec<String>,
    snapshot: Option<Snapshot>,
    event: Vec<u8>,
    history: VecDeque<Point>,
}

impl State {
    pub(super) fn new(hosts: Vec<String>) -> Self {
        Self { hosts, snapshot: None, event: Vec::new(), history: VecDeque::new() }
    }

    /// A newer snapshot.
    pub(super) fn take(&mut self, snapshot: Snapshot) {
        if self.history.len() >= MAX_HISTORY {
            self.history.pop_front();
        }
        let r = snapshot.rates;
        let tenth = |percent: f64| (percent * 10.0).round() / 10.0;
        self.history.push_back((
            (snapshot.uptime_s * 10.0).round() / 10.0,
            r.in_bits_per_sec,
            r.out_bits_per_sec,
            tenth(r.loss_in_pct),
            tenth(r.loss_out_pct),
            snapshot.sessions_now,
        ));
        self.event.clear();
        self.snapshot = Some(snapshot);
    }

    /// The newest snapshot as an event; nothing before the first.
    pub(super) fn event(&mut self) -> &[u8] {
        if self.event.is_empty()
            && let Some(snapshot) = &self.snapshot
        {
            self.event = event("snapshot", snapshot);
        }
        &self.event
    }

    pub(super) fn answer(&mut self, request: Result<Request<'_>, Answer>, serves: Serves) -> Answer {
        let request = match request {
            Ok(request) => request,
            Err(refusal) => return refusal,
        };
        if !is_own_name(request.host, &self.hosts) {
            // A page from elsewhere whose name was made to point here must not read what is shown here.
            return Answer::short(
                421,
                "this server does not go by that name: use its address or localhost, or start it with \
                 --status-host NAME",
            );
        }
        let with_body = match request.method {
            "GET" => true,
            "HEAD" => false,
            _ => return Answer::short(405, "only GET and HEAD are served here"),
        };
        let page = |content_type, body: &[u8]| Answer::page(content_type, body, with_body);
        match request.path {
            "/metrics" if serves.metrics => match &self.snapshot {
                Some(snapshot) => page(metrics::CONTENT_TYPE, metrics::text(snapshot).as_bytes()),
                None => Answer::short(503, "the server is starting"),
            },
            "/" if serves.dashboard => {
                page("text/html; charset=utf-8", include_bytes!("../page/dashboard.html"))
            }
            "/dashboard.css" if serves.dashboard => {
                page("text/css; charset=utf-8", include_bytes!("../page/dashboard.css"))
            }
            "/dashboard.js" if serves.dashboard => {
                page("text/javascript; charset=utf-8", include_bytes!("../page/dashboard.js"))
            }
            "/snapshot.json" if serves.dashboard => match &self.snapshot {
                Some(snapshot) => page("application/json", json(snapshot).as_bytes()),
                None => Answer::short(503, "the server is starting"),
            },
            "/events" if serves.dashboard && with_body => {
                let history = event("history", &self.history);
                Answer::stream(&[&history, self.event()])
            }
            _ => Answer::short(404, not_found(serves)),
        }
    }
}

fn not_found(serves: Serves) -> &'static str {
    match (serves.metrics, serves.dashboard) {
        (true, true) => "there is / and /metrics here",
        (true, false) => "there is only /metrics here",
        _ => "there is only / here",
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("numbers and strings serialise into memory")
}

/// One server-sent event. JSON has no line ends of its own.
fn event(name: &str, value: &impl serde::Serialize) -> Vec<u8> {
    format!("event: {name}\ndata: {}\n\n", json(value)).into_bytes()
}

/// Whether a Host field names this server: an address, localhost, or a name that the user has given. A name that
/// somebody else's DNS has pointed here is none of these; an address needs no DNS.
fn is_own_name(host: &str, names: &[String]) -> bool {
    let host = host.trim();
    let name = if let Some(rest) = host.strip_prefix('[') {
        match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || is_port(port) => {
                return address.parse::<std::net::Ipv6Addr>().is_ok();
            }
            _ => return false,
        }
    } else {
        match host.split_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            Some(_) => return false,
            None => host,
        }
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_own = |own: &String| own.trim_end_matches('.').eq_ignore_ascii_case(name);
    name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") || names.iter().any(is_own)
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_given_names_are_own_names() {
        let names = ["mon.example.org".to_owned()];
        let own =
            ["127.0.0.1", "127.0.0.1:5771", "[::1]", "[::1]:5771", "localhost", "LocalHost:1", "localhost."];
        let own = own.iter().chain(&["192.0.2.7:80", "mon.example.org", "MON.example.org.:9100"]);
        for host in own {
            assert!(is_own_name(host, &names), "{host}");
        }
        let foreign =
            ["", "evil.example", "evil.example:5771", "localhost.evil.example", "127.0.0.1.evil.example"];
        let foreign =
            foreign.iter().chain(&["[::1", "[evil]", "[::1]x", "localhost:evil", "::1", "mon.example.org:a"]);
        for host in foreign {
            assert!(!is_own_name(host, &names), "{host}");
        }
    }
}
