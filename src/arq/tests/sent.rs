//! The send window against a naive model, under loss, jitter and lost feedback.

#![allow(clippy::single_range_in_vec_init, reason = "lists of received ranges, some with one")]

use super::{ms, origin};
use crate::arq::received::ReceivedNumbers;
use crate::arq::sent::{Content, FeedbackError, Outcome, SentPackets, Settled};
use crate::wire::feedback::{BlockList, Feedback, build_block};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::Range;
use std::time::{Duration, Instant};

/// A content by which a packet is known again.
fn tag(n: u64) -> Content {
    Content { control: Some((n, 1, 1)), ..Content::default() }
}

/// Gives `window` a feedback that says `received` of `0..=largest`, the rest missing.
fn tell(
    window: &mut SentPackets,
    now: Instant,
    largest: u64,
    received: &[Range<u64>],
    out: &mut Outcome,
) -> Result<(), FeedbackError> {
    let mut scratch = Vec::new();
    let mut blocks = BlockList::default();
    let from_top = received.iter().rev().cloned();
    blocks.push(build_block(0..largest + 1, from_top, 1000, &mut scratch).expect("a block"));
    let f = Feedback {
        largest,
        received_us: 0,
        delay_us: 0,
        received_bytes: 0,
        ce_count: 0,
        receive_window_bytes: 0,
        control_credit: 0,
        blocks,
    };
    window.on_feedback(now, &f, ms(100), out)
}

fn numbers(settled: &[Settled]) -> Vec<u64> {
    settled.iter().map(|s| s.info.number).collect()
}

#[test]
fn acknowledged_missing_lost_and_back() {
    let t = origin();
    let (mut w, mut out) = (SentPackets::new(), Outcome::default());
    for n in 0..10 {
        w.on_sent(t + ms(n), 100, true, false, tag(n));
    }
    assert_eq!((w.next_number(), w.bytes_in_flight(), w.packets_in_flight()), (10, 1000, 10));
    // 3 is overtaken, but the reordering window (RTT / 32) has not passed.
    tell(&mut w, t + ms(103), 4, &[0..3, 4..5], &mut out).expect("honest");
    assert_eq!((numbers(&out.acked), numbers(&out.lost), out.nacks), (vec![0, 1, 2, 4], vec![], 1));
    assert_eq!(w.loss_deadline(), Some(t + ms(3) + ms(100) + ms(100) / 32));
    tell(&mut w, t + ms(104), 8, &[0..3, 4..9], &mut out).expect("honest");
    assert_eq!((numbers(&out.acked), numbers(&out.lost), out.nacks), (vec![5, 6, 7, 8], vec![3], 0));
    assert_eq!((w.bytes_in_flight(), w.loss_deadline()), (100, None));
    // It arrives after all.
    tell(&mut w, t + ms(105), 8, &[0..9], &mut out).expect("honest");
    assert_eq!((numbers(&out.spurious), numbers(&out.acked)), (vec![3], vec![]));
    assert_eq!(w.bytes_in_flight(), 100);
    assert!(w.reorder_window() >= ms(5), "it was late by five: {:?}", w.reorder_window());
    tell(&mut w, t + ms(106), 8, &[0..9], &mut out).expect("honest");
    assert!(out.spurious.is_empty() && out.acked.is_empty() && out.lost.is_empty());
    assert_eq!(w.floor(), 9);
}

#[test]
fn the_clock_declares_the_last_gap_lost() {
    let t = origin();
    let (mut w, mut out) = (SentPackets::new(), Outcome::default());
    (0..3).for_each(|n| w.on_sent(t, 100, true, false, tag(n)));
    tell(&mut w, t + ms(100), 2, &[0..1, 2..3], &mut out).expect("honest");
    assert!(out.lost.is_empty());
    let due = w.loss_deadline().expect("a deadline");
    let mut out = Outcome::default();
    w.detect_losses(due - ms(1), ms(100), &mut out);
    assert!(out.lost.is_empty());
    w.detect_losses(due, ms(100), &mut out);
    assert_eq!((numbers(&out.lost), w.loss_deadline(), w.packets_in_flight()), (vec![1], None, 0));
}

#[test]
fn lies_are_caught() {
    let t = origin();
    let (mut w, mut out) = (SentPackets::new(), Outcome::default());
    (0..5).for_each(|n| w.on_sent(t, 100, true, false, tag(n)));
    assert_eq!(tell(&mut w, t, 5, &[0..6], &mut out), Err(FeedbackError::Future));
    assert_eq!(w.bytes_in_flight(), 500, "a refused feedback changes nothing");
    w.skip_number(t);
    w.on_sent(t, 100, true, false, tag(6));
    assert_eq!(tell(&mut w, t, 6, &[0..7], &mut out), Err(FeedbackError::Skipped));
    let mut w = SentPackets::new();
    (0..5).for_each(|n| w.on_sent(t, 100, true, false, tag(n)));
    w.skip_number(t);
    w.on_sent(t, 100, true, false, tag(6));
    tell(&mut w, t + ms(300), 6, &[0..5, 6..7], &mut out).expect("honest");
    assert!(out.lost.is_empty() && out.nacks == 0, "a skipped number is not lost");
    assert_eq!(w.floor(), 7);
}

