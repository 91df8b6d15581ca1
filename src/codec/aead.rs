//! Role: packet protection: AES-128-GCM, or a CRC-32 with `--insecure`.
//! Owns: one direction's keys of one generation, and the secret from which the next generation follows.
//! Implements: docs/PROTOCOL.md, "Packet protection".
//!
//! AES-128-GCM as RFC 9001 section 5.3 uses it: the nonce is the direction's 12-byte IV, its last 8 bytes xored
//! with the packet number in network order; the header is associated data. The caller never seals two different
//! packets under one number and generation: that is what the nonce's uniqueness rests on.
//!
//! In a session without encryption the tag is the CRC-32 (ISO-HDLC, the one of zlib) of packet number (8 bytes,
//! network order), header and payload, in network order. The number is covered whole, so that a truncated
//! number that was expanded wrongly is caught, as it is by the AEAD's nonce.

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;
use zeroize::Zeroizing;

/// Bytes that protection adds to a packet: an AEAD tag, or a CRC-32.
pub const AEAD_TAG_BYTES: usize = 16;
/// See `AEAD_TAG_BYTES`.
pub const CRC_TAG_BYTES: usize = 4;
/// Packets that one generation of keys may seal (RFC 9001 section 6.6, AES-GCM; holds for packets of up to
/// 64 KiB, appendix B.1). The sender moves to the next generation before.
pub const CONFIDENTIALITY_LIMIT: u64 = 1 << 23;
/// Packets, over all generations of a session, that may fail to open before the session has to end (RFC 9001
/// section 6.6, AES-128-GCM).
pub const INTEGRITY_LIMIT: u64 = 1 << 52;

/// Bytes of an AES-128 key.
const KEY_BYTES: usize = 16;
/// Bytes of a GCM nonce (NIST SP 800-38D).
const IV_BYTES: usize = 12;
/// Bytes of a direction's secret: the output size of HKDF's SHA-256.
pub const SECRET_BYTES: usize = 32;

const LABEL_KEY: &[u8] = b"fulmar1 key";
const LABEL_IV: &[u8] = b"fulmar1 iv";
const LABEL_UPDATE: &[u8] = b"fulmar1 update";

/// A packet's tag does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packet protection does not fit")]
pub struct OpenError;

/// What goes behind a sealed payload; 16 bytes (AEAD) or 4 (CRC-32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    bytes: [u8; AEAD_TAG_BYTES],
    len: usize,
}

impl Tag {
    fn new(tag: &[u8]) -> Self {
        let mut bytes = [0; AEAD_TAG_BYTES];
        bytes[..tag.len()].copy_from_slice(tag);
        Self { bytes, len: tag.len() }
    }
}

impl AsRef<[u8]> for Tag {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// One direction's keys of one generation. The same keys seal on one side and open on the other.
pub struct PacketKeys {
    protection: Protection,
}

enum Protection {
    Aead(Box<AeadKeys>),
    Crc,
}

/// `ring` keeps the expanded AES key and does not wipe it; secret and IV are wiped.
struct AeadKeys {
    key: LessSafeKey,
    iv: Zeroizing<[u8; IV_BYTES]>,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
}

impl std::fmt::Debug for PacketKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.protection {
            Protection::Aead(_) => "PacketKeys(Aead ..)",
            Protection::Crc => "PacketKeys(Crc)",
        })
    }
}

