//! Role: the tail: when nothing new is left to send, what is in flight is sent again before anybody can say that it was lost.
//! Owns: the time of the next such copy.
//! Implements: docs/PROTOCOL.md, "The tail".
//!
//! A lost packet of the tail costs a round trip to be noticed, and its repair may be lost too. There is nothing else to send, so a
//! few plain copies cost little; how many are worth it follows from the measured loss.

use super::Session;
use crate::arq::sent::Content;
use std::time::{Duration, Instant};

/// The tail is covered once at most this share of all packets sent is in flight...
const TAIL_SHARE: u64 = 64;
/// ...and always below the first, never above the second number of packets.
const TAIL_PACKETS: (u64, u64) = (32, 512);
/// Copies are made until the chance that all of them are lost is below this.
const RESIDUAL_LOSS: f64 = 0.01;
/// Most copies in flight of one piece.
const MAX_COPIES: usize = 4;
/// Loss assumed before anything was measured: one lost packet in so many.
const PRIOR_PACKETS: u64 = 20;
/// Copies are spaced by this share of the RTT, so that one burst of losses does not take them all.
const SPACING_SHARE: u32 = 16;
/// Least spacing of copies.
const MIN_SPACING: Duration = Duration::from_millis(2);

/// One piece in flight: where, how often, and when it was sent last.
type Piece = (Content, usize, Instant);

impl Session {
    /// How many copies of the tail's packets should be under way, from the loss seen in either direction.
    fn wanted_copies(&self) -> usize {
        let ratio = |lost: u64, all: u64| (lost + 1) as f64 / (all + PRIOR_PACKETS) as f64;
        let out = ratio(self.stats.packets_lost, self.stats.packets_sent);
        let back = ratio(self.received.nacks(), self.received.expected());
        let loss = out.max(back).min(0.9);
        ((RESIDUAL_LOSS.ln() / loss.ln()).ceil() as usize).clamp(1, MAX_COPIES)
    }

    /// Queues copies of what is in flight, if this is the tail and it is their time.
    pub(super) fn cover_tail(&mut self, now: Instant) {
        if self.tail_at.is_some_and(|t| now < t) {
            return;
        }
        self.tail_at = None;
        let in_flight = self.sent.packets_in_flight();
        let (least, most) = TAIL_PACKETS;
        let limit = (self.stats.packets_sent / TAIL_SHARE).clamp(least, most);
        if in_flight == 0 || in_flight > limit || !self.sender.is_tail() {
            return;
        }
        let wanted = self.wanted_copies();
        let spacing = (self.rtt.smoothed() / SPACING_SHARE).max(MIN_SPACING);
        if wanted < 2 {
            return;
        }
        for (content, copies, last) in self.pieces_in_flight() {
            if copies >= wanted {
                continue;
            }
            if last + spacing <= now {
                self.content_missing(&content);
            } else {
                let at = last + spacing;
                self.tail_at = Some(self.tail_at.map_or(at, |t| t.min(at)));
            }
        }
    }

    /// What is in flight and still wanted, copies counted together.
    fn pieces_in_flight(&self) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let sender = &self.sender;
        self.sent.for_each_in_flight(|_, sent_at, content| {
            let segments = content.segments.iter().flatten().any(|s| sender.is_wanted(s));
            if segments || content.control.is_some() {
                match pieces.iter_mut().find(|(c, ..)| is_copy(c, content)) {
                    Some((_, copies, last)) => (*copies, *last) = (*copies + 1, sent_at),
                    None => pieces.push((*content, 1, sent_at)),
                }
            }
            true
        });
        pieces
    }
}

/// Whether two packets carry the same, however often it was sent.
fn is_copy(a: &Content, b: &Content) -> bool {
    let control = |c: &Content| c.control.map(|(offset, ..)| offset);
    let segment = |c: &Content| c.segments[0].map(|s| (s.slot, s.epoch, s.offset));
    control(a) == control(b) && segment(a) == segment(b)
}
