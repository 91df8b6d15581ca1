//! Feedback blocks against a naive model.

use super::*;
use crate::arq::rangeset::RangeSet;
use crate::wire::feedback::{Block, MAX_BLOCK_NUMBERS, MAX_BLOCKS};
use std::ops::Range;

/// The runs of a block as it comes off the wire, after checking that they tile its range and alternate.
fn runs(block: &Block<'_>) -> Vec<(Range<u64>, bool)> {
    let mut runs: Vec<(Range<u64>, bool)> = Vec::new();
    let mut above = block.range().end;
    block.for_each_run(|r, received| {
        assert!(r.start < r.end && r.end == above, "runs tile the block");
        above = r.start;
        runs.push((r, received));
    });
    assert_eq!(above, block.range().start, "runs tile the block");
    runs
}

/// What even hostile blocks must keep to.
pub(in crate::wire) fn check_claims(f: &Feedback<'_>) {
    assert!(f.blocks.iter().count() <= MAX_BLOCKS);
    let mut above = f.largest + 1;
    for b in f.blocks.iter() {
        assert!((1..=MAX_BLOCK_NUMBERS).contains(&b.count) && b.range().end <= above);
        above = b.range().start;
        runs(b);
    }
}

/// Ranges of a random received set below `end`: sparse, dense, or in long stretches.
pub(in crate::wire) fn random_set(rng: &mut StdRng, end: u64) -> RangeSet {
    let mut set = RangeSet::new();
    let (keep, stretch) = [(1, 1), (50, 1), (70, 3), (95, 10), (99, 1000)][rng.random_range(0..5)];
    let mut n = 0;
    while n < end {
        let len = rng.random_range(1..=stretch).min(end - n);
        if rng.random_range(0..100) < keep {
            set.insert(n..n + len);
        }
        n += len;
    }
    set
}

/// Bytes of a block's body, without its head and (of runs) its length.
fn body_bytes(block: Block<'_>, largest: u64) -> usize {
    let mut blocks = BlockList::default();
    assert!(blocks.push(block));
    let with = encoded(&Frame::Feedback(Feedback { blocks, ..no_feedback(largest) })).len();
    let without = encoded(&Frame::Feedback(no_feedback(largest))).len();
    let body = with - without - varint_len(largest - block.top) - varint_len(block.count) - 1;
    // A bitmap has no length field.
    let bits = block.count.div_ceil(8) as usize;
    if body == bits { body } else { (0..body).find(|n| n + varint_len(*n as u64) == body).unwrap_or(body) }
}

pub(in crate::wire) fn encode_random_feedback(rng: &mut StdRng, out: &mut Vec<u8>) {
    let end = rng.random_range(1..300);
    let set = random_set(rng, end);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let mut blocks = BlockList::default();
    let first = build_block(0..end, set.iter_down_from(end), rng.random_range(8..24), &mut one);
    let low = first.map_or(0, |b| b.range().start);
    first.map(|b| blocks.push(b));
    if low > 0 {
        let top = rng.random_range(1..=low);
        build_block(0..top, set.iter_down_from(top), 12, &mut two).map(|b| blocks.push(b));
    }
    Frame::Feedback(Feedback { blocks, ..no_feedback(end - 1) }).encode(out);
}

#[test]
fn blocks_say_exactly_what_was_received() {
    let mut rng = StdRng::seed_from_u64(11);
    for round in 0..3000 {
        let end = [1, 2, 9, 100, 3000, 20_000][rng.random_range(0..6)];
        let set = random_set(&mut rng, end);
        let start = rng.random_range(0..end.min(50));
        let budget = [8, 9, 12, 30, 100, 1100, 5000][rng.random_range(0..7)];
        let mut scratch = Vec::new();
        let block = build_block(start..end, set.iter_down_from(end), budget, &mut scratch);
        let block = block.expect("not empty");
        assert_eq!(block.range().end, end);
        assert!(block.range().start >= start);
        // Across the wire.
        let mut blocks = BlockList::default();
        blocks.push(block);
        let bytes = encoded(&Frame::Feedback(Feedback { blocks, ..no_feedback(end - 1) }));
        let Ok(Frame::Feedback(f)) = one_frame(&bytes) else { panic!("round {round}: does not decode") };
        let back = f.blocks.iter().next().expect("a block");
        assert_eq!(back, &block);
        for (r, received) in runs(back) {
            r.clone().for_each(|n| assert_eq!(set.contains(n), received, "round {round}: number {n}"));
        }
        let size = body_bytes(block, end - 1);
        assert!(size <= budget, "round {round}: {size} bytes for a budget of {budget}");
        check_coverage(&set, start..end, budget, block);
    }
}

/// The form that reaches further down was taken.
fn check_coverage(set: &RangeSet, range: Range<u64>, budget: usize, block: Block<'_>) {
    let by_bits = range.end.saturating_sub(budget as u64 * 8).max(range.start);
    assert!(block.range().start <= by_bits, "bits would reach further");
    // Runs, by brute force: how far do alternating lengths get?
    let (mut at, mut received, mut used) = (range.end, true, 0);
    while at > range.start {
        let mut n = 0;
        while at - n > range.start && set.contains(at - n - 1) == received {
            n += 1;
        }
        used += varint_len(n);
        if used > budget {
            break;
        }
        at -= n;
        received = !received;
    }
    // A run of missing numbers is written together with the received run below it, so its end may be cut off.
    let whole = at == range.start;
    assert!(!whole || used + 9 > budget || block.range().start == range.start, "runs would tell it all");
}

