//! Role: SPAKE2, transcript, key schedule and address-validation cookies. Pure: entropy is an argument.
//! Owns: the secret state of one handshake; the key of a server's cookies.
//! Implements: docs/PROTOCOL.md, "Handshake".
//!
//! The exchange is SPAKE2 over Ed25519 as the `spake2` crate and Python's `spake2` package speak it (same M, N,
//! scalar derivation and transcript), client in the role A, server in the role B:
//!
//! ```text
//! client: share X = x*B + pw*M        server: share Y = y*B + pw*N
//! K = 32 bytes that both get only if both used the same password
//! T = SHA-256(len(hello) hello len(reply) reply)            len: 4 bytes, network order
//! prk = HKDF-Extract(salt = T, ikm = K)
//! client secret, server secret = HKDF-Expand(prk, "fulmar1 client" | "fulmar1 server", 32)
//! confirm = HMAC-SHA256(HKDF-Expand(prk, "fulmar1 confirm", 32), T), its first 16 bytes
//! ```
//!
//! The client sends `confirm` with its first packets; a server sends nothing that is sealed under these keys before
//! it has seen the confirmation, so that every guess at a password costs an exchange that the server counts.

use super::aead::{PacketKeys, SECRET_BYTES, expand};
use crate::endpoint::config::Secret;
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::traits::IsIdentity;
use ring::{hkdf, hmac};
use sha2::{Digest, Sha256};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use std::net::{IpAddr, SocketAddr};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of a share: a compressed Ed25519 point, or random bytes without encryption.
pub const SHARE_BYTES: usize = 32;
/// Bytes of entropy for one handshake: `spake2` reduces 512 bits to a scalar, which leaves no measurable bias.
pub const ENTROPY_BYTES: usize = 64;
/// Bytes of the client's confirmation: a forger's chance of 2^-128 is that of an AEAD tag.
pub const CONFIRM_BYTES: usize = 16;
/// Bytes of a cookie.
pub const COOKIE_BYTES: usize = 16;

const IDENTITY_CLIENT: &[u8] = b"fulmar client 1";
const IDENTITY_SERVER: &[u8] = b"fulmar server 1";
/// The side bytes that the crate puts before a share. The packet type says the same, so they stay off the wire.
const SIDE_A: u8 = b'A';
const SIDE_B: u8 = b'B';

const LABEL_CLIENT: &[u8] = b"fulmar1 client";
const LABEL_SERVER: &[u8] = b"fulmar1 server";
const LABEL_CONFIRM: &[u8] = b"fulmar1 confirm";

/// A share that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not the canonical encoding of a point of the prime-order group, or the neutral element.
    #[error("the peer's handshake share is not valid")]
    BadShare,
    /// The peer sent our own share back.
    #[error("the peer sent our own handshake share back")]
    Reflected,
}

/// The client's share, for its hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientShare(pub [u8; SHARE_BYTES]);

/// The server's share, for its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerShare(pub [u8; SHARE_BYTES]);

/// A client between hello and reply.
///
/// `spake2` does not wipe its copies of password and scalar, so it gets them for one computation at a time; what is kept here is
/// wiped. It can be finished with more than one share: a Reply is not authenticated.
pub struct ClientHandshake {
    share: ClientShare,
    secret: Secret,
    entropy: Zeroizing<[u8; ENTROPY_BYTES]>,
}

impl std::fmt::Debug for ClientHandshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientHandshake").field("share", &self.share).finish_non_exhaustive()
    }
}

impl ClientHandshake {
    /// Starts a handshake. The entropy must be fresh from the system's generator and used for nothing else.
    /// Without encryption the share is the first 32 bytes of it.
    pub fn new(secret: &Secret, entropy: &[u8; ENTROPY_BYTES]) -> (Self, ClientShare) {
        let share = ClientShare(match secret {
            Secret::Key(password) => without_side(&start_client(password, entropy).1, SIDE_A),
            Secret::Insecure => insecure_share(entropy),
        });
        (Self { share, secret: secret.clone(), entropy: Zeroizing::new(*entropy) }, share)
    }

    /// What the server's share makes of it. A wrong password is not noticed here: then keys and confirmation differ.
    ///
    /// # Errors
    /// `HandshakeError` when the share is unusable.
    pub fn finish(&self, server_share: &ServerShare) -> Result<Shared, HandshakeError> {
        if server_share.0 == self.share.0 {
            return Err(HandshakeError::Reflected);
        }
        match &self.secret {
            Secret::Key(password) => {
                finish_spake(start_client(password, &self.entropy).0, SIDE_B, &server_share.0)
            }
            Secret::Insecure => Ok(Shared::insecure(&self.share, server_share)),
        }
    }
}

fn start_client(password: &[u8], entropy: &[u8; ENTROPY_BYTES]) -> (Spake2<Ed25519Group>, Vec<u8>) {
    let (a, b) = (Identity::new(IDENTITY_CLIENT), Identity::new(IDENTITY_SERVER));
    Spake2::start_a_with_rng(&Password::new(password), &a, &b, &mut OneDraw::new(entropy))
}

