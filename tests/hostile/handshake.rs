//! Strangers: floods, guesses, forged answers; and sessions that only take up room.

use crate::support::*;
use crate::{ALLOCATOR, alone, together};
use fulmar::endpoint::MAX_HALF_OPEN;
use fulmar::endpoint::config::Secret;
use fulmar::session::event::{CloseReason, Event};
use fulmar::session::refusal::Refusal;
use fulmar::transfer::Request;
use fulmar::transfer::job::{Location, Overwrite, SourceRoot};
use fulmar::wire::Cid;
use fulmar::wire::frame::Frame;
use fulmar::wire::handshake::{Reply, Retry};
use fulmar::wire::message::Message;
use fulmar::wire::packet::{TYPE_CONFIRM, TYPE_HELLO, TYPE_REJECT, TYPE_REPLY, TYPE_RETRY, append_trailer};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Gives the server one datagram; returns what it answers at once.
fn ask(node: &mut Node, from: SocketAddr, datagram: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
    node.give(from, datagram);
    std::mem::take(&mut node.out)
}

/// With encryption a Hello costs the server a SPAKE2 computation: floods test the budget without it.
fn insecure_server(dir: &std::path::Path) -> Node {
    Node::server_with(dir, |c| c.secret = Secret::Insecure)
}

/// Many more handshakes than there is room for, each with a good cookie, none of them confirmed.
#[test]
fn half_open_floods_are_bounded_and_pass() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let mut node = insecure_server(dir.path());
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let (_, mut hello) = hello(1, &Secret::Insecure);
    let mut replies = 0;
    for i in 0..6000u32 {
        node.pass(Duration::from_micros(2600));
        let from = SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + i), 9));
        hello.client_cid = Cid(u64::from(i).to_be_bytes());
        hello.cookie = None;
        for (_, answer) in ask(&mut node, from, &hello.encode()) {
            if answer[0] == TYPE_RETRY {
                hello.cookie = Some(Retry::decode(&answer).expect("a Retry").cookie);
                replies += ask(&mut node, from, &hello.encode()).len();
            } else {
                replies += 1;
            }
        }
        assert!(node.endpoint.admission().1 <= MAX_HALF_OPEN);
    }
    assert!(replies > 4000, "{replies} answered");
    assert!(
        node.refused(Refusal::HalfOpen) as usize >= replies - MAX_HALF_OPEN,
        "{}",
        node.endpoint.refusals()
    );
    let used = ALLOCATOR.peak_usage() - before;
    assert!(used < 4 << 20, "{used} bytes");
    node.pass(Duration::from_secs(15));
    ask(&mut node, addr(1, 1), &hello.encode());
    assert_eq!(node.endpoint.admission().1, 1, "the others are forgotten");
    assert_eq!(node.endpoint.session_count(), 0);
}

/// A flood of Hellos does not keep out a client that answers the Retry.
#[test]
fn clients_get_in_during_a_flood_of_hellos() {
    let _together = together();
    let dir = tempfile::tempdir().expect("made");
    let mut node = Node::server(dir.path());
    let (_, mut flood) = hello(1, &secret());
    let (handshake, mut honest) = hello(2, &secret());
    let mut joined = None;
    // 50,000 a second, for a second; the honest client comes in the middle of it.
    for i in 0..50_000u32 {
        node.pass(Duration::from_micros(20));
        flood.client_cid = Cid(u64::from(i).to_be_bytes());
        let from = SocketAddr::from((std::net::Ipv4Addr::from(0x0b00_0000 + i), 9));
        ask(&mut node, from, &flood.encode());
        // About a sixth of the strangers' packets is answered; it repeats its Hello, as clients do for half a minute.
        if joined.is_none() && i >= 20_000 && i % 97 == 0 {
            for _ in 0..2 {
                // Not in step with the flood, which would take every answer.
                node.pass(Duration::from_micros(7));
                for (_, answer) in ask(&mut node, peer_addr(), &honest.encode()) {
                    match answer[0] {
                        TYPE_RETRY => honest.cookie = Some(Retry::decode(&answer).expect("a Retry").cookie),
                        _ => joined = Some(finish(&handshake, &honest, &answer).0.server_cid),
                    }
                }
            }
        }
    }
    assert!(joined.is_some(), "{}", node.endpoint.refusals());
    // Answers to strangers are limited as well, so most of the flood gets none.
    let turned_away = node.refused(Refusal::Cookie) + node.refused(Refusal::Overload);
    assert!(turned_away > 40_000, "{}", node.endpoint.refusals());
}