#[test]
fn a_block_of_the_most_numbers() {
    let end = 3 * MAX_BLOCK_NUMBERS;
    let mut set = RangeSet::new();
    set.insert(0..end);
    let mut scratch = Vec::new();
    let b = build_block(0..end, set.iter_down_from(end), 100, &mut scratch).expect("a block");
    assert_eq!(b.count, MAX_BLOCK_NUMBERS);
    assert_eq!(runs(&b), [(end - MAX_BLOCK_NUMBERS..end, true)]);
    assert!(build_block(5..5, [].into_iter(), 100, &mut Vec::new()).is_none());
    assert!(build_block(0..5, [].into_iter(), 7, &mut Vec::new()).is_none());
    let mut scratch = Vec::new();
    let b = build_block(0..5, [].into_iter(), 8, &mut scratch).expect("a block");
    assert_eq!(runs(&b), [(0..5, false)]);
}

fn hostile(largest: u64, blocks: &[(u64, u64, u8, &[u8])]) -> Result<(), WireError> {
    let mut out = encoded(&Frame::Feedback(no_feedback(largest)));
    *out.last_mut().expect("the count") = blocks.len() as u8;
    for (skip, count, kind, body) in blocks {
        put_varint(&mut out, *skip);
        put_varint(&mut out, *count);
        out.push(*kind);
        out.extend_from_slice(body);
    }
    one_frame(&out).map(|f| match f {
        Frame::Feedback(f) => check_claims(&f),
        _ => panic!("another frame"),
    })
}

#[test]
fn hostile_blocks_are_refused() {
    let bad = |name| Err(WireError::Bounds(name));
    assert_eq!(hostile(9, &[(0, 10, 0, &[1, 10])]), Ok(()));
    assert_eq!(hostile(9, &[(0, 11, 0, &[1, 11])]), bad("block"));
    assert_eq!(hostile(9, &[(1, 10, 0, &[1, 10])]), bad("block"));
    assert_eq!(hostile(9, &[(10, 1, 0, &[1, 1])]), bad("block"));
    assert_eq!(hostile(9, &[(VARINT_MAX, 1, 0, &[1, 1])]), bad("block"));
    assert_eq!(hostile(9, &[(0, 0, 0, &[0])]), bad("block"));
    // Two that together go below zero, or more blocks than allowed.
    assert_eq!(hostile(9, &[(0, 6, 0, &[1, 6]), (0, 4, 0, &[1, 4])]), Ok(()));
    assert_eq!(hostile(9, &[(0, 6, 0, &[1, 6]), (0, 5, 0, &[1, 5])]), bad("block"));
    let one: (u64, u64, u8, &[u8]) = (0, 1, 1, &[1]);
    assert_eq!(hostile(9, &[one; MAX_BLOCKS]), Ok(()));
    assert_eq!(hostile(9, &[one; MAX_BLOCKS + 1]), bad("blocks"));
    // Runs that say more or less than announced.
    assert_eq!(hostile(9, &[(0, 10, 0, &[1, 9])]), bad("runs"));
    assert_eq!(hostile(9, &[(0, 9, 0, &[1, 10])]), bad("runs"));
    let huge = [8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(hostile(9, &[(0, 9, 0, &huge)]), bad("runs"));
    assert_eq!(hostile(9, &[(0, 9, 1, &[1])]), Err(WireError::Truncated));
    assert_eq!(hostile(9, &[(0, 8, 2, &[1])]), bad("block kind"));
    // One number more than a block may cover.
    let far = 1 << 40;
    let runs = |n: u64| {
        let (mut list, mut out) = (Vec::new(), Vec::new());
        put_varint(&mut list, n);
        put_bytes(&mut out, &list);
        out
    };
    assert_eq!(hostile(far, &[(0, MAX_BLOCK_NUMBERS, 0, &runs(MAX_BLOCK_NUMBERS))]), Ok(()));
    assert_eq!(
        hostile(far, &[(0, MAX_BLOCK_NUMBERS + 1, 0, &runs(MAX_BLOCK_NUMBERS + 1))]),
        bad("block length")
    );
    // Empty runs make no work: only as many bytes as arrived.
    assert_eq!(hostile(9, &[(0, 10, 0, &[5, 0, 0, 0, 0, 10])]), Ok(()));
}

#[test]
fn blocks_at_the_end_of_the_number_space() {
    assert_eq!(hostile(VARINT_MAX, &[(0, 10, 0, &[1, 10])]), Ok(()));
    assert_eq!(hostile(0, &[(0, 1, 0, &[1, 1])]), Ok(()));
    assert_eq!(hostile(0, &[(0, 2, 0, &[1, 2])]), Err(WireError::Bounds("block")));
}
