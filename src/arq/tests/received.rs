//! Duplicates, floor, when feedback is due, and what it says.

use super::{ms, origin};
use crate::arq::received::{MAX_RANGES, ReceivedNumbers};
use crate::wire::feedback::Feedback;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn received_in(f: &Feedback<'_>) -> Vec<(u64, bool)> {
    let mut all = Vec::new();
    for b in f.blocks.iter() {
        b.for_each_run(|r, received| all.extend(r.rev().map(|n| (n, received))));
    }
    all
}

#[test]
fn duplicates_and_floor_against_a_naive_set() {
    for seed in 0..50 {
        let (t, mut rng) = (origin(), StdRng::seed_from_u64(seed));
        let mut fast = ReceivedNumbers::new(t);
        let (mut naive, mut floor, mut top) = (BTreeSet::new(), 0u64, 0u64);
        for _ in 0..2000 {
            let n = (top + 3).saturating_sub(rng.random_range(0..60));
            let duplicate = n < floor || naive.contains(&n);
            assert_eq!(fast.is_duplicate(n), duplicate, "seed {seed} number {n}");
            if !duplicate {
                fast.on_packet(t, n, 100, true, false);
                naive.insert(n);
                top = top.max(n + 1);
            }
            assert_eq!(fast.expected(), top);
            if rng.random_range(0..20) == 0 {
                // A floor beyond what was received is not believed; one that falls is not either.
                let wanted = (top + 5).saturating_sub(rng.random_range(0..40));
                fast.on_floor(wanted, 10, ms(10));
                floor = floor.max(wanted.min(top));
            }
            if rng.random_range(0..10) == 0 {
                let Some(f) = fast.build(t, 1000, 7, 8) else { panic!("something was received") };
                assert_eq!((f.largest, f.receive_window_bytes, f.control_credit), (top - 1, 7, 8));
                assert_eq!(f.received_bytes, 100 * naive.len() as u64);
                let told = received_in(&f);
                let expected: Vec<_> = (floor..top).rev().map(|n| (n, naive.contains(&n))).collect();
                assert_eq!(told, expected, "seed {seed}");
            }
        }
    }
}

#[test]
fn times_and_marks() {
    let t = origin();
    let mut r = ReceivedNumbers::new(t);
    assert!(r.build(t, 1000, 0, 0).is_none() && r.deadline().is_none());
    r.on_packet(t + ms(5), 3, 100, true, true);
    r.on_packet(t + ms(7), 1, 50, true, false);
    let f = r.build(t + ms(9), 1000, 0, 0).expect("feedback");
    assert_eq!((f.largest, f.received_us, f.delay_us), (3, 5000, 4000), "of the largest number");
    assert_eq!((f.received_bytes, f.ce_count), (150, 1));
    assert_eq!(r.nacks(), 2);
    r.build(t + ms(10), 1000, 0, 0);
    assert_eq!(r.nacks(), 2, "each gap is counted once");
}

#[test]
fn feedback_is_due_by_count_and_time() {
    let t = origin();
    let mut r = ReceivedNumbers::new(t);
    r.on_packet(t, 0, 100, false, false);
    assert_eq!(r.deadline(), None, "nobody asked");
    r.on_floor(0, 5, ms(20));
    r.on_packet(t + ms(50), 1, 100, true, false);
    r.build(t + ms(50), 1000, 0, 0);
    for i in 0..5u64 {
        r.on_packet(t + ms(51 + i), 2 + i, 100, true, false);
        let expected = if i < 4 { t + ms(70) } else { t + ms(55) };
        assert_eq!(r.deadline(), Some(expected), "packet {i}");
    }
    r.build(t + ms(55), 1000, 0, 0);
    // A gap is told sooner than steady progress.
    r.on_packet(t + ms(56), 9, 100, true, false);
    assert_eq!(r.deadline(), Some(t + ms(60)));
    r.build(t + ms(60), 1000, 0, 0);
    while let Some(due) = r.deadline() {
        r.build(due, 1000, 0, 0);
    }
    // After a rest the first packet is answered at once.
    r.on_packet(t + ms(500), 10, 100, true, false);
    assert_eq!(r.deadline(), Some(t + ms(500)));
    // A sender cannot ask for less than once per 2,000 packets or a quarter of a second.
    r.build(t + ms(500), 1000, 0, 0);
    r.on_floor(0, u64::MAX, Duration::from_secs(1000));
    r.on_packet(t + ms(501), 11, 100, true, false);
    assert!(r.deadline() <= Some(t + ms(751)));
    (12..2012).for_each(|n| r.on_packet(t + ms(502), n, 100, true, false));
    assert_eq!(r.deadline(), Some(t + ms(502)));
}

