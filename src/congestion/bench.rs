//! Role: a packet-level link on virtual time that drives controllers the way a session does, for tests and tuning.
//! Owns: the simulated link, receivers and senders; deterministic from one seed.
//! Implements: nothing; it mirrors the loss, queue and jitter model of `impair` in the smallest form that is fast.

use super::pacer::Pacer;
use super::{Controller, FeedbackSample, PacketInfo};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// UDP payload of a full datagram and its size with IPv4 and UDP headers.
pub(super) const PAYLOAD: u32 = 1472;
const IP_BYTES: f64 = 1500.0;

/// xorshift64*, enough for a simulation.
pub(super) struct Rng(u64);
impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    pub(super) fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The bottleneck and the path behind it.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) bits_per_sec: f64,
    pub(super) rtt: f64,
    /// Drop-tail queue in seconds (at the present rate).
    pub(super) queue: f64,
    pub(super) loss: f64,
    pub(super) burst: f64,
    pub(super) feedback_loss: f64,
    pub(super) jitter: f64,
    /// (from second, bits per second)
    pub(super) steps: Vec<(f64, f64)>,
    /// (from second, seconds)
    pub(super) outage: Option<(f64, f64)>,
    /// Token bucket before the queue: bits per second and bucket bytes; what exceeds it is dropped.
    pub(super) policer: Option<(f64, f64)>,
    /// Packets that wait longer than this many seconds are marked CE.
    pub(super) mark_above: f64,
    /// How late the receiver stamps and the sender wakes, uniform from 0, seconds.
    pub(super) noise: f64,
    /// Share of arrivals after which the receiver does not run for up to this many seconds.
    pub(super) stalls: (f64, f64),
}

impl Link {
    pub(super) fn new(mbit: f64, rtt_ms: f64) -> Self {
        Self {
            bits_per_sec: mbit * 1e6,
            rtt: rtt_ms / 1e3,
            queue: rtt_ms.max(5.0) / 1e3,
            loss: 0.0,
            burst: 1.0,
            feedback_loss: 0.0,
            jitter: 0.0,
            steps: vec![],
            outage: None,
            policer: None,
            mark_above: f64::INFINITY,
            noise: 100e-6,
            stalls: (0.0, 0.0),
        }
    }
    pub(super) fn loss(mut self, loss: f64) -> Self {
        self.loss = loss;
        self.feedback_loss = loss;
        self
    }
}

/// One sender.
pub(super) struct FlowSpec {
    pub(super) controller: Box<dyn Controller>,
    pub(super) start: f64,
    pub(super) stop: f64,
    /// Feedback at most this often (a TCP receiver acknowledges at once: 0).
    pub(super) feedback_every: Option<f64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    InFlight,
    Acked,
    Lost,
}

struct Flow {
    controller: Box<dyn Controller>,
    pacer: Pacer,
    start: f64,
    stop: f64,
    feedback_every: Option<f64>,
    sent: Vec<(f64, Fate)>,
    in_flight: u64,
    scan: usize,
    log: Vec<u64>,
    read: usize,
    // receiver
    largest: Option<(u64, f64)>,
    unreported: u32,
    stalled_until: f64,
    marked: u64,
    last_feedback: f64,
    feedback_due: bool,
    received_at_read: u64,
    // RTT
    srtt: f64,
    rttvar: f64,
    min_rtt: f64,
    largest_acked: Option<u64>,
    last_heard: f64,
    ptos: u32,
    wake_at: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Wake(usize),
    Arrive(usize, u64),
    FlushFeedback(usize),
    /// flow, log length, largest number, its arrival, when it was written
    Feedback(usize, usize, u64, f64, f64),
    Pto(usize),
}

struct Timed(f64, u64, Event);
impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.1 == other.1
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Report {
    /// When the stop condition was met.
    pub(super) end: f64,
    pub(super) offered_packets: u64,
    pub(super) received_packets: u64,
    pub(super) queue_drops: u64,
    /// Mean wait of the packets at the bottleneck, seconds, and the largest.
    pub(super) mean_queue: f64,
    pub(super) max_queue: f64,
    /// Received packets of each flow at every 10 ms.
    pub(super) series: Vec<Vec<u64>>,
    pub(super) spurious: u64,
    pub(super) trace: Vec<String>,
}

