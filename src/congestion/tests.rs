//! Controllers over the simulated link of `bench`: the cells that the project's measurements are made of.

use super::adaptive::Adaptive;
use super::bench::{FlowSpec, Link, Report, Sim, TICK};
use super::cubic::Cubic;
use super::{Controller, ControllerKind};
use std::time::Instant;

#[allow(clippy::disallowed_methods)] // Only as an origin: virtual time adds to it.
fn origin() -> Instant {
    Instant::now()
}

fn flow(controller: Box<dyn Controller>, start: f64, stop: f64) -> FlowSpec {
    FlowSpec { controller, start, stop, feedback_every: None }
}

fn adaptive(start: f64) -> FlowSpec {
    flow(Box::new(Adaptive::new(origin(), super::bench::PAYLOAD)), start, f64::INFINITY)
}

/// A transfer of `megabytes`: share as the measurements define it, without handshake and tail.
struct Cell {
    share: f64,
    offered: f64,
    queue_ms: f64,
    max_queue_ms: f64,
    ramp_rtts: f64,
    report: Report,
}

fn transfer(link: Link, megabytes: f64, seed: u64) -> Cell {
    transfer_traced(link, megabytes, seed, false)
}

fn transfer_traced(link: Link, megabytes: f64, seed: u64, tracing: bool) -> Cell {
    let packets = (megabytes * 1e6 / 1437.0) as u64;
    let mut sim = Sim::new(link.clone(), vec![adaptive(0.0)], seed);
    sim.tracing = tracing;
    let report = sim.run(400.0, packets);
    let wall = report.end + 1.5 * link.rtt;
    let share = megabytes * 8e6 / (link.bits_per_sec * (1.0 - link.loss) * wall);
    let offered = report.offered_packets as f64 * 1500.0 * (1.0 - link.loss) / (megabytes * 1e6);
    let capacity = link.bits_per_sec / 1e6 * (1.0 - link.loss);
    let window = link.rtt.max(0.03);
    let mut at = window;
    while at < report.end && report.rate(0, at - window, at) < 0.9 * capacity {
        at += TICK;
    }
    // Seconds from the first byte until a window of one RTT was full, less that window and the way there.
    let ramp_rtts = (at - window - link.rtt / 2.0) / link.rtt;
    Cell {
        share,
        offered,
        queue_ms: report.mean_queue * 1e3,
        max_queue_ms: report.max_queue * 1e3,
        ramp_rtts,
        report,
    }
}

fn show(name: &str, cell: &Cell) {
    println!(
        "{name:28} share {:.3} offered {:.3} queue {:5.1} max {:6.1} ms ramp {:5.1} RTT drops {:6} end {:.2} spur {}",
        cell.share,
        cell.offered,
        cell.queue_ms,
        cell.max_queue_ms,
        cell.ramp_rtts,
        cell.report.queue_drops,
        cell.report.end,
        cell.report.spurious
    );
}

#[test]
#[ignore = "a table for tuning"]
fn table() {
    for rtt in [20.0, 100.0, 300.0] {
        for loss in [0.0, 0.01, 0.05, 0.1, 0.2, 0.3] {
            let cell = transfer(Link::new(200.0, rtt).loss(loss), 250.0, 1);
            show(&format!("200 Mbit {rtt} ms loss {loss}"), &cell);
        }
    }
    show("10 Mbit 600 ms 5 %", &transfer(Link::new(10.0, 600.0).loss(0.05), 12.0, 1));
    show("7 Mbit 50 ms", &transfer(Link::new(7.0, 50.0), 20.0, 1));
    show("10 Mbit 50 ms 1 %", &transfer(Link::new(10.0, 50.0).loss(0.01), 20.0, 1));
    show("100 Mbit 40 ms", &transfer(Link::new(100.0, 40.0), 100.0, 1));
    show("400 Mbit 30 ms", &transfer(Link::new(400.0, 30.0), 300.0, 1));
    show("500 Mbit 50 ms 1 %", &transfer(Link::new(500.0, 50.0).loss(0.01), 500.0, 1));
    show("1 Gbit 1 s 5 %", &transfer(Link::new(1000.0, 1000.0).loss(0.05), 3000.0, 1));
    let base = || Link::new(200.0, 50.0);
    show("burst 8, 10 %", &transfer(Link { burst: 8.0, ..base().loss(0.1) }, 200.0, 1));
    show("feedback loss 20 %", &transfer(Link { feedback_loss: 0.2, ..base() }, 200.0, 1));
    show("feedback loss 30 %", &transfer(Link { feedback_loss: 0.3, ..base() }, 200.0, 1));
    show("jitter 10 ms", &transfer(Link { jitter: 0.01, ..base() }, 200.0, 1));
    show("jitter 10 ms, 10 Mbit", &transfer(Link { jitter: 0.01, ..Link::new(10.0, 50.0) }, 20.0, 1));
    show("queue 5 ms", &transfer(Link { queue: 0.005, ..base() }, 200.0, 1));
    show("queue 5 ms, 5 %", &transfer(Link { queue: 0.005, ..base().loss(0.05) }, 200.0, 1));
    show("outage 3 s", &transfer(Link { outage: Some((4.0, 3.0)), ..base() }, 200.0, 1));
    show("step 200-50-200", &transfer(Link { steps: vec![(3.0, 50e6), (8.0, 200e6)], ..base() }, 200.0, 1));
    show("policer 50 of 200", &transfer(Link { policer: Some((50e6, 100e3)), ..base() }, 100.0, 1));
    show("policer, big bucket", &transfer(Link { policer: Some((50e6, 3e6)), ..base() }, 100.0, 1));
}

#[test]
#[ignore = "one run in full, for tuning"]
fn trace() {
    let get = |name: &str, or: f64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(or);
    let mut link = Link::new(get("RATE", 200.0), get("RTT", 50.0)).loss(get("LOSS", 0.0) / 100.0);
    link.jitter = get("JITTER", 0.0) / 1e3;
    link.queue = get("QUEUE", link.queue * 1e3) / 1e3;
    link.burst = get("BURST", 1.0);
    if get("POLICE", 0.0) > 0.0 {
        link.policer = Some((get("POLICE", 0.0) * 1e6, 1e5));
    }
    if get("STEP", 0.0) > 0.0 {
        link.steps = vec![(3.0, get("STEP", 0.0) * 1e6), (8.0, link.bits_per_sec)];
    }
    let cell = transfer_traced(link, get("MB", 50.0), get("SEED", 1.0) as u64, true);
    for line in &cell.report.trace {
        println!("{line}");
    }
    show("traced", &cell);
}

#[allow(dead_code)]
fn unused() {
    let _ = (Cubic::new(origin(), 1472), ControllerKind::Adaptive, flow as usize);
}
