//! Controllers over the simulated link of `bench`: the cells that the project's measurements are made of.

mod feedback;

use super::adaptive::Adaptive;
use super::bbr::Bbr;
use super::bench::{FlowSpec, Link, Report, Rng, Sim, TICK};
use super::cubic::Cubic;
use super::{Controller, FeedbackSample, PacketInfo};
use std::time::{Duration, Instant};

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
    let packets = (megabytes * 1e6 / 1437.0) as u64;
    let report = Sim::new(link.clone(), vec![adaptive(0.0)], seed).run(400.0, packets);
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
    let link = Link { steps: vec![(3.0, 50e6), (8.0, 200e6)], ..base() };
    let cell = transfer(link.clone(), 200.0, 1);
    show("step 200-50-200", &cell);
    println!("  share of the area {:.3}", 200.0 / area(&link, cell.report.end + 0.075));
    show("policer 50 of 200", &transfer(Link { policer: Some((50e6, 100e3)), ..base() }, 100.0, 1));
    show("policer, big bucket", &transfer(Link { policer: Some((50e6, 3e6)), ..base() }, 100.0, 1));
}

/// Worst of several seeds.
fn worst(link: &Link, megabytes: f64, seeds: u64) -> (f64, f64, f64, f64) {
    (1..=seeds).map(|seed| transfer(link.clone(), megabytes, seed)).fold(
        (9.0, 0.0, 0.0, 0.0),
        |worst, cell| {
            (
                f64::min(worst.0, cell.share),
                f64::max(worst.1, cell.offered),
                f64::max(worst.2, cell.queue_ms),
                f64::max(worst.3, cell.ramp_rtts),
            )
        },
    )
}

#[test]
#[ignore = "a table for tuning"]
fn sweep() {
    for (noise, stalls) in [(100e-6, (0.0, 0.0)), (1e-3, (0.0, 0.0)), (300e-6, (0.002, 0.006))] {
        let print = |name: &str, link: Link, megabytes: f64| {
            let (share, offered, queue, ramp) = worst(&Link { noise, stalls, ..link }, megabytes, 6);
            println!(
                "worst {name:22} noise {noise} {stalls:?}: share {share:.3} offered {offered:.3} queue {queue:.1} ramp {ramp:.1}"
            );
        };
        for rtt in [20.0, 100.0, 300.0] {
            for loss in [0.0, 0.05, 0.1, 0.2, 0.3] {
                print(&format!("200 {rtt} {loss}"), Link::new(200.0, rtt).loss(loss), 150.0);
            }
        }
        let base = || Link::new(200.0, 50.0);
        print("10 600 5 %", Link::new(10.0, 600.0).loss(0.05), 12.0);
        print("7 50", Link::new(7.0, 50.0), 12.0);
        print("500 50 1 %", Link::new(500.0, 50.0).loss(0.01), 300.0);
        print("400 10", Link::new(400.0, 10.0), 200.0);
        print("burst", Link { burst: 8.0, ..base().loss(0.1) }, 100.0);
        print("jitter", Link { jitter: 0.01, ..base() }, 100.0);
        print("queue 5", Link { queue: 0.005, ..base() }, 100.0);
        print("queue 5, 10 %", Link { queue: 0.005, ..base().loss(0.1) }, 100.0);
        print("feedback 30 %", Link { feedback_loss: 0.3, ..base() }, 100.0);
    }
}