pub(super) const TICK: f64 = 0.01;

impl Report {
    /// Mbit/s at IP level that flow `i` received between two seconds.
    pub(super) fn rate(&self, i: usize, from: f64, to: f64) -> f64 {
        let series = &self.series[i];
        let at = |t: f64| series[((t / TICK) as usize).min(series.len() - 1)] as f64;
        (at(to) - at(from)) * IP_BYTES * 8.0 / (to - from) / 1e6
    }
}

pub(super) struct Sim {
    link: Link,
    flows: Vec<Flow>,
    rng: Rng,
    epoch: Instant,
    events: BinaryHeap<Reverse<Timed>>,
    seq: u64,
    now: f64,
    busy: f64,
    bad: bool,
    tokens: f64,
    tokens_at: f64,
    report: Report,
    wait_sum: f64,
    next_tick: f64,
    pub(super) tracing: bool,
}

impl Sim {
    #[allow(clippy::disallowed_methods)] // Only as an origin: virtual time adds to it.
    pub(super) fn new(link: Link, specs: Vec<FlowSpec>, seed: u64) -> Self {
        let epoch = Instant::now();
        let rtt = link.rtt;
        let flows: Vec<Flow> = (specs.into_iter())
            .map(|spec| Flow {
                controller: spec.controller,
                pacer: Pacer::new(epoch),
                start: spec.start,
                stop: spec.stop,
                feedback_every: spec.feedback_every,
                sent: vec![],
                in_flight: 0,
                scan: 0,
                log: vec![],
                read: 0,
                largest: None,
                unreported: 0,
                stalled_until: 0.0,
                marked: 0,
                last_feedback: -1.0,
                feedback_due: false,
                received_at_read: 0,
                srtt: rtt,
                rttvar: rtt / 4.0,
                min_rtt: rtt,
                largest_acked: None,
                last_heard: spec.start,
                ptos: 0,
                wake_at: f64::INFINITY,
            })
            .collect();
        let count = flows.len();
        let tokens = link.policer.map_or(0.0, |p| p.1);
        let mut sim = Self {
            link,
            flows,
            rng: Rng::new(seed),
            epoch,
            events: BinaryHeap::new(),
            seq: 0,
            now: 0.0,
            busy: 0.0,
            bad: false,
            tokens,
            tokens_at: 0.0,
            report: Report {
                end: 0.0,
                offered_packets: 0,
                received_packets: 0,
                queue_drops: 0,
                mean_queue: 0.0,
                max_queue: 0.0,
                series: vec![vec![]; count],
                spurious: 0,
                trace: vec![],
            },
            wait_sum: 0.0,
            next_tick: 0.0,
            tracing: false,
        };
        for i in 0..count {
            let start = sim.flows[i].start;
            sim.wake(i, start);
            sim.at(start + 3.0 * rtt, Event::Pto(i));
        }
        sim
    }

    pub(super) fn instant(&self, t: f64) -> Instant {
        self.epoch + Duration::from_secs_f64(t.max(0.0))
    }

    fn at(&mut self, t: f64, event: Event) {
        self.seq += 1;
        self.events.push(Reverse(Timed(t, self.seq, event)));
    }

    fn wake(&mut self, i: usize, t: f64) {
        if t < self.flows[i].wake_at - 1e-9 {
            self.flows[i].wake_at = t;
            self.at(t, Event::Wake(i));
        }
    }

