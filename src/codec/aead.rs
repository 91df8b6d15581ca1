//! Role: packet protection: AES-128-GCM, or a CRC-32 with `--insecure`.
//! Owns: one direction's keys, current and next.

/// Bytes that protection adds to a packet: an AEAD tag, or a CRC-32.
pub const AEAD_TAG_BYTES: usize = 16;
/// See `AEAD_TAG_BYTES`.
pub const CRC_TAG_BYTES: usize = 4;

/// A packet's tag does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packet protection does not fit")]
pub struct OpenError;