#[test]
#[ignore = "a table for tuning"]
fn odd() {
    let seconds = |name: &str, link: Link, secs: f64| {
        let report = Sim::new(link, vec![adaptive(0.0)], 3).run(secs, u64::MAX);
        println!(
            "odd share {name}: first half {:.1} second half {:.1} Mbit/s queue {:.2} max {:.1} ms drops {} of {}",
            report.rate(0, 0.0, secs / 2.0),
            report.rate(0, secs / 2.0, secs),
            report.mean_queue * 1e3,
            report.max_queue * 1e3,
            report.queue_drops,
            report.offered_packets
        );
    };
    seconds("loopback 8 Gbit 0.1 ms", Link { queue: 0.002, ..Link::new(8000.0, 0.1) }, 0.6);
    seconds("loopback 8 Gbit 0.1 ms, 0.2 ms queue", Link { queue: 0.0002, ..Link::new(8000.0, 0.1) }, 0.6);
    seconds(
        "loopback, stalls",
        Link { queue: 0.002, stalls: (0.0005, 0.003), ..Link::new(8000.0, 0.1) },
        0.6,
    );
    seconds("LAN 1 Gbit 1 ms", Link { queue: 0.005, ..Link::new(1000.0, 1.0) }, 2.0);
    seconds("LAN 1 Gbit 0.3 ms", Link { queue: 0.001, ..Link::new(1000.0, 0.3) }, 2.0);
    seconds("1 Mbit 50 ms", Link::new(1.0, 50.0), 20.0);
    seconds("0.2 Mbit 200 ms", Link::new(0.2, 200.0), 40.0);
    seconds("2 Mbit 600 ms 20 %", Link::new(2.0, 600.0).loss(0.2), 40.0);
    seconds("step to a tenth", Link { steps: vec![(5.0, 20e6)], ..Link::new(200.0, 50.0) }, 10.0);
    seconds("step up tenfold", Link { steps: vec![(5.0, 500e6)], ..Link::new(50.0, 50.0) }, 10.0);
    seconds("bloated 2 s queue", Link { queue: 2.0, ..Link::new(20.0, 40.0) }, 20.0);
    seconds(
        "policer 50, 5 % loss",
        Link { policer: Some((50e6, 1e5)), ..Link::new(1000.0, 40.0).loss(0.05) },
        20.0,
    );
    seconds("jitter 30 ms", Link { jitter: 0.03, ..Link::new(100.0, 40.0) }, 20.0);
    seconds("jitter 10 ms, 10 %", Link { jitter: 0.01, ..Link::new(200.0, 50.0).loss(0.1) }, 10.0);
    seconds("1 Gbit 1 s 5 %", Link::new(1000.0, 1000.0).loss(0.05), 40.0);
}

/// Megabytes at IP level that the link could have carried between two seconds, by its steps.
fn area(link: &Link, until: f64) -> f64 {
    let mut at = 0.0;
    let mut sum = 0.0;
    while at < until {
        let rate = link.steps.iter().rev().find(|step| at >= step.0).map_or(link.bits_per_sec, |step| step.1);
        sum += rate * TICK / 8e6;
        at += TICK;
    }
    sum
}

fn jain(rates: &[f64]) -> f64 {
    let sum: f64 = rates.iter().sum();
    sum * sum / (rates.len() as f64 * rates.iter().map(|rate| rate * rate).sum::<f64>())
}

fn own(link: Link, count: usize, apart: f64, until: f64, seed: u64) -> (f64, f64, Report) {
    let specs = (0..count).map(|i| adaptive(i as f64 * apart)).collect();
    let capacity = link.bits_per_sec / 1e6;
    let report = Sim::new(link, specs, seed).run(until, u64::MAX);
    // The last flow's last half.
    let from = (until + (count - 1) as f64 * apart) / 2.0;
    let rates: Vec<f64> = (0..count).map(|i| report.rate(i, from, until)).collect();
    (jain(&rates), rates.iter().sum::<f64>() / capacity, report)
}

#[test]
#[ignore = "one run in full, for tuning: RATE in Mbit/s, RTT in ms, LOSS in %, COUNT flows, CUBIC or BBR from a second on"]
fn trace() {
    let get = |name: &str, or: f64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(or);
    let link = Link::new(get("RATE", 100.0), get("RTT", 40.0)).loss(get("LOSS", 0.0) / 100.0);
    let mut specs: Vec<FlowSpec> =
        (0..get("COUNT", 1.0) as usize).map(|i| adaptive(i as f64 * get("APART", 5.0))).collect();
    for rival in ["CUBIC", "BBR"] {
        if get(rival, -1.0) >= 0.0 {
            let controller: Box<dyn Controller> =
                if rival == "CUBIC" { Box::new(Cubic::new(origin(), 1472)) } else { Box::new(Bbr::new()) };
            let start = get(rival, 0.0);
            specs.push(FlowSpec { controller, start, stop: get("STOP", 1e9), feedback_every: Some(0.0002) });
        }
    }
    let mut sim = Sim::new(link, specs, get("SEED", 1.0) as u64);
    sim.tracing = true;
    for line in sim.run(get("UNTIL", 30.0), u64::MAX).trace {
        println!("{line}");
    }
}