impl PacketKeys {
    /// AES-128-GCM keys from a direction's secret: HKDF-SHA256-Expand with the labels `fulmar1 key` (16 bytes) and
    /// `fulmar1 iv` (12 bytes).
    pub fn from_secret(secret: &[u8; SECRET_BYTES]) -> Self {
        let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret);
        let key: Zeroizing<[u8; KEY_BYTES]> = expand(&prk, LABEL_KEY);
        let key = UnboundKey::new(&AES_128_GCM, &*key).expect("the key has the cipher's length");
        Self {
            protection: Protection::Aead(Box::new(AeadKeys {
                key: LessSafeKey::new(key),
                iv: expand(&prk, LABEL_IV),
                secret: Zeroizing::new(*secret),
            })),
        }
    }

    /// No encryption: a CRC-32 behind every packet.
    pub fn crc() -> Self {
        Self { protection: Protection::Crc }
    }

    /// The keys after a key update: those of `HKDF-Expand(secret, "fulmar1 update", 32)`. A CRC stays a CRC.
    pub fn next_generation(&self) -> Self {
        match &self.protection {
            Protection::Aead(aead) => {
                let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &*aead.secret);
                Self::from_secret(&expand(&prk, LABEL_UPDATE))
            }
            Protection::Crc => Self::crc(),
        }
    }

    /// The same keys once more.
    pub(super) fn same_generation(&self) -> Self {
        match &self.protection {
            Protection::Aead(aead) => Self::from_secret(&aead.secret),
            Protection::Crc => Self::crc(),
        }
    }

    /// True for AES-128-GCM, false for a CRC-32.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.protection, Protection::Aead(_))
    }

    /// The secret from which these keys follow; `None` for a CRC-32. For key logs only.
    pub(super) fn secret(&self) -> Option<&[u8; SECRET_BYTES]> {
        match &self.protection {
            Protection::Aead(aead) => Some(&*aead.secret),
            Protection::Crc => None,
        }
    }

    /// Bytes that sealing adds.
    pub fn tag_bytes(&self) -> usize {
        match self.protection {
            Protection::Aead(_) => AEAD_TAG_BYTES,
            Protection::Crc => CRC_TAG_BYTES,
        }
    }

    /// Seals `buf[payload_start..]` in place and appends the tag. `number` is the whole packet number, `header`
    /// the header's bytes as they go on the wire.
    pub fn seal(&self, number: u64, header: &[u8], buf: &mut Vec<u8>, payload_start: usize) {
        let tag = self.seal_in_place(number, header, &mut buf[payload_start..]);
        buf.extend_from_slice(tag.as_ref());
    }

    /// As `seal`, for a packet whose header stands in the same buffer, at `buf[packet_start..payload_start]`;
    /// what is before (earlier packets of a GSO batch) stays as it is.
    pub fn seal_packet(&self, number: u64, buf: &mut Vec<u8>, packet_start: usize, payload_start: usize) {
        let (before, payload) = buf.split_at_mut(payload_start);
        let tag = self.seal_in_place(number, &before[packet_start..], payload);
        buf.extend_from_slice(tag.as_ref());
    }

    /// Seals `payload` in place and returns the tag that goes behind it.
    pub fn seal_in_place(&self, number: u64, header: &[u8], payload: &mut [u8]) -> Tag {
        match &self.protection {
            Protection::Aead(aead) => {
                let tag = aead
                    .key
                    .seal_in_place_separate_tag(aead.nonce(number), Aad::from(header), payload)
                    .expect("a datagram is far below GCM's 64 GiB");
                Tag::new(tag.as_ref())
            }
            Protection::Crc => Tag::new(&crc_tag(number, header, payload)),
        }
    }

    /// Opens `sealed` (payload and tag) in place and returns the payload. Constant time in the AEAD's tag.
    ///
    /// # Errors
    /// `OpenError` when the tag does not fit number, header and payload, or `sealed` is shorter than a tag. Then
    /// the contents of `sealed` are of no use any more.
    pub fn open<'a>(
        &self,
        number: u64,
        header: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        match &self.protection {
            Protection::Aead(aead) => {
                aead.key.open_in_place(aead.nonce(number), Aad::from(header), sealed).map_err(|_| OpenError)
            }
            Protection::Crc => {
                let payload_len = sealed.len().checked_sub(CRC_TAG_BYTES).ok_or(OpenError)?;
                let (payload, tag) = sealed.split_at_mut(payload_len);
                let fits = crc_tag(number, header, payload) == *tag || crate::planted("no_packet_crc");
                if fits { Ok(payload) } else { Err(OpenError) }
            }
        }
    }
}

impl AeadKeys {
    /// RFC 9001 section 5.3.
    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = *self.iv;
        for (byte, n) in nonce[IV_BYTES - 8..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= n;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

fn crc_tag(number: u64, header: &[u8], payload: &[u8]) -> [u8; CRC_TAG_BYTES] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&number.to_be_bytes());
    crc.update(header);
    crc.update(payload);
    crc.finalize().to_be_bytes()
}

/// HKDF-SHA256-Expand (RFC 5869 section 2.3) to `N` bytes; the label is the whole of `info`.
pub(super) fn expand<const N: usize>(prk: &hkdf::Prk, label: &[u8]) -> Zeroizing<[u8; N]> {
    struct Len(usize);
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut out = Zeroizing::new([0; N]);
    prk.expand(&[label], Len(N))
        .and_then(|okm| okm.fill(&mut *out))
        .expect("HKDF-SHA256 gives up to 255 * 32 bytes, more than any N here");
    out
}

#[cfg(test)]
mod tests;