    /// Runs until `until` seconds, or until flow 0 has received `packets`.
    pub(super) fn run(mut self, until: f64, packets: u64) -> Report {
        while let Some(Reverse(Timed(t, _, event))) = self.events.pop() {
            self.now = t;
            while self.next_tick <= t {
                for i in 0..self.flows.len() {
                    let count = self.flows[i].log.len() as u64;
                    self.report.series[i].push(count);
                }
                self.trace_tick();
                self.next_tick += TICK;
            }
            if t > until
                || self.report.offered_packets > 20_000_000
                || self.flows[0].log.len() as u64 >= packets
            {
                break;
            }
            match event {
                Event::Wake(i) => {
                    if (t - self.flows[i].wake_at).abs() < 1e-9 {
                        self.flows[i].wake_at = f64::INFINITY;
                        self.send(i);
                    }
                }
                Event::Arrive(i, number) => self.arrive(i, number),
                Event::FlushFeedback(i) => {
                    self.flows[i].feedback_due = false;
                    if self.flows[i].unreported > 0 {
                        self.feedback(i);
                    }
                }
                Event::Feedback(i, len, largest, at, written) => {
                    self.on_feedback(i, len, largest, at, written)
                }
                Event::Pto(i) => self.pto(i),
            }
        }
        self.report.end = self.now;
        self.report.mean_queue = self.wait_sum / self.report.offered_packets.max(1) as f64;
        self.report.received_packets = self.flows.iter().map(|flow| flow.log.len() as u64).sum();
        self.report
    }

    /// Every quarter of a second: the queue, and pace and idea of the queue of each flow.
    fn trace_tick(&mut self) {
        if !self.tracing || !((self.next_tick / TICK).round() as u64).is_multiple_of(25) {
            return;
        }
        let queue = (self.busy - self.next_tick).max(0.0) * 1e3;
        let flows: String = (self.flows.iter())
            .map(|flow| {
                let pace = flow.controller.rate_bytes_per_sec() as f64 * 8.15e-6;
                let seen = flow.controller.queue_delay().map_or(0.0, |queue| queue.as_secs_f64() * 1e3);
                format!(" | {pace:.1} Mbit/s sees {seen:.1} ms")
            })
            .collect();
        self.report.trace.push(format!("{:.2} s: queue {queue:.1} ms{flows}", self.next_tick));
    }

    fn send(&mut self, i: usize) {
        let now = self.instant(self.now);
        if self.now >= self.flows[i].stop {
            return;
        }
        let flow = &mut self.flows[i];
        flow.pacer.set_most_late(flow.controller.catch_up());
        flow.pacer.set_rate(now, flow.controller.rate_bytes_per_sec(), flow.controller.burst_bytes());
        let mut count = 0;
        let burst = flow.controller.burst_bytes();
        while flow.in_flight < flow.controller.window_bytes()
            && flow.pacer.allowance(now) > 0
            && u64::from(count * PAYLOAD) < burst
        {
            flow.pacer.on_sent(now, u64::from(PAYLOAD));
            flow.in_flight += u64::from(PAYLOAD);
            let number = flow.sent.len() as u64;
            flow.sent.push((self.now, Fate::InFlight));
            flow.controller.on_sent(&info(number, now), flow.in_flight);
            count += 1;
        }
        let first = flow.sent.len() as u64 - u64::from(count);
        flow.pacer.set_rate(now, flow.controller.rate_bytes_per_sec(), flow.controller.burst_bytes());
        if flow.in_flight < flow.controller.window_bytes() {
            let next = flow.pacer.next_release(now).duration_since(self.epoch).as_secs_f64();
            // Timers fire late, a little.
            let late = self.link.noise * self.rng.unit();
            self.wake(i, next.max(self.now) + late + 1e-9);
        }
        for k in 0..u64::from(count) {
            self.offer(i, first + k);
        }
    }

    fn rate(&self) -> f64 {
        self.link
            .steps
            .iter()
            .rev()
            .find(|step| self.now >= step.0)
            .map_or(self.link.bits_per_sec, |step| step.1)
    }

