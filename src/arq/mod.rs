//! Role: selective repeat driven by NACKs: what was sent, what arrived, what is lost, how long a round trip takes.
//! Owns: the window of packet numbers in each direction of one session.
//! Implements: docs/PROTOCOL.md, "Packet numbers", "Feedback", "Loss detection".

pub mod control;
pub mod rangeset;
pub mod received;
pub mod rtt;
pub mod sent;

#[cfg(test)]
mod tests;
