//! `fulmar bench`: the curves it measures, and the forms in which it gives them.

mod common;

use assert_cmd::Command;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

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

fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(output.stdout.iter().filter(|b| **b == b'\n').count(), 1);
    serde_json::from_slice(&output.stdout).expect("exactly one JSON object on stdout")
}

fn goodputs(sweep: &Value) -> Vec<f64> {
    let points = sweep["points"].as_array().expect("points");
    points.iter().map(|p| p["runs"][0]["goodput_bits_per_sec"].as_f64().expect("a number")).collect()
}

#[test]
fn goodput_grows_with_the_window_up_to_the_product_and_stays() {
    let dir = tempfile::tempdir().expect("temp dir");
    let arguments =
        &["bench", "window", "--json", "--values", "16KiB,64KiB,256KiB,1MiB,8MiB", "--rate", "50mbit"];
    let sweep = json(&fulmar(dir.path(), arguments));
    assert_eq!(sweep["command"], "bench");
    assert_eq!(sweep["sweep"], "window");
    assert_eq!(sweep["bdp_bytes"], 625_000);
    let goodputs = goodputs(&sweep);
    assert!(goodputs[..4].is_sorted(), "{goodputs:?}");
    assert!(goodputs[4] > goodputs[3] * 0.95, "{goodputs:?}");
    for (point, goodput) in sweep["points"].as_array().expect("points").iter().zip(&goodputs) {
        let expected = point["expected_bits_per_sec"].as_f64().expect("a number");
        // The engine is held to 10 % elsewhere, on the link as a whole; here a broken sweep should show.
        assert!((0.8..1.05).contains(&(goodput / expected)), "{point}");
    }
    // The same seed gives the same figures.
    assert_eq!(json(&fulmar(dir.path(), arguments)), sweep);
}

#[test]
fn every_form_holds_the_same_figures_and_the_page_stands_alone() {
    let dir = tempfile::tempdir().expect("temp dir");
    let forms = ["--csv", "r.csv", "--html", "r.html", "--json"];
    let base = ["bench", "loss", "--values", "10%,0%", "--rate", "10mbit", "--size", "300KB", "--runs", "3"];
    let output = fulmar(dir.path(), &[&base[..], &forms[..]].concat());
    let sweep = json(&output);
    assert_eq!(sweep["points"][0]["runs"].as_array().map(Vec::len), Some(3));
    let csv = std::fs::read_to_string(dir.path().join("r.csv")).expect("written");
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 1 + 2 * 3);
    let column = lines[0].iter().position(|name| *name == "goodput_bits_per_sec").expect("a column");
    assert!(lines.iter().all(|line| line.len() == lines[0].len()));
    assert_eq!(lines[1][column], sweep["points"][0]["runs"][0]["goodput_bits_per_sec"].to_string());
    let page = std::fs::read_to_string(dir.path().join("r.html")).expect("written");
    assert_eq!(page.matches("<svg ").count(), 6, "three plots, for two widths");
    assert!(!page.contains("//") && !page.contains("<script") && !page.contains("src="));

    // A saved object gives the same page, and several sweeps one page.
    std::fs::write(dir.path().join("saved.json"), &output.stdout).expect("written");
    let again = fulmar(dir.path(), &["bench", "report", "saved.json", "--html", "again.html", "--json"]);
    assert_eq!(json(&again), sweep);
    assert_eq!(std::fs::read_to_string(dir.path().join("again.html")).expect("written"), page);
    let two = fulmar(dir.path(), &["bench", "report", "saved.json", "saved.json", "--json"]);
    assert_eq!(json(&two)["sweeps"].as_array().map(Vec::len), Some(2));
}

/// The records of a trace whose names end so.
fn records(path: &Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("readable");
    let all = text.lines().map(|line| serde_json::from_str(line.trim_start_matches('\u{1e}')).expect("JSON"));
    all.filter(|record: &Value| record["name"] == format!("fulmar:{name}")).collect()
}

