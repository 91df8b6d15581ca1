//! Role: the default controller: a model of the path that holds the bottleneck's rate with a queue of a few milliseconds.
//! Owns: the model of one path: capacity, base delay, ordinary loss, and the mode it is in.
//! Implements: docs/PROTOCOL.md, "Rate control"; the reasons and the constants are in docs/CONGESTION.md.

mod loss;
mod middle;
mod overload;
mod path;
mod rival;
mod startup;
mod track;

use super::pacer::CATCH_UP;
use super::{Controller, FeedbackSample, PacketInfo};
use loss::{Look, LossModel, Verdict};
use overload::Overload;
use path::{Interval, Path, Point};
use rival::{Rival, View};
use startup::{Startup, Step};
use std::time::{Duration, Instant};

/// Queue that a flow of `QUEUE_RATE` aims at. Flows of other rates aim at it times the square root of the ratio: a
/// slower flow bears more queue than a faster one beside it, which is what makes flows that share a link equal.
const QUEUE_SECS: f64 = 0.004;
/// 200 Mbit/s.
const QUEUE_RATE: f64 = 25e6;
/// The target stays below a third of the RTT, within these bounds.
const QUEUE_BOUNDS: (f64, f64) = (0.004, 0.02);
/// Beside that, so many packets of its own, within a share of the RTT: of many slow flows the slower one aims clearly higher.
const QUEUE_PACKETS: f64 = 0.75;
const QUEUE_PACKETS_RTTS: f64 = 0.25;
/// About the grain of timers and receive batches.
const QUEUE_LEAST: f64 = 0.0015;
/// Rate before the first RTT sample, bytes per second: the initial flight leaves within some 25 ms.
const FIRST_RATE: f64 = 4e6;
/// Slowest pace at which a path is used: two packets a second, and a living one, as TCP does, two packets per RTT.
const LEAST_PACKETS: f64 = 2.0;
/// Packets that a sample of the capacity wants.
const SAMPLE_PACKETS: f64 = 16.0;
/// Largest excess over the capacity that is believed, per RTT, while no queue shows.
const MAX_BOOST: f64 = 0.5;
const FIRST_BOOST: f64 = 0.015;
/// Rest after a policer was found, beside four RTTs, before more is tried; it doubles when one is found again.
const POLICED_SECS: (f64, f64) = (0.5, 4.0);
const POLICED_AGAIN_SECS: f64 = 5.0;
/// The base delay is looked for again (by draining) when the queue was not seen empty for so long.
const DRAIN_EVERY: f64 = 5.0;

/// Packets all marked CE (RFC 3168) weigh as so many times the target of queue; a share of them weighs its share, as in
/// RFC 8257. From this share on, the start ends and nothing more is tried.
const MARK_WEIGHT: f64 = 2.0;
const MARKED: f64 = 0.02;
/// What was missed while the host was busy may be caught up at once, as far as the link's queue is known to take it, and within
/// these bounds: the first keeps bursts below what disturbs others, the second is the time in which a queue seen is forgotten.
const CATCH_UP_RTTS: f64 = 0.25;
const CATCH_UP_SECS: f64 = 0.02;
const LONGEST_QUEUE_SECS: f64 = 10.0;
/// Beside twice the flight: feedback comes at least every few milliseconds on a short path.
const FEEDBACK_SLACK: f64 = 0.01;

#[derive(Debug)]
enum Mode {
    Startup(Startup),
    Cruise,
}

/// See the module.
#[derive(Debug)]
pub struct Adaptive {
    datagram: f64,
    path: Path,
    mode: Mode,
    loss: LossModel,
    rival: Rival,
    overload: Overload,
    /// What the bottleneck passes of ours, packets lost behind it included, bytes per second.
    capacity: f64,
    pace: f64,
    boost: f64,
    /// Sender's seconds: the queue was last seen non-empty; boosting may begin.
    queue_seen: f64,
    boost_from: f64,
    drain_until: f64,
    rtt: f64,
    min_rtt: f64,
    queue: f64,
    /// The longest queue of late: so much there is room for.
    longest_queue: f64,
    last_point: f64,
    /// Queue that the packets sent now are expected to meet, if nobody else changes anything.
    expected: f64,
    /// By how much more than expected there was of late: others fill what we leave.
    surprise: f64,
    learned_at: f64,
    silent: u32,
    resume_until: f64,
    policed_until: f64,
    policed_pause: f64,
    app_limited: bool,
    /// Share of packets with the CE mark, a moving average.
    marks: f64,
}