/// The server's part, which is over within one call.
#[derive(Clone, Copy, Debug)]
pub struct ServerHandshake;

impl ServerHandshake {
    /// Answers a client's share. The entropy must be fresh from the system's generator and used for nothing else.
    /// Costs the server a few scalar multiplications, so it comes after address validation under load.
    ///
    /// # Errors
    /// `HandshakeError` when the share is unusable; found out before anything is drawn or computed.
    pub fn respond(
        secret: &Secret,
        entropy: &[u8; ENTROPY_BYTES],
        client_share: &ClientShare,
    ) -> Result<(ServerShare, Shared), HandshakeError> {
        let Secret::Key(password) = secret else {
            let share = ServerShare(insecure_share(entropy));
            if share.0 == client_share.0 {
                return Err(HandshakeError::Reflected);
            }
            return Ok((share, Shared::insecure(client_share, &share)));
        };
        check_share(&client_share.0)?;
        let (a, b) = (Identity::new(IDENTITY_CLIENT), Identity::new(IDENTITY_SERVER));
        let mut rng = OneDraw::new(entropy);
        let (spake, message) =
            Spake2::start_b_with_rng(&Password::new(password.as_slice()), &a, &b, &mut rng);
        let share = ServerShare(without_side(&message, SIDE_B));
        if share.0 == client_share.0 {
            return Err(HandshakeError::Reflected);
        }
        Ok((share, finish_spake(spake, SIDE_A, &client_share.0)?))
    }
}

/// What both sides share after the two shares were exchanged.
pub struct Shared(Ikm);

enum Ikm {
    Spake(Zeroizing<[u8; 32]>),
    /// Both shares, the client's first: no secret at all, but both ends can tell that they speak of one session.
    Insecure([u8; 2 * SHARE_BYTES]),
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Ikm::Spake(_) => "Shared(Spake ..)",
            Ikm::Insecure(_) => "Shared(Insecure)",
        })
    }
}

impl Shared {
    fn insecure(client: &ClientShare, server: &ServerShare) -> Self {
        let mut ikm = [0; 2 * SHARE_BYTES];
        ikm[..SHARE_BYTES].copy_from_slice(&client.0);
        ikm[SHARE_BYTES..].copy_from_slice(&server.0);
        Self(Ikm::Insecure(ikm))
    }

    /// The key schedule (see the module's head), over the transcript of hello and reply.
    pub fn keys(&self, transcript: &Transcript) -> SessionKeys {
        let hash = transcript.hash();
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &hash);
        let prk = salt.extract(match &self.0 {
            Ikm::Spake(output) => &output[..],
            Ikm::Insecure(shares) => &shares[..],
        });
        let direction = |label| match self.0 {
            Ikm::Spake(_) => PacketKeys::from_secret(&expand::<SECRET_BYTES>(&prk, label)),
            Ikm::Insecure(_) => PacketKeys::crc(),
        };
        let confirm_key: Zeroizing<[u8; SECRET_BYTES]> = expand(&prk, LABEL_CONFIRM);
        SessionKeys {
            client: direction(LABEL_CLIENT),
            server: direction(LABEL_SERVER),
            confirm: truncated_hmac(&hmac::Key::new(hmac::HMAC_SHA256, &*confirm_key), &hash),
        }
    }
}

/// The keys of a session, the same on both sides when the passwords and the transcripts are.
pub struct SessionKeys {
    /// Protects what the client sends.
    pub client: PacketKeys,
    /// Protects what the server sends.
    pub server: PacketKeys,
    /// What the client shows to prove that it knows the password.
    pub confirm: [u8; CONFIRM_BYTES],
}

impl std::fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionKeys")
            .field("client", &self.client)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl SessionKeys {
    /// Compares a confirmation with the expected one, in constant time.
    pub fn confirm_matches(&self, confirm: &[u8]) -> bool {
        self.confirm.ct_eq(confirm).into()
    }
}

/// SHA-256 over the handshake's messages exactly as they were on the wire, each after its length (4 bytes,
/// network order): hello, then reply.
#[derive(Clone, Debug, Default)]
pub struct Transcript(Sha256);

impl Transcript {
    /// Nothing said yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one message, which is one datagram or a part of it.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // `+` would say less than the word.
    pub fn add(mut self, message: &[u8]) -> Self {
        let len = u32::try_from(message.len()).expect("a handshake message fits one datagram");
        self.0.update(len.to_be_bytes());
        self.0.update(message);
        self
    }

    /// The hash of what was added so far.
    pub fn hash(&self) -> [u8; 32] {
        self.0.clone().finalize().into()
    }
}

/// A server's key for cookies: with it, an address is validated without keeping anything per hello. Made from
/// system entropy at start; nothing in a cookie depends on the password.
pub struct CookieKey(hmac::Key);

impl std::fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieKey(..)")
    }
}

