//! Role: what one direction of a bad link does to each datagram, and when it hands it out.
//! Owns: the random numbers, the loss state, the bottleneck's backlog and the datagrams under way.
//! Implements: docs/SIMULATION.md, "Path of a datagram" and "Seeds".

use super::spec::{DEFAULT_QUEUE, MAX_DELAY, Outage, Profile};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

/// Most datagrams under way in one direction; later ones are dropped and counted. Enough for 1 Gbit/s of
/// 1,500-byte packets over 600 ms (50,000), the largest product of rate and delay that the model is meant for.
pub const MAX_HELD_DATAGRAMS: usize = 1 << 16;

/// Most bytes under way in one direction: [`MAX_HELD_DATAGRAMS`] of 4 KiB, well above an Ethernet packet. It
/// bounds memory where datagrams are larger, as on loopback.
pub const MAX_HELD_BYTES: usize = MAX_HELD_DATAGRAMS * 4096;

/// What the bottleneck counts on top of each datagram: IPv4 header (RFC 791, without options) and UDP header
/// (RFC 768).
pub const OVERHEAD_BYTES: usize = 20 + 8;

/// A reordered datagram on a link without delay is held back until this many later ones at most have passed:
/// beyond the packet threshold of 3 (RFC 9002 section 6.1.1), so that both sides of it are met.
const MAX_HOLD_DATAGRAMS: u64 = 5;

/// ... and no longer than this, so that the last datagram of a flight is late, not lost.
const MAX_HOLD: Duration = Duration::from_millis(5);

/// Spare buffers kept for reuse: four trains of 64 segments, the most that Linux long took in one GSO send.
const MAX_SPARE_BUFFERS: usize = 256;

/// A spare buffer larger than any UDP datagram is not kept.
const MAX_SPARE_BYTES: usize = 1 << 16;

/// What became of the datagrams of one direction.
///
/// `submitted + duplicated` equals `passed + lost + lost_to_queue + lost_to_limit` plus what is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams given to the model.
    pub submitted: u64,
    /// Datagrams handed out, copies included.
    pub passed: u64,
    /// Lost by `loss` or in an `outage`.
    pub lost: u64,
    /// Dropped because the queue before the bottleneck was full.
    pub lost_to_queue: u64,
    /// Dropped (or not duplicated) because too much was under way already.
    pub lost_to_limit: u64,
    /// Datagrams, copies included, with flipped bits.
    pub corrupted: u64,
    /// Second copies made.
    pub duplicated: u64,
    /// Datagrams picked by `reorder`.
    pub reordered: u64,
    /// IP bytes offered, those lost and dropped included.
    pub offered_bytes: u64,
    /// Time that all datagrams together waited before the bottleneck, their own sending not included.
    pub queued: Duration,
    /// The longest of these waits.
    pub queued_most: Duration,
}

impl Counters {
    /// How long a datagram waited before the bottleneck on average; those dropped by the full queue do not count.
    #[must_use]
    pub fn mean_queue(&self) -> Duration {
        let count = (self.submitted - self.lost_to_queue).max(1);
        Duration::from_nanos(u64::try_from(self.queued.as_nanos() / u128::from(count)).unwrap_or(u64::MAX))
    }
}

/// The random numbers of one datagram. All are drawn for every datagram, whatever the profile and whatever
/// becomes of it, so that the fate of the n-th depends on the seed and n alone.
struct Draws {
    loss: u64,
    duplicate: u64,
    reorder: u64,
    /// How far a reordered datagram moves.
    distance: u64,
    /// For the datagram, and for its copy.
    copies: [CopyDraws; 2],
}

struct CopyDraws {
    jitter: u64,
    corrupt: u64,
    /// How many bits are flipped.
    count: u64,
    /// Which bits.
    bits: u64,
}

impl Draws {
    fn next(rng: &mut Xoshiro256PlusPlus) -> Self {
        let mut draw = || rng.next_u64();
        let (loss, duplicate, reorder, distance) = (draw(), draw(), draw(), draw());
        let mut copy = || CopyDraws { jitter: draw(), corrupt: draw(), count: draw(), bits: draw() };
        Self { loss, duplicate, reorder, distance, copies: [copy(), copy()] }
    }
}

/// A draw as a number from 0 to below 1, so that `unit(draw) < 0.0` never and `unit(draw) < 1.0` always holds.
fn unit(draw: u64) -> f64 {
    (draw >> 11) as f64 / (1u64 << 53) as f64
}

