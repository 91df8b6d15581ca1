//! Role: why something that a peer (or a stranger) sent was not taken, counted by reason.
//! Owns: one counter per reason.
//! Implements: docs/SECURITY.md, "What is counted".

/// Why a datagram, a frame, a message, a request or a file was refused. Each refusal is counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Refusal {
    /// No packet of this protocol: too short, or another first byte.
    Malformed,
    /// A packet with a connection ID that belongs to no session.
    Stray,
    /// A handshake packet or Confirm whose CRC-32 does not fit, or a Hello that cannot be read.
    Checksum,
    /// A Hello of another version.
    Version,
    /// A Hello with encryption to a server without, or the other way round.
    Security,
    /// A Hello without a valid cookie while the server was busy with handshakes: answered with a Retry.
    Cookie,
    /// A Hello beyond the budget of SPAKE2 computations, or an answer beyond what strangers get.
    Overload,
    /// A Hello or Confirm that came too soon after a failed guess from its address.
    Guessing,
    /// A Hello or Reply whose share is no valid one.
    Share,
    /// Another Hello or Reply beside one that is being worked on.
    Conflict,
    /// A half-open handshake that had to go: too many, or too old.
    HalfOpen,
    /// A confirmation that does not fit: wrong key.
    WrongKey,
    /// No session slot was free.
    Busy,
    /// An answer that would have been more than three times as long as what asked for it.
    Amplification,
    /// A packet whose tag does not fit.
    Forged,
    /// A packet number for the second time, or below the floor.
    Replayed,
    /// A packet of a kind, or from an address, that has no place in this phase of the session.
    Misplaced,
    /// Something that found no room; its packet counts as not received.
    NoRoom,
    /// A frame that cannot be read.
    Frame,
    /// Feedback that claims what was never sent, or too much of it in one packet.
    Feedback,
    /// Control-stream bytes beyond the credit.
    Credit,
    /// A segment that contradicts the manifest.
    Segment,
    /// A message that cannot be read.
    Message,
    /// A message that has no place here: manifest out of order, window overrun, wrong side, unknown file.
    OutOfPlace,
    /// A session without a request for too long.
    NoRequest,
    /// A request as a whole: policy, path, destination.
    Request,
    /// A file or directory with a path that leads where it must not.
    Path,
    /// A file that is larger than allowed or than the disk has room.
    Size,
    /// A file whose contents are not what was announced.
    Digest,
}

/// Number of reasons.
const REASONS: usize = Refusal::Digest as usize + 1;

impl Refusal {
    /// All reasons, in order.
    pub const ALL: [Self; REASONS] = [
        Self::Malformed,
        Self::Stray,
        Self::Checksum,
        Self::Version,
        Self::Security,
        Self::Cookie,
        Self::Overload,
        Self::Guessing,
        Self::Share,
        Self::Conflict,
        Self::HalfOpen,
        Self::WrongKey,
        Self::Busy,
        Self::Amplification,
        Self::Forged,
        Self::Replayed,
        Self::Misplaced,
        Self::NoRoom,
        Self::Frame,
        Self::Feedback,
        Self::Credit,
        Self::Segment,
        Self::Message,
        Self::OutOfPlace,
        Self::NoRequest,
        Self::Request,
        Self::Path,
        Self::Size,
        Self::Digest,
    ];

    /// A name for logs and metrics: lower case, words joined by `_`, never changed once given.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Stray => "stray",
            Self::Checksum => "checksum",
            Self::Version => "version",
            Self::Security => "security",
            Self::Cookie => "cookie",
            Self::Overload => "overload",
            Self::Guessing => "guessing",
            Self::Share => "share",
            Self::Conflict => "conflict",
            Self::HalfOpen => "half_open",
            Self::WrongKey => "wrong_key",
            Self::Busy => "busy",
            Self::Amplification => "amplification",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::Misplaced => "misplaced",
            Self::NoRoom => "no_room",
            Self::Frame => "frame",
            Self::Feedback => "feedback",
            Self::Credit => "credit",
            Self::Segment => "segment",
            Self::Message => "message",
            Self::OutOfPlace => "out_of_place",
            Self::NoRequest => "no_request",
            Self::Request => "request",
            Self::Path => "path",
            Self::Size => "size",
            Self::Digest => "digest",
        }
    }
}

/// How often each reason came up. Counters only grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals([u64; REASONS]);

impl Default for Refusals {
    fn default() -> Self {
        Self([0; REASONS])
    }
}

impl Refusals {
    /// One more.
    pub fn count(&mut self, why: Refusal) {
        self.add(why, 1);
    }

    /// So many more.
    pub fn add(&mut self, why: Refusal, times: u64) {
        let n = &mut self.0[why as usize];
        *n = n.saturating_add(times);
    }

    /// Adds what another has counted.
    pub fn merge(&mut self, other: &Self) {
        Refusal::ALL.into_iter().for_each(|why| self.add(why, other.get(why)));
    }

    /// How often this reason came up.
    pub fn get(&self, why: Refusal) -> u64 {
        self.0[why as usize]
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// What came up at all, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        Refusal::ALL.into_iter().map(|why| (why, self.get(why))).filter(|(_, n)| *n > 0)
    }
}

impl std::fmt::Display for Refusals {
    /// `3 stray, 1 wrong_key`; `nothing` when that is so.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut before = "";
        for (why, n) in self.iter() {
            write!(f, "{before}{n} {}", why.name())?;
            before = ", ";
        }
        if before.is_empty() { f.write_str("nothing") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let mut all = Refusals::default();
        assert_eq!(all.to_string(), "nothing");
        for (i, why) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, i, "ALL is in order");
            all.add(why, i as u64 + 1);
        }
        let names: std::collections::HashSet<_> = Refusal::ALL.iter().map(|why| why.name()).collect();
        assert_eq!(names.len(), REASONS);
        assert!(all.iter().enumerate().all(|(i, (_, n))| n == i as u64 + 1));
        let mut twice = all.clone();
        twice.merge(&all);
        assert_eq!(twice.total(), 2 * all.total());
        let mut few = Refusals::default();
        few.count(Refusal::Stray);
        few.add(Refusal::WrongKey, 2);
        assert_eq!(few.to_string(), "1 stray, 2 wrong_key");
        few.add(Refusal::Stray, u64::MAX);
        assert_eq!(few.get(Refusal::Stray), u64::MAX, "no overflow");
    }
}
