//! Role: finds the rate of an unknown path within a few round trips.
//! Owns: the train hint and the ramp.
//! Implements: docs/CONGESTION.md, "Start".

use super::loss::LossModel;
use super::overload;
use super::path::{Interval, Path, Point};

/// Packets of the initial flight, sent in trains.
pub(super) const INITIAL_PACKETS: f64 = 64.0;
/// Packets of a train of the initial flight: two trains, each long enough for several feedback frames within it.
const TRAIN_PACKETS: f64 = 32.0;
/// Later trains, while they told nothing: long enough to be stretched by more than the noise of busy hosts.
const LATER_TRAIN_PACKETS: f64 = 16.0;
const LATER_TRAIN_SECS: f64 = 0.004;
const MOST_TRAIN_BYTES: f64 = 65_536.0;
/// Pairs of points within trains that are kept.
const TRAINS: usize = 64;
/// Standard error, relative to the mean, at which the mean of many differing trains is believed, and how many.
const HINT_ERROR: f64 = 0.15;
const HINT_MANY: usize = 6;
/// Growth per RTT without a hint, while delay is flat. What was sent by the time the queue shows is then about one
/// bandwidth-delay product too much: a queue of one RTT just takes it.
const GROWTH: f64 = 3.0;
/// The same after a hint was wrong: little is missing by then.
const CAREFUL_GROWTH: f64 = 2.0;
/// Growth per RTT towards the capacity that the trains agree on.
const HINTED_GROWTH: f64 = 16.0;
/// Packets between two points of a train.
const TRAIN_STEP: f64 = 4.0;
/// Samples of dispersion wanted, and packets in all.
const HINT_SAMPLES: usize = 2;
const HINT_PACKETS: f64 = 20.0;
/// Share of the hint to go to before anything near it came back, and after.
const HINT_UNPROVEN: f64 = 0.5;
const HINT_PROVEN: f64 = 0.92;
/// What comes through at so many times the hint proves it wrong: jitter stretches trains too.
const HINT_WRONG: f64 = 1.3;
/// Growth per RTT near the hint and above it.
const BEYOND: f64 = 1.3;
/// What passes at less than this share of the rate at which it was sent is held up somewhere.
const HELD_UP: f64 = 0.8;
/// Loss from which a path without a queue may be one that is full.
const LOSS_STEP: f64 = 0.1;
/// Growth of what is sent over which what arrives is compared, and growth of that which is none.
const PLATEAU_STEP: f64 = 1.8;
const PLATEAU: f64 = 1.3;

/// Packets by which an overload is judged: most of the initial flight.
const OVERLOAD_PACKETS: f64 = 48.0;
/// Initial flights in which it shows: what begins later is of the start's own making.
const OVERLOAD_FLIGHTS: f64 = 3.0;
/// Its spread is not known yet: bursts have more.
const OVERLOAD_SPREAD: f64 = 4.0;

/// A round is at least this long: about the spacing of feedback on the shortest paths, several times.
const ROUND_SECS: f64 = 0.004;

/// What to do next.
#[derive(Debug)]
pub(super) enum Step {
    /// Go on at this rate, bytes per second.
    Pace(f64),
    /// This is the capacity.
    Done(f64),
    /// So much arrives of far more that was sent.
    Overload(f64),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Startup {
    datagram: f64,
    /// Bytes and seconds between two points within one train.
    trains: Vec<(f64, f64)>,
    hint: Option<f64>,
    /// The trains were stretched by something else than the bottleneck.
    distrust: bool,
    /// Where the ramp is: rate at a time, growing until `ceiling`.
    from: f64,
    at: f64,
    ceiling: f64,
    started: bool,
    /// The interval to compare with, until twice its rate is sent.
    mark: Option<Interval>,
    step_at: f64,
}

impl Startup {
    pub(super) fn new(datagram: f64) -> Self {
        Self {
            datagram,
            trains: Vec::new(),
            hint: None,
            distrust: false,
            from: 0.0,
            at: 0.0,
            ceiling: 0.0,
            started: false,
            mark: None,
            step_at: 0.0,
        }
    }

    /// Feedback has come.
    pub(super) fn started(&self) -> bool {
        self.started
    }

    /// What the trains said of the link, whoever else uses it.
    pub(super) fn hint(&self) -> Option<f64> {
        self.hint
    }

    /// The capacity is still looked for in how trains are stretched on their way.
    pub(super) fn measures(&self) -> bool {
        self.hint.is_none() && !self.distrust
    }

    /// Length of a train at that pace.
    pub(super) fn train_bytes(&self, pace: f64) -> f64 {
        if self.started {
            (pace * LATER_TRAIN_SECS).clamp(LATER_TRAIN_PACKETS * self.datagram, MOST_TRAIN_BYTES)
        } else {
            TRAIN_PACKETS * self.datagram
        }
    }

