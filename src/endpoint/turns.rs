//! Role: whose turn it is to send.
//! Owns: the sessions that may have something to send, and those that the shared limit holds back.
//! Implements: docs/PROTOCOL.md, "Admission" (limits of a server); start-time fair queueing under the shared limit.
//!
//! Every operation costs the logarithm of the number of sessions at most: a release of the shared limit looks at those that
//! then send, not at all that wait.

use crate::store::SessionKey;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Without a limit: one after the other.
    queue: VecDeque<SessionKey>,
    /// With one: whoever has had least, since trains differ in size; of equals the one that waits longest.
    fair: Option<Fair>,
}

#[derive(Debug, Default)]
struct Fair {
    /// Bytes served, order of arrival, session.
    ready: BTreeSet<(u64, u64, SessionKey)>,
    held: BTreeSet<(u64, SessionKey)>,
    /// What is known of each session that has been seen.
    known: HashMap<SessionKey, Served>,
    arrivals: u64,
    /// What the session that sent last had been served before it did; one that was idle starts from here.
    floor_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Served {
    bytes: u64,
    /// Its place among the ready.
    arrival: Option<u64>,
    held: bool,
}

impl Turns {
    /// Nobody waits. `limited`: there is a shared limit.
    pub(super) fn new(limited: bool) -> Self {
        Self { queue: VecDeque::new(), fair: limited.then(Fair::default) }
    }

    /// There is a shared limit from now on; it stays the fair way when that is lifted.
    pub(super) fn make_fair(&mut self) {
        if self.fair.is_none() {
            self.fair = Some(Fair::default());
            for key in std::mem::take(&mut self.queue) {
                self.push(key);
            }
        }
    }

    /// A session that is not among the ready joins them.
    pub(super) fn push(&mut self, key: SessionKey) {
        let Some(fair) = &mut self.fair else { return self.queue.push_back(key) };
        let served = fair.known.entry(key).or_default();
        fair.arrivals += 1;
        served.arrival = Some(fair.arrivals);
        fair.ready.insert((served.bytes, fair.arrivals, key));
    }

    /// Whose turn it is. `allow_data`: the shared limit lets data pass, so that those it held back compete too.
    pub(super) fn pop(&mut self, allow_data: bool) -> Option<SessionKey> {
        let Some(fair) = &mut self.fair else { return self.queue.pop_front() };
        let ready = fair.ready.first().map(|&(bytes, _, key)| (bytes, key));
        let held = fair.held.first().copied().filter(|_| allow_data);
        let (_, key) = match (ready, held) {
            (Some(ready), Some(held)) => {
                if held.0 < ready.0 {
                    held
                } else {
                    ready
                }
            }
            (one, other) => one.or(other)?,
        };
        let served = fair.known.entry(key).or_default();
        if let Some(arrival) = served.arrival.take() {
            fair.ready.remove(&(served.bytes, arrival, key));
        }
        if allow_data && std::mem::take(&mut served.held) {
            fair.held.remove(&(served.bytes, key));
        }
        Some(key)
    }

    /// The shared limit holds this session back until there is room.
    pub(super) fn hold(&mut self, key: SessionKey) {
        let Some(fair) = &mut self.fair else { return };
        let served = fair.known.entry(key).or_default();
        served.held = true;
        fair.held.insert((served.bytes, key));
    }

    /// Whether this session is held back.
    pub(super) fn is_held(&self, key: SessionKey) -> bool {
        self.fair.as_ref().and_then(|fair| fair.known.get(&key)).is_some_and(|served| served.held)
    }

    /// Whether anybody is.
    pub(super) fn any_held(&self) -> bool {
        self.fair.as_ref().is_some_and(|fair| !fair.held.is_empty())
    }

    /// A session whose turn it was has sent so much. It must be neither ready nor held.
    pub(super) fn on_sent(&mut self, key: SessionKey, bytes: u64) {
        let Some(fair) = &mut self.fair else { return };
        let served = fair.known.entry(key).or_default();
        debug_assert!(served.arrival.is_none());
        if std::mem::take(&mut served.held) {
            // It sent what the limit does not hold back, and stays where it was, at its new place.
            fair.held.remove(&(served.bytes, key));
            served.held = true;
        }
        fair.floor_bytes = fair.floor_bytes.max(served.bytes);
        served.bytes = fair.floor_bytes + bytes;
        if served.held {
            fair.held.insert((served.bytes, key));
        }
    }

    /// A session is gone.
    pub(super) fn remove(&mut self, key: SessionKey) {
        let Some(fair) = &mut self.fair else { return };
        if let Some(served) = fair.known.remove(&key) {
            fair.held.remove(&(served.bytes, key));
            if let Some(arrival) = served.arrival {
                fair.ready.remove(&(served.bytes, arrival, key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_turns_go_round() {
        let mut t = Turns::new(false);
        [3, 1, 2].iter().for_each(|k| t.push(*k));
        assert_eq!([t.pop(true), t.pop(true), t.pop(true), t.pop(true)], [Some(3), Some(1), Some(2), None]);
    }

    #[test]
    fn a_limit_may_come_later() {
        let mut t = Turns::new(false);
        [1, 2].iter().for_each(|k| t.push(*k));
        t.make_fair();
        assert_eq!(t.pop(true), Some(1));
        t.on_sent(1, 3000);
        t.push(1);
        assert_eq!((t.pop(true), t.pop(true), t.pop(true)), (Some(2), Some(1), None));
    }

    #[test]
    fn under_a_limit_whoever_had_least_is_next() {
        let mut t = Turns::new(true);
        [1, 2].iter().for_each(|k| t.push(*k));
        assert_eq!(t.pop(true), Some(1));
        t.on_sent(1, 3000);
        t.push(1);
        for _ in 0..3 {
            assert_eq!(t.pop(true), Some(2), "small trains");
            t.on_sent(2, 1000);
            t.push(2);
        }
        assert_eq!(t.pop(true), Some(1));
        t.on_sent(1, 3000);
        // Who comes later does not make up for the past.
        t.push(9);
        assert_eq!(t.pop(true), Some(9));
        t.on_sent(9, 1);
        t.push(9);
        assert_eq!(t.pop(true), Some(2));
    }

    #[test]
    fn the_held_wait_for_room_and_come_by_what_they_had() {
        let mut t = Turns::new(true);
        for (key, bytes) in [(1, 500), (2, 100), (3, 300)] {
            t.push(key);
            assert_eq!(t.pop(true), Some(key));
            t.on_sent(key, bytes);
            t.hold(key);
        }
        assert!(t.any_held() && t.is_held(2) && !t.is_held(4));
        assert_eq!(t.pop(false), None);
        t.push(1);
        assert_eq!(t.pop(false), Some(1), "feedback is not held back");
        assert!(t.is_held(1));
        assert_eq!(t.pop(true), Some(2));
        t.remove(3);
        assert_eq!((t.pop(true), t.pop(true)), (Some(1), None));
        assert!(!t.any_held());
    }
}
