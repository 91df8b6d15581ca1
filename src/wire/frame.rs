//! Role: frames: the protected payload of a packet.
//! Owns: nothing. Implements: docs/PROTOCOL.md, "Frames".

use super::buf::{Reader, put_bytes, put_varint, varint_len};
use super::feedback::Feedback;
use super::{MAX_FILE_BYTES, MAX_GENERATION, MAX_TEXT_BYTES, WireError};
use crate::transfer::MAX_CHUNK_SIZE;
use crate::transfer::job::ChunkCodec;

const PADDING: u64 = 0x00;
const PING: u64 = 0x01;
const FLOOR: u64 = 0x02;
const FEEDBACK: u64 = 0x03;
const CONTROL: u64 = 0x04;
const CLOSE: u64 = 0x05;
const PATH_CHALLENGE: u64 = 0x06;
const PATH_RESPONSE: u64 = 0x07;
const SEGMENT: u64 = 0x20;
const SEGMENT_MASK: u64 = 0x0f;
const SEG_LENGTH: u64 = 0x01;
const SEG_ENCODED: u64 = 0x02;
const SEG_GENERATION: u64 = 0x04;
const SEG_CRC: u64 = 0x08;
/// From here on, unknown frame types carry a length and can be skipped.
pub const FIRST_EXTENSION: u64 = 0x40;

/// Largest file or chunk number in a segment.
const MAX_ID: u64 = 1 << 48;

/// Part of an encoded chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// File, in the sender's numbering.
    pub file: u64,
    /// Chunk of the file, from 0.
    pub chunk: u64,
    /// Offset into the encoded chunk.
    pub offset: u32,
    /// Generation of the encoding, 0 at first; a re-encoded chunk gets the next one.
    pub generation: u32,
    /// Codec and length of the encoded chunk; `None` for a raw chunk, whose length follows from the file's size.
    pub encoded: Option<(ChunkCodec, u32)>,
    /// CRC-32 of the plain chunk, in the segment that ends it.
    pub crc32: Option<u32>,
    /// The bytes.
    pub data: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Bytes that the frame takes beside its data, without the optional length field.
    pub fn overhead(
        file: u64,
        chunk: u64,
        offset: u32,
        generation: u32,
        encoded: Option<u32>,
        ends: bool,
    ) -> usize {
        1 + varint_len(file)
            + varint_len(chunk)
            + varint_len(offset.into())
            + if generation > 0 { varint_len(generation.into()) } else { 0 }
            + encoded.map_or(0, |n| 1 + varint_len(n.into()))
            + if ends { 4 } else { 0 }
    }

    /// Appends the frame; `last`: nothing follows it in the packet, so that its length is implied.
    pub fn encode(&self, out: &mut Vec<u8>, last: bool) {
        let mut kind = SEGMENT;
        kind |= if last { 0 } else { SEG_LENGTH };
        kind |= if self.encoded.is_some() { SEG_ENCODED } else { 0 };
        kind |= if self.generation > 0 { SEG_GENERATION } else { 0 };
        kind |= if self.crc32.is_some() { SEG_CRC } else { 0 };
        out.push(kind as u8);
        put_varint(out, self.file);
        put_varint(out, self.chunk);
        put_varint(out, self.offset.into());
        if self.generation > 0 {
            put_varint(out, self.generation.into());
        }
        if let Some((codec, bytes)) = self.encoded {
            out.push(codec_to_wire(codec));
            put_varint(out, bytes.into());
        }
        if let Some(crc) = self.crc32 {
            out.extend_from_slice(&crc.to_be_bytes());
        }
        if !last {
            put_varint(out, self.data.len() as u64);
        }
        out.extend_from_slice(self.data);
    }

    fn decode(kind: u64, r: &mut Reader<'a>) -> Result<Self, WireError> {
        let file = r.varint_max(MAX_ID, "file")?;
        let chunk = r.varint_max(MAX_FILE_BYTES, "chunk")?;
        let limit = u64::from(MAX_CHUNK_SIZE);
        let offset = r.varint_max(limit, "offset")? as u32;
        let generation = if kind & SEG_GENERATION != 0 {
            r.varint_max(MAX_GENERATION.into(), "generation")? as u32
        } else {
            0
        };
        let encoded = if kind & SEG_ENCODED != 0 {
            let codec = codec_from_wire(r.u8()?)?;
            Some((codec, r.varint_max(limit, "encoded length")? as u32))
        } else {
            None
        };
        let crc32 = if kind & SEG_CRC != 0 { Some(r.u32()?) } else { None };
        let data = if kind & SEG_LENGTH != 0 {
            r.bytes(MAX_CHUNK_SIZE as usize, "segment length")?
        } else {
            r.take_rest()
        };
        if data.len() as u64 + u64::from(offset) > encoded.map_or(limit, |(_, n)| n.into()) {
            return Err(WireError::Bounds("segment"));
        }
        Ok(Self { file, chunk, offset, generation, encoded, crc32, data })
    }
}