    /// The rate that time alone allows, towards a trusted hint.
    pub(super) fn ramp(&self, now: f64, rtt: f64) -> f64 {
        if self.hint.is_none() {
            return 0.0;
        }
        let rounds = ((now - self.at) / rtt.max(ROUND_SECS)).clamp(0.0, 4.0);
        (self.from * HINTED_GROWTH.powf(rounds)).min(self.ceiling)
    }

    pub(super) fn on_point(
        &mut self,
        now: f64,
        point: &Point,
        path: &Path,
        loss: &LossModel,
        rtt: f64,
        threshold: f64,
    ) -> Step {
        if self.trains.len() < TRAINS
            && let Some(train) = path.train(TRAIN_STEP * self.datagram)
        {
            self.trains.push(train);
        }
        let queue = path.queue((rtt / 16.0).max(0.002)).unwrap_or(0.0);
        let recent = path.interval((rtt / 16.0).max(0.004), 16.0 * self.datagram);
        if let Some(interval) =
            recent.filter(|interval| queue > threshold && interval.min_queue > threshold / 2.0)
        {
            return Step::Done(loss.capacity(&interval));
        }
        if let Some(capacity) = self.plateau(path, rtt) {
            return Step::Done(capacity);
        }
        // Into a queue that others keep full it would grow for ever, as they do.
        if point.cumulative as f64 <= OVERLOAD_FLIGHTS * INITIAL_PACKETS * self.datagram
            && let Some(interval) = path.interval(rtt / 4.0, OVERLOAD_PACKETS * self.datagram)
            && overload::is_overload(&interval, self.datagram, OVERLOAD_SPREAD)
        {
            return Step::Overload(interval.got_rate);
        }
        self.started = true;
        let flight = INITIAL_PACKETS * self.datagram;
        // The trains of the initial flight count as one flight per RTT.
        let round = rtt.max(ROUND_SECS);
        let mut arrived = if point.cumulative as f64 <= flight {
            flight / round
        } else {
            // What was sent at this pace is at the bottleneck, or in its queue: only what comes out of it counts.
            recent.map_or(point.pace, |i| {
                if i.pass_rate < HELD_UP * i.sent_rate { 0.0 } else { point.pace.min(i.pass_rate / HELD_UP) }
            })
        };
        if rtt < ROUND_SECS {
            // Feedback is as slow as a round here: no more than one step in each.
            if now < self.step_at {
                arrived /= GROWTH;
            } else {
                self.step_at = now + ROUND_SECS;
            }
        }
        self.trust_trains(now, arrived, rtt);
        if self.hint.is_some_and(|hint| arrived > HINT_WRONG * hint) {
            self.hint = None;
            self.distrust = true;
        }
        let pace = match self.hint {
            // Near the hint the steps are small: it may be a little high.
            Some(hint) if arrived > 0.4 * hint => {
                self.ceiling = self.ceiling.max(hint * HINT_PROVEN);
                if arrived > 0.75 * hint { arrived * BEYOND } else { (arrived * GROWTH).min(self.ceiling) }
            }
            Some(hint) => (arrived * GROWTH).min(hint * HINT_UNPROVEN),
            None if self.distrust => arrived * CAREFUL_GROWTH,
            None => arrived * GROWTH,
        };
        Step::Pace(pace.max(self.ramp(now, rtt)))
    }

    fn trust_trains(&mut self, now: f64, arrived: f64, rtt: f64) {
        if !self.measures() || self.trains.len() < HINT_SAMPLES {
            return;
        }
        let (bytes, secs) =
            self.trains.iter().fold((0.0, 0.0), |sum, train| (sum.0 + train.0, sum.1 + train.1));
        let rate: f64 = bytes / secs;
        let alike = self.trains.iter().all(|train| (0.5..2.2).contains(&(train.0 / train.1 / rate)));
        let residues = self.trains.iter().map(|train| (train.1 - train.0 / rate).powi(2)).sum::<f64>();
        let known = self.trains.len() >= HINT_MANY && residues.sqrt() < HINT_ERROR * secs;
        if bytes < HINT_PACKETS * self.datagram || !(alike || known) {
            return;
        }
        self.hint = Some(rate);
        self.from = (INITIAL_PACKETS * self.datagram / rtt.max(ROUND_SECS)).max(arrived);
        self.at = now;
        self.ceiling = rate * HINT_UNPROVEN;
    }

    /// A path without a queue (a policer) that lets no more through however much is sent.
    fn plateau(&mut self, path: &Path, rtt: f64) -> Option<f64> {
        let interval = path.interval((rtt / 4.0).max(0.002), 60.0 * self.datagram)?;
        let Some(mark) = self.mark else {
            self.mark = Some(interval);
            return None;
        };
        if interval.sent_rate < PLATEAU_STEP * mark.sent_rate {
            return None;
        }
        if interval.loss > LOSS_STEP && interval.got_rate < PLATEAU * mark.got_rate {
            return Some(interval.got_rate / (1.0 - mark.loss.min(0.5)));
        }
        self.mark = Some(interval);
        None
    }
}