#[test]
fn guessed_connection_ids_lead_nowhere() {
    let _together = together();
    let dir = tempfile::tempdir().expect("made");
    let mut node = Node::server(dir.path());
    let mut peer = Peer::join(&mut node, 1, peer_addr());
    peer.send(&mut node, &[Frame::Ping]);
    peer.data_only();
    node.pass(ms(500));
    let (_, half_open) = hello(2, &secret());
    ask(&mut node, addr(2, 2), &half_open.encode());
    let before = node.endpoint.refusals();
    for i in 0..20_000u64 {
        let first = [0x40, 0x41, TYPE_CONFIRM, 0xf1, 0xf2, 0xf3][i as usize % 6];
        let mut packet = vec![first];
        packet.extend_from_slice(&i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        packet.extend_from_slice(&[7; 60]);
        append_trailer(&mut packet, 0);
        assert!(ask(&mut node, addr(3, 3), &packet).is_empty());
    }
    assert_eq!(node.refused(Refusal::Stray), before.get(Refusal::Stray) + 20_000);
    assert_eq!(node.closed(), None);
}

/// To an address that has proved nothing goes at most three times what came from it: whatever the datagrams are, and over
/// all of them.
#[test]
fn answers_to_unvalidated_addresses_are_at_most_three_times_as_long() {
    let _together = together();
    let dir = tempfile::tempdir().expect("made");
    let mut node = Node::server_with(dir.path(), |c| {
        if let Some(s) = &mut c.server {
            s.max_sessions = 3;
        }
    });
    let mut balance: HashMap<SocketAddr, (usize, usize)> = HashMap::new();
    let mut give = |node: &mut Node, from: SocketAddr, datagram: &[u8], wait: Duration| {
        balance.entry(from).or_default().0 += datagram.len();
        node.give(from, datagram);
        node.pass(wait);
        for (to, d) in std::mem::take(&mut node.out) {
            balance.entry(to).or_default().1 += d.len();
        }
    };
    let mut kinds = HashMap::new();
    for i in 0..3000u16 {
        let from = addr(20, i + 1);
        let (_, mut hello) = hello((i % 200) as u8, &[secret(), Secret::Insecure][usize::from(i % 5 == 0)]);
        hello.version = if i % 3 == 0 { 9 } else { 1 };
        let mut datagram = hello.encode();
        if i % 7 == 0 {
            datagram.truncate(14);
            append_trailer(&mut datagram, 0);
        }
        *kinds.entry(datagram.len()).or_insert(0) += 1;
        give(&mut node, from, &datagram, ms(3));
        give(&mut node, from, &datagram, ms(0));
    }
    assert!(kinds.len() >= 2);
    // A Confirm that does not fit is answered to wherever it came from.
    node.pass(Duration::from_secs(15));
    let (_, hello_) = hello(201, &secret());
    node.give(addr(21, 1), &hello_.encode());
    let reply = node.out.drain(..).find(|(_, d)| d[0] == TYPE_REPLY).expect("a Reply").1;
    let cid = Reply::decode(&reply).expect("a Reply").0.server_cid;
    for i in 0..50 {
        let mut confirm = vec![TYPE_CONFIRM];
        confirm.extend_from_slice(&cid.0);
        confirm.extend_from_slice(&[0; 20]);
        append_trailer(&mut confirm, 0);
        give(&mut node, addr(22, i + 1), &confirm, ms(200));
    }
    // An authentic packet that comes, or is sent again by somebody else, from another address.
    node.pass(Duration::from_secs(60));
    let mut peer = Peer::join(&mut node, 202, peer_addr());
    peer.send(&mut node, &[Frame::Ping]);
    peer.data_only();
    peer.say(&mut node, &[put(), streamed(0, b"f", 1 << 20, 1 << 16)]);
    node.pass(ms(500));
    node.out.clear();
    for i in 0..200 {
        let packet = peer.packet(&[1][..usize::from(i % 2)]);
        give(&mut node, addr(23, i + 1), &packet, ms(if i % 3 == 0 { 3000 } else { 1 }));
    }
    let mut challenged = 0;
    for (to, (received, sent)) in &balance {
        if *to != peer_addr() {
            assert!(*sent <= 3 * received, "{to}: {sent} bytes for {received}");
            challenged += usize::from(to.ip() == addr(23, 0).ip() && *sent > 0);
        }
    }
    assert!(challenged > 50, "{challenged} of the new addresses were challenged");
    assert!(node.refused(Refusal::Amplification) > 0);
}

/// A guesser is slowed down ever more; an honest client elsewhere is not, nor is the guesser's neighbour with the key, much.
#[test]
fn guesses_are_slowed_per_address_and_nobody_else() {
    let _together = together();
    let dir = tempfile::tempdir().expect("made");
    let mut node = Node::server(dir.path());
    let guesser = addr(30, 1);
    let (mut guesses, mut honest_in) = (0, 0);
    for i in 0..6000u32 {
        // A hundred a second, for a minute.
        node.pass(ms(10));
        if i % 1000 == 500 {
            // Somebody else, in the middle of it, at once.
            let mut honest = Peer::join(&mut node, (i / 1000) as u8 + 50, addr(31, i as u16));
            honest.send(&mut node, &[Frame::Ping]);
            honest_in += usize::from(node.endpoint.session_count() > 0);
            honest.send(&mut node, &[Frame::Close { code: 0, text: b"" }]);
        }
        let wrong = Secret::Key(format!("guess {i}").into_bytes().into());
        let (handshake, mut hello) = hello(1, &wrong);
        hello.client_cid = Cid(u64::from(i).to_be_bytes());
        let answers = ask(&mut node, guesser, &hello.encode());
        let Some((_, reply)) = answers.iter().find(|(_, d)| d[0] == TYPE_REPLY) else { continue };
        let (reply, keys) = finish(&handshake, &hello, reply);
        let mut confirm = vec![TYPE_CONFIRM];
        confirm.extend_from_slice(&reply.server_cid.0);
        confirm.extend_from_slice(&[0; 4]);
        confirm.extend_from_slice(&keys.confirm);
        append_trailer(&mut confirm, 0);
        guesses += ask(&mut node, guesser, &confirm).iter().filter(|(_, d)| d[0] == TYPE_REJECT).count();
    }
    assert_eq!(honest_in, 6, "honest clients");
    assert_eq!(node.refused(Refusal::WrongKey), guesses as u64);
    // 100 ms, doubled each time up to 6.4 s: 7 in the first 12.7 s, then one in 6.4 s.
    assert!((8..=17).contains(&guesses), "{guesses} guesses in a minute");
    assert!(node.refused(Refusal::Guessing) > 5000);
}

/// A slow loris: sessions that ask for nothing, or stand still, do not hold their places for ever.
#[test]
fn sessions_without_a_request_are_closed() {
    let _together = together();
    let dir = tempfile::tempdir().expect("made");
    let mut node = Node::server(dir.path());
    let mut peers: Vec<Peer> = (1..=20).map(|i| Peer::join(&mut node, i, addr(40, i.into()))).collect();
    for second in 0..40 {
        for peer in &mut peers {
            if second == 0 || node.endpoint.session_count() > 0 {
                peer.send(&mut node, &[Frame::Ping]);
            }
        }
        node.pass(ms(1000));
        node.out.clear();
    }
    assert_eq!(node.endpoint.session_count(), 0);
    assert_eq!(node.refused(Refusal::NoRequest), 20);
}

/// A client that has sent its Hello and its first flight.
fn starting(dir: &std::path::Path) -> Node {
    std::fs::write(dir.join("source"), vec![b'x'; 200_000]).expect("written");
    let mut node = Node::client(dir);
    let path = dir.join("source").into_os_string().into_encoded_bytes();
    let root = SourceRoot { location: Location::Local(path), name: b"f".to_vec() };
    let Message::Request { request, .. } = put() else { unreachable!("put() is a request") };
    node.connect(request, vec![root]);
    assert_eq!(node.out[0].1[0], TYPE_HELLO);
    node
}

fn connected(node: &Node) -> bool {
    node.events.iter().any(|e| matches!(e, Event::Connected { .. }))
}

/// Whoever sees the Hello can answer it first, without the key. The server's own Reply still counts.
#[test]
fn a_forged_reply_does_not_spoil_the_attempt() {
    let _together = together();
    for forged_first in [true, false] {
        for same_cid in [true, false] {
            let dir = tempfile::tempdir().expect("made");
            let server_dir = tempfile::tempdir().expect("made");
            let mut node = starting(dir.path());
            let mut server = Node::server(server_dir.path());
            server.now = node.now;
            let (_, hello) = node.out.remove(0);
            let reply = ask(&mut server, addr(1, 1), &hello).remove(0).1;
            let true_cid = Reply::decode(&reply).expect("a Reply").0.server_cid;
            // Valid shares, made with another password.
            let forge = |n: u8| {
                let cid = if same_cid { true_cid } else { Cid([n; 8]) };
                answer(&hello, &Secret::Key(b"another".to_vec().into()), cid, n).1.encode()
            };
            let mut replies: Vec<Vec<u8>> = (10..15).map(forge).collect();
            replies.insert(if forged_first { 5 } else { 0 }, reply);
            for reply in replies {
                node.give(peer_addr(), &reply);
                relay(&mut node, &mut server, 5);
            }
            for _ in 0..300 {
                relay(&mut node, &mut server, 10);
            }
            assert!(connected(&node), "{forged_first} {same_cid}: {}", node.endpoint.refusals());
            assert_eq!(node.closed(), Some(&CloseReason::Done), "{forged_first} {same_cid}");
            assert_eq!(std::fs::read(server_dir.path().join("f")).expect("put"), vec![b'x'; 200_000]);
            assert_eq!(server.events.iter().filter(|e| matches!(e, Event::Connected { .. })).count(), 1);
        }
    }
}

/// Both ways, with some time in between.
fn relay(client: &mut Node, server: &mut Node, after_ms: u64) {
    for (_, d) in std::mem::take(&mut client.out) {
        server.give(addr(1, 1), &d);
    }
    server.pass(ms(after_ms));
    for (_, d) in std::mem::take(&mut server.out) {
        client.give(peer_addr(), &d);
    }
    client.pass(ms(after_ms));
}

#[test]
fn replies_with_bad_shares_and_floods_of_replies_are_counted() {
    let _together = together();
    let dir = tempfile::tempdir().expect("made");
    let mut node = starting(dir.path());
    let (_, hello) = node.out.remove(0);
    let (_, good, _) = answer(&hello, &secret(), Cid([1; 8]), 1);
    for share in
        [[0; 32], [0xff; 32], fulmar::wire::handshake::Hello::decode(&hello).expect("a Hello").0.share]
    {
        node.give(peer_addr(), &Reply { share, ..good.clone() }.encode());
    }
    assert_eq!(node.refused(Refusal::Share), 3);
    assert_eq!(node.closed(), None, "the attempt goes on");
    for n in 2..60 {
        let forged = answer(&hello, &Secret::Key(b"another".to_vec().into()), Cid([n; 8]), n).1;
        node.give(peer_addr(), &forged.encode());
        // From elsewhere it is not even looked at.
        node.give(addr(66, 6), &forged.encode());
    }
    assert_eq!(node.refused(Refusal::Conflict), 50, "{}", node.endpoint.refusals());
    assert_eq!(node.refused(Refusal::Misplaced), 58);
    node.pass(Duration::from_secs(200));
    assert!(matches!(node.closed(), Some(CloseReason::Unreachable { .. })), "{:?}", node.closed());
}

/// A late copy of a Hello whose session is open makes no second one.
#[test]
fn a_hello_of_an_open_session_starts_nothing() {
    let _together = together();
    let dir = tempfile::tempdir().expect("made");
    let mut node = Node::server(dir.path());
    let mut peer = Peer::join(&mut node, 1, peer_addr());
    peer.send(&mut node, &[Frame::Ping]);
    node.pass(ms(500));
    node.out.clear();
    let (_, again) = hello(1, &secret());
    assert!(ask(&mut node, peer_addr(), &again.encode()).is_empty());
    assert_eq!((node.refused(Refusal::Conflict), node.endpoint.admission().1), (1, 0));
    peer.send(&mut node, &[Frame::Close { code: 0, text: b"" }]);
    // Copies that were still on their way are gone by then.
    node.pass(Duration::from_secs(11));
    node.out.clear();
    assert_eq!(
        ask(&mut node, peer_addr(), &again.encode()).len(),
        1,
        "afterwards it is a client like others"
    );
}

/// A list from a server without end: the client keeps nothing of it.
#[test]
fn a_listing_without_end_is_not_kept() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("made");
    let mut node = Node::client(dir.path());
    node.connect(Request::List { path: Vec::new() }, Vec::new());
    let mut peer = Peer::meet(&mut node);
    peer.remember = false;
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let mut listed = 0;
    for n in 0..100_000 {
        peer.say(&mut node, &[streamed(n, b"name", 1, 1024)]);
        listed += node.events.drain(..).filter(|e| matches!(e, Event::Listed(_))).count();
        node.pass(ms(1));
        node.out.clear();
    }
    assert_eq!(listed, 100_000);
    let used = ALLOCATOR.peak_usage() - before;
    assert!(used < 4 << 20, "{used} bytes");
}