#[test]
#[ignore = "a table for tuning"]
fn sharing() {
    for (mbit, rtt) in [(100.0, 40.0), (200.0, 50.0), (50.0, 20.0), (200.0, 100.0), (20.0, 40.0)] {
        for count in [2, 4] {
            for seed in [1, 2] {
                let (jain, used, report) =
                    own(Link::new(mbit, rtt), count, 5.0, 30.0 + 5.0 * count as f64, seed);
                println!(
                    "own {count} at {mbit} Mbit {rtt} ms: jain {jain:.3} share of link {used:.3} queue {:.1} drops {} | {}",
                    report.mean_queue * 1e3,
                    report.queue_drops,
                    (0..count)
                        .map(|i| format!(
                            "{:.0}/{:.0} ",
                            report.rate(i, 20.0, 25.0),
                            report.rate(i, 29.0, 35.0)
                        ))
                        .collect::<String>()
                );
            }
        }
    }
}

/// Many flows that start within a second: Jain over the last half, the same over the times in which each had a mebibyte,
/// share of the link used, share of what was offered that the queue dropped, mean queue in seconds.
fn crowd(link: Link, count: usize, until: f64, seed: u64) -> (f64, f64, f64, f64, f64) {
    let specs = (0..count).map(|i| adaptive(i as f64 / count as f64)).collect();
    let capacity = link.bits_per_sec / 1e6 * (1.0 - link.loss);
    let report = Sim::new(link, specs, seed).run(until, u64::MAX);
    let rates: Vec<f64> = (0..count).map(|i| report.rate(i, until / 2.0, until)).collect();
    let job = |i: usize| {
        let start = i as f64 / count as f64;
        let ticks = report.series[i].iter().take_while(|packets| **packets < 765).count();
        1.0 / (ticks as f64 * TICK - start)
    };
    let jobs: Vec<f64> = (0..count).map(job).collect();
    let drops = report.queue_drops as f64 / report.offered_packets as f64;
    (jain(&rates), jain(&jobs), rates.iter().sum::<f64>() / capacity, drops, report.mean_queue)
}

#[test]
#[ignore = "a table for tuning"]
fn crowds() {
    for (mbit, rtt, count) in [(200.0, 50.0, 200), (200.0, 50.0, 50), (20.0, 40.0, 8), (100.0, 40.0, 16)] {
        for loss in [0.0, 0.05] {
            let (long, jobs, used, drops, queue) =
                crowd(Link::new(mbit, rtt).loss(loss), count, 2.0 + 24.0 * count as f64 / mbit, 1);
            println!(
                "{count} at {mbit} Mbit {rtt} ms {loss}: jain {long:.3} jobs {jobs:.3} used {used:.3} drops {drops:.3} queue {:.1} ms",
                queue * 1e3
            );
        }
    }
}

fn versus(
    link: Link,
    other: Box<dyn Controller>,
    other_start: f64,
    own_start: f64,
    until: f64,
    seed: u64,
) -> Report {
    let specs = vec![
        adaptive(own_start),
        FlowSpec { controller: other, start: other_start, stop: f64::INFINITY, feedback_every: Some(0.0002) },
    ];
    Sim::new(link, specs, seed).run(until, u64::MAX)
}

