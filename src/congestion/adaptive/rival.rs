//! Role: notices a flow that fills the queue whatever we do, and says what to send beside it.
//! Owns: the evidence, the estimate of the whole link's rate, the rhythm of dips and tests.
//! Implements: docs/CONGESTION.md, "Beside others".

/// A queue of this many times the target, although we yield, is somebody else's.
const HIGH: f64 = 2.5;
/// It must stand for so many RTTs and at least so long. A start of another flow of our kind is over sooner.
const STANDS_RTTS: f64 = 10.0;
const STANDS_SECS: f64 = 0.4;
/// Flows of our kind that may hold the queue up together.
pub(super) const CROWD_FLOWS: f64 = 16.0;
/// A crowd of our kind leaves each with little, and the queue at what such slow flows aim at.
const CROWD: f64 = 1.6;
/// After a mistake, or an overload that many flows made, no rival is seen for so long.
const BARRED_SECS: f64 = 20.0;
/// Below this share of the highest rate of late for so many RTTs, with a queue, counts as well.
const STARVED: f64 = 0.12;
const STARVES_RTTS: f64 = 50.0;
const STARVES_SECS: f64 = 2.0;
/// Short for so long: the rival is gone. BBR empties the queue for 0.2 s every 10 s.
const GONE_RTTS: f64 = 10.0;
const GONE_SECS: f64 = 0.5;
/// A rival keeps the queue long for at least this share of the time, judged after so many RTTs and seconds.
const REAL: f64 = 0.3;
const MISTAKEN_RTTS: f64 = 30.0;
const MISTAKEN_SECS: f64 = 1.5;
/// Share of the link that we send. What we get is less, since a rival that probes gains on one that does not: about 0.5
/// beside CUBIC and 0.35 beside BBR.
const SHARE: f64 = 0.6;
/// Every so many RTTs the pace dips for one RTT: how far the queue falls tells our share of the link.
const DIP_EVERY_RTTS: f64 = 10.0;
const DIP: f64 = 0.5;
/// After so long we yield again, to see whether the rival is still there or one of our kind mistook us.
const TEST_EVERY_SECS: f64 = 12.0;
/// A rival that was there within this time is believed in sooner: CUBIC takes long to come back after a loss.
const AGAIN_SECS: f64 = 20.0;
const AGAIN_RTTS: f64 = 5.0;
const AGAIN_HIGH: f64 = 1.5;
/// And so it is when we are pushed below this share of what we held.
const PUSHED: f64 = 0.6;
/// Loss beyond ordinary loss at which we take our estimate of the link to be too high.
const EXCESS_LOSS: f64 = 0.2;
/// Loss beyond ordinary loss that no rival makes, and share of the time with it.
const MUTUAL_LOSS: f64 = 0.4;
const MUTUAL: f64 = 0.5;
/// The estimate does not fall below this share of what it was at first.
const LEAST_SHARE: f64 = 0.05;
/// Loss beyond ordinary loss up to which the link may prove wider than it ever was.
const CLEAN_LOSS: f64 = 0.02;
/// The highest rate of late is remembered for one to two of these.
const PEAK_SLOT_SECS: f64 = 15.0;

#[derive(Clone, Copy, Debug)]
struct Dip {
    from: f64,
    until: f64,
    queue: f64,
    rate: f64,
}

/// What the path shows now.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) now: f64,
    pub(super) rtt: f64,
    /// Queue, the ones we aim at (now, and at our highest rate of late), and jitter, seconds.
    pub(super) queue: f64,
    pub(super) own_aim: f64,
    pub(super) aim: f64,
    /// What each of `CROWD_FLOWS` of our kind would aim at.
    pub(super) crowd_aim: f64,
    pub(super) jitter: f64,
    /// When the packet of the newest point left.
    pub(super) sent: f64,
    /// Rate at which we pass, and loss beyond ordinary loss.
    pub(super) pass_rate: f64,
    pub(super) excess_loss: f64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Rival {
    stands: f64,
    starves: f64,
    gone: f64,
    last: f64,
    /// Rate of the whole link, while we compete.
    link: Option<f64>,
    since: f64,
    peaks: [f64; 2],
    peak_rotates: f64,
    dip: Option<Dip>,
    next_dip: f64,
    next_cut: f64,
    /// When we last left it, the estimate of the link then, and what we held.
    left_at: f64,
    before: f64,
    held: f64,
    floor: f64,
    /// Seconds that we competed, and those with a long queue.
    beside: f64,
    full: f64,
    /// Of these, seconds in which more was lost than a rival that yields to loss lets happen.
    lossy: f64,
    barred_until: f64,
}

impl Rival {
    pub(super) fn new() -> Self {
        Self {
            stands: 0.0,
            starves: 0.0,
            gone: 0.0,
            last: 0.0,
            link: None,
            since: 0.0,
            peaks: [0.0; 2],
            peak_rotates: 0.0,
            dip: None,
            next_dip: 0.0,
            next_cut: 0.0,
            left_at: f64::NEG_INFINITY,
            before: 0.0,
            held: 0.0,
            floor: 0.0,
            beside: 0.0,
            full: 0.0,
            lossy: 0.0,
            barred_until: 0.0,
        }
    }

    /// A rate that the link was seen, or is thought, to have.
    pub(super) fn note_rate(&mut self, now: f64, rate: f64) {
        if now > self.peak_rotates {
            self.peaks[1] = self.peaks[0];
            self.peaks[0] = 0.0;
            self.peak_rotates = now + PEAK_SLOT_SECS;
        }
        self.peaks[0] = self.peaks[0].max(rate);
    }

