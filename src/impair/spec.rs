//! Role: the text form of an impairment, the value of `--sim`.
//! Owns: nothing; plain values and their bounds.
//! Implements: docs/SIMULATION.md, "Keys" and "Values".

use super::derive_seed;
use crate::units::{self, UnitError};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Every key of a specification; all but `seed` also exist with `-in`.
pub const KNOWN_KEYS: &str = "loss, burst, corrupt, dup, reorder, delay, jitter, rate, queue, outage \
     (each also with -in, such as loss-in, for what is received) and seed";

/// Queue before the bottleneck where `rate` is given without `queue`. About one round trip across an ocean, the
/// classic size of a drop-tail buffer.
pub const DEFAULT_QUEUE: Duration = Duration::from_millis(100);

/// Most outages in one direction: more than any test needs, few enough to look through per datagram.
pub const MAX_OUTAGES: usize = 64;

/// The longest `delay`, `jitter` and `queue`: ten times a link to the Moon and back, and a bound on what is held.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(60);
/// The latest start and the greatest length of an outage: no simulated transfer is meant to take days.
const MAX_OUTAGE: Duration = Duration::from_secs(24 * 3600);
/// The slowest `rate`, at which a full datagram of 1,500 bytes takes 12 s; below it nothing could finish.
const MIN_RATE_BITS_PER_SEC: u64 = 1_000;
/// The fastest `rate`: beyond any link that one process could fill.
const MAX_RATE_BITS_PER_SEC: u64 = 1_000_000_000_000;
/// The longest mean `burst`, in packets. Whoever wants the link to be gone for longer wants an outage.
const MAX_BURST: f64 = 1_000.0;

/// A time in which everything is lost, counted from the creation of the impairment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When it begins.
    pub start: Duration,
    /// How long it lasts.
    pub length: Duration,
}

/// What happens to the datagrams of one direction. The default changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// `loss`: share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// `burst`: mean length of a run of losses, in datagrams, at least 1. At 1 losses are independent.
    pub burst: f64,
    /// `corrupt`: share of datagrams in which one to three bits are flipped, 0 to 1.
    pub corrupt: f64,
    /// `dup`: share of datagrams that arrive twice, 0 to 1.
    pub duplicate: f64,
    /// `reorder`: share of datagrams taken out of their order, 0 to 1.
    pub reorder: f64,
    /// `delay`: time on the way.
    pub delay: Duration,
    /// `jitter`: the delay varies by up to this much either way, uniformly, and is never negative.
    pub jitter: Duration,
    /// `rate`: bits of IP packets per second that pass the bottleneck; `None`: no bottleneck.
    pub rate_bits_per_sec: Option<u64>,
    /// `queue`: the longest wait at the bottleneck; `None`: [`DEFAULT_QUEUE`].
    pub queue: Option<Duration>,
    /// `outage`: times without a link.
    pub outages: Vec<Outage>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            loss: 0.0,
            burst: 1.0,
            corrupt: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            rate_bits_per_sec: None,
            queue: None,
            outages: Vec::new(),
        }
    }
}

impl Profile {
    /// Whether every datagram passes at once and unchanged, so that the caller may leave the model out.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.loss <= 0.0
            && self.corrupt <= 0.0
            && self.duplicate <= 0.0
            && self.reorder <= 0.0
            && self.delay.is_zero()
            && self.jitter.is_zero()
            && self.rate_bits_per_sec.is_none()
            && self.outages.is_empty()
    }

    /// Writes the keys that differ from the default, in a fixed order.
    fn write(&self, suffix: &str, out: &mut Items<'_, '_>) -> fmt::Result {
        let default = Self::default();
        for (key, value) in [("loss", self.loss), ("corrupt", self.corrupt), ("dup", self.duplicate)] {
            if value != 0.0 {
                out.item(key, suffix, &units::exact_percent(value))?;
            }
        }
        if self.reorder != 0.0 {
            out.item("reorder", suffix, &units::exact_percent(self.reorder))?;
        }
        for (key, value) in [("delay", self.delay), ("jitter", self.jitter)] {
            if !value.is_zero() {
                out.item(key, suffix, &units::exact_duration(value))?;
            }
        }
        if let Some(rate) = self.rate_bits_per_sec {
            out.item("rate", suffix, &units::exact_rate(rate))?;
        }
        if let Some(queue) = self.queue {
            out.item("queue", suffix, &units::exact_duration(queue))?;
        }
        if self.burst != default.burst {
            out.item("burst", suffix, &self.burst.to_string())?;
        }
        for outage in &self.outages {
            let (start, length) = (units::exact_duration(outage.start), units::exact_duration(outage.length));
            out.item("outage", suffix, &format!("{start}:{length}"))?;
        }
        Ok(())
    }
}

