//! `serve --workers`: several processes on one port look like one server.

use crate::support::{Lab, Server, Signal, all_succeed, noise, now, sixteen_up_and_down, until};
use rustix::process::Pid;
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// The processes of the workers.
fn workers_of(server: &Server) -> Vec<i32> {
    let id = server.process.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("it runs");
    children.split_whitespace().map(|id| id.parse().expect("a process")).collect()
}

fn is_alive(process: i32) -> bool {
    // A zombie without a parent that waits is as good as gone.
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Lines with this word, by worker.
fn by_worker(log: &[String], word: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in log.iter().filter(|line| line.contains(word)) {
        let worker = line.split(": ").next().expect("a label").to_owned();
        assert!(worker.starts_with("worker "), "no label: {line}");
        *counts.entry(worker).or_default() += 1;
    }
    counts
}

#[test]
fn thirty_two_clients_through_losses_are_served_by_several_workers() {
    let lab = Lab::new();
    let server = lab.serve(&["--workers", "3", "--sim", "loss=10%,loss-in=10%"]);
    assert_eq!(workers_of(&server).len(), 3);
    sixteen_up_and_down(&lab, &server);
    let stdout = server.process.stdout.clone();
    let log = server.stop();
    let connected = by_worker(&log, "connected from");
    // That one of three gets none of 32 happens once in 100,000 runs; that one gets all, never.
    assert!(connected.len() >= 2, "{connected:?}");
    assert_eq!(stdout.all().len(), 1, "one line for all of them");
    assert_eq!(lab.names("drop").len(), 32, "nothing is left behind");
}

/// Forwards datagrams between one client and the server, from another port of its own every now and then: a NAT that
/// forgets its mapping.
fn rebinding_nat(server: SocketAddr, stop: Arc<AtomicBool>, rebound: Arc<AtomicUsize>) -> SocketAddr {
    const PORT_LIFE: Duration = Duration::from_millis(300);
    let inside = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let address = inside.local_addr().expect("has one");
    inside.set_read_timeout(Some(Duration::from_millis(1))).expect("set");
    std::thread::spawn(move || {
        let outside = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
            socket.set_nonblocking(true).expect("set");
            socket
        };
        let (mut current, mut client, mut since) = (outside(), None, now());
        let mut buf = vec![0; 65_536];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((len, from)) = inside.recv_from(&mut buf) {
                client = Some(from);
                let _ = current.send_to(&buf[..len], server);
                if since.elapsed() > PORT_LIFE {
                    (current, since) = (outside(), now());
                    rebound.fetch_add(1, Ordering::Relaxed);
                }
            }
            while let Ok((len, _)) = current.recv_from(&mut buf) {
                if let Some(client) = client {
                    let _ = inside.send_to(&buf[..len], client);
                }
            }
        }
    });
    address
}

#[test]
fn a_session_stays_with_its_worker_when_its_address_changes() {
    let lab = Lab::new();
    let server = lab.serve(&["--workers", "4"]);
    let (stop, rebound) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let nat = rebinding_nat(server.address.parse().expect("an address"), stop.clone(), rebound.clone());
    lab.write("big", noise(5, 3_000_000));
    lab.run(&["put", "-q", "--limit", "16mbit", "big", &nat.to_string()], 0);
    stop.store(true, Ordering::Relaxed);
    let rebound = rebound.load(Ordering::Relaxed);
    assert!(rebound >= 2, "the address changed {rebound} times");
    assert!(lab.read("drop/big") == noise(5, 3_000_000));
    let log = server.stop();
    let connected: usize = by_worker(&log, "connected from").values().sum();
    assert_eq!(connected, 1, "one session, in one worker:\n{}", log.join("\n"));
}

#[test]
fn a_worker_that_is_killed_takes_no_other_with_it() {
    let lab = Lab::new();
    let server = lab.serve(&["--workers", "3"]);
    let before = workers_of(&server);
    let names: Vec<String> = (0..8).map(|n| format!("up{n}")).collect();
    let content = |n: usize| noise(n as u64, 3_000_000);
    let mut clients = Vec::new();
    for (n, name) in names.iter().enumerate() {
        lab.write(name, content(n));
        clients.push(lab.start(&["put", "-q", "--limit", "8mbit", name, &server.address]));
    }
    for name in &names {
        server.logs(&["receiving", name]);
    }
    let line = server.logs(&["receiving up0"]);
    let label = line.split(": ").next().expect("a label").to_owned();
    let index: usize = label.strip_prefix("worker ").expect("a worker").parse().expect("a number");
    // Children are listed in the order in which they were started.
    let victim = Pid::from_raw(before[index]).expect("a process");
    rustix::process::kill_process(victim, Signal::KILL).expect("it runs");
    server.logs(&["was ended by signal 9"]);
    server.logs(&["is started again"]);
    all_succeed(&mut clients);
    for (n, name) in names.iter().enumerate() {
        assert!(lab.read(format!("drop/{name}")) == content(n), "{name}");
    }
    let after = workers_of(&server);
    assert_eq!(after.len(), 3);
    assert_eq!(before.iter().filter(|process| after.contains(process)).count(), 2, "{before:?} {after:?}");
    let log = server.stop();
    let at = log.iter().position(|line| line.contains("was ended by signal 9")).expect("seen above");
    let lost = by_worker(&log[..at], "connected from").get(&label).copied().unwrap_or(0);
    let again: usize = by_worker(&log[at..], "connected from").values().sum();
    assert!(lost >= 1 && again == lost, "{lost} were lost, {again} came again:\n{}", log.join("\n"));
    assert_eq!(lab.names("drop").len(), 8, "nothing is left behind");
}

