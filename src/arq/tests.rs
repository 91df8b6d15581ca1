//! Windows and range sets against naive models; NACK scheduling, loss detection and the control stream under seeded trouble.

mod control;
mod received;
mod sent;

use super::rangeset::RangeSet;
use super::rtt::{GRANULARITY, INITIAL_RTT, Rtt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

#[allow(clippy::disallowed_methods)] // Only as an origin: the tests add to it.
pub(super) fn origin() -> Instant {
    Instant::now()
}

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn ranges_of(set: &BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for n in set {
        match out.last_mut() {
            Some(r) if r.end == *n => r.end += 1,
            _ => out.push(*n..n + 1),
        }
    }
    out
}

fn compare(fast: &RangeSet, naive: &BTreeSet<u64>, rng: &mut StdRng) {
    let ranges = ranges_of(naive);
    assert_eq!(fast.iter().collect::<Vec<_>>(), ranges);
    assert_eq!((fast.range_count(), fast.len()), (ranges.len(), naive.len() as u64));
    assert_eq!((fast.min(), fast.max()), (naive.first().copied(), naive.last().copied()));
    assert_eq!(fast.is_empty(), naive.is_empty());
    for _ in 0..4 {
        let start = rng.random_range(0..130);
        let r = start..start + rng.random_range(0..20);
        assert_eq!(fast.contains(start), naive.contains(&start));
        assert_eq!(
            fast.contains_range(r.clone()),
            r.clone().all(|n| naive.contains(&n)),
            "{r:?} in {fast:?}"
        );
        let gap = r.clone().find(|n| !naive.contains(n));
        let gap = gap.map(|s| s..(s..r.end).find(|n| naive.contains(n)).unwrap_or(r.end));
        assert_eq!(fast.first_gap(r.clone()), gap, "{r:?} in {fast:?}");
        let down: Vec<_> = ranges.iter().rev().filter(|x| x.start < r.end).cloned().collect();
        assert_eq!(fast.iter_down_from(r.end).collect::<Vec<_>>(), down);
    }
}

#[test]
fn range_set_is_a_set() {
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut fast, mut naive) = (RangeSet::new(), BTreeSet::new());
        for _ in 0..150 {
            let start = rng.random_range(0..128u64);
            let range = start..start + rng.random_range(0..12);
            match rng.random_range(0..10) {
                0..5 => {
                    let new = range.clone().filter(|n| naive.insert(*n)).count() as u64;
                    assert_eq!(fast.insert(range), new);
                }
                5..7 => {
                    let top = naive.last().map_or(0, |n| n + 1);
                    assert_eq!(fast.insert(top..top + 1), 1);
                    naive.insert(top);
                }
                7..9 => {
                    fast.remove(range.clone());
                    range.for_each(|n| {
                        naive.remove(&n);
                    });
                }
                _ => {
                    let floor = rng.random_range(0..40);
                    fast.remove_below(floor);
                    naive = naive.split_off(&floor);
                }
            }
            compare(&fast, &naive, &mut rng);
        }
    }
}

#[test]
fn rtt_follows_rfc_9002() {
    let mut rtt = Rtt::default();
    assert!(!rtt.is_measured());
    assert_eq!((rtt.smoothed(), rtt.pto(ms(0))), (INITIAL_RTT, INITIAL_RTT * 3));
    rtt.sample(ms(100));
    assert!(rtt.is_measured());
    assert_eq!((rtt.smoothed(), rtt.var(), rtt.min(), rtt.latest()), (ms(100), ms(50), ms(100), ms(100)));
    assert_eq!(rtt.pto(ms(10)), ms(100 + 200 + 10));
    rtt.sample(ms(60));
    // var = 3/4 * 50 + 1/4 * 40; smoothed = 7/8 * 100 + 1/8 * 60
    assert_eq!((rtt.smoothed(), rtt.var(), rtt.min()), (ms(95), Duration::from_micros(47_500), ms(60)));
    for _ in 0..500 {
        rtt.sample(ms(80));
    }
    assert!(rtt.smoothed().abs_diff(ms(80)) < ms(1) && rtt.var() < ms(1));
    assert!(rtt.pto(ms(0)) >= rtt.smoothed() + GRANULARITY);
    assert_eq!((rtt.min(), rtt.latest()), (ms(60), ms(80)));
    rtt.sample(Duration::ZERO);
    assert!(rtt.min() > Duration::ZERO, "never zero");
}