#[test]
#[ignore = "a table for tuning"]
fn rivals() {
    for rival in ["cubic", "bbr"] {
        for (other_start, own_start) in [(0.0, 0.0), (0.0, 3.0), (3.0, 0.0)] {
            for seed in [1, 2] {
                let other: Box<dyn Controller> = if rival == "cubic" {
                    Box::new(Cubic::new(origin(), 1472))
                } else {
                    Box::new(Bbr::new())
                };
                let report = versus(Link::new(100.0, 40.0), other, other_start, own_start, 30.0, seed);
                let parts: String = (0..10)
                    .map(|i| {
                        format!(
                            "{:.0}/{:.0} ",
                            report.rate(0, i as f64 * 3.0, i as f64 * 3.0 + 3.0),
                            report.rate(1, i as f64 * 3.0, i as f64 * 3.0 + 3.0)
                        )
                    })
                    .collect();
                println!(
                    "own share {:.2} against {rival} start {own_start}/{other_start}, used {:.3} queue {:.1} | {parts}",
                    report.rate(0, 3.0, 30.0) / 100.0,
                    (report.rate(0, 3.0, 30.0) + report.rate(1, 3.0, 30.0)) / 100.0,
                    report.mean_queue * 1e3
                );
            }
        }
    }
}

/// Worst share, offered bytes, mean queue and ramp over some seeds, against bounds.
#[track_caller]
fn holds(link: Link, megabytes: f64, least_share: f64, most_offered: f64, most_queue_ms: f64) {
    for seed in 1..=2 {
        let cell = transfer(link.clone(), megabytes, seed);
        let told = format!(
            "seed {seed}: share {:.3} offered {:.3} queue {:.1} ms ramp {:.1}",
            cell.share, cell.offered, cell.queue_ms, cell.ramp_rtts
        );
        assert!(cell.share >= least_share, "{told}: share under {least_share}");
        assert!(cell.offered <= most_offered, "{told}: offered over {most_offered}");
        assert!(cell.queue_ms <= most_queue_ms, "{told}: queue over {most_queue_ms}");
        assert!(cell.ramp_rtts <= 6.0, "{told}: ramp over 6 RTT");
    }
}

#[test]
fn link_speed_at_any_loss() {
    for loss in [0.0, 0.01, 0.05, 0.1, 0.2, 0.3] {
        holds(Link::new(200.0, 20.0).loss(loss), 250.0, 0.94, 1.06, 5.0);
        holds(Link::new(200.0, 100.0).loss(loss), 250.0, 0.90, 1.07, 15.0);
        holds(Link::new(200.0, 300.0).loss(loss), 250.0, 0.82, 1.075, 20.0);
    }
}

#[test]
fn slow_and_fast_links() {
    holds(Link::new(10.0, 600.0).loss(0.05), 12.0, 0.74, 1.09, 40.0);
    holds(Link::new(7.0, 50.0), 12.0, 0.93, 1.09, 12.5);
    holds(Link::new(500.0, 50.0).loss(0.01), 500.0, 0.91, 1.06, 5.0);
    holds(Link::new(400.0, 10.0), 200.0, 0.93, 1.06, 3.0);
}

#[test]
fn hard_links() {
    let base = || Link::new(200.0, 50.0);
    holds(Link { burst: 8.0, ..base().loss(0.1) }, 200.0, 0.88, 1.08, 15.0);
    holds(Link { feedback_loss: 0.3, ..base() }, 200.0, 0.91, 1.08, 12.0);
    holds(Link { jitter: 0.01, ..base() }, 200.0, 0.89, 1.09, 12.0);
    holds(Link { queue: 0.005, ..base() }, 200.0, 0.91, 1.08, 5.0);
    holds(Link { queue: 0.005, ..base().loss(0.1) }, 200.0, 0.91, 1.10, 5.0);
    // A receiver that is scheduled badly.
    holds(Link { noise: 3e-4, stalls: (0.002, 0.006), ..base().loss(0.05) }, 200.0, 0.90, 1.08, 12.0);
}

#[test]
fn rate_steps() {
    for seed in 1..=3 {
        let link = Link { steps: vec![(3.0, 50e6), (8.0, 200e6)], ..Link::new(200.0, 50.0) };
        let cell = transfer(link.clone(), 200.0, seed);
        let share = 200.0 / area(&link, cell.report.end + 0.075);
        assert!(share > 0.88, "seed {seed}: {share:.3} of the area");
        assert!(cell.offered < 1.08, "seed {seed}: offered {:.3}", cell.offered);
    }
}