    /// Sees no rival for a while, and forgets what was thought of one.
    pub(super) fn bar(&mut self, now: f64) {
        self.barred_until = now + BARRED_SECS;
        self.peaks = [0.0; 2];
        (self.stands, self.starves) = (0.0, 0.0);
    }

    /// An overload of many flows: whoever holds a share of the link beside them makes it last.
    pub(super) fn yield_to_crowd(&mut self, now: f64) {
        self.link = None;
        self.left_at = f64::NEG_INFINITY;
        self.bar(now);
    }

    /// The highest rate of late.
    pub(super) fn peak(&self) -> f64 {
        self.peaks[0].max(self.peaks[1])
    }

    /// Looks at the queue; true if we compete from here on.
    pub(super) fn watch(&mut self, view: &View) -> bool {
        let step = (view.now - self.last).clamp(0.0, view.rtt);
        self.last = view.now;
        if self.link.is_none() {
            let again = view.now < self.left_at + AGAIN_SECS;
            let crowd_aim = view.own_aim.min(view.crowd_aim);
            let limit = if again {
                (AGAIN_HIGH * view.own_aim).min(HIGH * view.aim)
            } else {
                HIGH * view.aim.max(crowd_aim)
            };
            let pushed = again && view.pass_rate < PUSHED * self.held && view.queue > 0.7 * view.own_aim;
            let high = view.queue > limit + view.jitter || pushed;
            self.stands = if high { self.stands + step } else { (self.stands - step).max(0.0) };
            // Or we gave nearly all away and the queue is still not short: our idea of its base is too high.
            let starved = view.pass_rate < STARVED * self.peak()
                && view.queue > (1.25 * view.aim).max(CROWD * crowd_aim) + view.jitter;
            self.starves = if starved { self.starves + step } else { (self.starves - step).max(0.0) };
            if self.starves > (STARVES_RTTS * view.rtt).max(STARVES_SECS) {
                self.stands = f64::INFINITY;
            }
            let enough =
                if again { AGAIN_RTTS * view.rtt } else { (STANDS_RTTS * view.rtt).max(STANDS_SECS) };
            if self.stands > enough && view.now >= self.barred_until {
                let before = if again { self.before } else { 0.0 };
                let link = self.peak().max(view.pass_rate).max(before);
                self.link = Some(link);
                self.floor = LEAST_SHARE * link;
                self.since = view.now;
                self.beside = 0.0;
                self.full = 0.0;
                self.lossy = 0.0;
                self.gone = 0.0;
                self.dip = None;
                self.next_dip = view.now + 4.0 * view.rtt;
            }
            return self.link.is_some();
        }
        self.gone = if view.queue < 1.5 * view.aim + view.jitter {
            self.gone + step
        } else {
            (self.gone - step).max(0.0)
        };
        let gone = self.gone > (GONE_RTTS * view.rtt).max(GONE_SECS);
        // One that fills the queue does so: if it is short most of the time, those beside us yield as we would.
        self.beside += step;
        if view.queue > (HIGH * view.aim).max(CROWD * view.crowd_aim) + view.jitter {
            self.full += step;
        }
        // One flow that fills a queue neither loses so much nor leaves so little: those beside us are many, of our kind.
        let floored = self.link.is_some_and(|link| link < 1.05 * self.floor);
        if view.excess_loss > MUTUAL_LOSS || floored {
            self.lossy += step;
        }
        let real = self.full > REAL * self.beside && self.lossy < MUTUAL * self.beside;
        let mistaken = !real && self.beside > (MISTAKEN_RTTS * view.rtt).max(MISTAKEN_SECS);
        if mistaken {
            self.bar(view.now);
        }
        if gone || mistaken || view.now > self.since + TEST_EVERY_SECS + 40.0 * view.rtt {
            self.before = self.link.take().unwrap_or(0.0);
            self.left_at = if real { view.now } else { f64::NEG_INFINITY };
            self.held = view.pass_rate;
            self.stands = 0.0;
            self.starves = 0.0;
        }
        self.link.is_some()
    }

    /// The pace beside the rival.
    pub(super) fn pace(&mut self, view: &View) -> f64 {
        let Some(link) = self.link else { return 0.0 };
        let mut estimate = link;
        if view.excess_loss > EXCESS_LOSS && view.now > self.next_cut {
            estimate = (estimate * (1.0 - view.excess_loss / 2.0)).max(self.floor);
            self.next_cut = view.now + 2.0 * view.rtt;
        }
        match self.dip {
            None if view.now >= self.next_dip => {
                let until = view.now + view.rtt;
                self.dip = Some(Dip { from: view.now, until, queue: view.queue, rate: view.pass_rate });
            }
            // The queue that the last packets of the dip met.
            Some(dip) if view.sent >= dip.until => {
                let span = 0.875 * (dip.until - dip.from);
                let share = ((dip.queue - view.queue) / (span * (1.0 - DIP))).clamp(0.1, 1.0);
                let seen = (dip.rate / share).clamp(0.7 * estimate, 1.4 * estimate);
                if view.excess_loss < 0.75 * EXCESS_LOSS || seen < estimate {
                    estimate += 0.4 * (seen - estimate);
                    if view.excess_loss > CLEAN_LOSS {
                        estimate = estimate.min(self.peak().max(link));
                    }
                }
                self.dip = None;
                self.next_dip = view.now + DIP_EVERY_RTTS * view.rtt;
            }
            _ => {}
        }
        self.link = Some(estimate);
        let dipping = self.dip.is_some_and(|dip| view.now < dip.until);
        SHARE * estimate * if dipping { DIP } else { 1.0 }
    }
}
