//! Role: what a session sends next: trains of equal datagrams, shaped for GSO.
//! Owns: nothing beyond `Session`.
//! Implements: docs/PROTOCOL.md, "Sending a packet".

use super::event::CloseReason;
use super::trace::Trace;
use super::{KEYS_USED_UP, Phase, Session};
use crate::arq::sent::Content;
use crate::wire::frame::{CloseCode, Frame};
use crate::wire::packet::{
    CONFIRM_HEADER_BYTES, DATA_HEADER_BYTES, ProtectedHeader, TRAILER_BYTES, append_trailer,
};
use rand::RngExt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Most bytes of one train: a UDP send takes no more, headers included.
const MAX_TRAIN_BYTES: usize = 65_000;
/// On average one number in so many is skipped, so that an optimistic receiver is caught.
const SKIP_EVERY: u32 = 512;
/// Feedback blocks get at most so many bytes; 1,100 bytes of bits tell of 8,800 packets.
const MAX_FEEDBACK_BLOCK_BYTES: usize = 1100;
/// Bytes that a feedback frame takes beside its blocks, at most.
const FEEDBACK_HEAD_BYTES: usize = 72;
/// A control piece is not worth its header below this.
const MIN_CONTROL_ROOM: usize = 32;
/// A second segment goes into the same packet if at least this much room is left.
const MIN_SECOND_SEGMENT_ROOM: usize = 96;
/// Packets between two feedbacks while trains are measured: a train of the start has at least four times as many.
const TRAIN_FEEDBACK_PACKETS: u64 = 4;
/// Room left over below this is padded, so that the datagrams of a train stay equal.
const MAX_PADDING: usize = 160;
/// One or more datagrams of equal size to the session's peer.
#[derive(Clone, Copy, Debug)]
pub struct Train {
    /// Bytes appended to the caller's buffer.
    pub size: usize,
    /// Size of each datagram but the last.
    pub segment_size: usize,
    /// Where to, if not to the peer's address (a challenge to a new one).
    pub remote: Option<SocketAddr>,
    /// Whether rate control and pacing applied (not for handshakes, feedback and goodbyes alone).
    pub paced: bool,
}

/// What one packet turned out to be.
struct Built {
    bytes: usize,
    /// It was not full: nothing may follow it in its train.
    short: bool,
}

