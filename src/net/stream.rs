//! Role: datagrams inside a byte stream (the channel of an ssh session), and a pipe that is UDP, such a stream, or both.
//! Owns: the two ends of the stream, what was read of an incomplete frame, what is left to write of one.
//! Implements: docs/SSH.md, "The channel".

use super::pipe::{DatagramPipe, MAX_TRAIN_BYTES, Received, RecvReport, SendReport, Train};
use super::udp::UdpPipe;
use mio::unix::SourceFd;
use rustix::fs::OFlags;
use signal_hook::consts::SIGHUP;
use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// The address that the other end of a stream goes by. No host has it: 100::/64 is the discard prefix (RFC 6666).
pub const STREAM_PEER: SocketAddr =
    SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1), 1, 0, 0));
/// Largest datagram worth putting into a frame. Own choice: few frames per second, yet none that keeps a slow link
/// from anything else for long (65 ms at 1 Mbit/s).
pub const STREAM_DATAGRAM_BYTES: u32 = 8192;
/// Bytes of a frame before its payload: the kind, and the payload's length in three bytes, big-endian.
pub const FRAME_HEADER_BYTES: usize = 4;
/// Frames with this kind hold one JSON object; they come before the datagrams.
pub const KIND_MESSAGE: u8 = 1;
/// Frames with this kind hold one datagram.
pub const KIND_DATAGRAM: u8 = 2;
/// Largest payload that the length field can tell.
pub const MAX_FRAME_BYTES: usize = (1 << 24) - 1;
/// Bytes read at once: what a pipe of Linux holds (pipe(7)).
const READ_BYTES: usize = 65_536;
/// Datagrams of one train: enough to fill a pipe with one write.
const MAX_SEGMENTS: usize = 16;

/// The header of a frame; `len` is at most `MAX_FRAME_BYTES`.
pub fn frame_header(kind: u8, len: usize) -> [u8; FRAME_HEADER_BYTES] {
    let [_, a, b, c] = (len.min(MAX_FRAME_BYTES) as u32).to_be_bytes();
    [kind, a, b, c]
}

/// Kind and length of the payload.
pub fn parse_header(header: [u8; FRAME_HEADER_BYTES]) -> (u8, usize) {
    let [kind, a, b, c] = header;
    (kind, u32::from_be_bytes([0, a, b, c]) as usize)
}

/// A byte stream that carries datagrams in frames. Nothing is lost in it, and when it is full the sender waits.
#[derive(Debug)]
pub struct StreamPipe {
    reader: OwnedFd,
    writer: OwnedFd,
    /// Bytes that were read and not handed on; never more than one incomplete frame after a call.
    incoming: Vec<u8>,
    /// The train in frames, while it is written.
    outgoing: Vec<u8>,
    /// The rest of a frame of which a part is written. Its datagram counts as not sent, so it is offered again.
    partial: Vec<u8>,
    ended: bool,
    /// Gets SIGHUP when the stream ends, if nothing else is there yet.
    on_end: Arc<AtomicI32>,
}

impl StreamPipe {
    /// Takes both ends and makes them non-blocking. `incoming`: what was read from `reader` already. `on_end` gets
    /// the number of SIGHUP when the other side closes the stream.
    ///
    /// # Errors
    /// The descriptors cannot be made non-blocking.
    pub fn new(
        reader: OwnedFd,
        writer: OwnedFd,
        incoming: Vec<u8>,
        on_end: Arc<AtomicI32>,
    ) -> io::Result<Self> {
        for fd in [&reader, &writer] {
            let flags = rustix::fs::fcntl_getfl(fd)?;
            rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
        }
        let (outgoing, partial) = (Vec::new(), Vec::new());
        Ok(Self { reader, writer, incoming, outgoing, partial, ended: false, on_end })
    }