/// The Gilbert-Elliott model with one state that loses everything and one that loses nothing.
#[derive(Debug)]
struct LossModel {
    /// Chance of a loss after a datagram that passed.
    enter: f64,
    /// Chance of a loss after a loss.
    stay: f64,
    losing: bool,
}

impl LossModel {
    /// `share` of all datagrams lost, in runs of mean length `burst`. Independent losses have runs of mean
    /// length `1 / (1 - share)`; a smaller `burst` gives these.
    fn chances(share: f64, burst: f64) -> (f64, f64) {
        if share >= 1.0 {
            return (1.0, 1.0);
        }
        let leave = (1.0 / burst.max(1.0)).min(1.0 - share);
        (leave * share / (1.0 - share), 1.0 - leave)
    }

    fn lose(&mut self, draw: u64) -> bool {
        self.losing = unit(draw) < if self.losing { self.stay } else { self.enter };
        self.losing
    }
}

/// A drop-tail queue that is emptied at a fixed rate.
#[derive(Debug)]
struct Bottleneck {
    bits_per_sec: u64,
    queue: Duration,
    /// When it will have sent all that it has accepted.
    free_at: Instant,
    /// Part of a nanosecond, in units of 1 / `bits_per_sec`, by which `free_at` is too early.
    remainder: u64,
}

impl Bottleneck {
    /// When the datagram has left and how long it waits before, or `None` when the queue is full.
    fn pass(&mut self, now: Instant, datagram_bytes: usize) -> Option<(Instant, Duration)> {
        let wait = self.free_at.saturating_duration_since(now);
        if wait.is_zero() {
            (self.free_at, self.remainder) = (now, 0);
        }
        let bits = (datagram_bytes + OVERHEAD_BYTES) as u64 * 8;
        let scaled = bits.saturating_mul(1_000_000_000).saturating_add(self.remainder);
        let sending = Duration::from_nanos(scaled / self.bits_per_sec);
        // An idle link takes any datagram; a busy one those that would be through within the queue's time.
        if !wait.is_zero() && wait + sending > self.queue {
            return None;
        }
        self.free_at += sending;
        self.remainder = scaled % self.bits_per_sec;
        Some((self.free_at, wait))
    }
}

/// A datagram under way. Ordered by when it is due, then by when it was stored.
#[derive(Debug)]
struct Entry<T> {
    due: Instant,
    order: u64,
    data: Vec<u8>,
    tag: T,
}