/// "Done" is not believed before all is done: neither that files have come, nor that they were stored.
#[test]
fn a_done_before_the_end_is_no_success() {
    let _together = together();
    let early = |node: &mut Node, peer: &mut Peer| {
        peer.send(node, &[Frame::Close { code: 0, text: b"" }]);
        node.pass(ms(100));
        let told = matches!(node.closed(), Some(CloseReason::PeerClosed(why)) if why.contains("early"));
        assert!(told, "{:?}", node.closed());
        assert!(!node.events.iter().any(|e| matches!(e, Event::Completed)), "{:?}", node.events);
    };
    let here = tempfile::tempdir().expect("a directory");
    // A server that sends one of the files, and not the end of the manifest.
    let mut node = Node::client(here.path());
    node.connect(get(b"tree"), Vec::new());
    let mut peer = Peer::meet(&mut node);
    peer.say(&mut node, &[dir(0, b"tree"), inline(1, b"tree/a", b"x")]);
    early(&mut node, &mut peer);
    // A server that never says what became of the files.
    std::fs::write(here.path().join("mine"), b"some bytes").expect("written");
    let mut node = Node::client(here.path());
    let root = SourceRoot { location: Location::Jail(b"mine".to_vec()), name: b"mine".to_vec() };
    let (overwrite, no_resume) = (Overwrite::Never, false);
    node.connect(Request::Put { dest: Vec::new(), into_dir: true, overwrite, no_resume }, vec![root]);
    let mut peer = Peer::meet(&mut node);
    node.pass(ms(100));
    early(&mut node, &mut peer);
    // A client whose file is still to come.
    let mut node = Node::server(here.path());
    let mut peer = Peer::join(&mut node, 1, peer_addr());
    peer.say(&mut node, &[put(), streamed(0, b"big", 10_000, 1024)]);
    node.pass(ms(100));
    early(&mut node, &mut peer);
    assert!(!here.path().join("big").exists());
}
