//! Role: tells loss of our own making that shows no queue (a policer, a very short queue) from the path's ordinary loss.
//! Owns: mean and spread of ordinary loss, and the experiment under way.
//! Implements: docs/CONGESTION.md, "Loss".

use super::path::Interval;

/// Weight of one interval in mean and variance.
const WEIGHT: f64 = 1.0 / 16.0;
/// Standard deviations above the mean beyond which loss is not taken for ordinary.
const DEVIATIONS: f64 = 2.5;
/// The same, and a share of packets, at which loss without a queue is suspected to be of our making.
const SUSPECT_DEVIATIONS: f64 = 4.0;
const SUSPECT_SHARE: f64 = 0.02;
/// Loss that is assumed to be possible where none was seen yet.
const LEAST: f64 = 0.002;

/// What an interval says.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Ordinary,
    /// Go down to this capacity and see whether the loss goes with it.
    Reduce(f64),
    /// It did not: the loss is the path's.
    Restore(f64),
}

/// The experiment: loss rose, the rate was cut; if the loss stays it was not ours.
#[derive(Clone, Copy, Debug)]
struct Trial {
    sent_rate: f64,
    loss: f64,
    got_rate: f64,
    judge_at: f64,
}

/// Ordinary loss is learned while the queue is short, since what a full queue drops does not count as ordinary.
#[derive(Debug)]
pub(super) struct LossModel {
    datagram: f64,
    mean: f64,
    /// Variance of the share of one packet: of independent loss `mean * (1 - mean)`, of bursts more.
    variance: f64,
    intervals: u32,
    next_at: f64,
    trial: Option<Trial>,
}

impl LossModel {
    pub(super) fn new(datagram: f64) -> Self {
        Self { datagram, mean: 0.0, variance: 0.0, intervals: 0, next_at: 0.0, trial: None }
    }

    pub(super) fn mean(&self) -> f64 {
        self.mean
    }

    fn deviation(&self, interval: &Interval) -> f64 {
        let mean = self.mean.max(LEAST);
        let packets = (interval.bytes / self.datagram).max(1.0);
        (self.variance.max(mean * (1.0 - mean)) / packets).sqrt()
    }

    /// The bottleneck's rate by this interval: what passed, unless more was lost than ordinary loss explains.
    pub(super) fn capacity(&self, interval: &Interval) -> f64 {
        let share = (self.mean + DEVIATIONS * self.deviation(interval)).min(0.9);
        if self.intervals == 0 {
            interval.pass_rate
        } else {
            interval.pass_rate.min(interval.got_rate / (1.0 - share))
        }
    }

    /// Losses until then are of an outage.
    pub(super) fn forgive(&mut self, until: f64) {
        self.next_at = self.next_at.max(until);
        self.trial = None;
    }

    /// Learns from an interval without a queue, or with less loss than was thought ordinary.
    pub(super) fn learn(&mut self, now: f64, interval: &Interval, short: bool) {
        if now < self.next_at || !(short || interval.loss < self.mean) {
            return;
        }
        self.next_at = now + interval.span;
        self.intervals += 1;
        let weight = WEIGHT.max(1.0 / f64::from(self.intervals));
        let difference = interval.loss - self.mean;
        let packets = interval.bytes / self.datagram;
        if self.intervals > 1 {
            self.variance += weight * (difference * difference * packets - self.variance);
        }
        self.mean += weight * difference;
    }

    /// In cruise: learns, or suspects.
    pub(super) fn judge(&mut self, now: f64, rtt: f64, interval: &Interval, short: bool) -> Verdict {
        if now < self.next_at {
            return Verdict::Ordinary;
        }
        if let Some(trial) = self.trial {
            if now < trial.judge_at {
                return Verdict::Ordinary;
            }
            self.trial = None;
            self.next_at = now + interval.span;
            let expected = (1.0 - trial.got_rate / interval.sent_rate).max(self.mean);
            if interval.loss > (trial.loss + expected) / 2.0 {
                self.mean = (trial.loss + interval.loss) / 2.0;
                return Verdict::Restore(trial.sent_rate);
            }
            return Verdict::Ordinary;
        }
        let limit = self.mean + (SUSPECT_DEVIATIONS * self.deviation(interval)).max(SUSPECT_SHARE);
        if self.intervals >= 2 && interval.loss > limit {
            self.next_at = now + interval.span;
            self.trial = Some(Trial {
                sent_rate: interval.sent_rate,
                loss: interval.loss,
                got_rate: interval.got_rate,
                judge_at: now + 2.2 * rtt,
            });
            return Verdict::Reduce(interval.got_rate / (1.0 - self.mean));
        }
        self.learn(now, interval, short);
        Verdict::Ordinary
    }
}
