//! Hellos: repetition, floods, cookies, guesses, amplification.

use super::*;
use crate::endpoint::config::Place;
use crate::wire::handshake::{Hello, Reply};
use crate::wire::packet::{CONFIRM_BYTES, ProtectedHeader, append_trailer};

#[test]
fn hellos_are_repeated_early_and_then_steadily() {
    let mut net = Net::new(1, key(), 1, |_, _| {});
    net.tap = Box::new(|_| Vec::new());
    net.put(1, b"f", 1);
    net.run();
    let times: Vec<u64> = net.sent_by(1).map(|p| p.sent.as_millis() as u64).collect();
    assert_eq!(times[..9], [0, 40, 90, 150, 230, 350, 500, 750, 1000]);
    let hello = |p: &Packet| Hello::decode(&p.bytes).expect("a Hello").0;
    let first = hello(&net.log[0]);
    for (n, p) in net.sent_by(1).enumerate() {
        assert_eq!(hello(p), Hello { attempt: n as u8, ..first.clone() }, "the same Hello each time");
    }
    let (at, reason) = net.closed(1).expect("closed");
    assert!(matches!(reason, CloseReason::Unreachable { .. }) && at == Duration::from_secs(10), "{at:?}");
}

/// The connect time-out holds until the server has proved itself.
#[test]
fn a_server_that_only_replies_is_not_reached() {
    let mut net = Net::new(1, key(), 1, |_, _| {});
    net.tap = Box::new(|p| if p.bytes[0] & !1 == TYPE_DATA { Vec::new() } else { vec![p.clone()] });
    net.put(1, b"f", 1);
    net.run();
    let (at, reason) = net.closed(1).expect("closed");
    assert!(matches!(reason, CloseReason::Unreachable { .. }), "{reason:?}");
    // From the Reply on, which is a sign that somebody is there.
    assert_eq!(at, Duration::from_secs(10) + ms(20));
}

/// A crowd at the door: signs of the server start the connect time-out again, but forged ones not for ever.
#[test]
fn a_server_that_asks_for_cookies_is_waited_for() {
    let mut net = Net::new(1, key(), 1, |_, _| {});
    let mut cookies = 0u64;
    net.tap = Box::new(move |p| {
        let Ok((hello, _)) = Hello::decode(&p.bytes) else { return vec![p.clone()] };
        cookies += 1;
        let mut cookie = [0; 16];
        cookie[..8].copy_from_slice(&cookies.to_be_bytes());
        let bytes = crate::wire::handshake::Retry { client_cid: hello.client_cid, cookie }.encode();
        if p.sent < Duration::from_secs(9) {
            return vec![Packet { from: p.to, to: p.from, bytes, sent: p.sent }];
        }
        Vec::new()
    });
    net.put(1, b"f", 1);
    net.run();
    let (at, reason) = net.closed(1).expect("closed");
    assert!(matches!(reason, CloseReason::Unreachable { .. }), "{reason:?}");
    assert!(at > Duration::from_secs(18) && at < Duration::from_secs(20), "{at:?}");
}

#[test]
fn a_lost_reply_is_repeated_not_computed_again() {
    let mut net = Net::new(1, key(), 1, |_, _| {});
    let mut lost = 0;
    net.tap = Box::new(move |p| {
        lost += u64::from(p.bytes[0] == TYPE_REPLY);
        if p.bytes[0] == TYPE_REPLY && lost <= 3 { Vec::new() } else { vec![p.clone()] }
    });
    net.put(1, b"f", 1000);
    net.run();
    net.expect_done(1, b"f");
    let replies: Vec<&Packet> = net.sent_by(0).filter(|p| p.bytes[0] == TYPE_REPLY).collect();
    assert_eq!(replies.len(), 4);
    let reply = |p: &Packet| Reply::decode(&p.bytes).expect("a Reply").0;
    let first = reply(replies[0]);
    for (n, p) in replies.iter().enumerate() {
        assert_eq!(reply(p), Reply { attempt: n as u8, ..first.clone() }, "the same but for the attempt");
    }
}