/// Feedback that speaks of everything but the first number.
fn pass_over_first(w: &mut SentPackets, now: Instant, largest: u64, rtt: Duration, out: &mut Outcome) {
    let mut scratch = Vec::new();
    let mut blocks = BlockList::default();
    let all = [1..largest + 1];
    blocks.push(build_block(1..largest + 1, all.into_iter(), 1000, &mut scratch).expect("a block"));
    let f = Feedback {
        largest,
        received_us: 0,
        delay_us: 0,
        received_bytes: 0,
        ce_count: 0,
        receive_window_bytes: 0,
        control_credit: 0,
        blocks,
    };
    w.on_feedback(now, &f, rtt, out).expect("nothing false is said");
}

#[test]
fn what_feedback_passes_over_is_lost_in_the_end() {
    let t = origin();
    let (mut w, mut out) = (SentPackets::new(), Outcome::default());
    let mut lost = Vec::new();
    let mut tracked = 0;
    for n in 0..20_000u64 {
        let now = t + ms(n);
        w.on_sent(now, 100, true, false, tag(n));
        if n > 0 && n % 10 == 0 {
            pass_over_first(&mut w, now, n, ms(20), &mut out);
            lost.extend(numbers(&out.lost));
            tracked = tracked.max(w.next_number() - w.floor());
            assert!(lost.is_empty() || n > 500, "it had no time to be named: {n}");
        }
    }
    assert_eq!(lost, [0], "it is repaired, and nothing else");
    assert!(tracked < 2000, "{tracked} numbers were tracked at once");
    assert_eq!(w.bytes_in_flight(), 900, "those behind the last feedback");
}

#[test]
fn few_large_feedbacks_that_pass_over_a_number_are_bounded_too() {
    let t = origin();
    let (mut w, mut out) = (SentPackets::new(), Outcome::default());
    let mut tracked = 0;
    for n in 0..1_000_000u64 {
        w.on_sent(t + ms(n / 1000), 100, true, false, tag(n));
        if n % 50_000 == 49_999 {
            pass_over_first(&mut w, t + ms(n / 1000), n, ms(20), &mut out);
            tracked = tracked.max(w.next_number() - w.floor());
        }
    }
    assert!(tracked <= (1 << 18) + 50_000, "{tracked} numbers were tracked at once");
}

#[test]
fn packets_that_ask_for_nothing_are_not_in_flight() {
    let t = origin();
    let (mut w, mut out) = (SentPackets::new(), Outcome::default());
    w.on_sent(t, 100, false, false, Content::default());
    w.on_sent(t, 100, true, false, tag(1));
    assert_eq!((w.bytes_in_flight(), w.last_eliciting_at()), (100, Some(t)));
    tell(&mut w, t + ms(300), 1, &[1..2], &mut out).expect("honest");
    assert!(out.lost.is_empty() && out.nacks == 0);
    assert_eq!((numbers(&out.acked), w.floor()), (vec![1], 2));
}

/// Everything that a simulated run found.
#[derive(Default)]
struct Ran {
    sent: u64,
    lost: u64,
    truly_lost: u64,
    spurious: u64,
    spurious_late: u64,
    most_tracked: u64,
}

struct Link {
    loss_pct: u32,
    feedback_loss_pct: u32,
    delay: Duration,
    jitter: Duration,
}

