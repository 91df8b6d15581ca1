use super::*;
use crate::codec::aead::OpenError;
use serde_json::{Map, Value, json};

const VECTORS: &str = include_str!("../../../tests/vectors/handshake.json");

fn key(password: &[u8]) -> Secret {
    Secret::Key(Zeroizing::new(password.to_vec()))
}

/// 64 bytes that look random: entropy of the vectors and tests.
fn entropy(label: &str) -> [u8; ENTROPY_BYTES] {
    let half = |n: u8| Sha256::new().chain_update(label).chain_update([n]).finalize();
    let mut out = [0; ENTROPY_BYTES];
    out[..32].copy_from_slice(&half(0));
    out[32..].copy_from_slice(&half(1));
    out
}

fn transcript() -> Transcript {
    Transcript::new().add(b"hello").add(b"reply")
}

fn exchange(client: &Secret, server: &Secret) -> (SessionKeys, SessionKeys) {
    let (handshake, client_share) = ClientHandshake::new(client, &entropy("client"));
    let (server_share, at_server) =
        ServerHandshake::respond(server, &entropy("server"), &client_share).expect("a valid share");
    let at_client = handshake.finish(&server_share).expect("a valid share");
    (at_client.keys(&transcript()), at_server.keys(&transcript()))
}

fn opens(seal: &PacketKeys, open: &PacketKeys) -> Result<(), OpenError> {
    let mut buf = b"payload".to_vec();
    seal.seal(1, b"header", &mut buf, 0);
    open.open(1, b"header", &mut buf).map(|_| ())
}

#[test]
fn the_right_password_agrees() {
    for secret in [key(b"pw"), key(b""), key(&[0xff; 300]), Secret::Insecure] {
        let (client, server) = exchange(&secret, &secret);
        assert!(server.confirm_matches(&client.confirm));
        assert_eq!(opens(&client.client, &server.client), Ok(()));
        assert_eq!(opens(&server.server, &client.server), Ok(()));
        assert_eq!(client.client.is_encrypted(), !matches!(secret, Secret::Insecure));
        if client.client.is_encrypted() {
            assert_eq!(opens(&client.client, &server.server), Err(OpenError));
            let next = (client.client.next_generation(), server.client.next_generation());
            assert_eq!(opens(&next.0, &next.1), Ok(()));
        }
    }
}

#[test]
fn a_wrong_password_differs_everywhere() {
    for (a, b) in [(&b"pw"[..], &b"pW"[..]), (b"pw", b"pw\n"), (b"pw", b""), (b"pw", b"pw\0")] {
        let (client, server) = exchange(&key(a), &key(b));
        assert!(!server.confirm_matches(&client.confirm));
        assert_eq!(opens(&client.client, &server.client), Err(OpenError));
        assert_eq!(opens(&server.server, &client.server), Err(OpenError));
    }
}

#[test]
fn encryption_on_one_side_alone_does_not_agree() {
    let (handshake, client_share) = ClientHandshake::new(&Secret::Insecure, &entropy("client"));
    // Random bytes are a valid share only by chance; either way there is no agreement.
    if let Ok((share, at_server)) = ServerHandshake::respond(&key(b"pw"), &entropy("server"), &client_share) {
        let client = handshake.finish(&share).expect("any share will do without encryption");
        assert!(!at_server.keys(&transcript()).confirm_matches(&client.keys(&transcript()).confirm));
    }
}

#[test]
fn another_transcript_differs_everywhere() {
    let (handshake, client_share) = ClientHandshake::new(&key(b"pw"), &entropy("client"));
    let (server_share, at_server) =
        ServerHandshake::respond(&key(b"pw"), &entropy("server"), &client_share).expect("a valid share");
    let at_client = handshake.finish(&server_share).expect("a valid share");
    let client = at_client.keys(&transcript());
    for other in [
        Transcript::new(),
        Transcript::new().add(b"hello"),
        Transcript::new().add(b"helloreply"),
        Transcript::new().add(b"hellor").add(b"eply"),
        Transcript::new().add(b"reply").add(b"hello"),
        Transcript::new().add(b"hello").add(b"reply").add(b""),
    ] {
        let server = at_server.keys(&other);
        assert!(!server.confirm_matches(&client.confirm));
        assert_eq!(opens(&client.client, &server.client), Err(OpenError));
    }
}