fn server() -> (Endpoint, Instant) {
    let start = origin();
    let mut config = EndpointConfig::new(Secret::Insecure);
    config.server = Some(ServerConfig::default());
    (Endpoint::new(config, [1; 32], start), start)
}

fn a_hello() -> Hello {
    let start = origin();
    let mut client = Endpoint::new(EndpointConfig::new(Secret::Insecure), [2; 32], start);
    client.connect(
        start,
        "10.0.0.1:1".parse().expect("an address"),
        Request::List { path: Vec::new() },
        Vec::new(),
        None,
    );
    let mut buf = Vec::new();
    client.poll_transmit(start, &mut buf, 1).expect("a Hello");
    Hello::decode(&buf).expect("decodes").0
}

/// Sends one datagram; returns the answers.
fn ask(server: &mut Endpoint, now: Instant, from: SocketAddr, datagram: &[u8]) -> Vec<Vec<u8>> {
    server.handle_datagram(now, from, None, &mut datagram.to_vec());
    let (mut buf, mut all) = (Vec::new(), Vec::new());
    while let Some(t) = server.poll_transmit(now, &mut buf, 16) {
        assert_eq!(t.remote, from);
        all.push(buf.clone());
    }
    assert!(all.iter().map(Vec::len).sum::<usize>() <= 3 * datagram.len(), "amplified");
    all
}

#[test]
fn connection_ids_begin_with_the_number_of_the_worker() {
    let start = origin();
    for index in [0, 1, 127] {
        let mut config = EndpointConfig::new(Secret::Insecure);
        config.server = Some(ServerConfig { place: Place { index, of: 128 }, ..ServerConfig::default() });
        let mut s = Endpoint::new(config, [1; 32], start);
        let answers = ask(&mut s, start, "1.2.3.4:5".parse().expect("an address"), &a_hello().encode());
        let cid = Reply::decode(&answers[0]).expect("a Reply").0.server_cid;
        assert_eq!(cid.0[0], index);
        assert_ne!(cid.0[1..], [index; 7], "the rest is random");
    }
}

/// A guess at each worker in turn takes N times the pause of one server.
#[test]
fn guesses_at_several_workers_are_no_faster_than_at_one_server() {
    let start = origin();
    let from = "1.2.3.4:5".parse().expect("an address");
    for (of, pause_ms) in [(1, 100), (8, 800)] {
        let mut config = EndpointConfig::new(Secret::Insecure);
        config.server = Some(ServerConfig { place: Place { index: 0, of }, ..ServerConfig::default() });
        let mut s = Endpoint::new(config, [1; 32], start);
        let hello = a_hello();
        let answers = ask(&mut s, start, from, &hello.encode());
        let cid = Reply::decode(&answers[0]).expect("a Reply").0.server_cid;
        let mut confirm = Vec::new();
        let header =
            ProtectedHeader { cid, truncated_number: 0, key_phase: false, confirm: Some([9; CONFIRM_BYTES]) };
        header.encode(&mut confirm);
        confirm.extend_from_slice(&[0; 300]);
        append_trailer(&mut confirm, 0);
        let answers = ask(&mut s, start, from, &confirm);
        assert_eq!(answers[0][0], TYPE_REJECT);
        let another = Hello { client_cid: Cid([7; 8]), ..hello };
        let early = start + ms(pause_ms - 1);
        assert!(ask(&mut s, early, from, &another.encode()).is_empty(), "{of} workers");
        let answers = ask(&mut s, start + ms(pause_ms), from, &another.encode());
        assert_eq!(answers[0][0], TYPE_REPLY, "{of} workers");
    }
}

