//! Speed of the pure core: wire, windows, NACKs, chunk codec, packet protection, and a whole simulated transfer.
//! `cargo bench` runs all; `cargo bench -- wire` one group; `cargo bench -- --test` only checks that they run.

#![allow(
    clippy::disallowed_methods,
    reason = "benches measure real time, and an Instant has to start somewhere"
)]

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fulmar::arq::received::ReceivedNumbers;
use fulmar::arq::sent::{Content, Outcome, SentPackets};
use fulmar::codec::aead::PacketKeys;
use fulmar::codec::chunk::{crc32, decode_chunk, encode_chunk};
use fulmar::impair::Spec;
use fulmar::sim::{Scenario, World};
use fulmar::store::memory::Content as FileContent;
use fulmar::transfer::job::Compression;
use fulmar::wire::Cid;
use fulmar::wire::buf::Reader;
use fulmar::wire::frame::{Frame, Segment};
use fulmar::wire::packet::ProtectedHeader;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::hint::black_box;
use std::time::{Duration, Instant};

const SEED: u64 = 1;
/// Payload of a packet on a path of 1,500 bytes.
const SEGMENT_BYTES: usize = 1400;
/// Plain bytes of a default chunk.
const CHUNK_BYTES: usize = 256 * 1024;
const RTT: Duration = Duration::from_millis(100);

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(SEED).fill_bytes(&mut bytes);
    bytes
}

/// Words in random order: shrinks about as text does.
fn text(len: usize) -> Vec<u8> {
    let words =
        "the of packet window loss repair segment chunk file and to is in that path rate delay queue sender";
    let words: Vec<&str> = words.split(' ').collect();
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        bytes.extend_from_slice(words[rng.random_range(0..words.len())].as_bytes());
        bytes.push(b' ');
    }
    bytes.truncate(len);
    bytes
}

/// A Data packet with one raw segment, without protection.
fn encode_packet(number: u32, data: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let header =
        ProtectedHeader { cid: Cid([7; 8]), truncated_number: number, key_phase: false, confirm: None };
    header.encode(out);
    Segment { file: 3, chunk: 1000, offset: 140_000, generation: 0, encoded: None, crc32: None, data }
        .encode(out, true);
}

fn wire(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire");
    group.throughput(Throughput::Elements(1));
    let (data, mut out) = (noise(SEGMENT_BYTES), Vec::with_capacity(2000));
    group.bench_function("encode a packet with a segment", |b| {
        b.iter(|| encode_packet(black_box(77), black_box(&data), &mut out))
    });
    encode_packet(77, &data, &mut out);
    group.bench_function("decode a packet with a segment", |b| {
        b.iter(|| {
            let (header, len) = ProtectedHeader::decode(black_box(&out)).expect("a packet");
            let frame = Frame::decode(&mut Reader::new(&out[len..])).expect("a frame");
            matches!(frame, Frame::Segment(s) if s.chunk == 1000) && header.truncated_number == 77
        })
    });
    group.finish();
}

/// Sends 10,000 packets 10 us apart with an RTT of 100 ms, takes in feedback every 64, drops some; everything is settled.
fn windows_once(loss_pct: u32) -> u64 {
    let (start, mut rng) = (Instant::now(), StdRng::seed_from_u64(SEED));
    let (mut sent, mut received) = (SentPackets::new(), ReceivedNumbers::new(start));
    let (mut outcome, mut settled) = (Outcome::default(), 0);
    for n in 0..10_000u64 {
        let now = start + Duration::from_micros(10 * n);
        sent.on_sent(now, SEGMENT_BYTES as u32, true, false, Content::default());
        if rng.random_range(0..100) >= loss_pct {
            received.on_floor(sent.floor(), 64, RTT / 10);
            received.on_packet(now, n, SEGMENT_BYTES, true, false);
        }
        if n % 64 == 63
            && let Some(feedback) = received.build(now, 1100, 1 << 20, 1 << 20)
        {
            sent.on_feedback(now, &feedback, RTT, &mut outcome).expect("honest feedback");
            settled += (outcome.acked.len() + outcome.lost.len()) as u64;
        }
    }
    settled
}

fn windows(c: &mut Criterion) {
    let mut group = c.benchmark_group("windows");
    group.throughput(Throughput::Elements(10_000)).sample_size(20);
    for loss_pct in [0, 10] {
        group.bench_function(BenchmarkId::new("send and settle 10,000 packets, loss %", loss_pct), |b| {
            b.iter(|| windows_once(black_box(loss_pct)))
        });
    }
    group.finish();
}