#[test]
fn outage() {
    for seed in 1..=3 {
        let base = || Link::new(200.0, 50.0);
        let without = transfer(base(), 200.0, seed).report.end;
        let with = transfer(Link { outage: Some((4.0, 3.0)), ..base() }, 200.0, seed).report.end;
        assert!(with - without < 3.0 + 6.0 * 0.05, "seed {seed}: {:.2} s late", with - without);
    }
}

#[test]
fn policer_without_a_queue() {
    for (rate, bucket, loss) in [(50e6, 1e5, 0.0), (50e6, 3e6, 0.0), (50e6, 1e5, 0.05)] {
        let link = Link { policer: Some((rate, bucket)), ..Link::new(1000.0, 40.0).loss(loss) };
        let report = Sim::new(link, vec![adaptive(0.0)], 1).run(20.0, u64::MAX);
        let got = report.rate(0, 2.0, 20.0) / (50.0 * (1.0 - loss));
        let waste = report.queue_drops as f64 / report.offered_packets as f64;
        assert!(got > 0.9 && waste < 0.2, "got {got:.3} of the policed rate, {waste:.3} dropped");
    }
}

#[test]
fn marks_count_as_queue() {
    let link = |mark_above| Link { mark_above, ..Link::new(100.0, 40.0) };
    let run = |mark_above| Sim::new(link(mark_above), vec![adaptive(0.0)], 1).run(10.0, u64::MAX);
    let (plain, marked) = (run(f64::INFINITY), run(0.001));
    assert!(marked.mean_queue < 0.6 * plain.mean_queue, "{} against {}", marked.mean_queue, plain.mean_queue);
    assert!(marked.rate(0, 2.0, 10.0) > 90.0, "{:.1} Mbit/s", marked.rate(0, 2.0, 10.0));
}

/// A session that sends a little now and then must not find a wild pace when it has much to send.
#[test]
fn a_little_at_a_time_proves_nothing() {
    let start = origin();
    let mut controller = Adaptive::new(start, 1472);
    let mut total = 0;
    for step in 0..500_u64 {
        let sent_at = start + Duration::from_millis(50 * step);
        let packet = PacketInfo { number: step, size_bytes: 1472, sent_at, app_limited: true };
        controller.on_sent(&packet, 1472);
        total += 1472;
        controller.on_feedback(&FeedbackSample {
            now: sent_at + Duration::from_millis(40),
            acked: &[packet],
            lost: &[],
            spurious: 0,
            largest_sent_at: sent_at,
            largest_received_us: 1_000_000 + 50_000 * step,
            written_us: 1_000_000 + 50_000 * step,
            received_bytes_total: total,
            latest_rtt: Some(Duration::from_millis(40)),
            smoothed_rtt: Duration::from_millis(40),
            rttvar: Duration::ZERO,
            min_rtt: Duration::from_millis(40),
            bytes_in_flight: 0,
            ce_marked: 0,
        });
    }
    let rate = controller.rate_bytes_per_sec();
    assert!((100_000..20_000_000).contains(&rate), "{rate} bytes a second");
}

/// A small upload on a path whose datagrams turn out to be huge: more than the initial flight has left, and all of it
/// was limited by the application, before the first feedback. The pace must not become nothing.
#[test]
fn feedback_that_proves_nothing_leaves_a_pace() {
    let start = origin();
    let mut controller = Adaptive::new(start, 1_200);
    controller.on_mtu(65_507);
    let packet = |number, size_bytes| PacketInfo { number, size_bytes, sent_at: start, app_limited: true };
    let packets = [packet(0, 65_507), packet(1, 65_507)];
    for packet in &packets {
        controller.on_sent(packet, 131_014);
    }
    let rtt = Duration::from_millis(1);
    controller.on_feedback(&FeedbackSample {
        now: start + rtt,
        acked: &packets,
        lost: &[],
        spurious: 0,
        largest_sent_at: start,
        largest_received_us: 1_000_000,
        written_us: 1_000_000,
        received_bytes_total: 131_014,
        latest_rtt: Some(rtt),
        smoothed_rtt: rtt,
        rttvar: Duration::ZERO,
        min_rtt: rtt,
        bytes_in_flight: 0,
        ce_marked: 0,
    });
    let rate = controller.rate_bytes_per_sec();
    assert!(rate >= 65_507, "{rate} bytes a second");
}

