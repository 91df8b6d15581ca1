//! Role: packet headers: the part of a datagram before the protected payload.
//! Owns: nothing. Implements: docs/PROTOCOL.md, "Packets".

use super::{CID_BYTES, Cid, WireError, buf::Reader};

/// First byte of a Hello (client to server).
pub const TYPE_HELLO: u8 = 0xf0;
/// First byte of a Reply (server to client).
pub const TYPE_REPLY: u8 = 0xf1;
/// First byte of a Retry (server to client): come again with this cookie.
pub const TYPE_RETRY: u8 = 0xf2;
/// First byte of a Reject (server to client).
pub const TYPE_REJECT: u8 = 0xf3;
/// First byte of a Confirm: protected, with the key confirmation in its header.
pub const TYPE_CONFIRM: u8 = 0xf4;
/// First byte of a Data packet; bit 0 is the key phase.
pub const TYPE_DATA: u8 = 0x40;

/// Bytes of a Data header: type, connection ID, packet number.
pub const DATA_HEADER_BYTES: usize = 1 + CID_BYTES + 4;
/// Bytes of the key confirmation in a Confirm header.
pub const CONFIRM_BYTES: usize = 16;
/// Bytes of a Confirm header: a Data header and the confirmation.
pub const CONFIRM_HEADER_BYTES: usize = DATA_HEADER_BYTES + CONFIRM_BYTES;
/// Bytes of the CRC-32 at the end of handshake packets and Confirms.
pub const TRAILER_BYTES: usize = 4;

/// The header of a protected packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtectedHeader {
    /// Destination connection ID.
    pub cid: Cid,
    /// Lowest 32 bits of the packet number.
    pub truncated_number: u32,
    /// Key phase bit (always false in a Confirm).
    pub key_phase: bool,
    /// The key confirmation, in a Confirm.
    pub confirm: Option<[u8; CONFIRM_BYTES]>,
}

impl ProtectedHeader {
    /// Appends the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(if self.confirm.is_some() { TYPE_CONFIRM } else { TYPE_DATA | u8::from(self.key_phase) });
        out.extend_from_slice(&self.cid.0);
        out.extend_from_slice(&self.truncated_number.to_be_bytes());
        if let Some(c) = &self.confirm {
            out.extend_from_slice(c);
        }
    }

    /// Reads the header of a Data packet or a Confirm (whose trailer was checked and removed); returns its length too.
    pub fn decode(packet: &[u8]) -> Result<(Self, usize), WireError> {
        let mut r = Reader::new(packet);
        let first = r.u8()?;
        let confirmed = match first {
            TYPE_CONFIRM => true,
            b if b & !1 == TYPE_DATA => false,
            b => return Err(WireError::UnknownType(b.into())),
        };
        let (cid, truncated_number) = (Cid(r.array()?), r.u32()?);
        let confirm = if confirmed { Some(r.array()?) } else { None };
        let header = Self { cid, truncated_number, key_phase: !confirmed && first & 1 == 1, confirm };
        Ok((header, packet.len() - r.remaining()))
    }
}

/// Appends the CRC-32 of everything before it.
pub fn append_trailer(packet: &mut Vec<u8>, start: usize) {
    let crc = crc32fast::hash(&packet[start..]);
    packet.extend_from_slice(&crc.to_be_bytes());
}

/// Checks and removes the CRC-32 trailer.
pub fn strip_trailer(packet: &[u8]) -> Result<&[u8], WireError> {
    let (body, crc) = packet.split_last_chunk::<TRAILER_BYTES>().ok_or(WireError::Truncated)?;
    if crc32fast::hash(body) == u32::from_be_bytes(*crc) { Ok(body) } else { Err(WireError::Checksum) }
}

/// The full packet number nearest to `expected` (largest received + 1) with these low 32 bits (RFC 9000, appendix A.3).
pub fn expand_number(expected: u64, truncated: u32) -> u64 {
    const WINDOW: u64 = 1 << 32;
    let candidate = expected & !(WINDOW - 1) | u64::from(truncated);
    if candidate + WINDOW / 2 <= expected && candidate < (1 << 62) - WINDOW {
        candidate + WINDOW
    } else if candidate > expected + WINDOW / 2 && candidate >= WINDOW {
        candidate - WINDOW
    } else {
        candidate
    }
}
