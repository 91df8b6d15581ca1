//! The ceiling of a transfer over the loopback interface: the same work per byte as fulmar's (read, SHA-256, CRC-32 of
//! chunks, AES-128-GCM and CRC checks of datagrams, GSO and GRO, SHA-256, write), with no protocol: nothing is lost, ordered,
//! timed or asked for again. `cargo bench --bench loopback`; compare with `fulmar put` of one GiB (docs/PERFORMANCE.md).
//!
//! Two threads, as the loops of two hosts would be; a shared counter keeps the sender from running over the receiver.

#![allow(clippy::disallowed_methods, reason = "benches measure real time and wait for threads")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{Context, Digest, SHA256};
use std::fs::File;
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Bytes of a run: the caches of a processor are smaller, and a run takes a few tenths of a second.
const FILE_BYTES: u64 = 256 << 20;
/// As fulmar's default.
const CHUNK_BYTES: usize = 256 * 1024;
/// Number of the datagram, in the clear.
const HEADER_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
/// A UDP send takes no more.
const TRAIN_BYTES: usize = 65_000;
/// What the sender may be ahead: with the train under way, this fits a receive buffer of 208 KiB, the usual default.
const AHEAD_BYTES: u64 = 64 << 10;
/// Path MTU of Ethernet, and the one of the loopback interface.
const DATAGRAMS: [usize; 2] = [1400, 65_000];

fn key() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("16 bytes are a key"))
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Memory-backed where there is such a place.
fn directory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared.to_path_buf() } else { std::env::temp_dir() }
}

fn send(source: &File, to: SocketAddr, datagram_bytes: usize, arrived: &AtomicU64) -> Digest {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let state = UdpSocketState::new(UdpSockRef::from(&socket)).expect("a UDP socket");
    socket.set_nonblocking(false).expect("a socket may block");
    let key = key();
    let (mut digest, mut chunk) = (Context::new(&SHA256), vec![0; CHUNK_BYTES]);
    let (mut train, mut number, mut sent) = (Vec::with_capacity(TRAIN_BYTES), 0, 0_u64);
    let segments = (TRAIN_BYTES / datagram_bytes).min(state.max_gso_segments());
    let payload_bytes = datagram_bytes - HEADER_BYTES - TAG_BYTES;
    for offset in (0..FILE_BYTES).step_by(CHUNK_BYTES) {
        source.read_exact_at(&mut chunk, offset).expect("the file is whole");
        digest.update(&chunk);
        std::hint::black_box(crc32fast::hash(&chunk));
        for group in chunk.chunks(payload_bytes * segments) {
            train.clear();
            for payload in group.chunks(payload_bytes) {
                let start = train.len();
                train.extend_from_slice(&u64::to_be_bytes(number));
                train.extend_from_slice(payload);
                let (header, body) = train[start..].split_at_mut(HEADER_BYTES);
                let tag = key
                    .seal_in_place_separate_tag(nonce(number), Aad::from(&*header), body)
                    .expect("a datagram is short");
                train.extend_from_slice(tag.as_ref());
                number += 1;
            }
            while sent.saturating_sub(arrived.load(Ordering::Acquire)) > AHEAD_BYTES {
                thread::yield_now();
            }
            sent += group.len() as u64;
            let transmit = Transmit {
                destination: to,
                ecn: None,
                contents: &train,
                segment_size: (group.len() > payload_bytes).then_some(datagram_bytes),
                src_ip: None,
            };
            while state.try_send(UdpSockRef::from(&socket), &transmit).is_err() {
                thread::yield_now();
            }
        }
    }
    digest.finish()
}

fn receive(socket: &UdpSocket, state: &UdpSocketState, sink: &File, arrived: &AtomicU64) -> Digest {
    let key = key();
    let (mut digest, mut chunk) = (Context::new(&SHA256), Vec::with_capacity(CHUNK_BYTES + 65_536));
    let (mut buffer, mut meta) = (vec![0; 1 << 16], [RecvMeta::default()]);
    let (mut number, mut written) = (0_u64, 0_u64);
    while written < FILE_BYTES {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        state
            .recv(UdpSockRef::from(socket), &mut slices, &mut meta)
            .expect("the sender never pauses for long, and nothing is lost on the loopback interface");
        for datagram in buffer[..meta[0].len].chunks_mut(meta[0].stride) {
            let (header, body) = datagram.split_at_mut(HEADER_BYTES);
            let plain =
                key.open_in_place(nonce(number), Aad::from(&*header), body).expect("nothing is lost here");
            number += 1;
            arrived.fetch_add(plain.len() as u64, Ordering::Release);
            chunk.extend_from_slice(plain);
            if chunk.len() >= CHUNK_BYTES {
                std::hint::black_box(crc32fast::hash(&chunk[..CHUNK_BYTES]));
                digest.update(&chunk[..CHUNK_BYTES]);
                sink.write_all_at(&chunk[..CHUNK_BYTES], written).expect("room for the file");
                written += CHUNK_BYTES as u64;
                chunk.drain(..CHUNK_BYTES);
            }
        }
    }
    digest.finish()
}

fn bare_loop(c: &mut Criterion) {
    let source = tempfile::tempfile_in(directory()).expect("room for the source");
    let mut noise = vec![0_u8; CHUNK_BYTES];
    getrandom::fill(&mut noise).expect("random numbers");
    for offset in (0..FILE_BYTES).step_by(CHUNK_BYTES) {
        source.write_all_at(&noise, offset).expect("room for the source");
    }
    let mut group = c.benchmark_group("bare_loop");
    group.throughput(Throughput::Bytes(FILE_BYTES)).sample_size(10);
    for datagram_bytes in DATAGRAMS {
        group.bench_function(BenchmarkId::from_parameter(datagram_bytes), |b| {
            b.iter(|| {
                let sink = tempfile::tempfile_in(directory()).expect("room for the copy");
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
                socket.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
                let to = socket.local_addr().expect("it is bound");
                // Before anything is sent: what came earlier would not be joined, and find less room.
                let state = UdpSocketState::new(UdpSockRef::from(&socket)).expect("a UDP socket");
                socket.set_nonblocking(false).expect("a socket may block");
                let arrived = AtomicU64::new(0);
                thread::scope(|scope| {
                    let sender = scope.spawn(|| send(&source, to, datagram_bytes, &arrived));
                    let received = receive(&socket, &state, &sink, &arrived);
                    let sent = sender.join().expect("the sender ends");
                    assert_eq!(sent.as_ref(), received.as_ref());
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bare_loop);
criterion_main!(benches);
