//! Watching: traces and the report, metrics, the dashboard's figures, `fulmar top`.

use crate::support::{FULMAR, Lab, Server, checked, need, noise, now, until, works};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

/// The records of a trace; fails on what is no JSON text sequence (RFC 7464).
fn records(path: &Path) -> Vec<Value> {
    let raw = std::fs::read(path).expect("a trace");
    assert_eq!(raw.first(), Some(&0x1e), "{}", path.display());
    raw[1..]
        .split(|byte| *byte == 0x1e)
        .map(|text| {
            assert_eq!(text.last(), Some(&b'\n'));
            serde_json::from_slice(text).expect("JSON")
        })
        .collect()
}

fn named<'a>(records: &'a [Value], name: &str) -> Vec<&'a Value> {
    let name = format!("fulmar:{name}");
    records.iter().filter(|r| r["name"] == name).collect()
}

#[test]
fn traces_of_both_sides_agree_with_the_summary_and_become_a_report() {
    let lab = Lab::new();
    lab.write("big.bin", noise(1, 3_000_000));
    let server = lab.serve(&["--trace", "server.sqlog"]);
    let target = server.at("big.bin");
    let arguments = ["put", "big.bin", &target, "--trace", "put.sqlog", "--sim", "loss=8%,delay=5ms"];
    let object = lab.json(&arguments, 0);
    server.stop();

    let records_of_put = records(&lab.path("put.sqlog"));
    assert_eq!(records_of_put[0]["file_schema"], "urn:ietf:params:qlog:file:sequential");
    assert_eq!(records_of_put[0]["trace"]["vantage_point"]["type"], "client");
    let count = |name: &str| named(&records_of_put, name).len() as u64;
    assert_eq!(object["packets_sent"], count("packet_sent"), "each packet has its record");
    assert_eq!(object["packets_received"], count("packet_received"));
    assert_eq!(object["packets_lost"], count("packet_lost"));
    assert!(count("packet_lost") > 0, "of a link that loses 8 %");
    let again = named(&records_of_put, "packet_sent");
    assert!(again.iter().any(|r| r["data"]["attempt"].as_u64() > Some(1)), "losses are repaired");
    assert!(count("recovery_metrics_updated") > 3);
    let closed = named(&records_of_put, "connection_closed");
    assert_eq!(closed[0]["data"]["stats"]["packets_sent"], object["packets_sent"]);
    let finished = named(&records_of_put, "file_finished");
    assert_eq!(finished[0]["data"]["sha256"], object["files"][0]["sha256"]);
    let times: Vec<f64> = records_of_put[1..].iter().map(|r| r["time"].as_f64().expect("a time")).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1] + 200.0), "about in order");

    let of_server = records(&lab.path("server.sqlog"));
    assert_eq!(of_server[0]["trace"]["vantage_point"]["type"], "server");
    assert_eq!(named(&of_server, "request_received")[0]["data"]["request"], "put");
    assert!(!named(&of_server, "packet_received").is_empty());

    let output = lab.run(&["report", "put.sqlog", "server.sqlog", "-o", "page.html"], 0);
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(said.contains("put.sqlog") && said.contains("written to page.html"), "{said}");
    let page = String::from_utf8(lab.read("page.html")).expect("UTF-8");
    assert!(page.contains("<svg ") && page.contains("server.sqlog") && page.ends_with("</html>\n"));
    let output = lab.run(&["report", "put.sqlog", "-o", "-"], 0);
    assert!(output.stdout.starts_with(b"<!DOCTYPE html>"));
}

#[test]
fn traces_that_cannot_be_written_or_read_are_errors_that_name_them() {
    let lab = Lab::new();
    lab.write("a", "x");
    lab.fails(&["put", "a", "127.0.0.1:1", "--insecure", "--trace", "no/t.sqlog"], 5, &["no/t.sqlog"]);
    lab.fails(&["report", "missing.sqlog"], 5, &["cannot read", "missing.sqlog"]);
    lab.fails(&["report", "a"], 1, &["a is not a trace", "--trace"]);
}

/// The whole answer to a GET, headers and body.
fn get(address: &str, path: &str, host: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

/// The address that a server's log names for one of the pages.
pub(crate) fn page_address(server: &Server, what: &str) -> String {
    let line = server.logs(&[&format!("{what} on http://")]);
    let rest = line.split("http://").nth(1).expect("an address");
    rest.split('/').next().expect("an address").to_owned()
}

fn sample(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[test]
fn a_server_shows_what_it_does() {
    let lab = Lab::new();
    lab.write("a.bin", noise(2, 500_000));
    let server = lab.serve(&["--metrics", "127.0.0.1:0", "--dashboard", "0"]);
    let (metrics, dashboard) = (page_address(&server, "metrics"), page_address(&server, "dashboard"));
    lab.run(&["put", "a.bin", &server.at("a.bin"), "-q"], 0);
    lab.run(&["put", "a.bin", &server.at("a.bin"), "-q"], 5);
    let mut text = String::new();
    until("both sessions to be counted", || {
        text = get(&metrics, "/metrics", &metrics).1;
        sample(&text, "fulmar_sessions_ended_total{result=\"done\"} ") == Some(2.0)
    });
    assert_eq!(sample(&text, "fulmar_files_total{direction=\"received\",result=\"done\"} "), Some(1.0));
    assert_eq!(sample(&text, "fulmar_files_total{direction=\"received\",result=\"failed\"} "), Some(1.0));
    assert_eq!(sample(&text, "fulmar_files_bytes_total{direction=\"received\"} "), Some(500_000.0));
    assert!(sample(&text, "fulmar_wire_bytes_total{direction=\"received\"} ") > Some(500_000.0));
    if works("promtool", &["--version"]) {
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]).stdin(std::process::Stdio::piped());
        let mut promtool = promtool.stdout(std::process::Stdio::piped()).spawn().expect("runs");
        promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("read");
        assert!(promtool.wait().expect("ends").success());
    }

    let snapshot: Value =
        serde_json::from_str(&get(&dashboard, "/snapshot.json", &dashboard).1).expect("JSON");
    assert_eq!(snapshot["files"][1]["path"], "a.bin");
    assert_eq!(snapshot["counters"]["sessions"], 2);
    assert!(get(&dashboard, "/", "localhost").0.starts_with("HTTP/1.1 200 "));
    assert!(get(&dashboard, "/", "evil.example").0.starts_with("HTTP/1.1 421 "), "DNS rebinding");
    assert!(get(&metrics, "/", &metrics).0.starts_with("HTTP/1.1 404 "), "no dashboard here");

    let output = lab.run(&["top", &dashboard, "--once"], 0);
    let top = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(top.contains("2 in all") && top.contains("a.bin"), "{top}");
    lab.fails(&["top", &metrics, "--once"], 1, &["is no dashboard of fulmar"]);
    lab.fails(&["top", &dashboard], 2, &["--once"]);
    server.stop();
    lab.fails(&["top", &dashboard, "--once"], 3, &["cannot reach", "--dashboard"]);
}