#[test]
fn a_flood_of_hellos_is_bounded() {
    let (mut s, start) = server();
    let mut hello = a_hello();
    let (mut replies, mut retries, mut bytes) = (0, 0, 0);
    // 20,000 a second for 5 seconds, each from another address; every second one comes back with its cookie.
    for i in 0..100_000u32 {
        let now = start + Duration::from_micros(50 * u64::from(i));
        hello.client_cid = Cid(u64::from(i).to_be_bytes());
        hello.cookie = None;
        let from = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + i), 9));
        for answer in ask(&mut s, now, from, &hello.encode()) {
            bytes += answer.len() as u64;
            replies += usize::from(answer[0] == TYPE_REPLY);
            if answer[0] == TYPE_RETRY {
                retries += 1;
                let retry = crate::wire::handshake::Retry::decode(&answer).expect("decodes");
                if i % 2 == 0 {
                    hello.cookie = Some(retry.cookie);
                    let again = ask(&mut s, now, from, &hello.encode());
                    // Or "not now": the same cookie once more.
                    let not_now = |a: &Vec<u8>| *a == answer;
                    assert!(again.iter().all(|a| a[0] == TYPE_REPLY || not_now(a)));
                    replies += again.iter().filter(|a| a[0] == TYPE_REPLY).count();
                    retries += again.iter().filter(|a| not_now(a)).count();
                    // The cookie is good for this address only.
                    let other = SocketAddr::from((Ipv4Addr::from(0x0b00_0000 + i), 9));
                    assert!(ask(&mut s, now, other, &hello.encode()).iter().all(|a| a[0] == TYPE_RETRY));
                }
            }
        }
        assert!(s.admission().1 <= MAX_HALF_OPEN);
    }
    assert!(replies <= 64 + 400 * 5 + 1, "{replies} PAKE computations in 5 seconds");
    assert!(replies > 1500, "{replies} replies");
    assert!((30_000..=41_000).contains(&retries), "{retries} retries in 5 seconds");
    assert!(bytes < 2_000_000 && s.admission().0.dropped > 50_000, "{bytes} bytes");
    assert_eq!(s.session_count(), 0);
    // Without cookies the table does not even fill.
    let (mut s, start) = server();
    for i in 0..20_000u32 {
        hello.client_cid = Cid(u64::from(i).to_be_bytes());
        hello.cookie = None;
        let now = start + Duration::from_micros(50 * u64::from(i));
        ask(&mut s, now, SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + i), 9)), &hello.encode());
    }
    assert!(s.admission().1 <= 130, "{} half-open", s.admission().1);
    // And it empties.
    let later = start + Duration::from_secs(60);
    ask(&mut s, later, "1.2.3.4:5".parse().expect("an address"), &hello.encode());
    assert_eq!(s.admission().1, 1);
}

#[test]
fn short_hellos_of_other_versions_get_no_long_answer() {
    let (mut s, now) = server();
    let from = "1.2.3.4:5".parse().expect("an address");
    let mut hello = a_hello();
    hello.version = 9;
    let answers = ask(&mut s, now, from, &hello.encode());
    assert_eq!(answers[0][0], TYPE_REJECT, "a whole one is answered");
    let mut short = hello.encode()[..14].to_vec();
    append_trailer(&mut short, 0);
    ask(&mut s, now, from, &short);
    // Garbage gets nothing at all.
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..20_000 {
        let mut junk = vec![0; rng.random_range(0..100)];
        rng.fill_bytes(&mut junk);
        if let Some(first) = junk.first_mut() {
            *first = [0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0x40, 0x41, *first][rng.random_range(0..8)];
        }
        assert!(ask(&mut s, now, from, &junk).is_empty());
    }
}

#[test]
fn one_session_too_many_is_told_so() {
    let mut net = Net::new(1, key(), 3, |_, c| {
        c.session.limit_bytes_per_sec = Some(5_000_000);
        if let Some(s) = &mut c.server {
            s.max_sessions = 2;
        }
    });
    net.put(1, b"a", 3_000_000);
    net.put(2, b"b", 3_000_000);
    net.run_for(ms(60));
    net.put(3, b"c", 10);
    net.run();
    net.expect_done(1, b"a");
    net.expect_done(2, b"b");
    let (_, reason) = net.closed(3).expect("closed");
    assert!(matches!(&reason, CloseReason::Refused(text) if text.contains("as many sessions")), "{reason:?}");
    assert!(net.peers[0].endpoint.admission().0.busy > 0);
}