    fn offer(&mut self, i: usize, number: u64) {
        self.report.offered_packets += 1;
        if let Some((rate, bucket)) = self.link.policer {
            self.tokens = (self.tokens + (self.now - self.tokens_at) * rate / 8.0).min(bucket);
            self.tokens_at = self.now;
            if self.tokens < IP_BYTES {
                self.report.queue_drops += 1;
                return;
            }
            self.tokens -= IP_BYTES;
        }
        let start = self.busy.max(self.now);
        let wait = start - self.now;
        self.wait_sum += wait;
        self.report.max_queue = self.report.max_queue.max(wait);
        if wait > self.link.queue {
            self.report.queue_drops += 1;
            return;
        }
        self.busy = start + IP_BYTES * 8.0 / self.rate();
        if self.lost(self.busy) {
            return;
        }
        if wait > self.link.mark_above {
            self.flows[i].marked += 1; // The count reaches the sender a little early; it does not matter here.
        }
        let at = self.busy + self.link.rtt / 2.0 + self.link.jitter * self.rng.unit();
        self.at(at, Event::Arrive(i, number));
    }

    fn outage(&self, t: f64) -> bool {
        self.link.outage.is_some_and(|(from, span)| t >= from && t < from + span)
    }

    fn lost(&mut self, t: f64) -> bool {
        if self.outage(t) {
            return true;
        }
        let p = self.link.loss;
        if p <= 0.0 {
            return false;
        }
        let u = self.rng.unit();
        if self.link.burst <= 1.0 {
            return u < p;
        }
        let leave = 1.0 / self.link.burst;
        self.bad = if self.bad { u >= leave } else { u < leave * p / (1.0 - p) };
        self.bad
    }

    fn arrive(&mut self, i: usize, number: u64) {
        let rtt = self.link.rtt;
        // A receiver reads a little late.
        let mut stamp = self.now + 0.5 * self.link.noise * self.rng.unit();
        let flow = &mut self.flows[i];
        if self.link.stalls.0 > 0.0 {
            if stamp > flow.stalled_until && self.rng.unit() < self.link.stalls.0 {
                flow.stalled_until = stamp + self.link.stalls.1 * self.rng.unit();
            }
            stamp = stamp.max(flow.stalled_until);
        }
        flow.log.push(number);
        if flow.largest.is_none_or(|(largest, _)| number > largest) {
            flow.largest = Some((number, stamp));
        }
        flow.unreported += 1;
        let every = flow.feedback_every.unwrap_or((rtt / 8.0).clamp(0.001, 0.05));
        let due = flow.last_feedback + every;
        let first_flight = flow.log.len() <= 512 && flow.unreported >= 8;
        if flow.unreported >= 2000 || first_flight || (self.now >= due && flow.unreported >= 2) {
            self.feedback(i);
        } else if !flow.feedback_due {
            flow.feedback_due = true;
            self.at(due.max(self.now) + 0.001, Event::FlushFeedback(i));
        }
    }

    fn feedback(&mut self, i: usize) {
        let flow = &mut self.flows[i];
        flow.unreported = 0;
        flow.last_feedback = self.now;
        let Some((largest, at)) = flow.largest else { return };
        let len = flow.log.len();
        if self.outage(self.now)
            || (self.link.feedback_loss > 0.0 && self.rng.unit() < self.link.feedback_loss)
        {
            return;
        }
        let arrives = self.now + self.link.rtt / 2.0 + self.link.jitter * self.rng.unit();
        self.at(
            arrives.max(at + self.link.rtt / 2.0),
            Event::Feedback(i, len, largest, at, self.now.max(at)),
        );
    }