impl Adaptive {
    /// Starts a path.
    pub fn new(now: Instant, datagram_bytes: u32) -> Self {
        let datagram = f64::from(datagram_bytes.max(1));
        Self {
            datagram,
            path: Path::new(now),
            mode: Mode::Startup(Startup::new(datagram)),
            loss: LossModel::new(datagram),
            rival: Rival::new(),
            overload: Overload::new(),
            capacity: FIRST_RATE,
            pace: FIRST_RATE,
            boost: 0.0,
            queue_seen: 0.0,
            boost_from: 0.0,
            drain_until: 0.0,
            rtt: 0.1,
            min_rtt: 0.1,
            queue: 0.0,
            longest_queue: 0.0,
            last_point: 0.0,
            expected: f64::INFINITY,
            surprise: 0.0,
            learned_at: 0.0,
            silent: 0,
            resume_until: 0.0,
            policed_until: 0.0,
            policed_pause: POLICED_SECS.0,
            app_limited: false,
            marks: 0.0,
        }
    }

    /// Queue that this flow aims at, without the allowance for jitter.
    fn queue_target(&self) -> f64 {
        self.queue_target_at(self.capacity)
    }

    fn queue_target_at(&self, rate: f64) -> f64 {
        let aim = QUEUE_SECS * (QUEUE_RATE / rate.max(self.floor())).sqrt();
        let most = (self.min_rtt / 3.0).clamp(QUEUE_BOUNDS.0, QUEUE_BOUNDS.1);
        // Bounded softly: where two flows share, the slower one must aim higher whatever the bound.
        let soft = (aim * most / (aim + most)).max(QUEUE_LEAST);
        soft + (QUEUE_PACKETS * self.datagram / rate.max(self.floor())).min(QUEUE_PACKETS_RTTS * self.min_rtt)
    }

    fn on_point(&mut self, now: f64, point: &Point) {
        self.queue = self.path.queue((self.rtt / 4.0).max(0.004)).unwrap_or(0.0);
        self.longest_queue = self.longest_queue.max(self.queue);
        let mut startup = match &mut self.mode {
            Mode::Startup(startup) => std::mem::replace(startup, Startup::new(self.datagram)),
            Mode::Cruise => {
                self.note_surprise(now, point);
                if !self.retreat(now) {
                    self.cruise(now);
                    self.compete(now);
                }
                return;
            }
        };
        let marked = self.marks > MARKED;
        let threshold = if marked { -1.0 } else { self.queue_target() + 2.0 * self.path.jitter };
        if let Some(interval) = self.path.interval(self.rtt / 4.0, 60.0 * self.datagram) {
            let ordinary = interval.max_queue < threshold / 2.0 && self.loss.believes(&interval);
            self.loss.learn(now, &interval, ordinary);
        }
        let first = !startup.started();
        match startup.on_point(now, point, &self.path, &self.loss, self.rtt, threshold) {
            Step::Pace(pace) => {
                // A pace that proves nothing (all of it was limited by the application) is no pace to go on with.
                self.pace = if first && pace > 0.0 { pace.max(self.least()) } else { self.pace.max(pace) };
                self.capacity = self.pace;
                self.mode = Mode::Startup(startup);
            }
            Step::Done(capacity) => self.leave_startup(now, capacity, startup.hint()),
            Step::Overload(capacity) => {
                self.loss = LossModel::new(self.datagram);
                self.loss.forgive(now + 2.0 * self.rtt);
                self.leave_startup(now, capacity, startup.hint());
            }
        }
    }

    fn leave_startup(&mut self, now: f64, capacity: f64, hint: Option<f64>) {
        self.rival.note_rate(now, hint.unwrap_or(capacity).max(capacity));
        self.capacity = capacity.max(self.floor());
        self.mode = Mode::Cruise;
        self.queue_seen = now;
        self.boost_from = now;
        // Empty the queue once: beside others, who give way to a start, that shows the true base delay.
        self.drain_until = now + 2.0 * self.rtt;
        self.cruise(now);
    }

