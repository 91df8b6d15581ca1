//! Role: what a session does because time has passed.
//! Owns: nothing beyond `Session`; deadlines are derived from state, not kept beside it.
//! Implements: docs/PROTOCOL.md, "Timers".

use super::event::CloseReason;
use super::hello::connect_deadline;
use super::refusal::Refusal;
use super::{LINGER, Phase, REQUEST_TIMEOUT, Role, Session};
use std::time::{Duration, Instant};

/// Probes are spaced at most so many RTTs apart for the first half-minute of silence.
const MAX_PROBE_SPACING_RTTS: u32 = 3;
/// How long that holds; afterwards they are spaced out.
const PROBE_EAGER_TIME: Duration = Duration::from_secs(30);
/// Spacing of probes after that.
const PROBE_SLOW_SPACING: Duration = Duration::from_secs(5);
/// Shortest spacing of probes: a few timer ticks.
const MIN_PROBE_SPACING: Duration = Duration::from_millis(20);
/// As silence lasts, the shortest spacing grows to this share of it...
const PROBE_SILENCE_SHARE: u32 = 16;
/// ...and to this at most: three RTTs of a path across a country.
const CALM_PROBE_SPACING: Duration = Duration::from_millis(100);
/// Packets in flight whose contents a probe repeats.
pub(super) const PROBE_PACKETS: usize = 2;
/// A client whose request is not done looks for a sign of life after so much silence, or three probe time-outs: a server
/// that is gone must be noticed by one who only receives, too.
const LIFE_SIGN_AFTER: Duration = Duration::from_secs(1);
/// A client that has to tell of failures waits so many probe time-outs for the word that they were heard.
const FAILURE_DRAIN_PTOS: u32 = 8;
/// A keep-alive is sent after this share of the idle time-out.
const KEEP_ALIVE_SHARE: u32 = 4;