impl<T> Entry<T> {
    fn key(&self) -> (Instant, u64) {
        (self.due, self.order)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// A reordered datagram that waits for later ones. Its entry is due when the wait ends at the latest.
#[derive(Debug)]
struct Held<T> {
    entry: Entry<T>,
    /// When it would have been due.
    own_due: Instant,
    /// Later datagrams still to pass.
    remaining: u64,
}

/// Where the next datagram waits.
#[derive(Clone, Copy)]
enum Place {
    InOrder,
    OutOfOrder,
    Held(usize),
}

/// One impaired direction: datagrams go in by [`submit`](Self::submit) and come out by [`poll`](Self::poll).
///
/// `T` travels with each datagram: its address, its ECN mark. Time never runs backwards here; an earlier `now`
/// is harmless and counts as given.
#[derive(Debug)]
pub struct Impairment<T> {
    profile: Profile,
    loss: LossModel,
    bottleneck: Option<Bottleneck>,
    rng: Xoshiro256PlusPlus,
    created: Instant,
    next_order: u64,
    /// Entries that were due no earlier than all before them in here: the common case, and cheap.
    in_order: VecDeque<Entry<T>>,
    /// All others.
    out_of_order: BinaryHeap<Reverse<Entry<T>>>,
    /// At most [`MAX_HOLD_DATAGRAMS`]: each leaves when that many later ones have passed.
    held: Vec<Held<T>>,
    held_bytes: usize,
    spare: Vec<Vec<u8>>,
    counters: Counters,
}

impl<T: Clone> Impairment<T> {
    /// A direction with `profile`, whose random pattern is that of `seed` and whose outages count from `now`.
    #[must_use]
    pub fn new(profile: Profile, seed: u64, now: Instant) -> Self {
        // An algorithm with a name, unlike `StdRng`, which may become another one with a new version of `rand`:
        // a seed noted in a bug report must keep its meaning. Nothing here needs cryptographic strength.
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let losing = unit(rng.next_u64()) < profile.loss;
        let mut impairment = Self {
            profile: Profile::default(),
            loss: LossModel { enter: 0.0, stay: 0.0, losing },
            bottleneck: None,
            rng,
            created: now,
            next_order: 0,
            in_order: VecDeque::new(),
            out_of_order: BinaryHeap::new(),
            held: Vec::new(),
            held_bytes: 0,
            spare: Vec::new(),
            counters: Counters::default(),
        };
        impairment.set_profile(profile, now);
        impairment
    }

    /// Changes the link in mid-way, as a rate step does. What is under way arrives as it was going to, the
    /// bottleneck's backlog is kept as time, and the random pattern goes on.
    pub fn set_profile(&mut self, mut profile: Profile, now: Instant) {
        // Text is checked when it is parsed; a profile from code is not, and must not overflow an `Instant`.
        profile.delay = profile.delay.min(MAX_DELAY);
        profile.jitter = profile.jitter.min(MAX_DELAY);
        profile.queue = profile.queue.map(|queue| queue.min(MAX_DELAY));
        (self.loss.enter, self.loss.stay) = LossModel::chances(profile.loss, profile.burst);
        let free_at = self.bottleneck.as_ref().map_or(now, |old| old.free_at);
        self.bottleneck = profile.rate_bits_per_sec.map(|rate| Bottleneck {
            bits_per_sec: rate.max(1),
            queue: profile.queue.unwrap_or(DEFAULT_QUEUE),
            free_at,
            remainder: 0,
        });
        self.profile = profile;
    }

    /// The profile in force.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Takes one datagram at the sending end. It is copied only if it survives.
    pub fn submit(&mut self, now: Instant, datagram: &[u8], tag: T) {
        let draws = Draws::next(&mut self.rng);
        let lost = self.loss.lose(draws.loss);
        self.counters.submitted += 1;
        self.counters.offered_bytes += (datagram.len() + OVERHEAD_BYTES) as u64;
        let departure = match &mut self.bottleneck {
            None => now,
            Some(bottleneck) => match bottleneck.pass(now, datagram.len()) {
                Some((departure, wait)) => {
                    self.counters.queued += wait;
                    self.counters.queued_most = self.counters.queued_most.max(wait);
                    departure
                }
                None => {
                    self.counters.lost_to_queue += 1;
                    return;
                }
            },
        };
        if lost || self.is_outage(departure) {
            self.counters.lost += 1;
            return;
        }
        let [original, copy] = &draws.copies;
        let reordered = unit(draws.reorder) < self.profile.reorder;
        let mut travel = self.travel_time(original.jitter);
        let hold = reordered && self.profile.delay.is_zero();
        if reordered && !hold {
            travel = travel.mul_f64(unit(draws.distance));
        }
        self.counters.reordered += u64::from(reordered);
        let due = departure + travel;
        let duplicate = unit(draws.duplicate) < self.profile.duplicate;
        let copy = duplicate.then(|| (departure + self.travel_time(copy.jitter), tag.clone(), copy));
        if let Some(entry) = self.make_entry(due, datagram, tag, original) {
            if hold {
                let remaining = 1 + (unit(draws.distance) * MAX_HOLD_DATAGRAMS as f64) as u64;
                self.release_held(due);
                let entry = Entry { due: due + MAX_HOLD, ..entry };
                self.held.push(Held { entry, own_due: due, remaining });
            } else {
                self.store(entry);
                self.release_held(due);
            }
        }
        if let Some((due, tag, draws)) = copy {
            self.counters.duplicated += 1;
            if let Some(entry) = self.make_entry(due, datagram, tag, draws) {
                self.store(entry);
            }
        }
    }

    /// The next datagram that is due at `now`, in order of arrival, with what it carries along. Give the buffer
    /// back with [`recycle`](Self::recycle).
    pub fn poll(&mut self, now: Instant) -> Option<(Vec<u8>, T)> {
        let (due, place) = self.earliest()?;
        if due > now {
            return None;
        }
        let entry = match place {
            Place::InOrder => self.in_order.pop_front()?,
            Place::OutOfOrder => self.out_of_order.pop()?.0,
            Place::Held(index) => self.held.remove(index).entry,
        };
        self.held_bytes -= entry.data.len();
        self.counters.passed += 1;
        Some((entry.data, entry.tag))
    }

    /// When [`poll`](Self::poll) has something next; `None` when nothing is under way.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.earliest().map(|(due, _)| due)
    }

    /// Takes a buffer back for reuse.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < MAX_SPARE_BUFFERS && buffer.capacity() <= MAX_SPARE_BYTES {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// What has become of the datagrams so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Datagrams under way, copies included; at most [`MAX_HELD_DATAGRAMS`].
    #[must_use]
    pub fn in_transit(&self) -> usize {
        self.in_order.len() + self.out_of_order.len() + self.held.len()
    }

    fn is_outage(&self, departure: Instant) -> bool {
        if self.profile.outages.is_empty() {
            return false;
        }
        let age = departure.saturating_duration_since(self.created);
        let within = |o: &Outage| age.checked_sub(o.start).is_some_and(|since| since < o.length);
        self.profile.outages.iter().any(within)
    }

    fn travel_time(&self, jitter_draw: u64) -> Duration {
        let Profile { delay, jitter, .. } = self.profile;
        if jitter.is_zero() {
            return delay;
        }
        (delay + jitter.mul_f64(2.0 * unit(jitter_draw))).saturating_sub(jitter)
    }

    /// Copies a datagram and flips bits if the draws say so; `None` when too much is under way.
    fn make_entry(&mut self, due: Instant, datagram: &[u8], tag: T, draws: &CopyDraws) -> Option<Entry<T>> {
        let held_bytes = self.held_bytes + datagram.len();
        if self.in_transit() >= MAX_HELD_DATAGRAMS || held_bytes > MAX_HELD_BYTES {
            self.counters.lost_to_limit += 1;
            return None;
        }
        self.held_bytes = held_bytes;
        let mut data = self.spare.pop().unwrap_or_default();
        data.extend_from_slice(datagram);
        if unit(draws.corrupt) < self.profile.corrupt && !data.is_empty() {
            flip_bits(&mut data, draws);
            self.counters.corrupted += 1;
        }
        Some(Entry { due, order: self.take_order(), data, tag })
    }

    fn take_order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order
    }

