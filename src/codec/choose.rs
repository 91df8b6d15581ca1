//! Role: which method `Compression::Auto` takes for a chunk, from the speeds of link and compressor.
//! Owns: what was measured of each method: its speed, and what it makes of data whose samples are known.
//! Implements: docs/PROTOCOL.md, "Chunks".

use crate::transfer::job::EncodeBudget;
use std::time::Duration;

/// From this rate on (1 Gbit/s) no link waits for zstd's smaller chunks, and a rate estimate says more of the CPU than
/// of the link: what is not known counts as this fast too.
pub const FAST_LINK_BYTES_PER_SEC: u64 = 125_000_000;
/// The compressor should be so many times faster than it need be: reading, hashing, encryption and other programs
/// want the same cores, and a link that waits for data does not show its rate. Own choice.
const HEADROOM: f64 = 2.0;
/// The next slower method must shorten the expected time by this factor, and so must a change of method.
const WORTH_IT: f64 = 0.98;
/// Weight of a new measurement.
const WEIGHT: f64 = 0.125;

/// How a chunk is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Raw,
    /// LZ4.
    Lz4,
    /// zstd at a level.
    Zstd(u8),
}

/// A method with what is expected of it before anything was measured: bytes per second, and the size of a chunk in
/// parts of its samples' (compressed by zstd level 1). Own measurement: a tar of Rust sources in chunks of 256 KiB,
/// printed by the ignored test `ladder` of `codec::chunk`.
const LADDER: [(Method, f64, f64); 7] = [
    (Method::Lz4, 450e6, 0.95),
    (Method::Zstd(1), 450e6, 0.64),
    (Method::Zstd(3), 340e6, 0.61),
    (Method::Zstd(6), 115e6, 0.555),
    (Method::Zstd(9), 75e6, 0.54),
    (Method::Zstd(13), 9e6, 0.52),
    (Method::Zstd(19), 3e6, 0.50),
];

/// Seconds that a plain byte is expected to take: compressor and link work at the same time, the slower one counts.
/// `ratio`: encoded bytes per plain byte. `sharers`: sessions that want the same compressor.
pub fn expected_secs_per_byte(
    ratio: f64,
    speed_bytes_per_sec: f64,
    link_bytes_per_sec: f64,
    sharers: usize,
) -> f64 {
    (ratio / link_bytes_per_sec).max(HEADROOM * sharers.max(1) as f64 / speed_bytes_per_sec)
}

/// Whether zstd can be the answer at all.
pub fn wants_zstd(budget: EncodeBudget) -> bool {
    budget.zstd && budget.link_bytes_per_sec.is_some_and(|rate| rate < FAST_LINK_BYTES_PER_SEC)
}

/// All methods that compress, the fastest first.
#[cfg(test)]
pub(super) fn methods() -> impl Iterator<Item = Method> {
    LADDER.into_iter().map(|(method, ..)| method)
}

/// Measured values, in parts of what `LADDER` says.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    speed: Option<f64>,
    size: Option<f64>,
}

/// Chooses, and learns from what came of it.
#[derive(Clone, Debug, Default)]
pub struct Chooser {
    methods: [Measured; LADDER.len()],
    /// Over all methods, for those not tried yet.
    all: Measured,
    last: usize,
}

fn learn(old: &mut Option<f64>, new: f64) {
    *old = Some(old.map_or(new, |old| old + WEIGHT * (new - old)));
}

impl Chooser {
    /// The method for a chunk whose samples became `sample_ratio` of their size: with zstd level 1 if
    /// `wants_zstd`, else with LZ4.
    pub fn choose(&mut self, sample_ratio: f64, budget: EncodeBudget, sharers: usize) -> Method {
        if !wants_zstd(budget) {
            return Method::Lz4;
        }
        let link = budget.link_bytes_per_sec.unwrap_or(FAST_LINK_BYTES_PER_SEC).max(1) as f64;
        let cost = |i: usize| {
            let (_, speed, size) = LADDER[i];
            let (own, all) = (self.methods[i], self.all);
            let speed = speed * own.speed.or(all.speed).unwrap_or(1.0);
            let ratio = sample_ratio * size * own.size.or(all.size).unwrap_or(1.0);
            expected_secs_per_byte(ratio.min(1.0), speed, link, sharers)
        };
        let mut best = 0;
        for i in 1..LADDER.len() {
            if cost(i) < cost(best) * WORTH_IT {
                best = i;
            }
        }
        if cost(best) >= cost(self.last) * WORTH_IT {
            best = self.last;
        }
        if cost(best) >= 1.0 / link {
            return Method::Raw;
        }
        self.last = best;
        LADDER[best].0
    }