impl Session {
    /// Appends the next train to `buf`; `None`: nothing to send now. `allow_data`: the endpoint's shared limit permits ack-eliciting packets.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
        max_segments: usize,
        allow_data: bool,
    ) -> Option<Train> {
        match &mut self.phase {
            Phase::Closed => return None,
            Phase::Hello(h) => {
                if now < h.next_at() {
                    return None;
                }
                let packet = h.packet(now);
                buf.extend_from_slice(&packet);
                self.count_sent(packet.len());
                if self.trace.is_some() {
                    self.trace_sent(now, None, packet.len(), &Content::default());
                }
                return Some(single(packet.len()));
            }
            Phase::Closing { .. } => return self.transmit_close(now, buf),
            Phase::Confirming | Phase::Open if self.seal.exhausted() => {
                self.finish(CloseReason::Protocol(KEYS_USED_UP.into()));
                return None;
            }
            Phase::Confirming | Phase::Open => {}
        }
        if let Some(hello) = self.repeated_hello(now) {
            buf.extend_from_slice(&hello);
            self.count_sent(hello.len());
            return Some(single(hello.len()));
        }
        if let Some(train) = self.transmit_path_frames(now, buf) {
            return Some(train);
        }
        if let Some(train) = self.transmit_mtu_probe(now, buf, allow_data) {
            return Some(train);
        }
        let start = buf.len();
        let mut segment_size = 0;
        let mut count = 0;
        let mut paced = false;
        while count < max_segments {
            let eliciting = allow_data && self.may_send_data(now);
            let feedback = count == 0 && self.received.deadline().is_some_and(|d| d <= now);
            if !eliciting && !feedback {
                break;
            }
            let Some(built) = self.build_packet(now, buf, eliciting, feedback) else { break };
            paced |= eliciting;
            count += 1;
            if count == 1 {
                segment_size = built.bytes;
            }
            if built.short || buf.len() - start + segment_size > MAX_TRAIN_BYTES {
                break;
            }
        }
        if paced {
            // The start of a path ramps by time, train by train.
            self.path.update(now);
        }
        (count > 0).then_some(Train { size: buf.len() - start, segment_size, remote: None, paced })
    }

    /// Whether there is anything that rate control would have to let pass.
    pub(super) fn has_data(&self) -> bool {
        self.probes_due > 0
            || self.ping_due
            || self.control_tx.has_piece()
            || self.sender.has_repair() && self.peer_takes_repairs()
            || self.sender.has_fresh() && self.peer_has_room()
    }

    /// A peer without any room would refuse them as it did before; what makes room there is its store, or the control stream.
    pub(super) fn peer_takes_repairs(&self) -> bool {
        self.peer_window > 0
    }

    pub(super) fn peer_has_room(&self) -> bool {
        self.sent.bytes_in_flight() < self.peer_window
    }

    /// Whether window and pacers let an ack-eliciting packet leave.
    fn may_send_data(&mut self, now: Instant) -> bool {
        if self.probes_due > 0 {
            return true;
        }
        if !self.has_data() {
            self.cover_tail(now);
        }
        self.has_data() && self.window_has_room() && self.path.may_send(now)
    }

    pub(super) fn window_has_room(&self) -> bool {
        self.sent.bytes_in_flight() + u64::from(self.path.mtu.current()) <= self.path.window_bytes()
            || self.sent.packets_in_flight() == 0
    }

    fn transmit_close(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Train> {
        let Phase::Closing { reason, copies } = &mut self.phase else { return None };
        let reason = reason.clone();
        if *copies == 0 {
            self.finish(reason);
            return None;
        }
        *copies -= 1;
        let start = buf.len();
        let code = match reason {
            CloseReason::Done => CloseCode::Done,
            CloseReason::Interrupted => CloseCode::Interrupted,
            CloseReason::Protocol(_) => CloseCode::Protocol,
            CloseReason::RetriesExhausted { .. } => CloseCode::GaveUp,
            _ => CloseCode::Refused,
        };
        let text = reason.to_string();
        let payload_start = self.begin_packet(now, buf);
        // What the peer has not confirmed yet rides along: results matter to it.
        let room = self.room(buf.len() - start);
        self.put_control(buf, room.saturating_sub(text.len() + 8));
        Frame::Close { code: code as u64, text: text.as_bytes() }.encode(buf);
        self.finish_packet(now, buf, start, payload_start, false, Content::default());
        Some(single(buf.len() - start))
    }

    /// Challenges and responses wait for nothing: until they are through, the transfer stands still.
    fn transmit_path_frames(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Train> {
        let (remote, frame) = match self.path_response.take() {
            Some(bytes) => (None, Frame::PathResponse(bytes)),
            None => {
                self.next_challenge(now).map(|(remote, bytes)| (Some(remote), Frame::PathChallenge(bytes)))?
            }
        };
        let start = buf.len();
        let payload_start = self.begin_packet(now, buf);
        frame.encode(buf);
        // Not tracked: challenges are repeated by their own timer, and responses with them.
        self.finish_packet(now, buf, start, payload_start, false, Content::default());
        Some(Train { remote, ..single(buf.len() - start) })
    }

    fn transmit_mtu_probe(&mut self, now: Instant, buf: &mut Vec<u8>, allow_data: bool) -> Option<Train> {
        if !allow_data || !self.sender.has_fresh() || !self.window_has_room() || !self.path.may_send(now) {
            return None;
        }
        let size = self.path.mtu.poll_probe(now)? as usize;
        let start = buf.len();
        let payload_start = self.begin_packet(now, buf);
        Frame::Ping.encode(buf);
        let tail = self.seal.tag_bytes() + self.trailer_bytes();
        buf.resize(start + size.saturating_sub(tail), 0);
        let content = Content { mtu_probe: true, ..Content::default() };
        self.finish_packet(now, buf, start, payload_start, true, content);
        Some(single(buf.len() - start))
    }

    /// Bytes of frames that still fit into a packet whose header and frames so far take `used` bytes.
    fn room(&self, used: usize) -> usize {
        let tail = self.seal.tag_bytes() + self.trailer_bytes();
        (self.path.mtu.current() as usize).saturating_sub(used + tail)
    }

    fn trailer_bytes(&self) -> usize {
        if self.confirm.is_some() { TRAILER_BYTES } else { 0 }
    }

    fn begin_packet(&mut self, now: Instant, buf: &mut Vec<u8>) -> usize {
        if self.rng.random_range(0..SKIP_EVERY) == 0 && self.sent.next_number() > 0 {
            self.sent.skip_number(self.heard_at);
        }
        let number = self.sent.next_number();
        if self.seal.update_due(self.config.key_update_packets)
            && self.seal.update(number)
            && let Some(t) = &mut self.trace
        {
            t.push(now, Trace::KeyUpdated { is_ours: true, number });
        }
        let header = ProtectedHeader {
            cid: self.remote_cid,
            truncated_number: number as u32,
            key_phase: self.seal.phase(),
            confirm: self.confirm,
        };
        let start = buf.len();
        header.encode(buf);
        debug_assert!(matches!(buf.len() - start, DATA_HEADER_BYTES | CONFIRM_HEADER_BYTES));
        buf.len()
    }

    fn build_packet(&mut self, now: Instant, buf: &mut Vec<u8>, data: bool, feedback: bool) -> Option<Built> {
        let start = buf.len();
        let payload_start = self.begin_packet(now, buf);
        let mut content = Content::default();
        if feedback {
            self.put_feedback(now, buf, start);
        }
        let mut eliciting = false;
        if data {
            self.put_floor(now, buf);
            let probes = self.probes_due > 0;
            if probes || std::mem::take(&mut self.ping_due) {
                self.probes_due = self.probes_due.saturating_sub(1);
                Frame::Ping.encode(buf);
                eliciting = true;
            }
            content.control = self.put_control(buf, self.room(buf.len() - start));
            if probes || self.peer_takes_repairs() {
                self.put_segments(buf, start, &mut content);
            }
            eliciting |= content.control.is_some() || content.segments[0].is_some();
        }
        if buf.len() == payload_start || data && !eliciting && !feedback {
            buf.truncate(start);
            return None;
        }
        let short = self.room(buf.len() - start) > 0;
        self.finish_packet(now, buf, start, payload_start, eliciting, content);
        Some(Built { bytes: buf.len() - start, short })
    }

    fn put_feedback(&mut self, now: Instant, buf: &mut Vec<u8>, start: usize) {
        let budget = self.room(buf.len() - start + FEEDBACK_HEAD_BYTES).min(MAX_FEEDBACK_BLOCK_BYTES);
        let window = self.receive_window(now);
        let credit = self.control_credit();
        if let Some(f) = self.received.build(now, budget, window, credit) {
            Frame::Feedback(f).encode(buf);
            (self.window_told, self.credit_told) = (window, credit);
        }
    }

    /// How often the peer should give feedback, from this side's view of the path.
    pub(super) fn feedback_delay(&self) -> Duration {
        (self.rtt.smoothed() / 10).clamp(Duration::from_millis(1), Duration::from_millis(25))
    }

    fn put_floor(&mut self, now: Instant, buf: &mut Vec<u8>) {
        let pause = self.rtt.smoothed() / 4;
        if self.floor_sent_at.is_some_and(|t| now < t + pause) {
            return;
        }
        self.floor_sent_at = Some(now);
        let window_packets = self.path.window_bytes() / u64::from(self.path.mtu.current());
        Frame::Floor {
            distance: self.sent.next_number() - self.sent.floor(),
            max_packets: if self.path.controller.measures_trains() {
                TRAIN_FEEDBACK_PACKETS
            } else {
                (window_packets / 8).clamp(TRAIN_FEEDBACK_PACKETS, 1000)
            },
            max_delay_us: self.feedback_delay().as_micros() as u64,
        }
        .encode(buf);
    }

    fn put_control(&mut self, buf: &mut Vec<u8>, room: usize) -> Option<(u64, u32, u16)> {
        if room < MIN_CONTROL_ROOM || !self.control_tx.has_piece() {
            return None;
        }
        let max = (room - 1 - 8 - 4).min(usize::from(u16::MAX));
        let (offset, len, times) = self.control_tx.next_piece(max)?;
        self.check_retries(times);
        let (piece, _) = &mut self.scratch;
        piece.clear();
        self.control_tx.copy_to(offset, len, piece);
        Frame::Control { offset, data: piece }.encode(buf);
        if times > 1 {
            self.stats.packets_repaired += 1;
        }
        Some((offset, len, times))
    }

    fn put_segments(&mut self, buf: &mut Vec<u8>, start: usize, content: &mut Content) {
        let fresh = self.peer_has_room();
        let room = self.room(buf.len() - start);
        let Some(first) = self.sender.next_segment(room, fresh) else { return };
        self.note_segment(first.attempt);
        content.segments[0] = Some(first);
        let with_length = self.sender.segment_frame_bytes(&first, false);
        let left = room.saturating_sub(with_length);
        if left < MIN_SECOND_SEGMENT_ROOM || !(self.sender.has_repair() || fresh && self.sender.has_fresh()) {
            let without = self.sender.segment_frame_bytes(&first, true);
            let padding = room - without;
            if padding <= MAX_PADDING {
                buf.resize(buf.len() + padding, 0);
            }
            self.sender.encode_segment(&first, buf, true);
            return;
        }
        self.sender.encode_segment(&first, buf, false);
        let Some(second) = self.sender.next_segment(left, fresh) else { return };
        self.note_segment(second.attempt);
        content.segments[1] = Some(second);
        let padding = left - self.sender.segment_frame_bytes(&second, true);
        if padding <= MAX_PADDING {
            buf.resize(buf.len() + padding, 0);
        }
        self.sender.encode_segment(&second, buf, true);
    }

    fn note_segment(&mut self, attempt: u16) {
        if attempt > 1 {
            self.stats.packets_repaired += 1;
        }
        self.check_retries(attempt);
    }

    fn check_retries(&mut self, attempt: u16) {
        if let Some(max) = self.config.max_retries
            && u32::from(attempt) > max.saturating_add(1)
        {
            self.events_on_give_up(max);
        }
    }

    fn events_on_give_up(&mut self, max: u32) {
        let reason = CloseReason::RetriesExhausted { times: max.saturating_add(1) };
        self.give_up = Some(reason);
    }

    fn finish_packet(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
        start: usize,
        payload_start: usize,
        eliciting: bool,
        content: Content,
    ) {
        let number = self.sent.next_number();
        self.seal.seal_packet(number, buf, start, payload_start);
        if self.confirm.is_some() {
            append_trailer(buf, start);
        }
        let size = buf.len() - start;
        self.count_sent(size);
        if self.trace.is_some() {
            self.trace_sent(now, Some(number), size, &content);
        }
        let app_limited = !self.has_data();
        self.sent.on_sent(now, size as u32, eliciting, app_limited, content);
        if eliciting {
            let info =
                crate::congestion::PacketInfo { number, size_bytes: size as u32, sent_at: now, app_limited };
            self.path.controller.on_sent(&info, self.sent.bytes_in_flight());
            self.path.on_sent(now, size as u64);
        }
    }

    fn count_sent(&mut self, bytes: usize) {
        self.stats.packets_sent += 1;
        self.stats.wire_bytes_sent += bytes as u64;
    }
}

fn single(size: usize) -> Train {
    Train { size, segment_size: size, remote: None, paced: false }
}