#[test]
fn figures_are_for_this_machine_unless_said_otherwise() {
    let lab = Lab::new();
    for option in ["--metrics", "--dashboard"] {
        let arguments = ["serve", "drop", "--insecure", option, "0.0.0.0:0"];
        lab.fails(&arguments, 2, &[option, "without a password", "--status-host"]);
    }
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("bound");
    let address = taken.local_addr().expect("bound").to_string();
    lab.fails(
        &["serve", "drop", "--insecure", "--listen", "127.0.0.1:0", "--dashboard", &address],
        1,
        &[&address],
    );
    let server = lab.serve(&["--dashboard", "0.0.0.0:0", "--status-host", "mon.example"]);
    server.logs(&["WARN", "without a password"]);
    let port = page_address(&server, "dashboard").rsplit(':').next().expect("a port").to_owned();
    let address = format!("127.0.0.1:{port}");
    assert!(get(&address, "/", "mon.example").0.starts_with("HTTP/1.1 200 "));
    assert!(get(&address, "/", "other.example").0.starts_with("HTTP/1.1 421 "));
}

#[test]
fn readers_that_sleep_do_not_slow_transfers() {
    let lab = Lab::new();
    lab.write("a.bin", noise(3, 2_000_000));
    let server = lab.serve(&["--dashboard", "127.0.0.1:0"]);
    let dashboard = page_address(&server, "dashboard");
    // They ask for events and read none, or say nothing at all.
    let sleepers: Vec<TcpStream> = (0..20)
        .map(|i| {
            let mut stream = TcpStream::connect(&dashboard).expect("connected");
            if i % 2 == 0 {
                write!(stream, "GET /events HTTP/1.1\r\nHost: {dashboard}\r\n\r\n").expect("sent");
            }
            stream
        })
        .collect();
    let start = now();
    lab.run(&["put", "a.bin", &server.at("a.bin"), "-q"], 0);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    drop(sleepers);
}

#[test]
fn top_draws_on_a_terminal_and_q_ends_it() {
    need!(works("script", &["--version"]), "needs script (util-linux)");
    let lab = Lab::new();
    let server = lab.serve(&["--dashboard", "127.0.0.1:0"]);
    let dashboard = page_address(&server, "dashboard");
    let line = format!("stty rows 24 cols 100; {FULMAR} top {dashboard}");
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]);
    let mut child = script
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    let mut keys = child.stdin.take().expect("piped");
    let mut screen = child.stdout.take().expect("piped");
    let mut seen = Vec::new();
    let mut block = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains("fulmar 0.") {
        let n = screen.read(&mut block).expect("readable");
        assert!(n > 0, "it ended: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&block[..n]);
    }
    keys.write_all(b"q").expect("sent");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn every_command_that_talks_to_a_peer_writes_a_trace() {
    let lab = Lab::new();
    lab.write("a", "contents");
    let server = lab.serve(&[]);
    let commands: [&[&str]; 4] = [
        &["put", "a", &server.at("a")],
        &["get", &server.at("a"), "b"],
        &["ls", &server.at("")],
        &["echo", "a", &server.address],
    ];
    for command in commands {
        let trace = format!("{}.sqlog", command[0]);
        let arguments = [command, &["-q", "--trace", &trace]].concat();
        checked(&arguments, lab.client(&arguments).output().expect("runs"), 0);
        let records = records(&lab.path(&trace));
        assert_eq!(named(&records, "connection_closed").len(), 1, "{trace}");
        assert!(records[0]["title"].as_str().expect("a title").contains(command[0]));
        page_of(&lab, &trace);
    }
    lab.run(&["demo", "a", "-q", "--trace", "demo.sqlog"], 0);
    page_of(&lab, "demo.sqlog");
    lab.run(&["report", "ls.sqlog", "echo.sqlog", "-o", "page.html"], 0);
}

/// `fulmar report` makes a page of this trace alone.
fn page_of(lab: &Lab, trace: &str) {
    let page = format!("{trace}.html");
    lab.run(&["report", trace, "-o", &page, "-q"], 0);
    let page = String::from_utf8(lab.read(&page)).expect("UTF-8");
    assert!(page.contains("<svg ") && page.contains(trace) && page.ends_with("</html>\n"), "{trace}");
}
