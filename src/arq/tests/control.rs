//! The control stream under loss, reordering, duplication and little credit.

use crate::arq::control::{BeyondCredit, ControlReceiver, ControlSender, MAX_OUT_OF_ORDER};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

struct Piece {
    offset: u64,
    len: u32,
    times: u16,
    data: Vec<u8>,
}

/// Sends `text` in random pieces through a bad link; returns what came out.
fn carry(seed: u64, text: &[u8], loss_pct: u32) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut tx, mut rx) = (ControlSender::default(), ControlReceiver::default());
    let window = rng.random_range(200..4000u64);
    let mut credit = window;
    let (mut wire, mut out, mut written) = (Vec::<Piece>::new(), Vec::new(), 0);
    tx.set_credit(credit);
    for round in 0.. {
        assert!(round < 1_000_000, "seed {seed}: no end");
        if written < text.len() {
            let n = rng.random_range(0..500).min(text.len() - written);
            tx.write(&text[written..written + n]);
            written += n;
        } else if tx.is_drained() {
            break;
        }
        let ready = tx.has_piece();
        if let Some((offset, len, times)) = tx.next_piece(rng.random_range(1..700)) {
            assert!(ready && len > 0 && offset + u64::from(len) <= credit, "seed {seed}");
            assert!(times == 1 || loss_pct > 0, "seed {seed}: repeated without loss");
            let mut data = Vec::new();
            tx.copy_to(offset, len, &mut data);
            assert_eq!(data, text[offset as usize..][..len as usize], "seed {seed}");
            wire.push(Piece { offset, len, times, data });
        }
        assert_eq!(tx.is_blocked(), !tx.has_piece() && tx.unsent() > 0, "seed {seed}");
        // Something happens to some piece in flight, in any order.
        if !wire.is_empty() && rng.random_range(0..3) > 0 {
            let p = wire.swap_remove(rng.random_range(0..wire.len()));
            if rng.random_range(0..100) < loss_pct {
                tx.on_lost(p.offset, p.len, p.times);
                if rng.random_range(0..4) == 0 {
                    wire.push(p); // Spurious: it arrives all the same.
                }
                continue;
            }
            for _ in 0..rng.random_range(1..3) {
                // Not kept, since it overlaps too much: as if it had been lost.
                match rx.insert(p.offset, &p.data, credit, false) {
                    Ok(true) => tx.on_acked(p.offset, p.len),
                    Ok(false) => tx.on_lost(p.offset, p.len, p.times),
                    Err(e) => panic!("seed {seed}: {e}"),
                }
            }
            let n = rng.random_range(0..=rx.ready().len());
            out.extend_from_slice(&rx.ready()[..n]);
            rx.consume(n);
            assert_eq!(rx.consumed(), out.len() as u64);
            // Read bytes are thrown away 64 KiB at a time.
            assert!(
                rx.held_bytes() as u64 <= 3 * window + 64 * 1024,
                "seed {seed}: {} bytes held",
                rx.held_bytes()
            );
            credit = credit.max(rx.consumed() + window);
            if rng.random_range(0..3) == 0 {
                tx.set_credit(credit);
            }
        } else {
            tx.set_credit(credit);
            let n = rx.ready().len();
            out.extend_from_slice(rx.ready());
            rx.consume(n);
            credit = credit.max(rx.consumed() + window);
        }
    }
    out.extend_from_slice(rx.ready());
    out
}

#[test]
fn bytes_come_out_exactly_and_in_order() {
    for seed in 0..150 {
        let mut rng = StdRng::seed_from_u64(1000 + seed);
        let mut text = vec![0; rng.random_range(1..60_000)];
        rng.fill_bytes(&mut text);
        assert!(carry(seed, &text, [0, 5, 30, 60][seed as usize % 4]) == text, "seed {seed}");
    }
}

