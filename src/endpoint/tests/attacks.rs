//! Datagrams repeated, damaged, cut, reflected and forged.

use super::*;
use crate::codec::aead::PacketKeys;
use crate::wire::buf::put_varint;
use crate::wire::frame::{CloseCode, Frame};
use crate::wire::handshake::{Reject, RejectCode};
use crate::wire::packet::{DATA_HEADER_BYTES, ProtectedHeader};

fn cid_of(p: &Packet) -> Cid {
    Cid(p.bytes[1..9].try_into().expect("eight bytes"))
}

#[test]
fn replayed_datagrams_change_nothing() {
    let mut net = Net::new(1, key(), 1, |_, _| {});
    let mut rng = StdRng::seed_from_u64(1);
    let mut old: Vec<Packet> = Vec::new();
    net.tap = Box::new(move |p| {
        old.push(p.clone());
        vec![p.clone(), old[rng.random_range(0..old.len())].clone(), p.clone()]
    });
    net.put(1, b"f", 1_500_000);
    net.run();
    net.expect_done(1, b"f");
    let s = net.peers[1].last.clone().expect("figures");
    assert!(s.packets_duplicate > 50 && s.packets_lost == 0, "{s:?}");
    let sent = net.sent_by(0).count() as u64;
    assert!(s.packets_received <= sent, "none counted twice");
    // Everything once more, when all is over.
    net.run_for(Duration::from_secs(10));
    let (events, log) = (net.peers[0].events.len(), net.log.clone());
    for p in &log {
        net.inject(p.clone());
    }
    net.run_for(Duration::from_secs(1));
    assert_eq!(net.peers[0].events.len(), events);
    assert_eq!(net.peers[0].endpoint.session_count(), 0);
}

#[test]
fn damaged_and_cut_copies_change_nothing_but_counters() {
    for secret in [key(), Secret::Insecure] {
        let run = |attack: bool| {
            let mut net = Net::new(1, secret.clone(), 1, |_, _| {});
            let mut rng = StdRng::seed_from_u64(1);
            net.tap = Box::new(move |p| {
                let (mut flipped, mut cut) = (p.clone(), p.clone());
                let bit = rng.random_range(0..p.bytes.len() * 8);
                flipped.bytes[bit / 8] ^= 1 << (bit % 8);
                cut.bytes.truncate(rng.random_range(0..p.bytes.len()));
                if attack { vec![flipped, cut, p.clone()] } else { vec![p.clone()] }
            });
            net.put(1, b"f", 1_500_000);
            net.run();
            net.expect_done(1, b"f");
            let s = net.peers[1].last.clone().expect("figures");
            (s.packets_corrupted, s.packets_sent, s.packets_received, net.elapsed())
        };
        let (clean, attacked) = (run(false), run(true));
        assert!(attacked.0 > 10 && clean.0 == 0);
        assert_eq!((clean.1, clean.2, clean.3), (attacked.1, attacked.2, attacked.3), "the same run");
    }
}

#[test]
fn reflected_packets_change_nothing() {
    let mut net = Net::new(1, key(), 1, |_, _| {});
    net.tap = Box::new(|p| vec![Packet { from: p.to, to: p.from, ..p.clone() }, p.clone()]);
    net.put(1, b"f", 500_000);
    net.run();
    net.expect_done(1, b"f");
    // Even when the connection ID is made to fit.
    let mut net = Net::new(1, key(), 1, |_, _| {});
    let mut cids: [Option<Cid>; 2] = [None; 2];
    net.tap = Box::new(move |p| {
        let from_server = usize::from(p.from.ip() == IpAddr::from([10, 0, 0, 0]));
        if p.bytes[0] & !1 == TYPE_DATA {
            cids[from_server] = Some(cid_of(p));
        }
        let mut back = Packet { from: p.to, to: p.from, ..p.clone() };
        if let Some(cid) = cids[1 - from_server].filter(|_| p.bytes[0] & !1 == TYPE_DATA) {
            back.bytes[1..9].copy_from_slice(&cid.0);
        }
        vec![back, p.clone()]
    });
    net.put(1, b"f", 500_000);
    net.run();
    net.expect_done(1, b"f");
    assert!(net.peers[1].last.as_ref().is_some_and(|s| s.packets_corrupted > 10));
}

