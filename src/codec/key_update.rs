//! Role: key update: which generation of keys seals and opens a packet, told by one phase bit in its header.
//! Owns: per direction, the present generation, its neighbours, and the counts that RFC 9001 section 6.6 limits.
//! Implements: docs/PROTOCOL.md, "Packet protection".
//!
//! As in RFC 9001 section 6, but each direction is updated by its sender alone: the receiver follows. The phase bit
//! starts at 0 and flips with every generation. A sender goes on to the next generation only after a packet of the
//! present one was acknowledged, so that a receiver is never more than one generation behind, and one bit is enough.

use super::aead::{CONFIDENTIALITY_LIMIT, INTEGRITY_LIMIT, OpenError, PacketKeys};

/// Packets after which a sender updates its keys: half of what it may seal, which leaves time for the
/// acknowledgement that the update needs.
pub const UPDATE_AFTER_PACKETS: u64 = CONFIDENTIALITY_LIMIT / 2;
/// The same in effect: unit tests update after 1,000 packets, so that every simulated transfer passes through some.
const UPDATE_NOW_AFTER: u64 = if cfg!(test) { 1000 } else { UPDATE_AFTER_PACKETS };

/// The keys that a sender seals with.
#[derive(Debug)]
pub struct SealKeys {
    keys: PacketKeys,
    phase: bool,
    sealed_packets: u64,
    /// The first packet number of this generation.
    first_number: u64,
    /// A packet of this generation was acknowledged.
    confirmed: bool,
}

impl SealKeys {
    /// Starts with generation 0.
    pub fn new(keys: PacketKeys) -> Self {
        Self { keys, phase: false, sealed_packets: 0, first_number: 0, confirmed: false }
    }

    /// The bit for the next packet's header.
    pub fn phase(&self) -> bool {
        self.phase
    }

    /// See `PacketKeys::tag_bytes`.
    pub fn tag_bytes(&self) -> usize {
        self.keys.tag_bytes()
    }

    /// See `PacketKeys::seal_packet`; the header carries `phase()`.
    pub fn seal_packet(&mut self, number: u64, buf: &mut Vec<u8>, packet_start: usize, payload_start: usize) {
        self.sealed_packets += 1;
        self.keys.seal_packet(number, buf, packet_start, payload_start);
    }

    /// Notes that the peer has acknowledged this packet number.
    pub fn on_acknowledged(&mut self, number: u64) {
        self.confirmed |= number >= self.first_number;
    }

    /// True once it is time to update, and possible: after so many packets, or the usual number.
    pub fn update_due(&self, after_packets: Option<u64>) -> bool {
        let after = after_packets.unwrap_or(UPDATE_NOW_AFTER);
        self.keys.is_encrypted() && self.confirmed && self.sealed_packets >= after
    }

    /// What somebody has who reads these keys in memory; the first packet of their generation; and whether the peer
    /// has them too. For a simulated attacker, who comes back with them when they are stale.
    pub(crate) fn copied(&self) -> (PacketKeys, u64, bool) {
        (self.keys.same_generation(), self.first_number, self.confirmed)
    }

    /// True when these keys may seal nothing more (the peer has acknowledged nothing for 2^22 packets): the session
    /// has to end.
    pub fn exhausted(&self) -> bool {
        self.keys.is_encrypted() && self.sealed_packets >= CONFIDENTIALITY_LIMIT
    }

    /// Goes on to the next generation, which starts with packet `next_number`. Does nothing, and returns false,
    /// as long as the present generation is not confirmed.
    pub fn update(&mut self, next_number: u64) -> bool {
        if !self.confirmed {
            return false;
        }
        *self = Self {
            keys: self.keys.next_generation(),
            phase: !self.phase,
            sealed_packets: 0,
            first_number: next_number,
            confirmed: false,
        };
        true
    }
}

/// The keys of the previous generation are dropped when so many numbers of the present one have gone by: what was overtaken by more
/// has long been repaired. (RFC 9001, section 6.5, says three PTOs; this needs no clock.)
const KEEP_PREVIOUS_PACKETS: u64 = if cfg!(test) { 500 } else { 1 << 17 };

/// The keys that a receiver opens with.
#[derive(Debug)]
pub struct OpenKeys {
    /// For packets that were overtaken by an update.
    previous: Option<PacketKeys>,
    current: PacketKeys,
    /// Derived ahead, so that the first packet of a generation, or a forged one, costs no more than others.
    next: PacketKeys,
    phase: bool,
    /// The lowest number that opened in this generation.
    lowest_number: u64,
    failed_packets: u64,
}

impl OpenKeys {
    /// Starts with generation 0.
    pub fn new(keys: PacketKeys) -> Self {
        Self {
            previous: None,
            next: keys.next_generation(),
            current: keys,
            phase: false,
            lowest_number: 0,
            failed_packets: 0,
        }
    }

    /// See `PacketKeys::tag_bytes`.
    pub fn tag_bytes(&self) -> usize {
        self.current.tag_bytes()
    }

    /// Opens a packet whose header carries `phase`, following the sender to its next generation if it is the first
    /// of that.
    ///
    /// # Errors
    /// As `PacketKeys::open`; failures are counted.
    pub fn open<'a>(
        &mut self,
        number: u64,
        phase: bool,
        header: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        let same = phase == self.phase;
        let late = !same && number < self.lowest_number;
        let keys = match &self.previous {
            _ if same => &self.current,
            Some(previous) if late => previous,
            Some(previous) if crate::planted("stale_key") => previous,
            _ => &self.next,
        };
        let opened = keys.open(number, header, sealed);
        match opened {
            Err(_) => self.failed_packets = self.failed_packets.saturating_add(1),
            Ok(_) if same => {
                self.lowest_number = self.lowest_number.min(number);
                if number > self.lowest_number + KEEP_PREVIOUS_PACKETS {
                    self.previous = None;
                }
            }
            Ok(_) if (late || crate::planted("stale_key")) && self.previous.is_some() => {}
            Ok(_) => self.follow(number),
        }
        opened
    }

    /// The phase bit of the present generation.
    pub fn phase(&self) -> bool {
        self.phase
    }

    /// True when so many packets failed to open that the session has to end.
    pub fn exhausted(&self) -> bool {
        self.failed_packets >= INTEGRITY_LIMIT
    }

    /// Packets that failed to open so far.
    pub fn failed_packets(&self) -> u64 {
        self.failed_packets
    }

    fn follow(&mut self, number: u64) {
        let after = self.next.next_generation();
        let current = std::mem::replace(&mut self.next, after);
        self.previous = Some(std::mem::replace(&mut self.current, current));
        self.phase = !self.phase;
        self.lowest_number = number;
    }
}

#[cfg(test)]
mod tests;
