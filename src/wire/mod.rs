//! Role: the wire format: total encoders and decoders with typed errors, no panics on any input.
//! Owns: nothing.
//! Implements: docs/PROTOCOL.md, "Packets", "Frames", "Control messages".

pub mod buf;
pub mod feedback;
pub mod frame;
pub mod handshake;
pub mod message;
pub mod packet;
mod sync;

#[cfg(test)]
mod tests;

/// Protocol version in every Hello.
pub const VERSION: u8 = 1;
/// First bytes of a Hello after its type, so that captures and firewalls can recognise it.
pub const MAGIC: [u8; 4] = *b"flmr";
/// Length of every connection ID. The first byte is reserved to steer between worker processes.
pub const CID_BYTES: usize = 8;
/// Longest manifest path, bytes (Linux PATH_MAX).
pub const MAX_PATH_BYTES: usize = 4096;
/// Longest symlink target, bytes (Linux PATH_MAX).
pub const MAX_TARGET_BYTES: usize = 4096;
/// Longest error or close text, bytes.
pub const MAX_TEXT_BYTES: usize = 512;
/// Longest client label, bytes.
pub const MAX_LABEL_BYTES: usize = 64;
/// Largest file that rides inside its manifest entry, bytes.
pub const MAX_INLINE_BYTES: usize = 16 * 1024;
/// Largest control message body, bytes: an entry with path, target and inline contents, with room to grow.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Most paths in one GET.
pub const MAX_GET_PATHS: usize = 1024;
/// Most chunk ranges in one HAVE (2 to 16 bytes each); more are sent in further messages.
pub const MAX_HAVE_RANGES: usize = 2048;
/// Largest generation of a chunk's encoding: a chunk that came wrong so often will not come right.
pub const MAX_GENERATION: u32 = 1000;
/// Largest file, bytes: offsets must stay within 62-bit varints.
pub const MAX_FILE_BYTES: u64 = 1 << 60;

/// A connection ID, chosen by the side that receives packets with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cid(pub [u8; CID_BYTES]);

impl std::fmt::Debug for Cid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Why bytes are not a valid packet, frame or message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end too early.
    #[error("truncated")]
    Truncated,
    /// A CRC-32 does not fit.
    #[error("checksum does not fit")]
    Checksum,
    /// A type that this version does not know and cannot skip.
    #[error("unknown type {0:#x}")]
    UnknownType(u64),
    /// A field is out of its bounds; names the field.
    #[error("{0} out of bounds")]
    Bounds(&'static str),
    /// Bytes are left over after the last field.
    #[error("trailing bytes")]
    Trailing,
}