#[test]
fn a_confirmation_must_fit_whole() {
    for secret in [key(b"pw"), Secret::Insecure] {
        let (keys, _) = exchange(&secret, &secret);
        assert!(keys.confirm_matches(&keys.confirm));
        for bit in 0..CONFIRM_BYTES * 8 {
            let mut bad = keys.confirm;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!keys.confirm_matches(&bad));
        }
        assert!(!keys.confirm_matches(&[]));
        assert!(!keys.confirm_matches(&keys.confirm[..15]));
        assert!(!keys.confirm_matches(&[&keys.confirm[..], &[0]].concat()));
    }
}

#[test]
fn every_flipped_bit_of_a_share_fails_or_differs() {
    let secret = key(b"pw");
    let (_, client_share) = ClientHandshake::new(&secret, &entropy("client"));
    let (server_share, at_server) =
        ServerHandshake::respond(&secret, &entropy("server"), &client_share).expect("a valid share");
    let good = at_server.keys(&transcript()).confirm;
    for bit in 0..SHARE_BYTES * 8 {
        let mut bad = client_share;
        bad.0[bit / 8] ^= 1 << (bit % 8);
        if let Ok((_, shared)) = ServerHandshake::respond(&secret, &entropy("server"), &bad) {
            assert!(!shared.keys(&transcript()).confirm_matches(&good), "client's bit {bit}");
        }
        let mut bad = server_share;
        bad.0[bit / 8] ^= 1 << (bit % 8);
        let (handshake, _) = ClientHandshake::new(&secret, &entropy("client"));
        if let Ok(shared) = handshake.finish(&bad) {
            assert!(!shared.keys(&transcript()).confirm_matches(&good), "server's bit {bit}");
        }
    }
}

#[test]
fn our_own_share_is_refused() {
    for secret in [key(b"pw"), Secret::Insecure] {
        let (handshake, share) = ClientHandshake::new(&secret, &entropy("client"));
        assert_eq!(handshake.finish(&ServerShare(share.0)).err(), Some(HandshakeError::Reflected));
        let (_, other) = ClientHandshake::new(&secret, &entropy("other"));
        let (share, _) =
            ServerHandshake::respond(&secret, &entropy("server"), &other).expect("a valid share");
        let back = ServerHandshake::respond(&secret, &entropy("server"), &ClientShare(share.0));
        assert_eq!(back.err(), Some(HandshakeError::Reflected));
    }
}

/// Encodings that are no element of the prime-order group: all points of small order, in canonical and other
/// encodings, points with a small-order component, and bytes that are no point.
fn bad_shares() -> Vec<[u8; SHARE_BYTES]> {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    let mut shares: Vec<_> = EIGHT_TORSION.iter().map(|point| point.compress().0).collect();
    shares.extend(EIGHT_TORSION[1..].iter().map(|torsion| (ED25519_BASEPOINT_POINT + torsion).compress().0));
    // y = p + k for the k that fit into 255 bits, with both signs: canonical encodings never look like this.
    for k in 0..19 {
        for sign in [0x7f, 0xff] {
            let mut bytes = [0xff; SHARE_BYTES];
            bytes[0] = 0xed + k;
            bytes[31] = sign;
            shares.push(bytes);
        }
    }
    // The neutral element with the sign of a zero set; no point; all ones.
    let mut identity = [0; SHARE_BYTES];
    identity[0] = 1;
    identity[31] = 0x80;
    let mut no_point = [0; SHARE_BYTES];
    no_point[0] = 2;
    shares.extend([identity, no_point, [0; SHARE_BYTES], [0xff; SHARE_BYTES]]);
    shares
}