fn nack(c: &mut Criterion) {
    let mut group = c.benchmark_group("nack");
    group.throughput(Throughput::Elements(1));
    let start = Instant::now();
    for (packets, loss_pct) in [(2_000, 1), (2_000, 30), (50_000, 1), (50_000, 30)] {
        let (mut received, mut rng) = (ReceivedNumbers::new(start), StdRng::seed_from_u64(SEED));
        for n in 0..packets {
            if rng.random_range(0..100) >= loss_pct {
                received.on_packet(start, n, SEGMENT_BYTES, true, false);
            }
        }
        let name = format!("build feedback, {packets} packets, loss %");
        group.bench_function(BenchmarkId::new(name, loss_pct), |b| {
            b.iter(|| received.build(black_box(start), 1100, 1 << 20, 1 << 20).map(|f| f.largest))
        });
    }
    group.finish();
}

fn chunk_codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunk codec");
    group.throughput(Throughput::Bytes(CHUNK_BYTES as u64)).sample_size(30);
    for (name, plain) in [("random", Bytes::from(noise(CHUNK_BYTES))), ("text", text(CHUNK_BYTES).into())] {
        group.bench_function(format!("encode {name}"), |b| {
            b.iter(|| encode_chunk(black_box(plain.clone()), Compression::Auto))
        });
        let encoded = encode_chunk(plain.clone(), Compression::Auto);
        group.bench_function(format!("decode {name}"), |b| {
            b.iter(|| decode_chunk(encoded.codec, black_box(&encoded.data), CHUNK_BYTES).expect("decodes"))
        });
    }
    let plain = noise(CHUNK_BYTES);
    group.bench_function("CRC-32", |b| b.iter(|| crc32(black_box(&plain))));
    group.finish();
}

fn aead(c: &mut Criterion) {
    let mut group = c.benchmark_group("aead");
    let (header, all) =
        ([0x40; 13], [("AES-128-GCM", PacketKeys::from_secret(&[7; 32])), ("CRC-32", PacketKeys::crc())]);
    for (name, keys) in &all {
        for len in [1_400, 60_000] {
            group.throughput(Throughput::Bytes(len as u64));
            let plain = noise(len);
            let fresh = || {
                let mut buf = Vec::with_capacity(len + 16);
                buf.extend_from_slice(&plain);
                buf
            };
            group.bench_function(BenchmarkId::new(format!("seal, {name}"), len), |b| {
                b.iter_batched_ref(fresh, |buf| keys.seal(9, &header, buf, 0), BatchSize::SmallInput)
            });
            let mut sealed = fresh();
            keys.seal(9, &header, &mut sealed, 0);
            group.bench_function(BenchmarkId::new(format!("open, {name}"), len), |b| {
                b.iter_batched_ref(
                    || sealed.clone(),
                    |buf| keys.open(9, &header, buf).map(|p| p.len()).expect("opens"),
                    BatchSize::SmallInput,
                )
            });
        }
    }
    group.finish();
}

/// Puts 4 MB through a link; returns the datagrams that arrived.
fn transfer_once(spec: &Spec) -> u64 {
    let mut world = World::new(&Scenario::symmetric(SEED, spec.outgoing.clone()));
    let content = FileContent::Pattern { seed: SEED, size: 4_000_000 };
    world.client_store(0).insert_file(b"f", content, Default::default());
    let session = world.put(0, &[b"f"]);
    world.run().expect("the transfer ends");
    assert!(world.report(0, session).failures.is_empty());
    world.datagrams()
}

fn simulated_transfer(c: &mut Criterion) {
    let mut group = c.benchmark_group("simulated transfer");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for spec in ["delay=10ms,rate=500mbit", "delay=50ms,rate=100mbit,loss=10%"] {
        let link: Spec = spec.parse().expect("a valid spec");
        // The same seed gives the same run, so the datagrams of one are those of all: elements are packets.
        group.throughput(Throughput::Elements(transfer_once(&link)));
        group.bench_function(BenchmarkId::new("4 MB", spec), |b| b.iter(|| transfer_once(black_box(&link))));
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .without_plots()
}

criterion_group! {
    name = core;
    config = short();
    targets = wire, windows, nack, chunk_codec, aead, simulated_transfer
}
criterion_main!(core);