/// Packets at a steady pace; feedback whenever it is due. Returns when feedback left.
fn drive(packets: u64, every: Duration, rtt: Duration, loss_pct: u32, seed: u64) -> (Instant, Vec<Instant>) {
    let (t, mut rng) = (origin(), StdRng::seed_from_u64(seed));
    let mut r = ReceivedNumbers::new(t);
    let mut at = Vec::new();
    for n in 0..packets {
        let now = t + every * n as u32;
        while let Some(due) = r.deadline().filter(|d| *d < now) {
            r.build(due, 1000, 0, 0);
            at.push(due);
        }
        if rng.random_range(0..100) < loss_pct {
            continue;
        }
        r.on_floor(0, 1000, rtt / 10);
        r.on_packet(now, n, 100, true, false);
    }
    (t, at)
}

#[test]
fn at_least_four_per_round_trip_but_not_per_packet() {
    for rtt in [ms(20), ms(100), ms(600)] {
        for loss in [0, 5, 30] {
            let every = Duration::from_micros(200);
            let packets = (rtt * 20).as_micros() as u64 / 200;
            let (start, at) = drive(packets, every, rtt, loss, 1);
            let wait = at.windows(2).map(|w| w[1] - w[0]).max().expect("several");
            assert!(wait <= rtt / 4 && at[0] - start <= rtt / 4, "rtt {rtt:?} loss {loss}: {wait:?}");
            let most = 20 * 45 + 10;
            assert!(at.len() <= most, "rtt {rtt:?} loss {loss}: {} for {packets} packets", at.len());
        }
    }
}

#[test]
fn repeats_at_idle_are_few() {
    let t = origin();
    let mut r = ReceivedNumbers::new(t);
    r.on_floor(0, 10, ms(10));
    (0..100).for_each(|n| r.on_packet(t, n, 100, true, false));
    let mut times = Vec::new();
    while let Some(due) = r.deadline() {
        r.build(due, 1000, 0, 0);
        times.push(due - t);
        assert!(times.len() < 10, "for ever: {times:?}");
    }
    assert_eq!(times.len(), 3, "once, and two repeats: {times:?}");
    // Asked for because the window opened: once, without repeats.
    r.request_feedback(t + ms(900));
    assert_eq!(r.deadline(), Some(t + ms(900)));
    r.build(t + ms(900), 1000, 0, 0);
    assert_eq!(r.deadline(), None);
}

#[test]
fn every_number_is_described_again_and_again_though_most_feedback_is_lost() {
    let (t, mut rng) = (origin(), StdRng::seed_from_u64(3));
    let mut r = ReceivedNumbers::new(t);
    let first = 30_000;
    for n in 0..first {
        if rng.random_range(0..100) >= 30 {
            r.on_packet(t, n, 100, true, false);
        }
    }
    let mut told = vec![0u32; first as usize];
    for i in 0..1200 {
        r.on_packet(t + ms(i), first + i, 100, true, false);
        let Some(f) = r.build(t + ms(i), 1100, 0, 0) else { panic!("feedback") };
        if rng.random_range(0..100) < 20 {
            for (n, _) in received_in(&f) {
                if let Some(count) = told.get_mut(n as usize) {
                    *count += 1;
                }
            }
        }
    }
    let least = told.iter().min().copied().unwrap_or_default();
    assert!(least >= 5, "some number was described only {least} times");
}

#[test]
fn memory_is_bounded() {
    let t = origin();
    let mut r = ReceivedNumbers::new(t);
    for n in 0..(MAX_RANGES as u64) {
        assert!(r.has_room_for(2 * n));
        r.on_packet(t, 2 * n, 1, true, false);
    }
    let next = 2 * MAX_RANGES as u64;
    assert!(!r.has_room_for(next), "one more gap finds no room");
    assert!(r.has_room_for(next - 1), "what makes no gap does");
    r.on_floor(next / 2, 8, Duration::from_millis(1));
    assert!(r.has_room_for(next), "the floor makes room");
}