    /// While more is lost than any link loses: goes back, as all do that share the link. True while it lasts.
    fn retreat(&mut self, now: f64) -> bool {
        let base = self.path.base();
        let since = self.overload.since().map(|since| since + self.rtt / 2.0);
        let loss = since.and_then(|since| self.path.interval_since(since)).map(|interval| interval.loss);
        if let Some(end) = self.overload.end(now, self.rtt, base, self.path.jitter, loss) {
            self.capacity = end.capacity.max(self.floor());
            self.surprise = 0.0;
            self.boost = 0.0;
            self.boost_from = now + self.rtt;
            if let Some(loss) = loss.filter(|_| end.ours) {
                self.loss.relearn(loss);
            }
            self.loss.forgive(now + 2.0 * self.rtt);
            if end.base_fell {
                self.resume_until = now + self.rtt;
            } else if end.ours {
                self.hold_policed(now);
            }
        } else if let Some(interval) = self.path.interval(self.rtt / 2.0, 48.0 * self.datagram)
            && self.overload.due(now, self.rtt, &interval, self.datagram)
        {
            self.rival.yield_to_crowd(now);
            self.overload.begin(now, self.rtt, &interval, self.capacity, base);
        }
        let Some(pace) = self.overload.pace() else { return false };
        self.pace = pace.max(self.least());
        self.expected = f64::INFINITY;
        true
    }

    fn note_surprise(&mut self, now: f64, point: &Point) {
        let step = ((now - self.learned_at) / self.rtt).clamp(0.0, 1.0);
        if point.expected.is_infinite() {
            return;
        }
        let error = self.queue - point.expected;
        self.surprise = (self.surprise + (error - self.surprise) * (1.0 - (-step).exp())).max(0.0);
    }

    fn cruise(&mut self, now: f64) {
        let aim = self.queue_target();
        let target = aim + self.path.jitter.min(aim);
        if let Some(interval) =
            self.path.interval((self.min_rtt / 2.0).max(0.01), SAMPLE_PACKETS * self.datagram)
        {
            self.learn_capacity(now, &interval);
        }
        self.learn_loss(now);
        self.update_boost(now, target);
        let held = now < self.policed_until || self.loss.trial_since().is_some();
        let tau = (self.min_rtt / 3.0).max(0.01);
        let draining = self.draining(now);
        let wanted = if draining { -0.001 } else { target };
        // What lies in the queue when what was sent since will have reached it.
        let waited = (now - self.last_point).max(0.0);
        let coming = self.path.outstanding() / self.capacity - waited;
        self.expected = (self.queue + coming).max(0.0);
        let predicted = self.expected + self.surprise + MARK_WEIGHT * self.marks * target;
        let most = if held { 0.0 } else { MAX_BOOST };
        let mut excess = ((wanted - predicted) / tau).clamp(if draining { -0.75 } else { -0.5 }, most);
        if self.boost > 0.0 {
            excess = excess.max(self.boost);
        }
        let gain = if now < self.resume_until { 0.5 } else { 1.0 + excess };
        self.pace = (self.capacity * gain).max(self.least());
    }

    /// Beside a flow that fills the queue: a share of the link instead of a short queue.
    fn compete(&mut self, now: f64) {
        let Some(interval) = self.path.interval(self.rtt / 2.0, SAMPLE_PACKETS * self.datagram) else {
            return;
        };
        let aim = self.queue_target_at(self.rival.peak().max(self.capacity));
        let view = View {
            now,
            rtt: self.rtt,
            queue: self.queue,
            own_aim: self.queue_target(),
            aim,
            crowd_aim: self.queue_target_at(self.rival.peak().max(self.capacity) / rival::CROWD_FLOWS),
            jitter: self.path.jitter.min(aim),
            sent: self.last_point,
            pass_rate: self.loss.capacity(&interval),
            excess_loss: interval.loss - self.loss.mean(),
        };
        if !self.rival.watch(&view) {
            self.rival.note_rate(now, self.capacity);
            return;
        }
        self.path.hold_base(now);
        self.pace = self.rival.pace(&view).max(self.least());
        self.capacity = self.pace;
        self.surprise = 0.0;
        self.expected = f64::INFINITY;
    }