#[test]
fn handshakes_gathered_beforehand_make_few_guesses() {
    let mut net = Net::new(1, key(), 41, |i, c| {
        if (1..=40).contains(&i) {
            c.secret = Secret::Key(format!("guess {i}").into_bytes().into());
        }
    });
    // Forty guessers behind one address; the honest client is elsewhere.
    for i in 1..=40 {
        net.peers[i].addr = SocketAddr::from((Ipv4Addr::new(10, 9, 9, 9), 1000 + i as u16));
        net.put(i, b"x", 1);
    }
    net.put(41, b"f", 1000);
    net.run_for(Duration::from_secs(2));
    net.expect_done(41, b"f");
    let counters = net.peers[0].endpoint.admission().0;
    assert!((1..=6).contains(&counters.wrong_keys), "{counters:?}");
    net.run();
    assert!(net.peers[0].store.get(b"x").is_none());
    let wrong =
        (1..=40).filter(|i| matches!(net.closed(*i), Some((_, CloseReason::WrongKey)))).count() as u64;
    assert_eq!(wrong, net.peers[0].endpoint.admission().0.wrong_keys);
}

/// Whoever may compute as fast as the server lets him keeps nobody else out.
#[test]
fn a_crowd_behind_one_address_leaves_room_for_others() {
    let (mut s, start) = server();
    let mut hello = a_hello();
    let mut greet = |s: &mut Endpoint, now, from: SocketAddr, n: u64| -> bool {
        hello.client_cid = Cid(n.to_be_bytes());
        hello.cookie = None;
        for _ in 0..2 {
            match ask(s, now, from, &hello.encode()).first() {
                Some(answer) if answer[0] == TYPE_REPLY => return true,
                Some(answer) => {
                    let retry = crate::wire::handshake::Retry::decode(answer).expect("a Retry");
                    hello.cookie = Some(retry.cookie);
                }
                None => return false,
            }
        }
        false
    };
    let (crowd, other) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let (mut served, mut others) = (0, 0);
    for i in 0..6_000u64 {
        let now = start + Duration::from_millis(i / 2);
        served += u32::from(greet(&mut s, now, (crowd, 1000 + i as u16).into(), i));
        if i % 600 == 599 {
            others += u32::from(greet(&mut s, now, (other, 1000 + i as u16).into(), 1_000_000 + i));
        }
    }
    assert!((1000..=64 + 400 * 3).contains(&served), "{served} of the crowd in 3 seconds");
    assert_eq!(others, 10, "the others at once");
}

/// However often a Hello comes, its Reply is computed once and repeated at a client's pace; also when it comes again after the
/// Confirm.
#[test]
fn one_hello_is_one_computation() {
    let (mut s, start) = server();
    let hello = a_hello().encode();
    let from = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 9), 9));
    let mut answers = 0;
    for i in 0..10_000 {
        let got = ask(&mut s, start + Duration::from_micros(100) * i, from, &hello);
        assert!(got.iter().all(|a| a[0] == TYPE_REPLY));
        answers += got.len();
    }
    assert!((40..=51).contains(&answers), "{answers} Replies in a second");
    assert_eq!(s.admission().1, 1, "one half-open handshake");
    let mut net = Net::new(1, key(), 1, |_, _| {});
    net.put(1, b"f", 1000);
    net.run();
    let first = net.log[0].clone();
    let replies = |net: &Net| net.sent_by(0).filter(|p| p.bytes[0] == TYPE_REPLY).count();
    let before = replies(&net);
    net.inject(first);
    net.run_for(ms(100));
    assert_eq!((replies(&net), net.peers[0].endpoint.admission().1), (before, 0));
}
