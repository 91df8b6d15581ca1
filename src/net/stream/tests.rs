//! The stream pipe against pipes of the kernel, full ones and closed ones too.

use super::*;
use std::io::{Read, Write};

/// Two pipes that face each other.
fn pair() -> (StreamPipe, StreamPipe, [Arc<AtomicI32>; 2]) {
    let (a_in, b_out) = std::io::pipe().expect("a pipe");
    let (b_in, a_out) = std::io::pipe().expect("a pipe");
    let signals = [Arc::new(AtomicI32::new(0)), Arc::new(AtomicI32::new(0))];
    let make = |reader: std::io::PipeReader, writer: std::io::PipeWriter, on_end: &Arc<AtomicI32>| {
        StreamPipe::new(reader.into(), writer.into(), Vec::new(), on_end.clone()).expect("made")
    };
    (make(a_in, a_out, &signals[0]), make(b_in, b_out, &signals[1]), signals)
}

fn train(bytes: &[u8], segment_size: Option<usize>) -> Train<'_> {
    Train { remote: STREAM_PEER, ecn: None, segment_size, bytes }
}

/// Everything that is there now.
fn receive(pipe: &mut impl DatagramPipe) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Ok(report) = pipe.recv(&mut |received| all.push(received.bytes.to_vec())) {
        if report.drained {
            break;
        }
    }
    all
}

#[test]
fn headers_are_read_as_they_are_written() {
    for len in [0, 1, 255, 256, 65_507, MAX_FRAME_BYTES] {
        assert_eq!(parse_header(frame_header(KIND_DATAGRAM, len)), (KIND_DATAGRAM, len));
    }
    assert_eq!(frame_header(2, 0x01_02_03), [2, 1, 2, 3]);
}

#[test]
fn trains_come_out_as_datagrams() {
    let (mut a, mut b, _) = pair();
    let bytes: Vec<u8> = (0..=255).cycle().take(2_500).collect();
    let report = a.send(train(&bytes, Some(1_000)));
    assert_eq!(report, SendReport { consumed_bytes: 2_500, too_large: false });
    assert_eq!(a.send(train(&bytes, None)).consumed_bytes, 2_500);
    let got = receive(&mut b);
    let lengths: Vec<usize> = got.iter().map(Vec::len).collect();
    assert_eq!(lengths, [1_000, 1_000, 500, 2_500]);
    assert_eq!(got[..3].concat(), bytes);
}

#[test]
fn a_full_stream_loses_and_repeats_nothing() {
    let (mut a, mut b, _) = pair();
    let mut expected = Vec::new();
    let mut got = Vec::new();
    let mut waited = 0;
    for round in 0..400_u32 {
        let bytes: Vec<u8> =
            (0..40_000).map(|i| (i as u32).wrapping_mul(31).wrapping_add(round) as u8).collect();
        let size = 700 + round as usize * 13;
        expected.extend(bytes.chunks(size).map(<[u8]>::to_vec));
        let mut at = 0;
        while at < bytes.len() {
            let sent = a.send(train(&bytes[at..], Some(size)));
            at += sent.consumed_bytes;
            assert!(at == bytes.len() || at % size == 0, "whole datagrams only");
            if at < bytes.len() {
                waited += 1;
                got.extend(receive(&mut b));
            }
        }
    }
    got.extend(receive(&mut b));
    assert!(waited > 100, "the pipe was full only {waited} times");
    assert!(got == expected);
}

#[test]
fn what_was_read_before_comes_first() {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let out = std::fs::File::options().write(true).open("/dev/null").expect("there");
    let mut before = frame_header(KIND_DATAGRAM, 3).to_vec();
    before.extend_from_slice(b"one");
    before.extend_from_slice(&frame_header(KIND_DATAGRAM, 3)[..2]);
    let mut pipe =
        StreamPipe::new(reader.into(), out.into(), before, Arc::new(AtomicI32::new(0))).expect("made");
    assert_eq!(receive(&mut pipe), [b"one"]);
    writer.write_all(&frame_header(KIND_DATAGRAM, 3)[2..]).expect("written");
    writer.write_all(b"two").expect("written");
    // Messages that come late are passed over.
    writer.write_all(&frame_header(KIND_MESSAGE, 2)).expect("written");
    writer.write_all(b"{}").expect("written");
    assert_eq!(receive(&mut pipe), [b"two"]);
}

#[test]
fn an_end_is_told_once_and_is_no_error() {
    let (mut a, b, signals) = pair();
    drop(b);
    assert!(receive(&mut a).is_empty());
    assert_eq!(signals[0].load(Ordering::Relaxed), SIGHUP);
    assert_eq!(a.send(train(b"lost", None)).consumed_bytes, 4);
    assert_eq!(a.recv(&mut |_| panic!("nothing comes")).expect_err("ended").kind(), ErrorKind::WouldBlock);
    // A signal that came before keeps its number.
    let (mut a, b, signals) = pair();
    signals[0].store(2, Ordering::Relaxed);
    drop(b);
    receive(&mut a);
    assert_eq!(signals[0].load(Ordering::Relaxed), 2);
}

#[test]
fn what_is_no_frame_ends_the_stream() {
    for header in [[0, 0, 0, 1], [9, 0, 0, 0], frame_header(KIND_DATAGRAM, MAX_TRAIN_BYTES + 1)] {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let (mut back, out) = std::io::pipe().expect("a pipe");
        let signal = Arc::new(AtomicI32::new(0));
        let mut pipe = StreamPipe::new(reader.into(), out.into(), Vec::new(), signal.clone()).expect("made");
        writer.write_all(&header).expect("written");
        writer.write_all(&[0; 32]).expect("written");
        assert!(receive(&mut pipe).is_empty());
        assert_eq!(signal.load(Ordering::Relaxed), SIGHUP, "{header:?}");
        drop(pipe);
        assert_eq!(back.read(&mut [0; 8]).expect("readable"), 0);
    }
}

#[test]
fn a_link_sends_by_address() {
    let (near, mut far, _) = pair();
    let udp = UdpPipe::bind(([127, 0, 0, 1], 0).into()).expect("bound");
    let mut link = Link::from(udp).with_stream(near);
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    let remote = peer.local_addr().expect("bound");
    link.send(train(b"stream", None));
    link.send(Train { remote, ..train(b"udp", None) });
    assert_eq!(receive(&mut far), [b"stream"]);
    let mut buffer = [0; 16];
    let (len, from) = peer.recv_from(&mut buffer).expect("received");
    assert_eq!(&buffer[..len], b"udp");
    assert_eq!(from, link.local_addr().expect("bound"));
    let mut only_stream = Link::from(far);
    let report = only_stream.send(Train { remote, ..train(b"nowhere", None) });
    assert_eq!(report.consumed_bytes, 7);
}