    fn store(&mut self, entry: Entry<T>) {
        if self.in_order.back().is_none_or(|last| last.key() < entry.key()) {
            self.in_order.push_back(entry);
        } else {
            self.out_of_order.push(Reverse(entry));
        }
    }

    /// A datagram due at `due` has passed those held; the ones that waited for it follow right behind.
    fn release_held(&mut self, due: Instant) {
        let mut index = 0;
        while index < self.held.len() {
            let held = &mut self.held[index];
            held.remaining -= 1;
            if held.remaining > 0 {
                index += 1;
                continue;
            }
            let Held { entry, own_due, .. } = self.held.remove(index);
            let due = due.max(own_due).min(entry.due);
            let order = self.take_order();
            self.store(Entry { due, order, ..entry });
        }
    }

    fn earliest(&self) -> Option<(Instant, Place)> {
        let in_order = self.in_order.front().map(|e| (e.key(), Place::InOrder));
        let out_of_order = self.out_of_order.peek().map(|e| (e.0.key(), Place::OutOfOrder));
        let held = self.held.iter().enumerate().map(|(i, h)| (h.entry.key(), Place::Held(i)));
        let all = in_order.into_iter().chain(out_of_order).chain(held);
        all.min_by_key(|(key, _)| *key).map(|((due, _), place)| (due, place))
    }
}

/// Flips one to three different bits anywhere in `data`, which is not empty.
fn flip_bits(data: &mut [u8], draws: &CopyDraws) {
    const SLICE_BITS: u32 = 21; // three slices fit a draw, and each spans the 2^19 bits of a UDP datagram
    let bits = data.len() * 8;
    let mut flipped = [usize::MAX; 3];
    for index in 0..1 + (unit(draws.count) * 3.0) as usize {
        let slice = (draws.bits >> (index as u32 * SLICE_BITS)) & ((1 << SLICE_BITS) - 1);
        let mut bit = ((u128::from(slice) * bits as u128) >> SLICE_BITS) as usize;
        // A bit flipped twice would be no corruption; there are at least eight for at most three.
        while flipped.contains(&bit) {
            bit = (bit + 1) % bits;
        }
        flipped[index] = bit;
        data[bit / 8] ^= 1 << (bit % 8);
    }
}
