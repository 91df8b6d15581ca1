//! Datagrams of somebody on the path: repeated, moved to another session, sent back, cut, damaged, forged.

use crate::support::*;
use crate::together;
use fulmar::codec::aead::PacketKeys;
use fulmar::session::refusal::Refusal;
use fulmar::wire::frame::{CloseCode, Frame};
use fulmar::wire::packet::{DATA_HEADER_BYTES, TYPE_HELLO};

/// What must not change: what the application heard, and that nothing is sent because of it.
fn gives_nothing(node: &mut Node, from: std::net::SocketAddr, datagram: &[u8], why: &[Refusal]) {
    let (events, before) = (node.events.len(), node.endpoint.refusals());
    node.give(from, datagram);
    let after = node.endpoint.refusals();
    assert!(node.out.is_empty(), "an answer to {datagram:02x?}");
    assert_eq!(node.events.len(), events);
    assert_eq!(after.total(), before.total() + 1, "counted once: {before} -> {after}, {datagram:02x?}");
    let counted = why.iter().any(|why| after.get(*why) == before.get(*why) + 1);
    assert!(counted, "{before} -> {after}, {datagram:02x?}");
}

/// Lets everything settle, so that whatever is sent from now on is an answer.
fn quiet(node: &mut Node, peer: &mut Peer) {
    node.pass(ms(2000));
    peer.read(node);
}

/// A server with one open session of a client that has put one file and is at the beginning of a long one.
fn served(dir: &std::path::Path) -> (Node, Peer) {
    let mut node = Node::server(dir);
    let mut peer = Peer::join(&mut node, 1, peer_addr());
    peer.say(&mut node, &[put(), inline(0, b"a", b"first"), streamed(1, b"long", 1 << 20, 1 << 16)]);
    peer.read(&mut node);
    peer.data_only();
    peer.send(&mut node, &[Frame::Ping]);
    quiet(&mut node, &mut peer);
    (node, peer)
}

/// A client in the middle of a GET.
fn getting(dir: &std::path::Path) -> (Node, Peer) {
    let mut node = Node::client(dir);
    node.connect(get(b"a"), Vec::new());
    let mut peer = Peer::meet(&mut node);
    peer.send(&mut node, &[Frame::Ping]);
    peer.say(&mut node, &[streamed(0, b"a", 1 << 20, 1 << 16)]);
    quiet(&mut node, &mut peer);
    (node, peer)
}

/// Each attack against both kinds of endpoint.
fn on_both(attack: impl Fn(Node, Peer)) {
    for setup in [served, getting] {
        let dir = tempfile::tempdir().expect("made");
        let (node, peer) = setup(dir.path());
        attack(node, peer);
    }
}

#[test]
fn replayed_packets_change_nothing() {
    let _together = together();
    on_both(|mut node, peer| {
        for old in peer.sent.clone() {
            gives_nothing(&mut node, peer.from, &old, &[Refusal::Replayed]);
            // Nor from elsewhere: no address moves because of it.
            gives_nothing(&mut node, addr(66, 6), &old, &[Refusal::Replayed]);
        }
    });
}

#[test]
fn packets_of_another_session_change_nothing() {
    let _together = together();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, first) = served(dir.path());
    // The same client, the same key, another session.
    let mut second = Peer::join(&mut node, 2, peer_addr());
    second.send(&mut node, &[Frame::Ping]);
    second.data_only();
    second.send(&mut node, &[Frame::Ping]);
    quiet(&mut node, &mut second);
    for old in &first.sent {
        let mut moved = old.clone();
        moved[1..9].copy_from_slice(&second.cid.0);
        // A Confirm carries a checksum over its connection ID.
        gives_nothing(
            &mut node,
            peer_addr(),
            &moved,
            &[Refusal::Forged, Refusal::Replayed, Refusal::Checksum],
        );
        // Nor under a number that the second session has not used.
        if moved[0] & !1 == 0x40 {
            moved[9..13].copy_from_slice(&500u32.to_be_bytes());
            gives_nothing(&mut node, peer_addr(), &moved, &[Refusal::Forged]);
        }
    }
    // A session that is over is no session.
    second.send(&mut node, &[Frame::Close { code: CloseCode::Done as u64, text: b"" }]);
    quiet(&mut node, &mut second);
    for old in second.sent.clone() {
        gives_nothing(&mut node, peer_addr(), &old, &[Refusal::Stray]);
    }
}