    /// The least that keeps the model of a living path alive.
    fn least(&self) -> f64 {
        (LEAST_PACKETS * self.datagram / self.rtt).max(self.floor())
    }

    /// The least for any path, bytes per second.
    fn floor(&self) -> f64 {
        LEAST_PACKETS * self.datagram
    }

    /// Nothing came back yet.
    fn initial(&self) -> bool {
        matches!(&self.mode, Mode::Startup(startup) if !startup.started())
    }

    /// While the queue never empties, the rate that the bottleneck passes us is its rate; else it is a lower bound.
    fn learn_capacity(&mut self, now: f64, interval: &Interval) {
        let last = std::mem::replace(&mut self.learned_at, now);
        let busy = interval.min_queue > (0.3 * self.queue_target()).max(self.path.jitter);
        let sample = self.loss.capacity(interval);
        // A sender with little to send sees its own rate, unless the queue shows that others want the link.
        let idle = self.app_limited && sample < self.capacity && self.queue < 2.0 * self.queue_target();
        if busy && !idle {
            let step = ((now - last) / self.rtt).clamp(0.0, 1.0);
            self.capacity += (sample - self.capacity) * (1.0 - (-1.5 * step).exp());
            self.queue_seen = now;
        } else if now >= self.policed_until
            && self.loss.trial_since().is_none()
            && sample > self.capacity
            && interval.span >= self.min_rtt / 2.0
        {
            // What arrives faster than it was sent was held up on its way, by a busy host for one.
            self.capacity = self.capacity.max(sample.min(interval.sent_rate));
        }
    }

    fn learn_loss(&mut self, now: f64) {
        if let Some(since) = self.loss.trial_since() {
            let Some(interval) = self.path.interval_since(since) else { return };
            match self.loss.judge(now, self.rtt, &interval) {
                None => {}
                Some(Verdict::Ordinary(capacity)) => {
                    self.capacity = self.capacity.max(capacity);
                    self.policed_until = self.policed_until.min(now);
                }
                Some(Verdict::Policed(capacity)) => {
                    self.capacity = capacity;
                    self.hold_policed(now);
                }
            }
            self.boost_from = self.boost_from.max(now + self.rtt);
            return;
        }
        let Some(interval) = self.path.interval(self.rtt.max(0.01), 100.0 * self.datagram) else { return };
        let target = self.queue_target();
        let jitter = self.path.jitter;
        let look = Look {
            rtt: self.rtt,
            quiet: interval.max_queue < 0.5 * target + 2.0 * jitter,
            quiet_rtts: (now - self.queue_seen) / self.rtt,
            short: interval.max_queue < 1.5 * target + 2.0 * jitter,
            growing: self.boost > 0.0,
        };
        if let Some(cut) = self.loss.watch(now, &interval, self.capacity, &look) {
            self.capacity = cut;
            self.boost = 0.0;
        }
    }

    /// Tries no more than was found to pass for a while.
    fn hold_policed(&mut self, now: f64) {
        // One that is found again soon is real.
        let again = now < self.policed_until + POLICED_AGAIN_SECS;
        self.policed_pause =
            if again { (2.0 * self.policed_pause).min(POLICED_SECS.1) } else { POLICED_SECS.0 };
        self.policed_until = now + self.policed_pause + 4.0 * self.rtt;
    }

    fn update_boost(&mut self, now: f64, target: f64) {
        // Jitter alone leaves about half of it in the least delay of a few points.
        let some = self.queue > 0.25 * target + 0.75 * self.path.jitter;
        let held = now < self.policed_until || self.loss.trial_since().is_some();
        if some
            || held
            || self.marks > MARKED
            || self.app_limited
            || self.draining(now)
            || now < self.resume_until
        {
            if some {
                self.queue_seen = now;
            }
            self.boost = 0.0;
            self.boost_from = self.boost_from.max(now + 1.25 * self.rtt);
        } else if now >= self.boost_from {
            self.boost = (self.boost * 2.0).clamp(FIRST_BOOST, MAX_BOOST);
            self.boost_from = now + 1.1 * self.rtt;
        }
    }

    fn draining(&mut self, now: f64) -> bool {
        if now < self.drain_until {
            if self.path.base_seen > self.drain_until - 2.0 * self.rtt {
                self.drain_until = now;
            }
        } else if now - self.path.base_seen > DRAIN_EVERY && now - self.drain_until > DRAIN_EVERY / 2.0 {
            self.drain_until = now + 2.0 * self.rtt;
        }
        now < self.drain_until
    }
}

