//! Role: Hello, Reply, Retry and Reject packets and the parameters inside them.
//! Owns: nothing. Implements: docs/PROTOCOL.md, "Handshake packets".

use super::buf::{Reader, put_bytes, put_varint};
use super::packet::{TYPE_HELLO, TYPE_REJECT, TYPE_REPLY, TYPE_RETRY, append_trailer, strip_trailer};
use super::{Cid, MAGIC, MAX_TEXT_BYTES, VERSION, WireError};

/// Bytes of a SPAKE2 share (or of random bytes with `--insecure`).
pub const SHARE_BYTES: usize = 32;
/// Bytes of an address-validation cookie.
pub const COOKIE_BYTES: usize = 16;
/// Every peer accepts UDP payloads of this size: 1,280 bytes, the least IPv6 MTU, less 48 of headers.
pub const MIN_DATAGRAM_BYTES: u64 = 1232;
/// Most bytes of encoded parameters that are read.
pub const MAX_PARAMS_BYTES: usize = 512;

/// How packets are protected; negotiated by equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Security {
    /// CRC-32 only (`--insecure`).
    Insecure = 0,
    /// SPAKE2, then AES-128-GCM.
    Aes128Gcm = 1,
}

impl Security {
    fn from_wire(b: u8) -> Result<Self, WireError> {
        match b {
            0 => Ok(Self::Insecure),
            1 => Ok(Self::Aes128Gcm),
            _ => Err(WireError::Bounds("security")),
        }
    }
}

/// What each side tells the other at set-up. Unknown parameters are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// The session ends after so long without a packet; the smaller of both counts.
    pub idle_timeout_ms: u64,
    /// Largest UDP payload that this side accepts.
    pub max_datagram_bytes: u64,
    /// Control-stream bytes that the peer may send at first.
    pub control_credit_bytes: u64,
    /// Segment bytes that the peer may have in flight at first.
    pub receive_window_bytes: u64,
    /// Optional features, a bit each: `FEATURE_ZSTD`, `FEATURE_SYNC`, `FEATURE_STREAM`. Unknown bits mean nothing.
    pub features: u64,
}

/// Feature bit 0: this side decodes zstd chunks.
pub const FEATURE_ZSTD: u64 = 1;
/// Feature bit 1: this side understands OPTIONS, OFFER, UNCHANGED and WANT.
pub const FEATURE_SYNC: u64 = 1 << 1;
/// Feature bit 2: this side takes files whose size is known only at their end.
pub const FEATURE_STREAM: u64 = 1 << 2;

const PARAM_IDLE_TIMEOUT: u64 = 1;
const PARAM_MAX_DATAGRAM: u64 = 2;
const PARAM_CONTROL_CREDIT: u64 = 3;
const PARAM_RECEIVE_WINDOW: u64 = 4;
const PARAM_FEATURES: u64 = 5;

impl Params {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut list = Vec::with_capacity(32);
        for (id, value) in [
            (PARAM_IDLE_TIMEOUT, self.idle_timeout_ms),
            (PARAM_MAX_DATAGRAM, self.max_datagram_bytes),
            (PARAM_CONTROL_CREDIT, self.control_credit_bytes),
            (PARAM_RECEIVE_WINDOW, self.receive_window_bytes),
            (PARAM_FEATURES, self.features),
        ] {
            put_varint(&mut list, id);
            let mut v = Vec::with_capacity(8);
            put_varint(&mut v, value);
            put_bytes(&mut list, &v);
        }
        put_bytes(out, &list);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut list = Reader::new(r.bytes(MAX_PARAMS_BYTES, "parameters")?);
        let mut p = Self {
            idle_timeout_ms: 60_000,
            max_datagram_bytes: MIN_DATAGRAM_BYTES,
            control_credit_bytes: 0,
            receive_window_bytes: 0,
            features: 0,
        };
        while !list.is_empty() {
            let id = list.varint()?;
            let mut value = Reader::new(list.bytes(MAX_PARAMS_BYTES, "parameter")?);
            let field = match id {
                PARAM_IDLE_TIMEOUT => &mut p.idle_timeout_ms,
                PARAM_MAX_DATAGRAM => &mut p.max_datagram_bytes,
                PARAM_CONTROL_CREDIT => &mut p.control_credit_bytes,
                PARAM_RECEIVE_WINDOW => &mut p.receive_window_bytes,
                PARAM_FEATURES => &mut p.features,
                _ => continue,
            };
            *field = value.varint()?;
            value.end()?;
        }
        if p.max_datagram_bytes < MIN_DATAGRAM_BYTES {
            return Err(WireError::Bounds("max_datagram_bytes"));
        }
        Ok(p)
    }
}

/// Client to server: the first packet of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version wished for; a server answers an unknown one with a Reject.
    pub version: u8,
    /// Connection ID for packets to the client.
    pub client_cid: Cid,
    /// Protection wished for.
    pub security: Security,
    /// SPAKE2 share X.
    pub share: [u8; SHARE_BYTES],
    /// The client's parameters.
    pub params: Params,
    /// Which copy of the Hello this is, from 0; not part of the transcript. The Reply returns it, so that the round-trip time of a
    /// repeated Hello is known exactly.
    pub attempt: u8,
    /// The cookie of a Retry, if there was one; not part of the transcript.
    pub cookie: Option<[u8; COOKIE_BYTES]>,
}

impl Hello {
    /// The part that the transcript covers: everything but attempt, cookie and trailer.
    pub fn core(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.push(TYPE_HELLO);
        out.extend_from_slice(&MAGIC);
        out.push(self.version);
        out.extend_from_slice(&self.client_cid.0);
        out.push(self.security as u8);
        out.extend_from_slice(&self.share);
        self.params.encode(&mut out);
        out
    }

