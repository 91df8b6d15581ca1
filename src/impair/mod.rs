//! Role: the one seeded model of loss, corruption, duplication, reordering, delay, jitter, rate and bursts.
//! Owns: the state of one impaired direction.
//! Implements: docs/SIMULATION.md.

mod model;
mod spec;
#[cfg(test)]
mod spec_tests;
#[cfg(test)]
mod tests;

pub use model::{Counters, Impairment, MAX_HELD_BYTES, MAX_HELD_DATAGRAMS, OVERHEAD_BYTES};
pub use spec::{Bounds, DEFAULT_QUEUE, KNOWN_KEYS, MAX_OUTAGES, Outage, Profile, Spec, SpecError};

/// Derives an independent seed for stream number `stream` of `seed`: directions, peers, repetitions.
///
/// This is one output of the SplitMix64 generator (Steele, Lea, Flood 2014), whose every input gives another
/// output: neighbouring seeds and streams share no pattern.
#[must_use]
pub fn derive_seed(seed: u64, stream: u64) -> u64 {
    let mut z = seed.wrapping_add(stream.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
