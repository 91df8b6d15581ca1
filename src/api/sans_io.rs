//! Role: the protocol without any input or output, for programs that bring their own loop, transport or clock.
//! Owns: nothing; these are the types of the pure layers.
//! Implements: the "Library" section of the crate's documentation.
//!
//! An [`Endpoint`] holds all sessions of one socket (or whatever carries datagrams). It never blocks, reads no clock and
//! draws no randomness: datagrams, the time and the answers of a [`Store`] go in; datagrams, jobs and events come out.
//! Whoever drives it calls, in any order:
//!
//! | when | call |
//! |---|---|
//! | once | [`Endpoint::new`] with 32 random bytes; a client then [`Endpoint::connect`] |
//! | a datagram came | [`Endpoint::handle_datagram`] |
//! | [`Endpoint::poll_timeout`] has come | [`Endpoint::handle_timeout`] |
//! | after each of these | [`Endpoint::poll_job`] until `None`: each goes to a store, whose answers go to [`Endpoint::handle_done`] |
//! | | [`Endpoint::poll_transmit`] until `None`: each is a train of datagrams to one address |
//! | | [`Endpoint::poll_event`] until `None` |
//!
//! `examples/channels.rs` is such a loop, with two endpoints in two threads that talk over channels.

pub use crate::endpoint::config::{EndpointConfig, Secret, ServerConfig, SessionConfig};
pub use crate::endpoint::{Ecn, Endpoint, Transmit};
pub use crate::session::event::{CloseReason, Direction, Event, Stats};
pub use crate::store::memory::MemoryStore;
pub use crate::store::{SessionKey, Store};
pub use crate::transfer::Request;
pub use crate::transfer::job::{Compression, Dest, Done, Job, Location, Overwrite, SourceRoot};