#[test]
fn a_client_that_was_killed_goes_on_at_once_with_whichever_worker() {
    let lab = Lab::new();
    let server = lab.serve(&["--workers", "4"]);
    lab.write("big", noise(9, 8_000_000));
    let put = ["put", "-q", "--limit", "16mbit", "big", &server.address];
    // Once in 256 runs all of them are served by one worker, which is no failure.
    for round in 1..=4 {
        let mut client = lab.start(&put);
        until("a part of the file", || {
            use std::os::unix::fs::MetadataExt;
            let parts = lab.names("drop").into_iter().filter(|name| name.ends_with(".part"));
            let bytes =
                parts.filter_map(|n| lab.path("drop").join(n).metadata().ok()).map(|m| m.blocks() * 512);
            bytes.sum::<u64>() > round * 1_000_000
        });
        client.signal(Signal::KILL);
        client.end();
    }
    lab.run(&put, 0);
    assert!(lab.read("drop/big") == noise(9, 8_000_000));
    assert_eq!(lab.names("drop"), ["big"]);
    let log = server.stop();
    assert!(log.iter().any(|line| line.contains("had come before")), "{}", log.join("\n"));
}

#[test]
fn workers_end_with_their_parent_however_it_ends() {
    let lab = Lab::new();
    let server = lab.serve(&["--workers", "2"]);
    let workers = workers_of(&server);
    assert!(workers.len() == 2 && workers.iter().all(|w| is_alive(*w)));
    server.stop();
    assert!(!workers.iter().any(|w| is_alive(*w)), "they were waited for");
    let mut server = lab.serve(&["--workers", "2"]);
    let workers = workers_of(&server);
    server.process.signal(Signal::KILL);
    server.process.end();
    until("the end of the workers", || !workers.iter().any(|w| is_alive(*w)));
    // As systemd does it: everybody is told, the workers first.
    let server = lab.serve(&["--workers", "2"]);
    for worker in workers_of(&server) {
        let worker = Pid::from_raw(worker).expect("a process");
        rustix::process::kill_process(worker, Signal::TERM).expect("it runs");
    }
    let log = server.stop();
    assert!(!log.iter().any(|line| line.contains("ERROR") || line.contains("again")), "{}", log.join("\n"));
}

#[test]
fn what_workers_cannot_have_is_said_in_one_line() {
    let lab = Lab::new();
    let server = lab.serve(&["--workers", "2"]);
    let listen = server.address.clone();
    let workers = ["serve", "drop", "--workers", "2", "--listen", &listen];
    for arguments in [&workers[..], &["serve", "drop", "--listen", &listen]] {
        let output = lab.fulmar(arguments).output().expect("runs");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty());
        crate::support::one_line(&output, &["is in use", "--listen"]);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = taken.local_addr().expect("has one").port().to_string();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--workers", "0"], 2, "--workers"),
        (&["--workers", "2", "--quota", "1GB"], 2, "--quota"),
        (&["--workers", "3", "--max-sessions", "2"], 2, "--max-sessions"),
        (&["--workers", "2", "--worker", "1"], 2, "--worker"),
        (&["--workers", "2", "--metrics", &port], 1, &port),
    ];
    for (options, code, word) in cases {
        let output = lab.fulmar(&["serve", "drop", "--listen", "127.0.0.1:0"]).args(*options).output();
        let output = output.expect("runs");
        assert_eq!(output.status.code(), Some(*code), "{options:?}: {output:?}");
        crate::support::one_line(&output, &[word]);
    }
}

#[test]
fn a_wrong_key_is_a_wrong_key_and_figures_are_told_for_each_worker() {
    let lab = Lab::new();
    let server = lab.serve(&["--workers", "2", "--metrics", "0"]);
    lab.write("a", "content");
    let other = lab.key_file("other", "another key");
    let other = other.to_str().expect("UTF-8");
    lab.fails(&["put", "--key-file", other, "a", &server.address], 4, &["key"]);
    lab.run(&["put", "-q", "a", &server.address], 0);
    for worker in ["worker 0: ", "worker 1: "] {
        let line = server.logs(&[worker, "metrics on http://"]);
        let address = line.split("http://").nth(1).and_then(|l| l.split('/').next()).expect("an address");
        assert!(std::net::TcpStream::connect(address).is_ok(), "{line}");
    }
    server.stop();
}