/// A `--sim` specification: what a side does to its datagrams, such as `loss=10%,delay=50ms,loss-in=5%,seed=7`.
///
/// It prints as a text that parses to exactly the same value; the default prints as `none`.
///
/// ```
/// let spec: fulmar::impair::Spec = "loss=10%,corrupt-in=5%,rate=100mbit,seed=7".parse().unwrap();
/// assert_eq!(spec.outgoing.loss, 0.1);
/// assert_eq!(spec.to_string().parse(), Ok(spec));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spec {
    /// For what this side sends.
    pub outgoing: Profile,
    /// For what this side receives.
    pub incoming: Profile,
    /// `seed`; without it the caller picks one, and should show it.
    pub seed: Option<u64>,
}

impl Spec {
    /// Whether neither direction changes anything.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.outgoing.is_clean() && self.incoming.is_clean()
    }

    /// The seeds for the outgoing and the incoming direction, from `seed` or else from `fallback`.
    #[must_use]
    pub fn seeds(&self, fallback: u64) -> (u64, u64) {
        let seed = self.seed.unwrap_or(fallback);
        (derive_seed(seed, 0), derive_seed(seed, 1))
    }
}

/// The items of a specification as they are written, with commas between.
struct Items<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    empty: bool,
}

impl Items<'_, '_> {
    fn item(&mut self, key: &str, suffix: &str, value: &str) -> fmt::Result {
        let comma = if std::mem::take(&mut self.empty) { "" } else { "," };
        write!(self.f, "{comma}{key}{suffix}={value}")
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut items = Items { f, empty: true };
        self.outgoing.write("", &mut items)?;
        self.incoming.write("-in", &mut items)?;
        if let Some(seed) = self.seed {
            items.item("seed", "", &seed.to_string())?;
        }
        if items.empty { f.write_str("none") } else { Ok(()) }
    }
}