    fn on_feedback(&mut self, i: usize, len: usize, largest: u64, at: f64, written: f64) {
        let (now, t) = (self.instant(self.now), self.now);
        let epoch = self.epoch;
        let instant = |t: f64| epoch + Duration::from_secs_f64(t);
        let flow = &mut self.flows[i];
        if len <= flow.read {
            return;
        }
        flow.last_heard = t;
        flow.ptos = 0;
        let largest_sent = flow.sent[largest as usize].0;
        let mut latest = None;
        if flow.largest_acked.is_none_or(|old| largest > old) {
            flow.largest_acked = Some(largest);
            let rtt = t - largest_sent;
            flow.min_rtt = if latest.is_none() && flow.read == 0 { rtt } else { flow.min_rtt.min(rtt) };
            flow.rttvar += ((flow.srtt - rtt).abs() - flow.rttvar) / 4.0;
            flow.srtt += (rtt - flow.srtt) / 8.0;
            latest = Some(Duration::from_secs_f64(rtt));
        }
        let (mut acked, mut lost, mut spurious) = (vec![], vec![], 0);
        for &number in &flow.log[flow.read..len] {
            let entry = &mut flow.sent[number as usize];
            match entry.1 {
                Fate::InFlight => {
                    flow.in_flight -= u64::from(PAYLOAD);
                    acked.push(info(number, instant(entry.0)));
                }
                Fate::Lost => spurious += 1,
                Fate::Acked => {}
            }
            entry.1 = Fate::Acked;
        }
        acked.sort_by_key(|packet: &PacketInfo| packet.number);
        flow.read = len;
        flow.received_at_read = len as u64;
        let rtt = latest.map_or(flow.srtt, |rtt| rtt.as_secs_f64());
        let newest = flow.largest_acked.unwrap_or(0);
        while flow.scan < flow.sent.len() {
            let entry = &mut flow.sent[flow.scan];
            if entry.1 == Fate::InFlight {
                if flow.scan as u64 + 3 > newest || entry.0 + rtt + (flow.min_rtt / 4.0).max(0.002) > t {
                    break;
                }
                entry.1 = Fate::Lost;
                flow.in_flight -= u64::from(PAYLOAD);
                lost.push(info(flow.scan as u64, instant(entry.0)));
            }
            flow.scan += 1;
        }
        self.report.spurious += spurious;
        let sample = FeedbackSample {
            now,
            acked: &acked,
            lost: &lost,
            spurious: spurious as u32,
            largest_sent_at: instant(largest_sent),
            // The receiver's clock has another origin and runs 50 ppm fast.
            largest_received_us: ((at * 1.000_05 + 7.0) * 1e6) as u64,
            written_us: ((written * 1.000_05 + 7.0) * 1e6) as u64,
            received_bytes_total: len as u64 * u64::from(PAYLOAD),
            latest_rtt: latest,
            smoothed_rtt: Duration::from_secs_f64(flow.srtt),
            rttvar: Duration::from_secs_f64(flow.rttvar),
            min_rtt: Duration::from_secs_f64(flow.min_rtt),
            bytes_in_flight: flow.in_flight,
            ce_marked: std::mem::take(&mut flow.marked),
        };
        flow.controller.on_feedback(&sample);
        self.send(i);
    }

    fn pto(&mut self, i: usize) {
        let t = self.now;
        let now = self.instant(t);
        let flow = &mut self.flows[i];
        let pto = flow.srtt + (4.0 * flow.rttvar).max(0.001) + (flow.srtt / 8.0).clamp(0.001, 0.05);
        let backoff = f64::from(1 << flow.ptos.min(1));
        if t >= flow.stop {
            return;
        }
        if t - flow.last_heard >= pto * backoff && flow.in_flight > 0 {
            flow.ptos += 1;
            flow.controller.on_silence(now, flow.ptos, flow.in_flight);
            // The session's probe, whatever the window says.
            let number = flow.sent.len() as u64;
            flow.sent.push((t, Fate::InFlight));
            flow.in_flight += u64::from(PAYLOAD);
            flow.controller.on_sent(&info(number, now), flow.in_flight);
            flow.pacer.on_sent(now, u64::from(PAYLOAD));
            self.offer(i, number);
            self.at(t + pto * backoff, Event::Pto(i));
        } else {
            let next = (flow.last_heard + pto * backoff).max(t + pto / 8.0);
            self.at(next, Event::Pto(i));
        }
    }
}

fn info(number: u64, sent_at: Instant) -> PacketInfo {
    PacketInfo { number, size_bytes: PAYLOAD, sent_at, app_limited: false }
}
