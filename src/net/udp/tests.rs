//! Loopback tests of the socket.

use super::*;
use mio::{Events, Poll, Token};
use std::net::UdpSocket;

const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Reader {
    poll: Poll,
    pipe: UdpPipe,
}

impl Reader {
    fn new(address: SocketAddr) -> Self {
        let mut pipe = UdpPipe::bind(address).unwrap();
        let poll = Poll::new().unwrap();
        pipe.register(poll.registry(), Token(0)).unwrap();
        Self { poll, pipe }
    }

    fn port(&self) -> u16 {
        self.pipe.local_addr().unwrap().port()
    }

    /// Reads until `count` datagrams have come, or nothing came for 5 s.
    fn read(&mut self, count: usize) -> Vec<(SocketAddr, Option<Ecn>, Vec<u8>)> {
        let mut got = Vec::new();
        let mut events = Events::with_capacity(4);
        while got.len() < count {
            let report = self.pipe.recv(&mut |r: Received<'_>| got.push((r.remote, r.ecn, r.bytes.to_vec())));
            match report {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
                    assert!(!events.is_empty(), "only {} of {count} datagrams came", got.len());
                }
                Err(e) => panic!("{e}"),
            }
        }
        got
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn check_train(sender: &mut UdpPipe, reader: &mut Reader, segment: usize, len: usize) {
    check_train_ecn(sender, reader, segment, len, Some(Ecn::Ect0));
}

fn check_train_ecn(sender: &mut UdpPipe, reader: &mut Reader, segment: usize, len: usize, seen: Option<Ecn>) {
    let bytes = pattern(len);
    let remote = (Ipv4Addr::LOCALHOST, reader.port()).into();
    let report =
        sender.send(Train { remote, ecn: Some(Ecn::Ect0), segment_size: Some(segment), bytes: &bytes });
    assert_eq!(report, SendReport { consumed_bytes: len, too_large: false });
    let got = reader.read(len.div_ceil(segment));
    let from = sender.local_addr().unwrap();
    for ((remote, ecn, datagram), sent) in got.iter().zip(bytes.chunks(segment)) {
        assert_eq!((*remote, *ecn), (from, seen), "{segment} {len}");
        assert_eq!(datagram, sent);
    }
    assert_eq!(got.len(), len.div_ceil(segment));
}

#[test]
fn a_train_arrives_as_datagrams() {
    let mut sender = UdpPipe::bind(LOCAL).unwrap();
    let mut reader = Reader::new(LOCAL);
    for (segment, len) in
        [(1200, 12_700), (1200, 1200), (1400, 700), (1472, 44 * 1472), (33, 64 * 33), (1, 3)]
    {
        check_train(&mut sender, &mut reader, segment, len);
    }
}

#[test]
fn a_train_beyond_one_message_arrives_too() {
    let mut sender = UdpPipe::bind(LOCAL).unwrap();
    let mut reader = Reader::new(LOCAL);
    check_train(&mut sender, &mut reader, 1024, 65_536);
    check_train(&mut sender, &mut reader, 100, 20_050);
}

#[test]
fn a_train_arrives_without_segmentation_too() {
    let mut sender = UdpPipe::bind(LOCAL).unwrap();
    let mut reader = Reader::new(LOCAL);
    let nowhere = Train { remote: LOCAL, ecn: None, segment_size: None, bytes: b"x" };
    // Port 0 makes the kernel say EINVAL, at which quinn-udp turns segmentation off. It is on again at once ...
    let segments = sender.max_segments();
    assert_eq!(sender.send(nowhere).consumed_bytes, 1);
    assert_eq!(sender.max_segments(), segments);
    check_train(&mut sender, &mut reader, 1000, 9500);
    // ... but not twice within a second.
    assert_eq!(sender.send(nowhere).consumed_bytes, 1);
    assert_eq!(sender.max_segments(), 1);
    check_train_ecn(&mut sender, &mut reader, 1000, 9500, None);
    sender.restored = None;
    sender.restore_at = Some(clock());
    check_train(&mut sender, &mut reader, 1000, 9500);
    assert_eq!(sender.max_segments(), segments);
}

#[test]
fn too_large_is_reported_and_other_errors_are_lost_packets() {
    let mut sender = UdpPipe::bind(LOCAL).unwrap();
    let remote = (Ipv4Addr::LOCALHOST, 9).into();
    let bytes = vec![0; MAX_TRAIN_BYTES + 1];
    let train = Train { remote, ecn: None, segment_size: None, bytes: &bytes };
    assert_eq!(sender.send(train), SendReport { consumed_bytes: bytes.len(), too_large: true });
    // Broadcast without permission: EACCES.
    let remote = (Ipv4Addr::BROADCAST, 9).into();
    let train = Train { remote, ecn: None, segment_size: None, bytes: b"x" };
    assert_eq!(sender.send(train), SendReport { consumed_bytes: 1, too_large: false });
    // The other address family: EAFNOSUPPORT or ENETUNREACH.
    let remote = (Ipv6Addr::LOCALHOST, 9).into();
    let train = Train { remote, ecn: None, segment_size: None, bytes: b"x" };
    assert_eq!(sender.send(train), SendReport { consumed_bytes: 1, too_large: false });
}

#[test]
fn the_largest_datagram_passes() {
    let mut sender = UdpPipe::bind(LOCAL).unwrap();
    let mut reader = Reader::new(LOCAL);
    let payload = path_payload((Ipv4Addr::LOCALHOST, reader.port()).into()) as usize;
    assert!((1232..=MAX_TRAIN_BYTES).contains(&payload), "{payload}");
    check_train(&mut sender, &mut reader, payload, payload);
}

#[test]
fn a_wildcard_socket_talks_both_families_and_answers_from_the_address_asked() {
    let Ok(probe) = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) else {
        eprintln!("skipped: no IPv6 on this machine");
        return;
    };
    let mut server = Reader::new((Ipv6Addr::UNSPECIFIED, 0).into());
    // 127.0.0.2 is as good as 127.0.0.1, but the kernel would answer from 127.0.0.1 by itself.
    let v4 = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let asked: SocketAddr = (Ipv4Addr::new(127, 0, 0, 2), server.port()).into();
    let v6_asked: SocketAddr = (Ipv6Addr::LOCALHOST, server.port()).into();
    for (client, asked) in [(v4, asked), (probe, v6_asked)] {
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send_to(b"hello", asked).unwrap();
        let (remote, _, datagram) = server.read(1).remove(0);
        assert_eq!((remote, datagram.as_slice()), (client.local_addr().unwrap(), &b"hello"[..]));
        let answer = Train { remote, ecn: Some(Ecn::Ect0), segment_size: Some(3), bytes: b"abcdef" };
        assert_eq!(server.pipe.send(answer).consumed_bytes, 6);
        let mut buf = [0; 16];
        for part in [b"abc", b"def"] {
            let (len, from) = client.recv_from(&mut buf).unwrap();
            assert_eq!((&buf[..len], from), (&part[..], asked));
        }
    }
}

#[test]
fn empty_datagrams_are_passed_over() {
    let mut reader = Reader::new(LOCAL);
    let sender = UdpSocket::bind(LOCAL).unwrap();
    for bytes in [&b""[..], b"a", b"", b"b"] {
        sender.send_to(bytes, (Ipv4Addr::LOCALHOST, reader.port())).unwrap();
    }
    let got: Vec<_> = reader.read(2).into_iter().map(|(_, _, datagram)| datagram).collect();
    assert_eq!(got, [b"a", b"b"]);
}

#[test]
fn buffers_are_raised() {
    let pipe = UdpPipe::bind(LOCAL).unwrap();
    let plain = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    let (recv, send) = pipe.buffer_sizes().unwrap();
    assert!(recv >= plain.recv_buffer_size().unwrap() && send >= plain.send_buffer_size().unwrap());
}

#[test]
fn a_port_in_use_is_an_error() {
    let first = UdpPipe::bind(LOCAL).unwrap();
    let error = UdpPipe::bind(first.local_addr().unwrap()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn the_memory_of_local_addresses_is_bounded() {
    let mut ips = LocalIps::new(true);
    let ip = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let remote = |i: usize| SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 1));
    let peer = SocketAddr::from(([10, 9, 9, 9], 1));
    for i in 0..=2 * MAX_LOCAL_IPS {
        ips.learn(remote(i), ip);
        assert!(ips.by_remote.len() <= MAX_LOCAL_IPS && ips.older.len() <= MAX_LOCAL_IPS);
        assert_eq!(ips.get(remote(i)), ip);
        // Whoever is heard of now and then stays.
        if i % 4000 == 0 {
            ips.learn(peer, ip);
        }
        assert_eq!(ips.get(peer), ip);
    }
    assert_eq!(ips.get(remote(0)), None);
    ips.learn(remote(0), Some(IpAddr::V4(Ipv4Addr::BROADCAST)));
    assert_eq!(ips.get(remote(0)), None);
    ips.forget(remote(2 * MAX_LOCAL_IPS));
    assert_eq!(ips.get(remote(2 * MAX_LOCAL_IPS)), None);
}

#[test]
fn readiness_comes_again_after_a_short_batch() {
    // The loop trusts `drained` and does not ask again until the poll says so.
    let mut reader = Reader::new(LOCAL);
    let sender = UdpSocket::bind(LOCAL).unwrap();
    let mut events = Events::with_capacity(4);
    for round in 0..50 {
        sender.send_to(b"x", (Ipv4Addr::LOCALHOST, reader.port())).unwrap();
        reader.poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
        assert!(events.iter().any(|e| e.is_readable()), "round {round}");
        let mut count = 0;
        let report = reader.pipe.recv(&mut |_| count += 1).unwrap();
        assert_eq!((report.drained, count), (true, 1));
    }
}