    fn end(&mut self, why: &str) {
        if !std::mem::replace(&mut self.ended, true) {
            log::debug!("the stream has ended: {why}");
            let _ = self.on_end.compare_exchange(0, SIGHUP, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Hands on the datagrams that are whole. Returns their bytes.
    fn deliver(&mut self, sink: &mut dyn FnMut(Received<'_>)) -> usize {
        let (mut at, mut bytes) = (0, 0);
        let mut broken = false;
        while let Some(header) = self.incoming.get(at..at + FRAME_HEADER_BYTES) {
            let (kind, len) = parse_header(header.try_into().expect("the slice has the header's length"));
            if kind == KIND_DATAGRAM && len > MAX_TRAIN_BYTES || !matches!(kind, KIND_MESSAGE | KIND_DATAGRAM)
            {
                broken = true;
                break;
            }
            let start = at + FRAME_HEADER_BYTES;
            let Some(payload) = self.incoming.get_mut(start..start + len) else { break };
            if kind == KIND_DATAGRAM && len > 0 {
                bytes += len;
                sink(Received { remote: STREAM_PEER, ecn: None, bytes: payload });
            }
            at = start + len;
        }
        self.incoming.drain(..at);
        if broken {
            self.incoming.clear();
            self.end("what came is no frame");
        }
        bytes
    }

    /// Writes what it can; the number of bytes. An end of the stream takes everything.
    fn write(&mut self, from: &[u8]) -> usize {
        loop {
            match rustix::io::write(&self.writer, from) {
                Ok(written) => return written,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return 0,
                Err(error) => {
                    self.end(&error.to_string());
                    return from.len();
                }
            }
        }
    }

    /// Finishes the frame that was begun; false: the stream is still full.
    fn finish_partial(&mut self) -> bool {
        let mut rest = std::mem::take(&mut self.partial);
        let written = self.write(&rest);
        rest.drain(..written);
        self.partial = rest;
        self.partial.is_empty()
    }
}

impl DatagramPipe for StreamPipe {
    fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.reader.as_raw_fd()), token, mio::Interest::READABLE)?;
        registry.register(&mut SourceFd(&self.writer.as_raw_fd()), token, mio::Interest::WRITABLE)
    }

    fn recv(&mut self, sink: &mut dyn FnMut(Received<'_>)) -> io::Result<RecvReport> {
        if self.ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        // What was read before this pipe was made may hold frames, and no edge will tell of them.
        let before = self.deliver(sink);
        let filled = self.incoming.len();
        self.incoming.resize(filled + READ_BYTES, 0);
        let read = loop {
            match rustix::io::read(self.reader.as_fd(), &mut self.incoming[filled..]) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other,
            }
        };
        self.incoming.truncate(filled + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => {
                self.end("closed by the other side");
                Ok(RecvReport { bytes: before, drained: true })
            }
            Ok(_) => Ok(RecvReport { bytes: before + self.deliver(sink), drained: false }),
            Err(rustix::io::Errno::AGAIN) if before > 0 => Ok(RecvReport { bytes: before, drained: true }),
            Err(rustix::io::Errno::AGAIN) => Err(ErrorKind::WouldBlock.into()),
            Err(error) => {
                self.end(&error.to_string());
                Ok(RecvReport { bytes: before, drained: true })
            }
        }
    }

    fn send(&mut self, train: Train<'_>) -> SendReport {
        let size = train.segment_size.unwrap_or(train.bytes.len()).max(1);
        let mut segments = train.bytes.chunks(size);
        let mut report = SendReport::default();
        if self.ended {
            return SendReport { consumed_bytes: train.bytes.len(), too_large: false };
        }
        if !self.partial.is_empty() {
            if !self.finish_partial() {
                return report;
            }
            // The datagram that it belongs to is the first one of what is offered again.
            report.consumed_bytes += segments.next().map_or(0, <[u8]>::len);
        }
        let mut frames = std::mem::take(&mut self.outgoing);
        frames.clear();
        for segment in segments.clone() {
            frames.extend_from_slice(&frame_header(KIND_DATAGRAM, segment.len()));
            frames.extend_from_slice(segment);
        }
        let mut written = self.write(&frames);
        let mut at = 0;
        for segment in segments {
            let frame = FRAME_HEADER_BYTES + segment.len();
            if written < frame {
                if written > 0 {
                    self.partial.extend_from_slice(&frames[at + written..at + frame]);
                }
                break;
            }
            written -= frame;
            at += frame;
            report.consumed_bytes += segment.len();
        }
        self.outgoing = frames;
        report
    }

    fn max_segments(&self) -> usize {
        MAX_SEGMENTS
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(STREAM_PEER)
    }
}

/// What a client or server talks through: a UDP socket, a stream, or both, where the peer's address says which.
#[derive(Debug, Default)]
pub struct Link {
    udp: Option<UdpPipe>,
    stream: Option<StreamPipe>,
}

impl From<UdpPipe> for Link {
    fn from(udp: UdpPipe) -> Self {
        Self { udp: Some(udp), stream: None }
    }
}

impl From<StreamPipe> for Link {
    fn from(stream: StreamPipe) -> Self {
        Self { udp: None, stream: Some(stream) }
    }
}

impl Link {
    /// Takes a stream beside the socket.
    #[must_use]
    pub fn with_stream(self, stream: StreamPipe) -> Self {
        Self { stream: Some(stream), ..self }
    }
}

impl DatagramPipe for Link {
    fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> io::Result<()> {
        if let Some(stream) = &mut self.stream {
            stream.register(registry, token)?;
        }
        self.udp.as_mut().map_or(Ok(()), |udp| udp.register(registry, token))
    }

    fn recv(&mut self, sink: &mut dyn FnMut(Received<'_>)) -> io::Result<RecvReport> {
        let first = self.udp.as_mut().map_or_else(|| Err(ErrorKind::WouldBlock.into()), |udp| udp.recv(sink));
        let Some(stream) = &mut self.stream else { return first };
        let second = stream.recv(sink);
        match (first, second) {
            (Ok(a), Ok(b)) => Ok(RecvReport { bytes: a.bytes + b.bytes, drained: a.drained && b.drained }),
            // An error other than this one is worth a warning, whichever it comes from.
            (Err(a), b) if a.kind() == ErrorKind::WouldBlock => b,
            (a, Err(b)) if b.kind() == ErrorKind::WouldBlock => a,
            (Err(a), _) => Err(a),
            (_, Err(b)) => Err(b),
        }
    }

    fn send(&mut self, train: Train<'_>) -> SendReport {
        match (&mut self.stream, &mut self.udp) {
            (Some(stream), _) if train.remote == STREAM_PEER => stream.send(train),
            (_, Some(udp)) if train.remote != STREAM_PEER => udp.send(train),
            // Nothing leads there: lost.
            _ => SendReport { consumed_bytes: train.bytes.len(), too_large: false },
        }
    }

    fn max_segments(&self) -> usize {
        self.udp.as_ref().map_or(MAX_SEGMENTS, DatagramPipe::max_segments)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.as_ref().map_or(Ok(STREAM_PEER), DatagramPipe::local_addr)
    }
}

#[cfg(test)]
mod tests;