    /// The whole packet.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.core();
        out.push(self.attempt);
        put_bytes(&mut out, self.cookie.as_ref().map_or(&[][..], |c| &c[..]));
        append_trailer(&mut out, 0);
        out
    }

    /// Decodes a packet; returns the transcript part too. The version is not judged here, so that the server can say which it speaks;
    /// what follows the version is only read when the version is ours.
    pub fn decode(packet: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let body = strip_trailer(packet)?;
        let mut r = Reader::new(body);
        if r.u8()? != TYPE_HELLO || r.array()? != MAGIC {
            return Err(WireError::UnknownType(packet.first().copied().unwrap_or(0).into()));
        }
        let version = r.u8()?;
        let client_cid = Cid(r.array()?);
        if version != VERSION {
            return Err(WireError::Bounds("version"));
        }
        let security = Security::from_wire(r.u8()?)?;
        let share = r.array()?;
        let params = Params::decode(&mut r)?;
        let core = &body[..body.len() - r.remaining()];
        let attempt = r.u8()?;
        let cookie = r.bytes(COOKIE_BYTES, "cookie")?;
        let cookie = match cookie.len() {
            0 => None,
            _ => Some(cookie.try_into().map_err(|_| WireError::Bounds("cookie"))?),
        };
        r.end()?;
        Ok((Self { version, client_cid, security, share, params, attempt, cookie }, core))
    }

    /// The client's connection ID in a Hello of another version, to answer it. The fields up to it never change.
    pub fn cid_of_any_version(packet: &[u8]) -> Option<(u8, Cid)> {
        let mut r = Reader::new(strip_trailer(packet).ok()?);
        (r.u8().ok()? == TYPE_HELLO && r.array().ok()? == MAGIC).then_some(())?;
        Some((r.u8().ok()?, Cid(r.array().ok()?)))
    }
}

/// Server to client: the answer to a Hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The client's connection ID.
    pub client_cid: Cid,
    /// Connection ID for packets to the server.
    pub server_cid: Cid,
    /// SPAKE2 share Y.
    pub share: [u8; SHARE_BYTES],
    /// The server's parameters.
    pub params: Params,
    /// `attempt` of the Hello that this answers; not part of the transcript.
    pub attempt: u8,
}

impl Reply {
    /// The part that the transcript covers: everything but attempt and trailer.
    pub fn core(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.push(TYPE_REPLY);
        out.extend_from_slice(&self.client_cid.0);
        out.extend_from_slice(&self.server_cid.0);
        out.extend_from_slice(&self.share);
        self.params.encode(&mut out);
        out
    }

    /// The whole packet.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.core();
        out.push(self.attempt);
        append_trailer(&mut out, 0);
        out
    }

    /// Decodes a packet; returns the transcript part too.
    pub fn decode(packet: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let body = strip_trailer(packet)?;
        let mut r = Reader::new(body);
        let first = r.u8()?;
        if first != TYPE_REPLY {
            return Err(WireError::UnknownType(first.into()));
        }
        let (client_cid, server_cid, share) = (Cid(r.array()?), Cid(r.array()?), r.array()?);
        let params = Params::decode(&mut r)?;
        let core = &body[..body.len() - r.remaining()];
        let attempt = r.u8()?;
        r.end()?;
        Ok((Self { client_cid, server_cid, share, params, attempt }, core))
    }
}

/// Server to client, under load: repeat the Hello with this cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The client's connection ID.
    pub client_cid: Cid,
    /// To be copied into the next Hello.
    pub cookie: [u8; COOKIE_BYTES],
}

impl Retry {
    /// The whole packet.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![TYPE_RETRY];
        out.extend_from_slice(&self.client_cid.0);
        out.extend_from_slice(&self.cookie);
        append_trailer(&mut out, 0);
        out
    }

    /// Decodes a packet.
    pub fn decode(packet: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(strip_trailer(packet)?);
        let first = r.u8()?;
        if first != TYPE_RETRY {
            return Err(WireError::UnknownType(first.into()));
        }
        let retry = Self { client_cid: Cid(r.array()?), cookie: r.array()? };
        r.end()?;
        Ok(retry)
    }
}

/// Why a server refuses a session before it has keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RejectCode {
    /// The confirmation does not fit: the keys differ.
    WrongKey = 1,
    /// The server encrypts and the Hello does not, or the other way round.
    Security = 2,
    /// The server does not speak this version.
    Version = 3,
    /// Too many sessions.
    Busy = 4,
}

/// Server to client: no. Not authenticated, so the client gives a valid packet a moment to contradict it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The client's connection ID.
    pub client_cid: Cid,
    /// The class.
    pub code: RejectCode,
    /// One sentence.
    pub text: String,
}

impl Reject {
    /// The whole packet.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![TYPE_REJECT];
        out.extend_from_slice(&self.client_cid.0);
        out.push(self.code as u8);
        put_bytes(&mut out, &self.text.as_bytes()[..self.text.len().min(MAX_TEXT_BYTES)]);
        append_trailer(&mut out, 0);
        out
    }

    /// Decodes a packet.
    pub fn decode(packet: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(strip_trailer(packet)?);
        let first = r.u8()?;
        if first != TYPE_REJECT {
            return Err(WireError::UnknownType(first.into()));
        }
        let client_cid = Cid(r.array()?);
        use RejectCode::*;
        let code = r.u8()?;
        let code = [WrongKey, Security, Version, Busy].into_iter().find(|c| *c as u8 == code);
        let code = code.ok_or(WireError::Bounds("reject code"))?;
        let text = String::from_utf8_lossy(r.bytes(MAX_TEXT_BYTES, "text")?).into_owned();
        r.end()?;
        Ok(Self { client_cid, code, text })
    }
}
