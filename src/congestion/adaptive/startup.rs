//! Role: finds the rate of an unknown path within a few round trips.
//! Owns: the train hint and the ramp.
//! Implements: docs/CONGESTION.md, "Start".

use super::path::{Path, Point};

/// Packets of the initial flight, sent in trains.
pub(super) const INITIAL_PACKETS: f64 = 64.0;
/// Packets of a train of the initial flight: two trains, each long enough for several feedback frames within it.
const TRAIN_PACKETS: f64 = 32.0;
/// Growth per RTT without a hint, while delay is flat.
const GROWTH: f64 = 4.0;
/// Growth per RTT towards the capacity that the trains agree on.
const HINTED_GROWTH: f64 = 16.0;
/// Samples of dispersion wanted, and how far their quartiles may lie apart, relative to the median.
const HINT_SAMPLES: usize = 4;
const HINT_SPREAD: f64 = 0.5;
/// Share of the hint to go to before anything above half of the present rate came back, and after.
const HINT_UNPROVEN: f64 = 0.5;
const HINT_PROVEN: f64 = 0.92;
/// Loss above what the path showed before, at which a path that shows no queue is taken to be full.
const LOSS_STEP: f64 = 0.15;

/// What to do next.
#[derive(Debug)]
pub(super) enum Step {
    /// Go on at this rate, bytes per second.
    Pace(f64),
    /// This is the capacity.
    Done(f64),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Startup {
    datagram: f64,
    /// Rates at which trains passed.
    trains: Vec<f64>,
    hint: Option<f64>,
    /// Where the ramp is: rate at a time, growing until `ceiling`.
    from: f64,
    at: f64,
    ceiling: f64,
    loss_ref: Option<f64>,
    started: bool,
}

impl Startup {
    pub(super) fn new(datagram: f64) -> Self {
        Self {
            datagram,
            trains: Vec::new(),
            hint: None,
            from: 0.0,
            at: 0.0,
            ceiling: 0.0,
            loss_ref: None,
            started: false,
        }
    }

    /// Length of trains, while they are used to measure.
    pub(super) fn train_packets(&self) -> Option<f64> {
        (!self.started).then_some(TRAIN_PACKETS)
    }

    /// The rate that time alone allows, towards a trusted hint.
    pub(super) fn ramp(&self, now: f64, rtt: f64) -> f64 {
        if self.hint.is_none() {
            return 0.0;
        }
        let rounds = ((now - self.at) / rtt).clamp(0.0, 1.5);
        (self.from * HINTED_GROWTH.powf(rounds)).min(self.ceiling)
    }

    pub(super) fn on_point(&mut self, now: f64, point: &Point, path: &Path, rtt: f64, threshold: f64) -> Step {
        if self.trains.len() < 16
            && let Some(rate) = path.train_rate(5.0 * self.datagram)
        {
            self.trains.push(rate);
        }
        let queue = path.queue((rtt / 16.0).max(0.002)).unwrap_or(0.0);
        let recent = path.interval((rtt / 16.0).max(0.004), 16.0 * self.datagram);
        if let Some(interval) = recent.filter(|interval| queue > threshold && interval.min_queue > threshold / 2.0) {
            return Step::Done(interval.pass_rate.min(point.pace.max(interval.got_rate)));
        }
        if let Some(capacity) = self.plateau(path, rtt) {
            return Step::Done(capacity);
        }
        self.started = true;
        self.trust_trains(now, point, rtt);
        let proven = match self.hint {
            // Near the hint the steps are small: it may be a little high.
            Some(hint) if point.pace > 0.4 * hint => {
                self.ceiling = self.ceiling.max(hint * HINT_PROVEN);
                if point.pace > 0.8 * hint { point.pace * 1.3 } else { 0.0 }
            }
            Some(_) => 0.0,
            None => (point.pace.min(INITIAL_PACKETS * self.datagram / rtt * self.scale(point, rtt))) * GROWTH,
        };
        Step::Pace(proven.max(self.ramp(now, rtt)))
    }

    /// The first flight leaves in trains, at a pace that says nothing: it counts as one flight per RTT.
    fn scale(&self, point: &Point, rtt: f64) -> f64 {
        if point.cumulative as f64 <= INITIAL_PACKETS * self.datagram {
            1.0
        } else {
            point.pace * rtt / (INITIAL_PACKETS * self.datagram) + 1.0
        }
    }

    fn trust_trains(&mut self, now: f64, point: &Point, rtt: f64) {
        if self.hint.is_some() || self.trains.len() < HINT_SAMPLES {
            return;
        }
        let mut sorted = self.trains.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let (low, median, high) = (sorted[n / 4], sorted[n / 2], sorted[n - 1 - n / 4]);
        if high - low > HINT_SPREAD * median {
            return;
        }
        self.hint = Some(low.max(0.8 * median));
        self.from = (INITIAL_PACKETS * self.datagram / rtt).max(if point.cumulative as f64 > 2.0 * INITIAL_PACKETS * self.datagram { point.pace } else { 0.0 });
        self.at = now;
        self.ceiling = median * HINT_UNPROVEN;
    }

    /// A path without a queue (a policer) that lets no more through however much is sent.
    fn plateau(&mut self, path: &Path, rtt: f64) -> Option<f64> {
        let interval = path.interval((rtt / 4.0).max(0.01), 60.0 * self.datagram)?;
        let packets = interval.bytes / self.datagram;
        let reference = *self.loss_ref.get_or_insert(interval.loss);
        self.loss_ref = Some(reference.min(interval.loss));
        // Bursts of a mean of 8 packets make the spread about four times that of independent loss.
        let spread = 12.0 * (reference.max(0.02) * (1.0 - reference.min(0.9)) / packets).sqrt();
        (interval.loss > reference + LOSS_STEP.max(spread)).then(|| interval.got_rate / (1.0 - reference))
    }
}