/// What a value may be, for an error's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds(&'static str);

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Why a specification was refused. Every text names the item and lists the keys there are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// An item without `=`.
    #[error("`{item}` is not key=value, such as loss=10%; the keys are {KNOWN_KEYS}")]
    NotAPair {
        /// The item.
        item: String,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}` in `{key}={value}`; the keys are {KNOWN_KEYS}")]
    UnknownKey {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// A key given twice, which only `outage` may be.
    #[error("`{key}` is given a second time, as `{key}={value}`; the keys are {KNOWN_KEYS}")]
    Repeated {
        /// The key.
        key: String,
        /// Its second value.
        value: String,
    },
    /// A value that does not parse.
    #[error("bad value in `{key}={value}`: {reason}; the keys are {KNOWN_KEYS}")]
    BadUnit {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: UnitError,
    },
    /// A value that parses and lies outside its bounds, or is no plain number where one is due.
    #[error("bad value in `{key}={value}`: it must be {bounds}; the keys are {KNOWN_KEYS}")]
    OutOfBounds {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What it may be.
        bounds: Bounds,
    },
}

/// One item of a specification under parsing.
struct Item<'a> {
    key: &'a str,
    value: &'a str,
}

impl Item<'_> {
    fn unit<T>(&self, parsed: Result<T, UnitError>) -> Result<T, SpecError> {
        parsed.map_err(|reason| {
            let (key, value) = (units::quoted(self.key), units::quoted(self.value));
            SpecError::BadUnit { key, value, reason }
        })
    }

    fn out_of_bounds(&self, bounds: &'static str) -> SpecError {
        let (key, value) = (units::quoted(self.key), units::quoted(self.value));
        SpecError::OutOfBounds { key, value, bounds: Bounds(bounds) }
    }

    fn percent(&self) -> Result<f64, SpecError> {
        self.unit(units::parse_percent(self.value))
    }

    fn delay(&self) -> Result<Duration, SpecError> {
        let delay = self.unit(units::parse_duration(self.value))?;
        if delay > MAX_DELAY {
            return Err(self.out_of_bounds("from 0 to 60 seconds, such as 50ms"));
        }
        Ok(delay)
    }

    fn rate(&self) -> Result<u64, SpecError> {
        let rate = self.unit(units::parse_rate(self.value))?;
        if !(MIN_RATE_BITS_PER_SEC..=MAX_RATE_BITS_PER_SEC).contains(&rate) {
            return Err(self.out_of_bounds("from 1kbit to 1000gbit, such as 100mbit"));
        }
        Ok(rate)
    }

    fn burst(&self) -> Result<f64, SpecError> {
        let plain = self.value.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let burst: Option<f64> = self.value.parse().ok().filter(|_| plain);
        burst
            .filter(|burst| (1.0..=MAX_BURST).contains(burst))
            .ok_or_else(|| self.out_of_bounds("a mean number of packets from 1 to 1000, such as 4"))
    }

    fn outage(&self) -> Result<Outage, SpecError> {
        let bounds = "START:LENGTH, each from 0 to 24 hours, such as 2s:500ms";
        let (start, length) = self.value.split_once(':').ok_or_else(|| self.out_of_bounds(bounds))?;
        let start = self.unit(units::parse_duration(start))?;
        let length = self.unit(units::parse_duration(length))?;
        if start > MAX_OUTAGE || length > MAX_OUTAGE {
            return Err(self.out_of_bounds(bounds));
        }
        Ok(Outage { start, length })
    }

    fn seed(&self) -> Result<u64, SpecError> {
        let plain = self.value.bytes().all(|b| b.is_ascii_digit());
        let seed = self.value.parse().ok().filter(|_| plain);
        seed.ok_or_else(|| self.out_of_bounds("a whole number from 0 to 18446744073709551615, such as 7"))
    }

    /// Stores the value in `spec`.
    fn apply(&self, spec: &mut Spec) -> Result<(), SpecError> {
        let (base, profile) = match self.key.strip_suffix("-in") {
            Some(base) => (base, &mut spec.incoming),
            None => (self.key, &mut spec.outgoing),
        };
        match base {
            "loss" => profile.loss = self.percent()?,
            "burst" => profile.burst = self.burst()?,
            "corrupt" => profile.corrupt = self.percent()?,
            "dup" => profile.duplicate = self.percent()?,
            "reorder" => profile.reorder = self.percent()?,
            "delay" => profile.delay = self.delay()?,
            "jitter" => profile.jitter = self.delay()?,
            "rate" => profile.rate_bits_per_sec = Some(self.rate()?),
            "queue" => profile.queue = Some(self.delay()?),
            "outage" if profile.outages.len() >= MAX_OUTAGES => {
                return Err(self.out_of_bounds("one of at most 64 outages"));
            }
            "outage" => profile.outages.push(self.outage()?),
            "seed" if base == self.key => spec.seed = Some(self.seed()?),
            _ => {
                let (key, value) = (units::quoted(self.key), units::quoted(self.value));
                return Err(SpecError::UnknownKey { key, value });
            }
        }
        Ok(())
    }
}

impl FromStr for Spec {
    type Err = SpecError;

    /// Parses `key=value` items with commas between; blanks around items are ignored. An empty text and `none`
    /// stand for no impairment.
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut spec = Self::default();
        if matches!(text.trim(), "" | "none") {
            return Ok(spec);
        }
        // At most the number of keys, since a repeated key ends the parsing.
        let mut seen: Vec<&str> = Vec::new();
        for item in text.split(',') {
            let Some((key, value)) = item.split_once('=') else {
                return Err(SpecError::NotAPair { item: units::quoted(item.trim()) });
            };
            let item = Item { key: key.trim(), value: value.trim() };
            let repeatable = matches!(item.key, "outage" | "outage-in");
            if seen.contains(&item.key) && !repeatable {
                let (key, value) = (units::quoted(item.key), units::quoted(item.value));
                return Err(SpecError::Repeated { key, value });
            }
            item.apply(&mut spec)?;
            if !repeatable {
                seen.push(item.key);
            }
        }
        Ok(spec)
    }
}