impl CookieKey {
    /// A key from fresh system entropy.
    pub fn new(entropy: [u8; 32]) -> Self {
        let entropy = Zeroizing::new(entropy);
        Self(hmac::Key::new(hmac::HMAC_SHA256, &*entropy))
    }

    /// The cookie for a hello with this share from this address, in the time bucket `epoch` (a counter that the
    /// caller advances every so many seconds).
    pub fn mint(&self, addr: SocketAddr, client_share: &[u8], epoch: u64) -> [u8; COOKIE_BYTES] {
        // Family, address, port, epoch: of fixed length for each family, so that the share can follow as it is.
        let mut input = Vec::with_capacity(1 + 16 + 2 + 8 + client_share.len());
        // A dual-stack socket may name the same peer in either family.
        match addr.ip().to_canonical() {
            IpAddr::V4(ip) => {
                input.push(4);
                input.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                input.push(6);
                input.extend_from_slice(&ip.octets());
            }
        }
        input.extend_from_slice(&addr.port().to_be_bytes());
        input.extend_from_slice(&epoch.to_be_bytes());
        input.extend_from_slice(client_share);
        truncated_hmac(&self.0, &input)
    }

    /// Whether the cookie was minted for this address and share, in the present bucket or the one before.
    pub fn check(&self, addr: SocketAddr, client_share: &[u8], epoch: u64, cookie: &[u8]) -> bool {
        let fits = |epoch| bool::from(self.mint(addr, client_share, epoch).ct_eq(cookie));
        fits(epoch) || epoch.checked_sub(1).is_some_and(fits)
    }
}

/// The first `N` bytes (at most 32) of an HMAC-SHA256.
fn truncated_hmac<const N: usize>(key: &hmac::Key, message: &[u8]) -> [u8; N] {
    let tag = hmac::sign(key, message);
    let mut out = [0; N];
    out.copy_from_slice(&tag.as_ref()[..N]);
    out
}

fn insecure_share(entropy: &[u8; ENTROPY_BYTES]) -> [u8; SHARE_BYTES] {
    let mut share = [0; SHARE_BYTES];
    share.copy_from_slice(&entropy[..SHARE_BYTES]);
    share
}

fn without_side(message: &[u8], side: u8) -> [u8; SHARE_BYTES] {
    let (first, share) = message.split_first().expect("a SPAKE2 message starts with its side");
    assert_eq!(*first, side, "a SPAKE2 message starts with its side");
    share.try_into().expect("an Ed25519 element has 32 bytes")
}

fn finish_spake(
    spake: Spake2<Ed25519Group>,
    peer_side: u8,
    peer_share: &[u8; SHARE_BYTES],
) -> Result<Shared, HandshakeError> {
    check_share(peer_share)?;
    let mut message = [peer_side; 1 + SHARE_BYTES];
    message[1..].copy_from_slice(peer_share);
    let output = Zeroizing::new(spake.finish(&message).map_err(|_| HandshakeError::BadShare)?);
    let mut ikm = Zeroizing::new([0; 32]);
    ikm.copy_from_slice(&output);
    Ok(Shared(Ikm::Spake(ikm)))
}

/// Group membership, as RFC 9382 section 7 asks for. `spake2` takes any curve point: small-order ones, ones with a
/// small-order component, and encodings that are not canonical are refused here, as Python's `spake2` does.
fn check_share(share: &[u8; SHARE_BYTES]) -> Result<(), HandshakeError> {
    let point = CompressedEdwardsY(*share).decompress().ok_or(HandshakeError::BadShare)?;
    // A point of small order other than the neutral element is not free of torsion.
    let valid = !point.is_identity() && point.is_torsion_free() && point.compress().0 == *share;
    valid.then_some(()).ok_or(HandshakeError::BadShare)
}

/// Hands the caller's entropy to `spake2`, which draws all of it, once, for its scalar.
struct OneDraw<'a> {
    entropy: &'a [u8; ENTROPY_BYTES],
    used: usize,
}

impl<'a> OneDraw<'a> {
    fn new(entropy: &'a [u8; ENTROPY_BYTES]) -> Self {
        Self { entropy, used: 0 }
    }
}

impl Drop for OneDraw<'_> {
    fn drop(&mut self) {
        debug_assert!(self.used == ENTROPY_BYTES || std::thread::panicking(), "entropy left over");
    }
}

impl rand_core_06::RngCore for OneDraw<'_> {
    fn next_u32(&mut self) -> u32 {
        rand_core_06::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core_06::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        // No peer can cause this: how much is drawn depends on the crate alone, and the test vectors pin it.
        let end = self.used + dest.len();
        assert!(end <= ENTROPY_BYTES, "spake2 draws {ENTROPY_BYTES} bytes of entropy, no more");
        dest.copy_from_slice(&self.entropy[self.used..end]);
        self.used = end;
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core_06::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl rand_core_06::CryptoRng for OneDraw<'_> {}

#[cfg(test)]
mod tests;