#[test]
fn shares_outside_the_group_are_refused() {
    let secret = key(b"pw");
    for bad in bad_shares() {
        let responded = ServerHandshake::respond(&secret, &entropy("server"), &ClientShare(bad));
        assert_eq!(responded.err(), Some(HandshakeError::BadShare), "{bad:02x?}");
        let (handshake, _) = ClientHandshake::new(&secret, &entropy("client"));
        assert_eq!(handshake.finish(&ServerShare(bad)).err(), Some(HandshakeError::BadShare), "{bad:02x?}");
    }
}

#[test]
#[should_panic(expected = "no more")]
fn entropy_never_runs_dry_in_silence() {
    use rand_core_06::RngCore;
    let bytes = entropy("dry");
    let mut rng = OneDraw::new(&bytes);
    rng.fill_bytes(&mut [0; ENTROPY_BYTES]);
    rng.next_u32();
}

#[test]
fn cookies_hold_for_two_buckets_one_address_and_one_share() {
    let key = CookieKey::new([3; 32]);
    let addr: SocketAddr = "192.0.2.1:5770".parse().expect("an address");
    let cookie = key.mint(addr, b"share", 10);
    assert!(key.check(addr, b"share", 10, &cookie));
    assert!(key.check(addr, b"share", 11, &cookie));
    assert!(!key.check(addr, b"share", 12, &cookie));
    assert!(!key.check(addr, b"share", 9, &cookie));
    assert!(key.check("[::ffff:192.0.2.1]:5770".parse().expect("an address"), b"share", 10, &cookie));
    for other in ["192.0.2.1:5771", "192.0.2.2:5770", "[2001:db8::1]:5770"] {
        assert!(!key.check(other.parse().expect("an address"), b"share", 10, &cookie), "{other}");
    }
    assert!(!key.check(addr, b"Share", 10, &cookie));
    assert!(!key.check(addr, b"", 10, &cookie));
    assert!(!key.check(addr, b"share", 10, &cookie[..15]));
    assert!(!key.check(addr, b"share", 10, &[]));
    assert!(!CookieKey::new([4; 32]).check(addr, b"share", 10, &cookie));
    let first = key.mint(addr, b"share", 0);
    assert!(key.check(addr, b"share", 0, &first) && key.check(addr, b"share", 1, &first));
    assert!(!key.check(addr, b"share", u64::MAX, &first));
    for bit in 0..COOKIE_BYTES * 8 {
        let mut bad = cookie;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(!key.check(addr, b"share", 10, &bad));
    }
}

#[test]
fn debug_output_shows_no_secrets() {
    let (handshake, share) = ClientHandshake::new(&key(b"hunter2"), &entropy("client"));
    assert_eq!(format!("{handshake:?}"), format!("ClientHandshake {{ share: {share:?}, .. }}"));
    let (_, shared) = ServerHandshake::respond(&key(b"hunter2"), &entropy("server"), &share).expect("valid");
    assert_eq!(format!("{shared:?}"), "Shared(Spake ..)");
    assert_eq!(
        format!("{:?}", shared.keys(&transcript())),
        "SessionKeys { client: PacketKeys(Aead ..), server: PacketKeys(Aead ..), .. }"
    );
    assert_eq!(format!("{:?}", CookieKey::new([1; 32])), "CookieKey(..)");
}