#[test]
fn reflected_packets_change_nothing() {
    let _together = together();
    on_both(|mut node, mut peer| {
        peer.send(&mut node, &[Frame::Ping]);
        node.pass(ms(500));
        let own: Vec<Vec<u8>> = std::mem::take(&mut node.out).into_iter().map(|(_, d)| d).collect();
        assert!(!own.is_empty());
        for packet in own {
            gives_nothing(&mut node, peer.from, &packet, &[Refusal::Stray]);
            let mut aimed = packet.clone();
            aimed[1..9].copy_from_slice(&peer.cid.0);
            gives_nothing(&mut node, peer.from, &aimed, &[Refusal::Forged, Refusal::Replayed]);
            aimed[9..13].copy_from_slice(&500u32.to_be_bytes());
            gives_nothing(&mut node, peer.from, &aimed, &[Refusal::Forged]);
        }
    });
}

#[test]
fn truncated_packets_change_nothing() {
    let _together = together();
    on_both(|mut node, mut peer| {
        let whole = peer.packet(&[1, 5, 0, 3, b'b', b'y', b'e']);
        for len in 0..whole.len() {
            let why = if len < DATA_HEADER_BYTES { Refusal::Malformed } else { Refusal::Forged };
            gives_nothing(&mut node, peer.from, &whole[..len], &[why]);
        }
        node.give(peer.from, &whole);
        assert!(node.closed().is_some(), "the whole packet would have mattered");
    });
}

#[test]
fn flipped_bits_change_nothing() {
    let _together = together();
    on_both(|mut node, mut peer| {
        let whole = peer.packet(&[1, 5, 0, 3, b'b', b'y', b'e']);
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if bad[0] == TYPE_HELLO {
                continue;
            }
            let why = [Refusal::Malformed, Refusal::Stray, Refusal::Forged, Refusal::Replayed];
            gives_nothing(&mut node, peer.from, &bad, &why);
        }
        node.give(peer.from, &whole);
        assert!(node.closed().is_some(), "the whole packet would have mattered");
    });
}

#[test]
fn forged_packets_change_nothing() {
    let _together = together();
    on_both(|mut node, peer| {
        for keys in [PacketKeys::crc(), PacketKeys::from_secret(&[0; 32]), PacketKeys::from_secret(&[9; 32])]
        {
            for phase in [0x40, 0x41] {
                let mut forged = vec![phase];
                forged.extend_from_slice(&peer.cid.0);
                forged.extend_from_slice(&(peer.next_number as u32 + 5).to_be_bytes());
                let start = forged.len();
                Frame::Close { code: CloseCode::Interrupted as u64, text: b"bye" }.encode(&mut forged);
                keys.seal_packet(peer.next_number + 5, &mut forged, 0, start);
                gives_nothing(&mut node, peer.from, &forged, &[Refusal::Forged]);
            }
        }
    });
}

/// The session goes on as if nothing had been, after all that.
#[test]
fn a_session_survives_thousands_of_attacks() {
    let _together = together();
    let dir = tempfile::tempdir().expect("made");
    let (mut node, mut peer) = served(dir.path());
    let old = peer.sent.clone();
    for i in 0..5000usize {
        let mut bad = old[i % old.len()].clone();
        let at = i * 31 % bad.len();
        bad[at] ^= (i % 255 + 1) as u8;
        node.give(addr((i % 250) as u8, i as u16), &bad);
    }
    peer.read(&mut node);
    peer.say(&mut node, &[inline(2, b"later", b"last")]);
    node.pass(ms(100));
    assert_eq!(names(dir.path()), ["a", "later"]);
    assert_eq!(std::fs::read(dir.path().join("later")).expect("there"), b"last");
    assert_eq!(node.closed(), None);
}
