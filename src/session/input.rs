//! Role: what a protected packet does to a session.
//! Owns: nothing beyond `Session`.
//! Implements: docs/PROTOCOL.md, "Receiving a packet".

use super::event::CloseReason;
use super::refusal::Refusal;
use super::trace::Trace;
use super::{KEYS_USED_UP, MAX_CONTROL_BUFFER, Phase, Role, Session};
use crate::arq::sent::{Content, Settled};
use crate::congestion::{FeedbackSample, PacketInfo};
use crate::transfer::Request;
use crate::transfer::receiver::Accept;
use crate::wire::buf::Reader;
use crate::wire::feedback::Feedback;
use crate::wire::frame::{CloseCode, Frame};
use crate::wire::packet::{ProtectedHeader, TYPE_CONFIRM, TYPE_DATA, expand_number, strip_trailer};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Most FEEDBACK frames in one packet: one is what a packet needs, and each may have the whole send window looked through.
const MAX_FEEDBACKS: u32 = 4;

/// What the frames of one packet come to.
#[derive(Debug, Default)]
struct Effects {
    eliciting: bool,
    /// Something found no room: the packet counts as not received.
    refused: bool,
    feedbacks: u32,
    violation: Option<(Refusal, String)>,
}

impl Session {
    /// A datagram for this session, by its connection ID. It is decrypted in place.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, ce: bool, datagram: &mut [u8]) {
        if matches!(self.phase, Phase::Closing { .. } | Phase::Closed) {
            return;
        }
        match datagram.first().copied() {
            Some(TYPE_CONFIRM) => match strip_trailer(datagram).map(<[u8]>::len) {
                Ok(len) => self.on_protected(now, from, ce, &mut datagram[..len]),
                Err(_) => {
                    self.stats.packets_corrupted += 1;
                    self.refusals.count(Refusal::Checksum);
                }
            },
            Some(b) if b & !1 == TYPE_DATA => self.on_protected(now, from, ce, datagram),
            // Answers to a Hello come from where it went.
            _ if from == self.path.remote => self.handle_handshake_packet(now, datagram),
            _ => self.refusals.count(Refusal::Misplaced),
        }
    }

    fn on_protected(&mut self, now: Instant, from: SocketAddr, ce: bool, packet: &mut [u8]) {
        let size = packet.len();
        let Ok((header, header_len)) = ProtectedHeader::decode(packet) else {
            return self.refusals.count(Refusal::Malformed);
        };
        let client = matches!(self.role, Role::Client { .. });
        if header.confirm.is_some() && client || matches!(self.phase, Phase::Hello(_)) {
            return self.refusals.count(Refusal::Misplaced);
        }
        let number = expand_number(self.received.expected(), header.truncated_number);
        if self.received.is_duplicate(number) {
            self.stats.packets_duplicate += 1;
            if let Some(t) = &mut self.trace {
                t.push(now, Trace::Duplicate { number });
            }
            return;
        }
        let (head, sealed) = packet.split_at_mut(header_len);
        if self.open.exhausted() {
            self.taken += 1;
            return self.finish(CloseReason::Protocol(KEYS_USED_UP.into()));
        }
        let phase = self.open.phase();
        if matches!(self.phase, Phase::Confirming) {
            self.find_offer(now, number, header.key_phase, head, sealed);
        }
        let Ok(payload) = self.open.open(number, header.key_phase, head, sealed) else { return };
        self.heard_at = now;
        self.taken += 1;
        if matches!(self.phase, Phase::Confirming) {
            self.phase = Phase::Open;
            (self.confirm, self.offers) = (None, None);
            self.on_open(now);
        }
        if from != self.path.remote && self.received.expected() <= number {
            self.on_new_address(now, from, size);
        }
        let effects = self.on_frames(now, number, payload);
        if !effects.refused && self.received.has_room_for(number) {
            self.stats.packets_received += 1;
            self.stats.wire_bytes_received += size as u64;
            self.received.on_packet(now, number, size, effects.eliciting, ce);
            if let Some(t) = &mut self.trace {
                if self.open.phase() != phase {
                    t.push(now, Trace::KeyUpdated { is_ours: false, number });
                }
                t.push(now, Trace::Received { number, bytes: size as u32 });
            }
        } else {
            self.refusals.add(Refusal::NoRoom, u64::from(effects.violation.is_none()));
            // The sender learns of what is missing, and moves its floor.
            self.received.request_feedback(now + self.feedback_delay());
        }
        if let Some((why, what)) = effects.violation {
            self.refusals.count(why);
            self.close(now, CloseReason::Protocol(what));
            return;
        }
        self.advance(now);
        self.trace_metrics(now);
    }

    fn on_frames(&mut self, now: Instant, number: u64, payload: &[u8]) -> Effects {
        let mut effects = Effects::default();
        let mut r = Reader::new(payload);
        while !r.is_empty() {
            let frame = match Frame::decode(&mut r) {
                Ok(frame) => frame,
                Err(e) => {
                    let what = format!("a frame that cannot be read: {e}");
                    effects.violation = Some((Refusal::Frame, what));
                    break;
                }
            };
            effects.eliciting |= frame.is_ack_eliciting();
            self.on_frame(now, number, frame, &mut effects);
            if effects.violation.is_some() || matches!(self.phase, Phase::Closed) {
                break;
            }
        }
        effects
    }

    fn on_frame(&mut self, now: Instant, number: u64, frame: Frame<'_>, effects: &mut Effects) {
        match frame {
            Frame::Padding | Frame::Ping | Frame::Extension(_) => {}
            Frame::Floor { distance, max_packets, max_delay_us } => {
                let floor = number.saturating_sub(distance);
                self.received.on_floor(
                    floor,
                    max_packets,
                    Duration::from_micros(max_delay_us.min(1_000_000)),
                );
            }
            Frame::Feedback(_) if effects.feedbacks == MAX_FEEDBACKS => {
                effects.violation = Some((Refusal::Feedback, "too much feedback in one packet".into()));
            }
            Frame::Feedback(f) => {
                effects.feedbacks += 1;
                if let Err(e) = self.on_feedback(now, number, &f) {
                    effects.violation = Some((Refusal::Feedback, e));
                }
            }
            Frame::Control { offset, data } => {
                match self.control_rx.insert(offset, data, self.credit_told, self.memory_tight) {
                    Ok(kept) => effects.refused |= !kept,
                    Err(e) => effects.violation = Some((Refusal::Credit, e.to_string())),
                }
            }
            Frame::Segment(_) if self.control_tx.buffered() > MAX_CONTROL_BUFFER => effects.refused = true,
            Frame::Segment(s) => match self.receiver.on_segment(&s) {
                Accept::Yes => {}
                Accept::NotNow => effects.refused = true,
                Accept::Violation(what) => effects.violation = Some((Refusal::Segment, what.into())),
            },
            Frame::Close { code, text } => self.on_close(code, text),
            Frame::PathChallenge(bytes) => self.path_response = Some(bytes),
            Frame::PathResponse(bytes) => self.on_path_response(now, bytes),
        }
    }

    fn on_close(&mut self, code: u64, text: &[u8]) {
        let text = String::from_utf8_lossy(text).into_owned();
        let reason = if code == CloseCode::Done as u64 {
            CloseReason::Done
        } else if code == CloseCode::Refused as u64 {
            CloseReason::Refused(text)
        } else {
            CloseReason::PeerClosed(text)
        };
        // "Done" before our own request is done is no good end for a client, nor for a server that still waits for files.
        let unfinished = match &self.role {
            Role::Client { .. } => self.completed_at.is_none(),
            Role::Server { requested, .. } => {
                matches!(requested, Some(Request::Put { .. }))
                    && !self.refused
                    && !self.receiver.is_finished()
            }
        };
        let reason = match reason {
            CloseReason::Done if unfinished => CloseReason::PeerClosed("ended early".into()),
            r => r,
        };
        self.finish(reason);
    }

    fn on_feedback(&mut self, now: Instant, number: u64, f: &Feedback<'_>) -> Result<(), String> {
        let rtt_before = self.rtt.smoothed();
        let largest_sent_at = self.sent.sent_at(f.largest);
        let mut outcome = std::mem::take(&mut self.outcome);
        let taken = self.sent.on_feedback(now, f, rtt_before, &mut outcome);
        if let Err(e) = taken {
            self.outcome = outcome;
            return Err(e.to_string());
        }
        if self.newest_feedback.is_none_or(|n| number > n) {
            self.newest_feedback = Some(number);
            self.feedback_at = Some(now);
            self.peer_window = f.receive_window_bytes;
        }
        self.control_tx.set_credit(f.control_credit);
        self.stats.nacks_received += outcome.nacks;
        (self.silent_ptos, self.silent_since) = (0, None);
        self.tail_at = None;
        let fresh = outcome.acked.last().is_some_and(|s| s.info.number == f.largest);
        let sample = largest_sent_at.filter(|_| fresh).map(|at| {
            let raw = now - at;
            // The peer's delay is believed as far as it leaves a plausible RTT (RFC 9002, section 5.3).
            let delayed = raw.saturating_sub(Duration::from_micros(f.delay_us));
            if self.rtt.is_measured() && delayed < self.rtt.min() / 2 { raw } else { delayed }
        });
        if let Some(s) = sample {
            self.rtt.sample(s);
        }
        self.settle(now, &outcome.acked, &outcome.lost, &outcome.spurious);
        let plain = |settled: &[Settled]| -> Vec<PacketInfo> {
            settled.iter().filter(|s| !s.content.mtu_probe).map(|s| s.info).collect()
        };
        let ce_marked = f.ce_count.saturating_sub(self.ce_seen);
        self.ce_seen = self.ce_seen.max(f.ce_count);
        if let Some(largest_sent_at) = largest_sent_at {
            self.path.controller.on_feedback(&FeedbackSample {
                now,
                acked: &plain(&outcome.acked),
                lost: &plain(&outcome.lost),
                spurious: outcome.spurious.len() as u32,
                largest_sent_at,
                largest_received_us: f.received_us,
                written_us: f.received_us.saturating_add(f.delay_us),
                received_bytes_total: f.received_bytes,
                latest_rtt: sample,
                smoothed_rtt: self.rtt.smoothed(),
                rttvar: self.rtt.var(),
                min_rtt: self.rtt.min(),
                bytes_in_flight: self.sent.bytes_in_flight(),
                ce_marked,
            });
            self.path.update(now);
        }
        self.outcome = outcome;
        Ok(())
    }

    /// Hands what packets carried back to its owners.
    fn settle(&mut self, now: Instant, acked: &[Settled], lost: &[Settled], spurious: &[Settled]) {
        let mut resized = false;
        for s in acked {
            self.seal.on_acknowledged(s.info.number);
            if s.content.mtu_probe {
                resized |= self.path.mtu.on_probe_acked(now, s.info.size_bytes);
            } else {
                self.path.mtu.on_acked(now, s.info.size_bytes);
            }
        }
        for s in acked.iter().chain(spurious) {
            self.content_arrived(&s.content);
        }
        if let Some(t) = &mut self.trace {
            spurious.iter().for_each(|s| t.push(now, Trace::Spurious { number: s.info.number }));
        }
        self.stats.packets_spurious += spurious.len() as u64;
        resized |= self.settle_lost(now, lost);
        if resized {
            self.path.on_mtu_changed(now);
        }
    }

    fn content_arrived(&mut self, content: &Content) {
        if let Some((offset, len, _)) = content.control {
            self.control_tx.on_acked(offset, len);
        }
        for segment in content.segments.iter().flatten() {
            self.sender.on_acked(segment);
        }
    }

    /// True if the datagram size changed.
    pub(super) fn settle_lost(&mut self, now: Instant, lost: &[Settled]) -> bool {
        let mut resized = false;
        for s in lost {
            if s.content.mtu_probe {
                self.path.mtu.on_probe_lost(now, s.info.size_bytes);
            } else {
                self.stats.packets_lost += 1;
                if self.trace.is_some() {
                    self.trace_lost(now, s);
                }
                resized |= self.path.mtu.on_lost(now, s.info.size_bytes);
            }
            self.content_missing(&s.content);
        }
        resized
    }

    /// What the packet carried is to be sent again before all else.
    pub(super) fn content_urgent(&mut self, content: &Content) {
        for segment in content.segments.iter().flatten().rev() {
            self.sender.on_urgent(segment);
        }
        if let Some((offset, len, times)) = content.control {
            self.control_tx.on_urgent(offset, len, times);
        }
    }

    /// What the packet carried is to be sent again (if it is still wanted).
    pub(super) fn content_missing(&mut self, content: &Content) {
        if let Some((offset, len, times)) = content.control {
            self.control_tx.on_lost(offset, len, times);
        }
        for segment in content.segments.iter().flatten() {
            self.sender.on_lost(segment);
        }
    }
}
