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
/// No more than this is ever taken for ordinary: whatever else goes wrong, what is sent stays in proportion to what
/// arrives.
const MOST_LOSS: f64 = 0.6;
/// The same while the rate grows fast and the spread is not known yet: bursts of a mean of 8 packets have four times the
/// deviation of independent loss.
const BELIEVED_DEVIATIONS: f64 = 10.0;
/// Loss that is assumed to be possible where none was seen yet.
const LEAST: f64 = 0.002;

/// Loss below this share is not worth an experiment.
const TRIAL_LOSS: f64 = 0.02;
/// The cut of an experiment, relative to the capacity: deep enough to show, shallow enough to cost little.
const TRIAL_CUT: (f64, f64) = (0.7, 0.85);
/// Pause between experiments, beside a second.
const DOUBT_RTTS: f64 = 20.0;
/// RTTs without a sign of a queue after which even steady loss is put to the test.
const DOUBT_AFTER_RTTS: f64 = 4.0;
/// Packets an experiment wants to see.
const TRIAL_PACKETS: f64 = 400.0;
/// Loss from which on it wants fewer, in proportion, and the least part: of 100 packets 30 are lost, or 15; that is three
/// standard deviations.
const TRIAL_PACKETS_LOSS: f64 = 0.075;
const TRIAL_PART: f64 = 0.25;
/// Packets by which loss that stayed is believed when an experiment is given up for want of more.
const FEW_PACKETS: f64 = 32.0;
/// Standard deviations by which the loss must fall to have been of our making.
const SURE_DEVIATIONS: f64 = 3.5;
/// An experiment that does not tell goes on up to so many times its packets, or RTTs.
const LONG_TRIAL: f64 = 4.0;
/// RTTs, beside a second, after which an experiment is given up.
const TRIAL_RTTS: f64 = 8.0;

/// Loss above this is audited now and then even with a normal queue: a flow whose idea of the base delay is too high
/// would take for ordinary what it drops itself. The first time after so many RTTs or seconds, then ever more rarely.
const AUDIT_LOSS: f64 = 0.03;
const AUDIT_RTTS: f64 = 30.0;
const AUDIT_LEAST_SECS: f64 = 0.2;
const AUDIT_SECS: f64 = 3.0;
const AUDIT_MOST_SECS: f64 = 60.0;

/// Variance is at most this times that of independent loss: bursts of a mean of 8 packets have 15.
const MOST_SPREAD: f64 = 16.0;

/// What an experiment showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// The loss went with the rate: this is what the path lets through.
    Policed(f64),
    /// The loss stayed: the capacity was as it was.
    Ordinary(f64),
}

/// What cruise sees beside the interval.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) rtt: f64,
    /// No queue proves that the link is full.
    pub(super) quiet: bool,
    pub(super) quiet_rtts: f64,
    /// The queue is not longer than we want it.
    pub(super) short: bool,
    /// We send more than we know to pass.
    pub(super) growing: bool,
}

/// An experiment: the rate is cut; loss of our making goes with it, ordinary loss stays.
#[derive(Clone, Copy, Debug)]
struct Trial {
    capacity: f64,
    loss: f64,
    got_rate: f64,
    /// Sender's seconds.
    since: f64,
    /// It began because the loss rose.
    rose: bool,
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
    doubt_at: f64,
    doubted_at: f64,
    audit_at: f64,
    audit_pause: f64,
    audited: f64,
}

impl LossModel {
    pub(super) fn new(datagram: f64) -> Self {
        Self {
            datagram,
            mean: 0.0,
            variance: 0.0,
            intervals: 0,
            next_at: 0.0,
            trial: None,
            doubt_at: 0.0,
            doubted_at: f64::NEG_INFINITY,
            audit_at: f64::INFINITY,
            audit_pause: AUDIT_SECS,
            audited: 1.0,
        }
    }

    /// Ordinary loss, a share of packets.
    pub(super) fn mean(&self) -> f64 {
        self.mean
    }

    fn deviation(&self, interval: &Interval) -> f64 {
        let mean = self.mean.max(LEAST);
        let packets = (interval.bytes / self.datagram).max(1.0);
        (self.variance.max(mean * (1.0 - mean)) / packets).sqrt() + interval.blur
    }

    /// The bottleneck's rate by this interval: what passed, unless more was lost than ordinary loss explains.
    pub(super) fn capacity(&self, interval: &Interval) -> f64 {
        let share = (self.mean + DEVIATIONS * self.deviation(interval)).min(MOST_LOSS);
        interval.pass_rate.min(interval.got_rate / (1.0 - share))
    }

    /// What was learned was of the senders' making; this is not.
    pub(super) fn relearn(&mut self, ordinary: f64) {
        *self = Self { intervals: 3, mean: ordinary.min(MOST_LOSS), ..Self::new(self.datagram) };
    }

    /// Losses until then are of an outage.
    pub(super) fn forgive(&mut self, until: f64) {
        self.next_at = self.next_at.max(until);
        self.trial = None;
    }