/// Anyone who sees the Hello can write a Reject: a session that opens all the same is not harmed, and does not spin.
#[test]
fn forged_rejects_are_contradicted() {
    for code in [RejectCode::WrongKey, RejectCode::Busy, RejectCode::Version, RejectCode::Security] {
        let mut net = Net::new(1, key(), 1, limited(5_000_000));
        net.tap = Box::new(move |p| {
            let Ok((hello, _)) = Hello::decode(&p.bytes) else { return vec![p.clone()] };
            let bytes = Reject { client_cid: hello.client_cid, code, text: "no".into() }.encode();
            vec![Packet { from: p.to, to: p.from, bytes, sent: p.sent }, p.clone()]
        });
        net.put(1, b"f", 9_000_000);
        net.run();
        net.expect_done(1, b"f");
        assert!(net.elapsed() > ms(400), "long enough for the Reject to have mattered: {:?}", net.elapsed());
    }
}

#[test]
fn forged_closes_are_noise() {
    let mut net = Net::new(1, key(), 1, |_, _| {});
    net.tap = Box::new(|p| {
        let mut all = vec![p.clone()];
        if p.bytes[0] & !1 == TYPE_DATA {
            // In the clear with a CRC-32, and sealed with keys of somebody else.
            for keys in [PacketKeys::crc(), PacketKeys::from_secret(&[9; 32])] {
                let mut bytes = p.bytes[..DATA_HEADER_BYTES].to_vec();
                Frame::Close { code: CloseCode::Interrupted as u64, text: b"bye" }.encode(&mut bytes);
                keys.seal_packet(5, &mut bytes, 0, DATA_HEADER_BYTES);
                all.push(Packet { bytes, ..p.clone() });
            }
        }
        all
    });
    net.put(1, b"f", 500_000);
    net.run();
    net.expect_done(1, b"f");
}

/// Without encryption a test can speak as the server: it acknowledges everything sent, and more.
fn optimistic(ahead: u64) -> CloseReason {
    let mut net = Net::new(1, Secret::Insecure, 1, limited(5_000_000));
    net.put(1, b"f", 30_000_000);
    net.run_for(ms(300));
    let to_client = net.sent_by(0).find(|p| p.bytes[0] & !1 == TYPE_DATA).expect("data").clone();
    let number = |p: &Packet| u32::from_be_bytes(p.bytes[9..13].try_into().expect("four bytes"));
    let newest =
        |net: &Net| net.sent_by(1).filter(|p| p.bytes[0] & !1 == TYPE_DATA).map(number).max().expect("data");
    for forged_number in 1 << 20..(1 << 20) + 200 {
        if net.closed(1).is_some() {
            break;
        }
        let largest = u64::from(newest(&net)) + ahead;
        let mut bytes = Vec::new();
        let header = ProtectedHeader {
            cid: cid_of(&to_client),
            truncated_number: forged_number,
            key_phase: false,
            confirm: None,
        };
        header.encode(&mut bytes);
        // FEEDBACK: seven figures, one block, all of it received.
        bytes.push(3);
        [largest, 1, 0, 1 << 30, 0, 1 << 30, 1 << 20].iter().for_each(|v| put_varint(&mut bytes, *v));
        bytes.push(1);
        let count = (largest + 1).min(1000);
        let mut run = Vec::new();
        put_varint(&mut run, count);
        bytes.push(0);
        put_varint(&mut bytes, count);
        bytes.push(0);
        bytes.push(run.len() as u8);
        bytes.extend(run);
        PacketKeys::crc().seal_packet(forged_number.into(), &mut bytes, 0, DATA_HEADER_BYTES);
        let at = net.now;
        net.peers[1].endpoint.handle_datagram(at, to_client.from, None, &mut bytes);
        net.serve(1);
        net.run_for(ms(10));
    }
    net.closed(1).expect("closed").1
}

#[test]
fn optimistic_feedback_ends_the_session() {
    for ahead in [0, 1000] {
        let reason = optimistic(ahead);
        assert!(matches!(&reason, CloseReason::Protocol(text) if text.contains("feedback")), "{reason:?}");
    }
}