#[test]
fn a_trace_holds_each_simulated_upload_under_its_value() {
    let dir = tempfile::tempdir().expect("temp dir");
    let arguments =
        ["bench", "window", "--values", "64KiB,1MiB", "--rate", "20mbit", "--seconds", "2", "--json"];
    let plain = json(&fulmar(dir.path(), &arguments));
    let sweep = json(&fulmar(dir.path(), &[&arguments[..], &["--trace", "t.sqlog"]].concat()));
    assert_eq!(plain, sweep, "a trace changes nothing");
    let path = dir.path().join("t.sqlog");
    let labels = records(&path, "session_labelled");
    let sent = records(&path, "packet_sent");
    assert_eq!((labels.len(), records(&path, "events_left_out").len()), (2, 0));
    let mut begins = 0.0;
    for (i, value) in ["64 KiB", "1 MiB"].into_iter().enumerate() {
        let run = &sweep["points"][i]["runs"][0];
        assert_eq!(labels[i]["data"]["label"], format!("window {value}"));
        let of_run: Vec<&Value> = sent.iter().filter(|r| r["group_id"] == labels[i]["group_id"]).collect();
        assert_eq!(run["packets_sent"], of_run.len() as u64, "each packet has its record");
        // One after the other, in virtual time.
        let ends = begins + run["elapsed_s"].as_f64().expect("a number") * 1e3;
        for record in of_run {
            let time = record["time"].as_f64().expect("a time");
            assert!((begins - 1.0..=ends + 1.0).contains(&time), "{begins} {time} {ends}");
        }
        begins = ends;
    }
    let output = fulmar(dir.path(), &["report", "t.sqlog", "-o", "t.html"]);
    assert_eq!(output.status.code(), Some(0));
    let page = std::fs::read_to_string(dir.path().join("t.html")).expect("written");
    assert!(page.contains("t.sqlog: window 64 KiB") && page.contains("t.sqlog: window 1 MiB"));
}

#[test]
fn a_server_is_measured_with_real_uploads() {
    let (dir, served) = (tempfile::tempdir().expect("temp dir"), tempfile::tempdir().expect("temp dir"));
    std::fs::write(dir.path().join("k"), "correct horse battery staple").expect("written");
    let server = common::TestServer::start(served.path());
    let address = server.addr.to_string();
    let arguments = ["bench", "window", "--server", &address, "--key-file", "k", "--json", "--size", "2MB"];
    let sweep = ["--values", "256KiB,4MiB", "--trace", "t.sqlog"];
    let sweep = json(&fulmar(dir.path(), &[&arguments[..], &sweep].concat()));
    let labels = records(&dir.path().join("t.sqlog"), "session_labelled");
    assert_eq!(labels.len(), 2, "{labels:?}");
    assert_eq!(records(&dir.path().join("t.sqlog"), "connection_closed").len(), 2);
    assert!(goodputs(&sweep).iter().all(|goodput| *goodput > 0.0));
    assert!(sweep["link"]["rtt_ms"].as_f64().is_some_and(|ms| ms > 0.0), "measured, since not given");
    let left: Vec<_> = std::fs::read_dir(served.path()).expect("readable").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].metadata().expect("readable").len(), 2_000_000);
    server.stop().expect("ends well");
}

#[test]
fn what_fails_says_so_in_one_line_and_in_the_object() {
    let dir = tempfile::tempdir().expect("temp dir");
    std::fs::write(dir.path().join("bad.json"), "{\"sweeps\": 3}").expect("written");
    std::fs::write(dir.path().join("k"), "key").expect("written");
    std::fs::set_permissions(dir.path().join("k"), PermissionsExt::from_mode(0o600)).expect("changed");
    let nobody = ["--server", "127.0.0.1:9", "--key-file", "k", "--values", "64KiB", "--size", "1KB"];
    for (arguments, code, says) in [
        (vec!["bench", "window", "--values", "1KiB"], 2, "--values"),
        (vec!["bench", "cc", "--values", "bbr"], 2, "adaptive"),
        (vec!["bench", "loss", "--server", "h"], 2, "--server"),
        (vec!["bench", "window", "--server", "127.0.0.1"], 2, "no key"),
        (vec!["bench", "report", "missing.json"], 5, "missing.json"),
        (vec!["bench", "report", "bad.json"], 2, "bench report --help"),
        (
            vec!["bench", "window", "--html", "no/such/dir.html", "--values", "64KiB", "--size", "1KB"],
            5,
            "no/such",
        ),
        (vec!["bench", "frobnicate"], 2, "frobnicate"),
        ([&["bench", "window"][..], &nobody].concat(), 3, "127.0.0.1:9"),
    ] {
        let output = fulmar(dir.path(), &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains(says), "{arguments:?}: {stderr}");
        let output = fulmar(dir.path(), &[&arguments[..], &["--json"]].concat());
        let object: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(object["exit_code"], code, "{arguments:?}");
        assert!(object["error"].is_string(), "{arguments:?}");
    }
}
