//! Role: how often strangers are answered, so that a flood of handshake packets costs little and drowns nobody else.
//! Owns: one bucket for everybody, and a table of buckets for the networks that they come from.
//! Implements: docs/PROTOCOL.md, "Admission".

use rand::Rng;
use rand::rngs::StdRng;
use std::net::IpAddr;
use std::time::Instant;

/// Answers a second to strangers, all together: at about 4 us for each, of which most is the system call, 3 % of a core.
pub(super) const ANSWERS_PER_SEC: f64 = 8_000.0;
/// Answers at once after a rest.
pub(super) const ANSWER_BURST: f64 = 1_000.0;
/// The same for one network: a thousand clients behind one address get their first answer within half a second, and a
/// flood from one address leaves three quarters to the others.
pub(super) const NETWORK_ANSWERS_PER_SEC: f64 = 2_000.0;
/// Networks are told apart by a hash of so many bits; those that share a place share its bucket.
const TABLE_BITS: u32 = 10;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant, tokens: f64) -> Self {
        Self { tokens, at: now }
    }

    /// Adds what has come since the last time; how much there is now.
    pub(super) fn refill(&mut self, now: Instant, per_sec: f64, most: f64) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + elapsed * per_sec).min(most);
        self.tokens
    }

    /// Takes one, which `refill` has shown to be there.
    pub(super) fn take(&mut self) {
        self.tokens -= 1.0;
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Throttle {
    all: Bucket,
    networks: Vec<Bucket>,
    /// Which networks share a place is for nobody to know.
    hash_keys: [u64; 3],
}

impl Throttle {
    pub(super) fn new(now: Instant, rng: &mut StdRng) -> Self {
        Self {
            all: Bucket::new(now, ANSWER_BURST),
            networks: vec![Bucket::new(now, ANSWER_BURST); 1 << TABLE_BITS],
            hash_keys: std::array::from_fn(|_| rng.next_u64() | 1),
        }
    }

    /// Whether a stranger at this network (see `network_of`) gets an answer now.
    pub(super) fn allows(&mut self, now: Instant, network: IpAddr) -> bool {
        let place = self.place(network);
        let mine = &mut self.networks[place];
        if mine.refill(now, NETWORK_ANSWERS_PER_SEC, ANSWER_BURST) < 1.0
            || self.all.refill(now, ANSWERS_PER_SEC, ANSWER_BURST) < 1.0
        {
            return false;
        }
        mine.take();
        self.all.take();
        true
    }

    /// Multiply-shift hashing (Dietzfelbinger et al., 1997) with secret factors.
    fn place(&self, network: IpAddr) -> usize {
        let bits = match network {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let [a, b, c] = self.hash_keys;
        let sum =
            a.wrapping_add((bits as u64).wrapping_mul(b)).wrapping_add(((bits >> 64) as u64).wrapping_mul(c));
        (sum >> (64 - TABLE_BITS)) as usize
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Only as an origin: the tests add to it.
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    #[test]
    fn one_network_cannot_take_everything() {
        let start = Instant::now();
        let mut t = Throttle::new(start, &mut StdRng::seed_from_u64(1));
        let (loud, quiet) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut answered = (0, 0);
        for i in 0..500_000u64 {
            let now = start + Duration::from_micros(20 * i);
            answered.0 += u64::from(t.allows(now, loud));
            if i % 500 == 0 {
                answered.1 += u64::from(t.allows(now, quiet));
            }
        }
        assert!((20_000..=21_001).contains(&answered.0), "{answered:?}");
        assert_eq!(answered.1, 1000, "nobody else notices");
    }

    #[test]
    fn all_networks_together_are_bounded() {
        let start = Instant::now();
        let mut t = Throttle::new(start, &mut StdRng::seed_from_u64(2));
        let answered = (0..500_000u32)
            .filter(|i| {
                let from = IpAddr::from(Ipv4Addr::from(0x0a00_0000 + i.wrapping_mul(2_654_435_761) % 65_536));
                t.allows(start + Duration::from_micros(20) * *i, from)
            })
            .count();
        assert!((79_000..=81_001).contains(&answered), "{answered}");
    }
}