fn hex(bytes: &[u8]) -> Value {
    Value::String(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Seals one packet; the vector lists all that goes in and what goes on the wire behind the header.
fn packet_vector(keys: &PacketKeys, number: u64, header: &[u8], payload: &[u8]) -> Value {
    let mut sealed = payload.to_vec();
    keys.seal(number, header, &mut sealed, 0);
    json!({ "number": number, "header": hex(header), "payload": hex(payload), "sealed": hex(&sealed) })
}

fn direction_vector(keys: &PacketKeys, secret: Option<&[u8; SECRET_BYTES]>, header: &[u8]) -> Value {
    let mut out = Map::new();
    if let Some(secret) = secret {
        let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret);
        out.insert("secret".into(), hex(secret));
        out.insert("key".into(), hex(&*expand::<16>(&prk, b"fulmar1 key")));
        out.insert("iv".into(), hex(&*expand::<12>(&prk, b"fulmar1 iv")));
        out.insert("next_secret".into(), hex(&*expand::<32>(&prk, b"fulmar1 update")));
    }
    out.insert(
        "packet".into(),
        packet_vector(keys, 0x0102_0304_0506, header, b"a payload of 27 bytes here!"),
    );
    let next = keys.next_generation();
    out.insert("packet_after_update".into(), packet_vector(&next, 0x0102_0304_0507, header, b""));
    out.into()
}

fn session_vector(name: &str, secret: &Secret) -> Value {
    let (client_entropy, server_entropy) =
        (entropy(&format!("{name} client")), entropy(&format!("{name} server")));
    let (handshake, client_share) = ClientHandshake::new(secret, &client_entropy);
    let (server_share, at_server) =
        ServerHandshake::respond(secret, &server_entropy, &client_share).expect("a valid share");
    let at_client = handshake.finish(&server_share).expect("a valid share");
    let hello = [b"these bytes stand for a hello, with ", &client_share.0[..]].concat();
    let reply = [b"these for the reply, with ", &server_share.0[..]].concat();
    let transcript = Transcript::new().add(&hello).add(&reply);
    let keys = at_client.keys(&transcript);
    assert!(at_server.keys(&transcript).confirm_matches(&keys.confirm));

    let prk = |ikm: &[u8]| hkdf::Salt::new(hkdf::HKDF_SHA256, &transcript.hash()).extract(ikm);
    let mut out = Map::new();
    out.insert("name".into(), name.into());
    out.insert("client_entropy".into(), hex(&client_entropy));
    out.insert("server_entropy".into(), hex(&server_entropy));
    out.insert("client_share".into(), hex(&client_share.0));
    out.insert("server_share".into(), hex(&server_share.0));
    out.insert("hello".into(), hex(&hello));
    out.insert("reply".into(), hex(&reply));
    out.insert("transcript_hash".into(), hex(&transcript.hash()));
    let (mut client_secret, mut server_secret) = (None, None);
    match (secret, &at_server.0) {
        (Secret::Key(password), Ikm::Spake(output)) => {
            out.insert("password".into(), hex(password));
            out.insert("spake2_output".into(), hex(&output[..]));
            client_secret = Some(expand(&prk(&output[..]), b"fulmar1 client"));
            server_secret = Some(expand(&prk(&output[..]), b"fulmar1 server"));
        }
        (Secret::Insecure, Ikm::Insecure(_)) => {
            out.insert("password".into(), Value::Null);
        }
        _ => unreachable!("the kind of key follows the kind of secret"),
    }
    out.insert("confirm".into(), hex(&keys.confirm));
    let header = b"\x01client's header";
    out.insert("client".into(), direction_vector(&keys.client, client_secret.as_deref(), header));
    let header = b"\x01server's header";
    out.insert("server".into(), direction_vector(&keys.server, server_secret.as_deref(), header));
    out.into()
}

/// Compares with `tests/vectors/handshake.json`, which an independent implementation checks as well
/// (`tests/vectors/check.py`). With `FULMAR_WRITE_VECTORS=1`, writes the file instead.
#[test]
fn vectors() {
    let generated = json!({
        "about": "Handshake and packet protection, see docs/PROTOCOL.md. Byte strings in hex.",
        "identity_client": hex(IDENTITY_CLIENT),
        "identity_server": hex(IDENTITY_SERVER),
        "sessions": [
            session_vector("weak password", &key("correct horse \u{e9}".as_bytes())),
            session_vector("generated key", &key(b"7PnUq2vC0gJx3mKd8sYw5tRz1bLf6hAe9iQoXuVyNkM")),
            session_vector("insecure", &Secret::Insecure),
        ],
    });
    if std::env::var_os("FULMAR_WRITE_VECTORS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/handshake.json");
        let text = serde_json::to_string_pretty(&generated).expect("JSON") + "\n";
        std::fs::write(path, text).expect("the file is writable");
        return;
    }
    let kept: Value = serde_json::from_str(VECTORS).expect("valid JSON");
    assert_eq!(generated, kept);
}
