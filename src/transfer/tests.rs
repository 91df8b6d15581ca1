//! Sender and receiver: what is cut, sent, repaired, assembled; their bounds; both together without a network between them.

mod receiver;
mod sender;

use super::job::*;
use super::receiver::{Accept, Receiver};
use super::sender::Sender;
use crate::arq::sent::SegmentRef;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::wire::buf::Reader;
use crate::wire::frame::{Frame, Segment};
use crate::wire::message::Message;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

pub(super) fn root(name: &[u8]) -> SourceRoot {
    SourceRoot { location: Location::Local(name.to_vec()), name: name.to_vec() }
}

pub(super) fn dest() -> Dest {
    Dest {
        location: Location::Jail(Vec::new()),
        into_dir: true,
        overwrite: Overwrite::Never,
        no_resume: false,
        name_prefix: Vec::new(),
    }
}

/// Text that LZ4 shrinks, or noise that it does not.
pub(super) fn bytes(seed: u64, len: usize, text: bool) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    if text {
        return (0..len)
            .map(|i| b"the quick brown fox "[i % 20] ^ u8::from(rng.random_range(0..40) == 0))
            .collect();
    }
    let mut v = vec![0; len];
    rng.fill_bytes(&mut v);
    v
}

/// A sender with its store; jobs are run at once.
pub(super) struct Source {
    pub(super) sender: Sender,
    pub(super) store: MemoryStore,
}

impl Source {
    pub(super) fn new(files: &[(&[u8], Vec<u8>)], chunk: u32, compress: Compression, budget: u64) -> Self {
        let (mut sender, mut store) = (Sender::new(chunk, compress, budget), MemoryStore::new());
        for (name, data) in files {
            store.insert(name, data.clone());
            sender.add_root(root(name));
        }
        sender.finish_roots();
        Self { sender, store }
    }

    /// Runs all jobs there are; returns the messages.
    pub(super) fn work(&mut self) -> Vec<Message> {
        let (mut done, mut messages) = (Vec::new(), Vec::new());
        loop {
            self.sender.pump(0);
            messages.extend(std::iter::from_fn(|| self.sender.poll_message()));
            let Some(job) = self.sender.poll_job() else { return messages };
            self.store.run(1, job, &mut done);
            done.drain(..).for_each(|(_, d)| self.sender.handle_done(d));
        }
    }

    /// The next segment and its frame.
    pub(super) fn segment(&mut self, room: usize) -> Option<(SegmentRef, Vec<u8>)> {
        let r = self.sender.next_segment(room, true)?;
        let mut frame = Vec::new();
        self.sender.encode_segment(&r, &mut frame, true);
        assert_eq!(frame.len(), self.sender.segment_frame_bytes(&r, true));
        assert!(frame.len() <= room && r.len > 0, "{} bytes for {room}", frame.len());
        Some((r, frame))
    }
}

pub(super) fn segment_of(frame: &[u8]) -> Segment<'_> {
    match Frame::decode(&mut Reader::new(frame)) {
        Ok(Frame::Segment(s)) => s,
        other => panic!("not a segment: {other:?}"),
    }
}

/// A receiver with its store.
pub(super) struct Sink {
    pub(super) receiver: Receiver,
    pub(super) store: MemoryStore,
}

impl Sink {
    pub(super) fn new(budget: u64) -> Self {
        let mut receiver = Receiver::new(budget);
        receiver.set_dest(dest());
        Self { receiver, store: MemoryStore::new() }
    }

    pub(super) fn work(&mut self) -> Vec<Message> {
        let mut done = Vec::new();
        loop {
            while let Some(job) = self.receiver.poll_job() {
                self.store.run(1, job, &mut done);
            }
            self.store.idle(&mut done);
            if done.is_empty() {
                return std::iter::from_fn(|| self.receiver.poll_message()).collect();
            }
            done.drain(..).for_each(|(_, d)| self.receiver.handle_done(d));
        }
    }
}

/// Both, with segments lost, repeated and in any order. Returns the receiver's store.
fn carry(seed: u64, files: &[(&[u8], Vec<u8>)], chunk: u32, compress: Compression, budget: u64) -> Sink {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut source = Source::new(files, chunk, compress, 4 * u64::from(chunk));
    let mut sink = Sink::new(budget);
    if rng.random_range(0..4) == 0 {
        sink.store.flip_chunk_once(rng.random_range(0..3));
    }
    let mut control: std::collections::VecDeque<Message> = Default::default();
    let mut wire: Vec<(SegmentRef, Vec<u8>)> = Vec::new();
    for round in 0.. {
        assert!(round < 200_000, "seed {seed}: no end; {} in flight", wire.len());
        control.extend(source.work());
        let in_flight: u64 = wire.iter().map(|(_, f)| f.len() as u64).sum();
        let fresh = in_flight < sink.receiver.window_bytes();
        if wire.len() < 64 && (fresh || source.sender.has_repair()) {
            let room = rng.random_range(64..1400);
            if let Some(r) = source.sender.next_segment(room, fresh) {
                let mut frame = Vec::new();
                source.sender.encode_segment(&r, &mut frame, true);
                wire.push((r, frame));
            }
        }
        if rng.random()
            && let Some(m) = control.pop_front()
        {
            sink.receiver.handle_message(m).expect("honest");
        }
        if !wire.is_empty() && rng.random() {
            let (r, frame) = wire.swap_remove(rng.random_range(0..wire.len()));
            let taken = rng.random_range(0..10) > 1 && {
                match sink.receiver.on_segment(&segment_of(&frame)) {
                    Accept::Yes => true,
                    Accept::NotNow => false,
                    Accept::Violation(what) => panic!("seed {seed}: {what}"),
                }
            };
            if taken {
                source.sender.on_acked(&r)
            } else {
                source.sender.on_lost(&r)
            }
            if rng.random_range(0..10) == 0 {
                wire.push((r, frame));
            }
        }
        if rng.random_range(0..3) == 0 {
            for m in sink.work() {
                assert!(source.sender.handle_message(m), "seed {seed}");
            }
        }
        if control.is_empty() && source.sender.is_finished() && sink.receiver.is_finished() {
            break;
        }
    }
    assert_eq!(sink.receiver.used_bytes(), 0, "seed {seed}: nothing is held at the end");
    assert_eq!(sink.receiver.window_bytes(), budget);
    let total: u64 = files.iter().map(|(_, d)| d.len() as u64).sum();
    let (tx, rx) = (source.sender.counters(), sink.receiver.counters());
    assert_eq!((tx.bytes_total, tx.bytes_done, rx.bytes_total, rx.bytes_done), (total, total, total, total));
    sink
}

#[test]
fn files_arrive_whatever_happens_to_segments() {
    for seed in 0..60 {
        let chunk = [1024, 4096, 65_536][seed as usize % 3];
        let compress = [Compression::None, Compression::Lz4, Compression::Auto][seed as usize / 3 % 3];
        let files: Vec<(&[u8], Vec<u8>)> = vec![
            (b"a", bytes(seed, 20_000 + 1000 * seed as usize, seed % 2 == 0)),
            (b"b", bytes(seed + 1, 100, false)),
            (b"c", Vec::new()),
            (b"d", bytes(seed + 2, 100_000, true)),
        ];
        // Much less than a file, and (for the largest chunks) less than a chunk.
        let budget = [20_000, 60_000, 1 << 20][seed as usize % 7 % 3];
        let sink = carry(seed, &files, chunk, compress, budget);
        for (name, data) in &files {
            assert!(sink.store.get(name).is_some_and(|d| d == data), "seed {seed}");
        }
    }
}