impl Session {
    /// When `handle_timeout` (or, for pacing, `poll_transmit`) should be called next. `allow_data`: as for `poll_transmit`; without
    /// it, what would only be held back there is no reason to wake up.
    pub fn poll_timeout(&self, now: Instant, allow_data: bool) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut at = |t: Option<Instant>| {
            if let Some(t) = t {
                next = Some(next.map_or(t, |n| n.min(t)));
            }
        };
        match &self.phase {
            Phase::Closed => return None,
            Phase::Closing { .. } => return Some(now),
            Phase::Hello(h) => at(Some(h.next_at().min(h.deadline))),
            Phase::Confirming | Phase::Open => {
                at(self.give_up.as_ref().map(|_| now));
                at(self.received.deadline());
                at(self.sent.loss_deadline());
                at(self.pto_deadline());
                at(self.tail_at.filter(|_| self.sent.packets_in_flight() > 0));
                at(self.keep_alive_deadline());
                at(self.pacing_deadline(now).filter(|_| allow_data));
                at(Some(self.idle_deadline()));
                at(self.request_deadline());
                at(self.challenge_deadline());
                at(self.completed_at.filter(|_| !self.is_client()).map(|t| t + LINGER));
                at(self.drain_deadline());
                at(self.confirm_deadline());
            }
        }
        if let (Role::Client { reject: Some((t, _)), .. }, Phase::Hello(_) | Phase::Confirming) =
            (&self.role, &self.phase)
        {
            at(Some(*t));
        }
        next
    }

    fn is_client(&self) -> bool {
        matches!(self.role, Role::Client { .. })
    }

    /// Everything that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Role::Client { reject: Some((t, reason)), .. } = &self.role
            && now >= *t
            && matches!(self.phase, Phase::Hello(_) | Phase::Confirming)
        {
            let reason = reason.clone();
            self.finish(reason);
            return;
        }
        match &self.phase {
            Phase::Closed | Phase::Closing { .. } => return,
            Phase::Hello(h) => {
                if now >= h.deadline {
                    let after = self.config.connect_timeout;
                    self.finish(CloseReason::Unreachable { remote: self.path.remote, after });
                }
                return;
            }
            Phase::Confirming | Phase::Open => {}
        }
        if self.confirm_deadline().is_some_and(|t| now >= t) {
            let after = self.config.connect_timeout;
            self.finish(CloseReason::Unreachable { remote: self.path.remote, after });
            return;
        }
        if let Some(reason) = self.give_up.take() {
            self.close(now, reason);
            return;
        }
        if now >= self.idle_deadline() {
            self.finish(CloseReason::TimedOut { after: self.idle_timeout });
            return;
        }
        if self.completed_at.is_some_and(|t| !self.is_client() && now >= t + LINGER) {
            self.close(now, CloseReason::Done);
            return;
        }
        if self.request_deadline().is_some_and(|t| now >= t) {
            self.refusals.count(Refusal::NoRequest);
            self.close(now, CloseReason::Refused("no request came".into()));
            return;
        }
        if self.sent.loss_deadline().is_some_and(|t| now >= t) {
            self.on_loss_timer(now);
        }
        if self.tail_at.is_some_and(|t| now >= t) {
            // `None` means: look. The next `poll_transmit` does.
            self.tail_at = None;
        }
        if self.pto_deadline().is_some_and(|t| now >= t) {
            self.on_pto(now);
        }
        if self.keep_alive_deadline().is_some_and(|t| now >= t) {
            self.ping_due = true;
        }
        self.advance(now);
        self.trace_metrics(now);
    }

    /// A client that asks for nothing does not keep a slot.
    fn request_deadline(&self) -> Option<Instant> {
        let waiting = matches!(self.role, Role::Server { requested: None, .. });
        waiting.then(|| self.started_at + REQUEST_TIMEOUT)
    }

    fn on_loss_timer(&mut self, now: Instant) {
        let mut outcome = std::mem::take(&mut self.outcome);
        outcome.acked.clear();
        outcome.lost.clear();
        outcome.spurious.clear();
        self.sent.detect_losses(now, self.rtt.smoothed(), &mut outcome);
        if self.settle_lost(now, &outcome.lost) {
            self.path.on_mtu_changed(now);
        }
        self.outcome = outcome;
    }

    /// The connect time-out holds until the server has proved itself, not only until its Reply, which starts it again.
    fn confirm_deadline(&self) -> Option<Instant> {
        let at = connect_deadline(self.config.connect_timeout, self.heard_at, self.started_at);
        matches!(self.phase, Phase::Confirming).then_some(at)
    }

    fn idle_deadline(&self) -> Instant {
        self.heard_at + self.idle_timeout
    }

    /// When silence after the last ack-eliciting packet means that something has to be done.
    pub(super) fn pto_deadline(&self) -> Option<Instant> {
        // A probe that could not leave yet is answer enough.
        if self.sent.packets_in_flight() == 0 || self.probes_due > 0 {
            return None;
        }
        let last = self.sent.last_eliciting_at()?.max(self.last_pto_at);
        let pto = self.rtt.pto(self.feedback_delay());
        let slow = self.silent_since.is_some_and(|t| last >= t + PROBE_EAGER_TIME);
        let backoff = pto * (1 << self.silent_ptos.min(4));
        let spacing = if slow {
            PROBE_SLOW_SPACING
        } else {
            backoff.min((self.rtt.smoothed() * MAX_PROBE_SPACING_RTTS).max(pto))
        };
        // A short path would be filled with probes if its silence lasts.
        let silence = self.silent_since.map_or(Duration::ZERO, |t| last.saturating_duration_since(t));
        let least = (silence / PROBE_SILENCE_SHARE).clamp(MIN_PROBE_SPACING, CALM_PROBE_SPACING);
        Some(last + spacing.max(least))
    }

    /// Nothing heard although something is in flight: repeat the oldest of it, beyond the window.
    fn on_pto(&mut self, now: Instant) {
        self.silent_ptos += 1;
        self.last_pto_at = now;
        self.silent_since.get_or_insert(now);
        self.rotate_offers(now);
        self.path.controller.on_silence(now, self.silent_ptos, self.sent.bytes_in_flight());
        self.path.update(now);
        self.probe_oldest();
    }

    /// Has the oldest packets' contents repeated at once, beyond the window.
    pub(super) fn probe_oldest(&mut self) {
        let mut contents = Vec::with_capacity(PROBE_PACKETS);
        self.sent.for_each_in_flight(|_, _, content| {
            contents.push(*content);
            contents.len() < PROBE_PACKETS
        });
        // The packets stay in flight, so that the next time-out picks the same ones: it must count as a further attempt.
        let before = (self.silent_ptos.min(u32::from(u16::MAX)) as u16).saturating_sub(1);
        // Last to first, since each goes before all other repairs: what a probe carries is what is in its own packets.
        for c in contents.iter_mut().rev() {
            if let Some((.., times)) = &mut c.control {
                *times = times.saturating_add(before);
            }
            c.segments.iter_mut().flatten().for_each(|s| s.attempt = s.attempt.saturating_add(before));
            self.content_urgent(c);
        }
        self.probes_due = PROBE_PACKETS as u8;
        // The peer's view of the floor may be what is missing.
        self.floor_sent_at = None;
    }

    fn keep_alive_deadline(&self) -> Option<Instant> {
        let last = self.sent.last_eliciting_at().unwrap_or(self.started_at).max(self.started_at);
        if self.ping_due {
            return None;
        }
        let mut pause = self.idle_timeout / KEEP_ALIVE_SHARE;
        // Waiting for credit or room: ask again before long, the word of it may be lost.
        if self.control_tx.is_blocked()
            || self.sender.has_fresh() && !self.peer_has_room()
            || self.sender.has_repair() && !self.peer_takes_repairs()
        {
            pause = (self.rtt.smoothed() * 2).max(Duration::from_millis(20)).min(pause);
        }
        let due = last + pause;
        if self.is_client() && matches!(self.phase, Phase::Open) && self.completed_at.is_none() {
            let life_sign = LIFE_SIGN_AFTER.max(self.rtt.pto(self.feedback_delay()) * 3);
            return Some(due.min(last.max(self.heard_at) + life_sign));
        }
        Some(due)
    }

    /// When pacing lets something leave that is waiting for nothing else.
    fn pacing_deadline(&self, now: Instant) -> Option<Instant> {
        if self.probes_due > 0 {
            return Some(now);
        }
        (self.has_data() && self.window_has_room()).then(|| self.path.next_release(now))
    }

    /// A client that is done waits for the peer to confirm its last words, but not for ever.
    pub(super) fn drain_deadline(&self) -> Option<Instant> {
        let done = self.completed_at.filter(|_| self.is_client())?;
        let ptos = if self.must_be_heard { FAILURE_DRAIN_PTOS } else { 3 };
        Some(done + self.rtt.pto(self.feedback_delay()) * ptos)
    }
}