#[test]
fn own_kind_shares() {
    for (mbit, rtt, count, least) in [(100.0, 40.0, 2, 0.97), (200.0, 50.0, 2, 0.97), (100.0, 40.0, 4, 0.93)]
    {
        for seed in 1..=2 {
            let (jain, used, report) = own(Link::new(mbit, rtt), count, 5.0, 30.0 + 5.0 * count as f64, seed);
            assert!(jain >= least, "{count} flows, seed {seed}: Jain {jain:.3}");
            assert!(used > 0.95, "{count} flows, seed {seed}: {used:.3} of the link used");
            assert!(report.mean_queue < 0.01, "{count} flows, seed {seed}: queue {:.4} s", report.mean_queue);
        }
    }
}

/// Each flow starts without knowing of the others, most into a queue that is full: what is sent stays in proportion to the link.
/// Without retreats 0.75 to 0.98 of it are dropped.
#[test]
fn a_crowd_does_not_collapse() {
    for (mbit, rtt, count, most) in
        [(200.0, 50.0, 200, 0.75), (200.0, 50.0, 50, 0.65), (20.0, 40.0, 8, 0.3), (100.0, 40.0, 16, 0.6)]
    {
        for loss in [0.0, 0.05] {
            let (_, _, used, drops, _) = crowd(Link::new(mbit, rtt).loss(loss), count, 12.0, 1);
            assert!(used > 0.95, "{count} flows, loss {loss}: {used:.3} of the link used");
            assert!(drops < most, "{count} flows, loss {loss}: {drops:.3} dropped");
        }
    }
}

#[test]
fn beside_cubic_and_bbr() {
    for rival in ["cubic", "bbr"] {
        for (other_start, own_start) in [(0.0, 0.0), (1.0, 0.0)] {
            for seed in 1..=2 {
                let other: Box<dyn Controller> = if rival == "cubic" {
                    Box::new(Cubic::new(origin(), 1472))
                } else {
                    Box::new(Bbr::new())
                };
                let report = versus(Link::new(100.0, 40.0), other, other_start, own_start, 30.0, seed);
                let (own, other) = (report.rate(0, 0.0, 30.0) / 100.0, report.rate(1, 0.0, 30.0) / 100.0);
                assert!((0.27..0.73).contains(&own), "{rival}, seed {seed}: own share {own:.3}");
                assert!(own + other > 0.93, "{rival}, seed {seed}: {:.3} used", own + other);
            }
        }
    }
}

#[test]
fn cubic_fills_a_clean_link() {
    let link = Link::new(50.0, 40.0);
    let specs = vec![flow(Box::new(Cubic::new(origin(), super::bench::PAYLOAD)), 0.0, f64::INFINITY)];
    let report = Sim::new(link, specs, 1).run(20.0, u64::MAX);
    assert!(report.rate(0, 2.0, 20.0) > 45.0, "{:.1} Mbit/s", report.rate(0, 2.0, 20.0));
    // One reduction per loss event: the drops of a full queue do not take the window to nothing.
    let link = Link::new(50.0, 40.0).loss(0.001);
    let specs = vec![flow(Box::new(Cubic::new(origin(), super::bench::PAYLOAD)), 0.0, f64::INFINITY)];
    let report = Sim::new(link, specs, 1).run(20.0, u64::MAX);
    assert!(report.rate(0, 2.0, 20.0) > 8.0, "{:.1} Mbit/s", report.rate(0, 2.0, 20.0));
}
