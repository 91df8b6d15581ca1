//! Role: the one seeded model of loss, corruption, duplication, reordering, delay, jitter, rate and bursts.
//! Owns: the state of one impaired direction.
//! Implements: docs/SIMULATION.md.

/// A `--sim` specification.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spec {}