/// A sender and a receiver, packets every 100 us, feedback when it is due, through a link that spoils both ways.
fn run(seed: u64, link: &Link, packets: u64) -> Ran {
    let (t, mut rng) = (origin(), StdRng::seed_from_u64(seed));
    let every = Duration::from_micros(100);
    let rtt = link.delay * 2 + link.jitter;
    let (mut w, mut r, mut out) = (SentPackets::new(), ReceivedNumbers::new(t), Outcome::default());
    let mut in_flight: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut lost, mut named, mut skipped) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut arrivals: BinaryHeap<Reverse<(Instant, u64)>> = BinaryHeap::new();
    let mut ran = Ran::default();
    let mut now = t;
    let end = packets + rtt.as_micros() as u64 / 100 * 6;
    for step in 0..end {
        now += every;
        if step < packets {
            if rng.random_range(0..200) == 0 && w.next_number() > 0 {
                skipped.insert(w.next_number());
                w.skip_number(now);
            }
            let (n, size) = (w.next_number(), rng.random_range(100..1400u64));
            w.on_sent(now, size as u32, true, false, tag(n));
            in_flight.insert(n, size);
            ran.sent += 1;
            if rng.random_range(0..100) >= link.loss_pct {
                let jitter = link.jitter.mul_f64(rng.random_range(0.0..1.0));
                arrivals.push(Reverse((now + link.delay + jitter, n)));
            } else {
                ran.truly_lost += 1;
            }
        }
        while arrivals.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((at, n))) = arrivals.pop() else { break };
            if !r.is_duplicate(n) {
                r.on_floor(w.floor(), 50, rtt / 10);
                r.on_packet(at, n, 100, true, false);
            }
        }
        // The way back takes its time too; one feedback at a time is enough of a model.
        if r.deadline().is_some_and(|d| d <= now) {
            let f = r.build(now, 1000, 0, 0).expect("something arrived");
            if rng.random_range(0..100) >= link.feedback_loss_pct {
                for b in f.blocks.iter() {
                    b.for_each_run(|range, received| {
                        if !received {
                            named.extend(range);
                        }
                    });
                }
                w.on_feedback(now, &f, rtt, &mut out).expect("honest");
                check(&out, &mut in_flight, &mut lost, &named, &mut ran, step > packets / 4);
            }
        }
        if w.loss_deadline().is_some_and(|d| d <= now) {
            let mut out = Outcome::default();
            w.detect_losses(now, rtt, &mut out);
            check(&out, &mut in_flight, &mut lost, &named, &mut ran, step > packets / 4);
        }
        assert_eq!(w.bytes_in_flight(), in_flight.values().sum::<u64>(), "seed {seed}");
        assert_eq!(w.packets_in_flight(), in_flight.len() as u64, "seed {seed}");
        ran.most_tracked = ran.most_tracked.max(w.next_number() - w.floor());
    }
    let last = w.next_number();
    // A packet lost at the very end, or whose last feedback was, waits for a probe, which this model has not.
    assert!(in_flight.keys().all(|n| *n + 400 > last), "seed {seed}: forgotten {in_flight:?}");
    ran
}

fn check(
    out: &Outcome,
    in_flight: &mut BTreeMap<u64, u64>,
    lost: &mut BTreeSet<u64>,
    named: &BTreeSet<u64>,
    ran: &mut Ran,
    warm: bool,
) {
    assert!(numbers(&out.acked).is_sorted() && numbers(&out.lost).is_sorted());
    for s in out.acked.iter().chain(&out.lost) {
        let n = s.info.number;
        assert_eq!(s.content, tag(n));
        assert_eq!(in_flight.remove(&n), Some(s.info.size_bytes.into()), "{n} settled twice");
    }
    for n in numbers(&out.lost) {
        assert!(named.contains(&n), "{n} lost without being named as missing");
        lost.insert(n);
        ran.lost += 1;
    }
    for n in numbers(&out.spurious) {
        assert!(lost.remove(&n), "{n} was not lost");
        ran.spurious += 1;
        ran.spurious_late += u64::from(warm);
    }
}

#[test]
fn accounting_under_loss_and_jitter() {
    let mut seed = 0;
    for loss_pct in [0, 1, 10, 30] {
        for feedback_loss_pct in [0, 30, 70] {
            for jitter in [ms(0), ms(3), ms(15)] {
                seed += 1;
                let link = Link { loss_pct, feedback_loss_pct, delay: ms(20), jitter };
                let ran = run(seed, &link, 6000);
                let context = format!("loss {loss_pct} feedback {feedback_loss_pct} jitter {jitter:?}");
                assert!(ran.lost - ran.spurious <= ran.truly_lost, "{context}");
                assert!(ran.lost + 400 > ran.truly_lost, "{context}: {} of {}", ran.lost, ran.truly_lost);
                if jitter.is_zero() {
                    assert_eq!(ran.spurious, 0, "{context}");
                }
                // Three RTTs and what lost feedback adds, at 10 packets a millisecond.
                assert!(ran.most_tracked < 3500, "{context}: {} tracked", ran.most_tracked);
            }
        }
    }
}

#[test]
fn the_reordering_window_adapts_to_jitter() {
    for (seed, jitter) in [(1, 2), (2, 5), (3, 10), (4, 20), (5, 40)] {
        for loss_pct in [0, 5] {
            let link = Link { loss_pct, feedback_loss_pct: 10, delay: ms(25), jitter: ms(jitter) };
            let ran = run(seed, &link, 20_000);
            let share = ran.spurious_late as f64 / ran.sent as f64;
            assert!(share < 0.01, "jitter {jitter} ms loss {loss_pct}: {:.2} % spurious", 100.0 * share);
        }
    }
}

#[test]
fn a_grown_reordering_window_shrinks_again() {
    let t = origin();
    let (mut w, mut out) = (SentPackets::new(), Outcome::default());
    (0..100).for_each(|n| w.on_sent(t + ms(n), 100, true, false, tag(n)));
    tell(&mut w, t + ms(150), 50, &[0..10, 11..51], &mut out).expect("honest");
    tell(&mut w, t + ms(151), 50, &[0..51], &mut out).expect("honest");
    let grown = w.reorder_window();
    assert!(grown >= ms(40) && grown <= ms(100), "{grown:?}");
    for i in 0..20 {
        w.detect_losses(t + Duration::from_secs(2 * (i + 1)), ms(100), &mut out);
    }
    assert!(w.reorder_window() < ms(1), "{:?}", w.reorder_window());
}