#[test]
fn overlapping_pieces_of_any_size() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut text = vec![0; 2000];
        rng.fill_bytes(&mut text);
        let mut rx = ControlReceiver::default();
        for _ in 0..400 {
            let a = rng.random_range(0..=text.len());
            let b = (a + rng.random_range(0..200)).min(text.len());
            assert!(rx.insert(a as u64, &text[a..b], 2000, false).is_ok());
            assert!(text.starts_with(rx.ready()), "seed {seed}");
        }
        rx.insert(0, &text, 2000, false).expect("within credit");
        assert_eq!(rx.ready(), text);
        assert_eq!(rx.held_bytes(), text.len(), "seed {seed}: nothing else is kept");
    }
}

#[test]
fn credit_is_enforced_on_both_sides() {
    let mut tx = ControlSender::default();
    tx.write(&[7; 100]);
    assert!(tx.is_blocked() && !tx.has_piece() && tx.next_piece(50).is_none());
    tx.set_credit(30);
    tx.set_credit(20);
    assert_eq!(tx.next_piece(50), Some((0, 30, 1)), "credit never falls");
    assert!(tx.is_blocked());
    tx.on_lost(0, 30, 1);
    assert!(!tx.is_blocked(), "repairs need no new credit");
    assert_eq!(tx.next_piece(10), Some((0, 10, 2)));
    tx.on_acked(0, 30);
    assert_eq!(tx.next_piece(10), None, "acknowledged after all");
    assert_eq!((tx.buffered(), tx.unsent()), (70, 70));
    let mut rx = ControlReceiver::default();
    assert_eq!(rx.insert(90, &[1; 10], 100, false), Ok(true));
    assert_eq!(rx.insert(90, &[1; 11], 100, false), Err(BeyondCredit));
    assert_eq!(rx.insert(1 << 60, &[1], 100, false), Err(BeyondCredit));
}

#[test]
fn stretches_out_of_order_are_bounded() {
    let mut rx = ControlReceiver::default();
    let far = 1 << 40;
    for i in 0..MAX_OUT_OF_ORDER as u64 {
        assert_eq!(rx.insert(1 + 2 * i, &[1], far, false), Ok(true));
    }
    assert_eq!(
        rx.insert(1 + 2 * MAX_OUT_OF_ORDER as u64, &[1], far, false),
        Ok(false),
        "one more is not kept"
    );
    // What is in order is taken all the same.
    assert_eq!(rx.insert(0, &[0], far, false), Ok(true));
    assert_eq!(rx.ready(), [0, 1]);
}

/// Overlapping stretches at every offset must not add up beyond what the credit allows.
#[test]
fn overlaps_do_not_multiply_memory() {
    let mut rx = ControlReceiver::default();
    let credit = 128 * 1024;
    for i in 1..8000u64 {
        let _ = rx.insert(i, &[1; 60_000], credit, false);
    }
    assert!(rx.held_bytes() as u64 <= 2 * credit, "{} bytes held", rx.held_bytes());
}

/// Where memory is short little is kept, but the next message always comes through.
#[test]
fn short_memory_keeps_little_and_never_the_next_message_out() {
    let mut rx = ControlReceiver::default();
    let credit = 4 << 20;
    for i in 0..100u64 {
        let _ = rx.insert(1 + i * 10_000, &[1; 10_000], credit, true);
    }
    assert!(rx.held_bytes() <= 128 * 1024, "{} bytes held", rx.held_bytes());
    assert_eq!(rx.insert(0, &[1], credit, true), Ok(true), "what closes the gap is kept");
    let mut at = rx.ready().len() as u64;
    while rx.insert(at, &[1; 10_000], credit, true) == Ok(true) {
        at += 10_000;
    }
    assert!(rx.ready().len() > 64 * 1024 && rx.held_bytes() <= 300 * 1024, "{}", rx.held_bytes());
    rx.consume(rx.ready().len());
    assert_eq!(rx.insert(at, &[1; 10_000], credit, true), Ok(true), "as soon as it was read");
    assert_eq!(rx.insert(at + 50_000, &[1; 10_000], credit, true), Ok(true));
}