impl Controller for Adaptive {
    fn on_sent(&mut self, packet: &PacketInfo, _bytes_in_flight: u64) {
        if let Mode::Startup(startup) = &mut self.mode {
            let now = self.path.secs(packet.sent_at);
            self.pace = self.pace.max(startup.ramp(now, self.rtt));
        }
        // What was not sent at the pace proves nothing about it.
        let pace = if packet.app_limited { 0.0 } else { self.pace };
        self.path.on_sent(packet, pace, self.expected);
        self.app_limited = packet.app_limited;
    }

    fn on_feedback(&mut self, sample: &FeedbackSample<'_>) {
        let now = self.path.secs(sample.now);
        if !sample.smoothed_rtt.is_zero() {
            self.rtt = sample.smoothed_rtt.as_secs_f64().clamp(1e-4, 10.0);
            self.min_rtt = sample.min_rtt.as_secs_f64().clamp(5e-5, self.rtt);
        }
        if self.silent > 0 {
            if self.silent > 1 {
                self.path.clear_points();
                self.resume_until = now + self.rtt;
                self.loss.forgive(now + 2.0 * self.rtt);
            }
            self.silent = 0;
            // The path lives: a start that was interrupted grows again from here.
            self.pace = self.pace.max(self.least());
        }
        if !sample.acked.is_empty() {
            let share = (sample.ce_marked as f64 / sample.acked.len() as f64).min(1.0);
            self.marks += (share - self.marks) / 16.0;
        }
        let point = self.path.on_feedback(sample);
        if let Some((rtt, least)) = self.path.round_trip() {
            (self.rtt, self.min_rtt) = (rtt.clamp(1e-4, 10.0), least.clamp(5e-5, 10.0));
        }
        let Some(point) = point else { return };
        let passed = (point.sent - self.last_point).max(0.0);
        self.longest_queue *= (-passed / LONGEST_QUEUE_SECS).exp();
        self.last_point = point.sent;
        self.on_point(now, &point);
    }

    fn on_silence(&mut self, _now: Instant, silent_ptos: u32, bytes_in_flight: u64) {
        self.silent = silent_ptos;
        // A sender that waits for something else has pings in flight; that they get lost says nothing of the rate.
        if bytes_in_flight as f64 >= self.datagram {
            self.pace = (self.pace / 2.0).max(self.floor());
        }
    }

    fn on_path_change(&mut self, now: Instant) {
        *self = Self::new(now, self.datagram as u32);
    }

    fn on_mtu(&mut self, datagram_bytes: u32) {
        self.datagram = f64::from(datagram_bytes.max(1));
        self.pace = self.pace.max(self.floor());
    }

    fn window_bytes(&self) -> u64 {
        if self.silent > 1 {
            return (2.0 * self.datagram) as u64;
        }
        if self.initial() {
            return (startup::INITIAL_PACKETS * self.datagram) as u64;
        }
        let flight = 2.0 * self.pace.max(self.capacity) * (self.rtt + FEEDBACK_SLACK);
        flight.max(startup::INITIAL_PACKETS * self.datagram) as u64
    }

    fn rate_bytes_per_sec(&self) -> u64 {
        self.pace as u64
    }

    fn burst_bytes(&self) -> u64 {
        if let Mode::Startup(startup) = &self.mode
            && startup.measures()
        {
            return startup.train_bytes(self.pace) as u64;
        }
        let burst = (self.pace * 0.001).min(65_536.0);
        burst.max(self.pace * 0.00025).max(2.0 * self.datagram) as u64
    }

    fn catch_up(&self) -> Duration {
        let most = (CATCH_UP_RTTS * self.min_rtt).min(CATCH_UP_SECS);
        Duration::from_secs_f64(self.longest_queue.min(most)).max(CATCH_UP)
    }

    fn measures_trains(&self) -> bool {
        matches!(&self.mode, Mode::Startup(startup) if startup.measures())
    }

    fn queue_delay(&self) -> Option<Duration> {
        Some(Duration::from_secs_f64(self.queue))
    }

    fn name(&self) -> &'static str {
        "adaptive"
    }
}
