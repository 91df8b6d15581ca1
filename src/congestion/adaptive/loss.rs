//! Role: tells loss by congestion that shows no queue (a policer, a very short queue) from the path's ordinary loss.
//! Owns: mean and spread of ordinary loss, and the experiment under way.
//! Implements: docs/CONGESTION.md, "Loss".

use super::path::Interval;

/// Weight of one interval in mean and variance.
const WEIGHT: f64 = 1.0 / 16.0;
/// Standard deviations, and share of packets, above the mean at which loss is suspected to be of our making.
const SUSPECT_DEVIATIONS: f64 = 4.0;
const SUSPECT_SHARE: f64 = 0.02;

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

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LossModel {
    mean: f64,
    variance: f64,
    intervals: u32,
    next_at: f64,
    trial: Option<Trial>,
}

impl LossModel {
    /// The rate before ordinary loss of what arrived at `got_rate`; not below what loss could explain.
    pub(super) fn bound(&self, got_rate: f64) -> f64 {
        if self.intervals < 4 {
            return f64::INFINITY;
        }
        let share = (self.mean + SUSPECT_DEVIATIONS * self.variance.sqrt() + SUSPECT_SHARE).min(0.9);
        got_rate / (1.0 - share)
    }

    /// Losses until then are of an outage.
    pub(super) fn forgive(&mut self, until: f64) {
        self.next_at = self.next_at.max(until);
        self.trial = None;
    }

    pub(super) fn on_interval(&mut self, now: f64, rtt: f64, interval: &Interval, datagram: f64) -> Verdict {
        if now < self.next_at {
            return Verdict::Ordinary;
        }
        self.next_at = now + interval.span;
        if let Some(trial) = self.trial {
            if now < trial.judge_at {
                return Verdict::Ordinary;
            }
            self.trial = None;
            let expected = (1.0 - trial.got_rate / interval.sent_rate).max(self.mean);
            if interval.loss > (trial.loss + expected) / 2.0 {
                self.mean = (trial.loss + interval.loss) / 2.0;
                self.intervals = self.intervals.max(4);
                return Verdict::Restore(trial.sent_rate);
            }
            return Verdict::Ordinary;
        }
        let binomial = self.mean.max(0.005) * (1.0 - self.mean) / (interval.bytes / datagram).max(1.0);
        let deviation = self.variance.max(binomial).sqrt();
        let limit = self.mean + (SUSPECT_DEVIATIONS * deviation).max(SUSPECT_SHARE);
        if self.intervals >= 2 && interval.loss > limit {
            self.trial = Some(Trial {
                sent_rate: interval.sent_rate,
                loss: interval.loss,
                got_rate: interval.got_rate,
                judge_at: now + 2.2 * rtt,
            });
            return Verdict::Reduce(interval.got_rate / (1.0 - self.mean));
        }
        self.intervals += 1;
        let weight = WEIGHT.max(1.0 / f64::from(self.intervals));
        let difference = interval.loss - self.mean;
        self.mean += weight * difference;
        self.variance += weight * (difference * difference - self.variance);
        Verdict::Ordinary
    }
}
