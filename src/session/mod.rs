//! Role: one peer.
//! Owns: the state of one session.
pub mod event;