    /// Whether this loss may be ordinary by what was seen before, while the rate grows fast.
    pub(super) fn believes(&self, interval: &Interval) -> bool {
        self.intervals < 3 || interval.loss < self.mean + BELIEVED_DEVIATIONS * self.deviation(interval)
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
            let seen = (difference * difference * packets).min(MOST_SPREAD * self.mean.max(LEAST));
            self.variance += weight * (seen - self.variance);
        }
        self.mean += weight * difference;
    }

    /// Sender's seconds at which the experiment under way began.
    pub(super) fn trial_since(&self) -> Option<f64> {
        self.trial.map(|trial| trial.since)
    }

    /// In cruise: learns, or begins an experiment and returns the capacity to go down to.
    pub(super) fn watch(&mut self, now: f64, interval: &Interval, capacity: f64, look: &Look) -> Option<f64> {
        if now < self.next_at || self.trial.is_some() {
            return None;
        }
        let limit = self.mean + (SUSPECT_DEVIATIONS * self.deviation(interval)).max(SUSPECT_SHARE);
        let rose = interval.loss > limit;
        let doubtful =
            interval.loss > TRIAL_LOSS && now > self.doubt_at && look.quiet_rtts > DOUBT_AFTER_RTTS;
        if self.audit_at.is_infinite() && self.mean > AUDIT_LOSS {
            self.audit_pause = (AUDIT_RTTS * look.rtt).clamp(AUDIT_LEAST_SECS, AUDIT_SECS);
            self.audit_at = now + self.audit_pause;
        }
        let audit = look.short
            && self.mean > AUDIT_LOSS
            && (now > self.audit_at || self.mean > 1.5 * self.audited + AUDIT_LOSS);
        if (look.quiet && (rose || doubtful)) || audit {
            self.next_at = now + interval.span;
            self.trial = Some(Trial {
                capacity,
                loss: if rose { interval.loss } else { self.mean },
                got_rate: interval.got_rate,
                since: now,
                rose,
            });
            let fit = interval.got_rate / (1.0 - self.mean);
            return Some(fit.clamp(capacity * TRIAL_CUT.0, capacity * TRIAL_CUT.1));
        }
        if !rose {
            // While the rate grows, loss that grows with it may be of our making.
            self.learn(now, interval, look.short && !look.growing);
        }
        None
    }

    /// Ends the experiment, if the interval (of packets sent since it began) says enough.
    pub(super) fn judge(&mut self, now: f64, rtt: f64, interval: &Interval) -> Option<Verdict> {
        let trial = self.trial?;
        let policed = (1.0 - trial.got_rate / interval.sent_rate).max(0.0);
        let stayed = interval.loss > (trial.loss + policed) / 2.0;
        if now > trial.since + TRIAL_RTTS * rtt + 1.0 {
            // Too little was sent to tell, and it would be so again: a slow flow must not be held by one after the other.
            self.trial = None;
            self.next_at = now + rtt;
            if stayed && interval.bytes >= FEW_PACKETS * self.datagram {
                self.mean = self.mean.max(interval.loss);
            }
            self.doubt_at = now + DOUBT_RTTS * rtt + 1.0;
            self.audited = self.mean;
            self.audit_at = now + self.audit_pause;
            self.audit_pause = (2.0 * self.audit_pause).min(AUDIT_MOST_SECS);
            return Some(Verdict::Ordinary(trial.capacity));
        }
        // The more was lost, the fewer packets tell whether half of it stayed.
        let wanted = TRIAL_PACKETS * self.datagram * (TRIAL_PACKETS_LOSS / trial.loss).clamp(TRIAL_PART, 1.0);
        if interval.bytes < wanted || interval.span < rtt / 2.0 {
            return None;
        }
        let sure = trial.loss - interval.loss > SURE_DEVIATIONS * self.deviation(interval);
        let long = interval.bytes > LONG_TRIAL * wanted || interval.span > LONG_TRIAL * rtt;
        if !stayed && !sure && !long {
            return None;
        }
        self.trial = None;
        self.next_at = now + rtt;
        self.doubt_at = now + DOUBT_RTTS * rtt + 1.0;
        if stayed {
            self.mean = interval.loss;
            self.audited = interval.loss;
            self.audit_at = now + self.audit_pause;
            self.audit_pause = (2.0 * self.audit_pause).min(AUDIT_MOST_SECS);
            return Some(Verdict::Ordinary(trial.capacity));
        }
        if trial.rose && now > self.doubted_at + DOUBT_RTTS * rtt + 1.0 {
            // A burst of ordinary loss that is over looks the same. If it was ours, it comes back with the rate.
            self.doubted_at = now;
            return Some(Verdict::Ordinary(trial.capacity));
        }
        self.doubted_at = now;
        self.audit_pause = (AUDIT_RTTS * rtt).clamp(AUDIT_LEAST_SECS, AUDIT_SECS);
        self.audit_at = now + self.audit_pause;
        self.audited = 0.0;
        self.mean = (interval.loss - policed).max(0.0);
        Some(Verdict::Policed(trial.got_rate / (1.0 - self.mean)))
    }
}
