//! Role: what the event loop needs of anything that carries datagrams.
//! Owns: nothing; the UDP socket (`udp`) is one implementation, a byte stream could be another.
//! Implements: docs/ARCHITECTURE.md, "The pipe".

use crate::endpoint::Ecn;
use std::io;
use std::net::SocketAddr;

/// Largest train, in bytes: what one UDP GSO send may hold (the IPv4 total length field, 65,535, less 28 bytes of
/// IPv4 and UDP header). Also the largest single datagram over IPv4.
pub const MAX_TRAIN_BYTES: usize = 65_507;

/// One or more datagrams of equal size (the last may be shorter) to one address.
#[derive(Clone, Copy, Debug)]
pub struct Train<'a> {
    /// Where to; IPv4 addresses in their own form, never mapped.
    pub remote: SocketAddr,
    /// ECN field to set.
    pub ecn: Option<Ecn>,
    /// Size of each datagram in bytes; `None`, or not below the length of `bytes`: there is only one.
    pub segment_size: Option<usize>,
    /// The datagrams, end to end.
    pub bytes: &'a [u8],
}

/// What became of a train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendReport {
    /// Bytes that are out of the caller's hands: sent, or lost. Less than the train's length: the pipe is full, and
    /// the rest is to be offered again when it is writable.
    pub consumed_bytes: usize,
    /// Datagrams among them were larger than the interface takes (EMSGSIZE), and were dropped.
    pub too_large: bool,
}

/// One datagram that came in.
#[derive(Debug)]
pub struct Received<'a> {
    /// Where from; IPv4 addresses in their own form, never mapped.
    pub remote: SocketAddr,
    /// The ECN field, as far as congestion control cares.
    pub ecn: Option<Ecn>,
    /// The payload, in the pipe's own buffer; it may be overwritten (decrypted in place).
    pub bytes: &'a mut [u8],
}

/// What one receive call brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvReport {
    /// Payload bytes.
    pub bytes: usize,
    /// Nothing more was there; the poll reports when something is.
    pub drained: bool,
}

/// Carries datagrams, without blocking. Edge-triggered: after `WouldBlock` (or an incomplete send) the poll reports
/// when to go on, and not before.
pub trait DatagramPipe {
    /// Registers for reading and writing.
    fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> io::Result<()>;
    /// Receives one batch and hands each datagram to `sink`.
    ///
    /// # Errors
    /// `WouldBlock`: nothing is there. Anything else is a passing trouble of the pipe: the next call may work.
    fn recv(&mut self, sink: &mut dyn FnMut(Received<'_>)) -> io::Result<RecvReport>;
    /// Sends a train. Whatever goes wrong is a lost datagram, so there is no error; see `SendReport`.
    fn send(&mut self, train: Train<'_>) -> SendReport;
    /// Datagrams that one train may hold now; changes when the kernel turns out not to do segmentation.
    fn max_segments(&self) -> usize;
    /// The local address.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}
