//! Role: what a session did with each packet and how it saw its path, told in order, for a trace.
//! Owns: the records that nobody has taken yet, up to a bound.
//! Implements: the pure half of docs/TRACES.md.

use crate::arq::sent::{Content, Settled};
use crate::session::event::Stats;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Records of one session that wait to be taken; beyond, they are counted and left out. The loop takes them every
/// turn, and no turn sends or receives as many packets (64 trains of 50, or a megabyte).
pub const MAX_RECORDS: usize = 16 * 1024;
/// Between two records of the path's figures. Feedback comes at most once a millisecond; a plot needs less.
const METRICS_EVERY: Duration = Duration::from_millis(5);

/// The stretch of a stream that a packet carried; of several, the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of the control stream (requests, manifest, small files), not of chunks.
    pub is_control: bool,
    /// Offset in the control stream, or in all chunks of the session laid end to end as they are encoded.
    pub offset: u64,
    /// Bytes.
    pub bytes: u32,
    /// How many times these bytes were sent, this time included.
    pub attempt: u16,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Trace {
    /// The session began.
    Started {
        /// The peer.
        remote: SocketAddr,
        /// This side is the client.
        is_client: bool,
    },
    /// A packet left.
    Sent {
        /// Its number; `None`: a Hello.
        number: Option<u64>,
        /// UDP payload bytes.
        bytes: u32,
        /// What it carried.
        piece: Option<Piece>,
    },
    /// A packet came in and was accepted.
    Received {
        /// Its number.
        number: u64,
        /// UDP payload bytes.
        bytes: u32,
    },
    /// A packet came in for the second time.
    Duplicate {
        /// Its number.
        number: u64,
    },
    /// A packet was declared lost.
    Lost {
        /// Its number.
        number: u64,
        /// UDP payload bytes.
        bytes: u32,
        /// When it had left.
        sent_at: Instant,
        /// What it carried.
        piece: Option<Piece>,
    },
    /// A packet that was declared lost had arrived.
    Spurious {
        /// Its number.
        number: u64,
    },
    /// The path as rate control sees it.
    Metrics(Box<Stats>),
    /// Packets from this number on are sealed with the next generation of keys, or opened with it.
    KeyUpdated {
        /// Ours; else the peer's.
        is_ours: bool,
        /// The first packet number of the generation.
        number: u64,
    },
    /// The size of full datagrams changed.
    MtuUpdated {
        /// UDP payload bytes.
        bytes: u32,
    },
    /// The peer is at another address.
    Moved {
        /// The new address.
        remote: SocketAddr,
    },
}

/// A thing and its time.
#[derive(Clone, Debug)]
pub struct Record {
    /// When.
    pub at: Instant,
    /// What.
    pub what: Trace,
}

/// The records of one session.
#[derive(Debug, Default)]
pub struct Recorder {
    records: Vec<Record>,
    left_out: u64,
    metrics_at: Option<Instant>,
    datagram_bytes: u32,
}

impl Recorder {
    pub(super) fn push(&mut self, at: Instant, what: Trace) {
        if self.records.len() < MAX_RECORDS {
            self.records.push(Record { at, what });
        } else {
            self.left_out += 1;
        }
    }

    /// Whether figures are due; they count as told then.
    pub(super) fn metrics_due(&mut self, now: Instant) -> bool {
        let due = self.metrics_at.is_none_or(|at| now >= at + METRICS_EVERY);
        if due {
            self.metrics_at = Some(now);
        }
        due
    }

    /// Takes all records, in order, for `each`; how many were left out since the last time.
    pub fn take(&mut self, each: impl FnMut(Record)) -> u64 {
        self.records.drain(..).for_each(each);
        std::mem::take(&mut self.left_out)
    }
}

impl super::Session {
    /// The records of this session, if it is traced.
    pub fn recorder(&mut self) -> Option<&mut Recorder> {
        self.trace.as_deref_mut()
    }

    /// The figures of the path, when they are due.
    pub(super) fn trace_metrics(&mut self, now: Instant) {
        if self.trace.as_mut().is_some_and(|t| t.metrics_due(now)) {
            let stats = Box::new(self.stats());
            if let Some(t) = &mut self.trace {
                let bytes = stats.datagram_bytes;
                if std::mem::replace(&mut t.datagram_bytes, bytes) != bytes {
                    t.push(now, Trace::MtuUpdated { bytes });
                }
                t.push(now, Trace::Metrics(stats));
            }
        }
    }

    pub(super) fn trace_sent(&mut self, now: Instant, number: Option<u64>, bytes: usize, content: &Content) {
        let piece = self.piece(content);
        if let Some(t) = &mut self.trace {
            t.push(now, Trace::Sent { number, bytes: bytes as u32, piece });
        }
    }

    pub(super) fn trace_lost(&mut self, now: Instant, s: &Settled) {
        let piece = self.piece(&s.content);
        if let Some(t) = &mut self.trace {
            let (number, bytes, sent_at) = (s.info.number, s.info.size_bytes, s.info.sent_at);
            t.push(now, Trace::Lost { number, bytes, sent_at, piece });
        }
    }

    fn piece(&self, content: &Content) -> Option<Piece> {
        if let Some(s) = &content.segments[0]
            && let Some(offset) = self.sender.stream_offset(s)
        {
            return Some(Piece { is_control: false, offset, bytes: s.len, attempt: s.attempt });
        }
        let (offset, bytes, attempt) = content.control?;
        Some(Piece { is_control: true, offset, bytes, attempt })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // Any instant will do.
    fn records_are_bounded_and_the_rest_is_counted() {
        let now = Instant::now();
        let mut recorder = Recorder::default();
        for number in 0..MAX_RECORDS as u64 + 1 {
            recorder.push(now, Trace::Duplicate { number });
        }
        let mut taken = 0;
        assert_eq!(recorder.take(|_| taken += 1), 1);
        assert_eq!(taken, MAX_RECORDS);
        assert_eq!(recorder.take(|_| panic!("all were taken")), 0);
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // Any instant will do.
    fn figures_come_now_and_then() {
        let now = Instant::now();
        let mut recorder = Recorder::default();
        assert!(recorder.metrics_due(now));
        assert!(!recorder.metrics_due(now + METRICS_EVERY / 2));
        assert!(recorder.metrics_due(now + METRICS_EVERY));
    }
}