/// The codec's number on the wire.
fn codec_to_wire(codec: ChunkCodec) -> u8 {
    match codec {
        ChunkCodec::Raw => 0,
        ChunkCodec::Lz4 => 1,
        ChunkCodec::Zstd => 2,
    }
}

fn codec_from_wire(b: u8) -> Result<ChunkCodec, WireError> {
    match b {
        1 => Ok(ChunkCodec::Lz4),
        2 => Ok(ChunkCodec::Zstd),
        _ => Err(WireError::Bounds("codec")),
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Nothing, one byte.
    Padding,
    /// Asks for feedback.
    Ping,
    /// The lowest packet number that the sender still tracks, as a distance below this packet's own number, and how often it wants feedback.
    Floor {
        /// This packet's number minus the floor.
        distance: u64,
        /// Feedback after at most so many ack-eliciting packets.
        max_packets: u64,
        /// Feedback after at most so long, microseconds.
        max_delay_us: u64,
    },
    /// What arrived and what is missing.
    Feedback(Feedback<'a>),
    /// Part of the control stream.
    Control {
        /// Offset of the first byte.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// The sender of this frame ends the session.
    Close {
        /// Class, see `CloseCode`.
        code: u64,
        /// One sentence.
        text: &'a [u8],
    },
    /// Address validation of a new path.
    PathChallenge([u8; 8]),
    /// Answer to a challenge, same bytes.
    PathResponse([u8; 8]),
    /// Part of a chunk.
    Segment(Segment<'a>),
    /// An unknown extension, skipped.
    Extension(u64),
}

/// Classes of Close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CloseCode {
    /// The request is done.
    Done = 0,
    /// Stopped by a signal or shutdown.
    Interrupted = 1,
    /// The peer broke the protocol.
    Protocol = 2,
    /// A limit or a policy of this side.
    Refused = 3,
    /// Gave up on a segment (`--max-retries`).
    GaveUp = 4,
}

impl<'a> Frame<'a> {
    /// Appends the frame. A segment is written with its length, so that anything may follow.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Padding => out.push(PADDING as u8),
            Self::Ping => out.push(PING as u8),
            Self::Floor { distance, max_packets, max_delay_us } => {
                out.push(FLOOR as u8);
                put_varint(out, *distance);
                put_varint(out, *max_packets);
                put_varint(out, *max_delay_us);
            }
            Self::Feedback(f) => {
                out.push(FEEDBACK as u8);
                f.encode(out);
            }
            Self::Control { offset, data } => {
                out.push(CONTROL as u8);
                put_varint(out, *offset);
                put_bytes(out, data);
            }
            Self::Close { code, text } => {
                out.push(CLOSE as u8);
                put_varint(out, *code);
                put_bytes(out, &text[..text.len().min(MAX_TEXT_BYTES)]);
            }
            Self::PathChallenge(b) => {
                out.push(PATH_CHALLENGE as u8);
                out.extend_from_slice(b);
            }
            Self::PathResponse(b) => {
                out.push(PATH_RESPONSE as u8);
                out.extend_from_slice(b);
            }
            Self::Segment(s) => s.encode(out, false),
            Self::Extension(kind) => {
                put_varint(out, (*kind).max(FIRST_EXTENSION));
                put_varint(out, 0);
            }
        }
    }

    /// The next frame of a payload.
    pub fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(match r.varint()? {
            PADDING => Self::Padding,
            PING => Self::Ping,
            FLOOR => {
                Self::Floor { distance: r.varint()?, max_packets: r.varint()?, max_delay_us: r.varint()? }
            }
            FEEDBACK => Self::Feedback(Feedback::decode(r)?),
            CONTROL => {
                let offset = r.varint_max(MAX_FILE_BYTES, "control offset")?;
                Self::Control { offset, data: r.bytes(usize::from(u16::MAX), "control length")? }
            }
            CLOSE => Self::Close { code: r.varint()?, text: r.bytes(MAX_TEXT_BYTES, "close text")? },
            PATH_CHALLENGE => Self::PathChallenge(r.array()?),
            PATH_RESPONSE => Self::PathResponse(r.array()?),
            kind if kind & !SEGMENT_MASK == SEGMENT => Self::Segment(Segment::decode(kind, r)?),
            kind if kind >= FIRST_EXTENSION => {
                r.bytes(usize::from(u16::MAX), "extension length")?;
                Self::Extension(kind)
            }
            kind => return Err(WireError::UnknownType(kind)),
        })
    }

    /// Whether a packet with this frame asks for feedback.
    pub fn is_ack_eliciting(&self) -> bool {
        !matches!(self, Self::Padding | Self::Feedback(_) | Self::Close { .. } | Self::Floor { .. })
    }
}