    /// What came of a choice: `plain` bytes became `encoded` bytes in `took` (`None`: there is no clock).
    pub fn learn(
        &mut self,
        method: Method,
        sample_ratio: f64,
        (plain, encoded): (usize, usize),
        took: Option<Duration>,
    ) {
        let Some(i) = LADDER.iter().position(|(m, ..)| *m == method) else { return };
        let (_, speed, size) = LADDER[i];
        if sample_ratio > 0.0 && plain > 0 {
            let relative = encoded as f64 / plain as f64 / sample_ratio / size;
            learn(&mut self.methods[i].size, relative);
            learn(&mut self.all.size, relative);
        }
        if let Some(took) = took.filter(|t| !t.is_zero()) {
            let relative = plain as f64 / took.as_secs_f64() / speed;
            learn(&mut self.methods[i].speed, relative);
            learn(&mut self.all.speed, relative);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(link: u64) -> EncodeBudget {
        EncodeBudget { link_bytes_per_sec: Some(link), zstd: true }
    }

    #[test]
    fn the_slower_of_link_and_compressor_counts() {
        let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
        close(expected_secs_per_byte(0.5, 100e6, 1e6, 1), 0.5e-6);
        close(expected_secs_per_byte(0.5, 1e6, 100e6, 1), 2e-6);
        close(expected_secs_per_byte(0.5, 1e6, 100e6, 3), 6e-6);
    }

    #[test]
    fn the_slower_the_link_the_higher_the_level() {
        let pick = |link| Chooser::default().choose(0.4, budget(link), 1);
        assert_eq!(pick(100_000), Method::Zstd(19));
        let mut last = 20;
        for link in [100_000, 1_250_000, 3_000_000, 6_000_000, 12_500_000, 25_000_000, 60_000_000] {
            let level = match pick(link) {
                Method::Zstd(level) => level,
                Method::Lz4 => 0,
                Method::Raw => panic!("raw at {link}"),
            };
            assert!(level <= last, "{level} at {link}");
            last = level;
        }
        assert!(matches!(pick(1_250_000), Method::Zstd(9..)), "10 Mbit/s");
        assert!(matches!(pick(12_500_000), Method::Zstd(1..=6)), "100 Mbit/s");
        assert_eq!(pick(FAST_LINK_BYTES_PER_SEC), Method::Lz4);
        let unknown = EncodeBudget { link_bytes_per_sec: None, zstd: true };
        assert_eq!(Chooser::default().choose(0.4, unknown, 1), Method::Lz4);
        let old_peer = EncodeBudget { zstd: false, ..budget(1_250_000) };
        assert_eq!(Chooser::default().choose(0.4, old_peer, 1), Method::Lz4);
    }

    #[test]
    fn a_slow_machine_and_a_crowd_take_less() {
        let level = |m| match m {
            Method::Zstd(level) => level,
            _ => 0,
        };
        let alone = level(Chooser::default().choose(0.4, budget(1_250_000), 1));
        assert!(level(Chooser::default().choose(0.4, budget(1_250_000), 30)) < alone);
        let mut slow = Chooser::default();
        for _ in 0..50 {
            slow.learn(Method::Zstd(3), 0.4, (1 << 18, 70_000), Some(Duration::from_millis(12)));
        }
        assert!(level(slow.choose(0.4, budget(1_250_000), 1)) < alone);
        // So slow a compressor is worse than none.
        for (method, ..) in LADDER {
            for _ in 0..50 {
                slow.learn(method, 0.4, (1 << 18, 70_000), Some(Duration::from_secs(2)));
            }
        }
        assert_eq!(slow.choose(0.4, budget(1_250_000), 1), Method::Raw);
    }

    #[test]
    fn a_wavering_rate_does_not_change_the_method() {
        let mut chooser = Chooser::default();
        let first = chooser.choose(0.4, budget(4_000_000), 1);
        for i in 0..100 {
            assert_eq!(chooser.choose(0.4, budget(4_000_000 + i % 3 * 20_000), 1), first);
        }
    }
}
