use super::*;
use crate::codec::aead::SECRET_BYTES;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

struct Packet {
    number: u64,
    phase: bool,
    sealed: Vec<u8>,
}

fn pair() -> (SealKeys, OpenKeys) {
    let keys = || PacketKeys::from_secret(&[9; SECRET_BYTES]);
    (SealKeys::new(keys()), OpenKeys::new(keys()))
}

fn seal(keys: &mut SealKeys, number: u64) -> Packet {
    let mut sealed = number.to_be_bytes().to_vec();
    keys.seal_packet(number, &mut sealed, 0, 0);
    Packet { number, phase: keys.phase(), sealed }
}

fn open(keys: &mut OpenKeys, packet: &Packet) -> bool {
    match keys.open(packet.number, packet.phase, b"", &mut packet.sealed.clone()) {
        Ok(payload) => payload == packet.number.to_be_bytes(),
        Err(OpenError) => false,
    }
}

#[test]
fn updates_follow_through_loss_and_reordering() {
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut sender, mut receiver) = pair();
        let (mut number, mut late) = (0, Vec::new());
        for generation in 0..10_u64 {
            assert_eq!(sender.phase(), generation % 2 == 1);
            let mut batch: Vec<Packet> = (0..20)
                .map(|_| {
                    number += rng.random_range(1..4);
                    seal(&mut sender, number)
                })
                .collect();
            // A few arrive only after the next generation has begun.
            batch.shuffle(&mut rng);
            let held_back = batch.split_off(15);
            batch.append(&mut late);
            batch.shuffle(&mut rng);
            for packet in &batch {
                assert!(open(&mut receiver, packet), "seed {seed}, number {}", packet.number);
            }
            late = held_back;
            let newest = batch.iter().map(|packet| packet.number).max().expect("a batch");
            sender.on_acknowledged(newest);
            assert!(sender.update(number + 1), "seed {seed}");
        }
        assert_eq!(receiver.failed_packets(), 0, "seed {seed}");
    }
}

#[test]
fn no_update_before_the_present_generation_is_confirmed() {
    let (mut sender, mut receiver) = pair();
    assert!(!sender.update(0));
    assert!(open(&mut receiver, &seal(&mut sender, 5)));
    sender.on_acknowledged(5);
    assert!(sender.update(6));
    sender.on_acknowledged(5);
    assert!(!sender.update(7), "5 was of the generation before");
    assert!(open(&mut receiver, &seal(&mut sender, 6)));
    sender.on_acknowledged(6);
    assert!(sender.update(7));
}

#[test]
fn a_forged_phase_moves_nothing() {
    let (mut sender, mut receiver) = pair();
    for number in 0..10 {
        let mut packet = seal(&mut sender, number);
        packet.phase = true;
        assert!(!open(&mut receiver, &packet));
        packet.phase = false;
        assert!(open(&mut receiver, &packet));
    }
    assert_eq!(receiver.failed_packets(), 10);
    assert!(!receiver.exhausted());
}

#[test]
fn forgotten_keys_open_nothing() {
    let (mut sender, mut receiver) = pair();
    let (first, overtaken) = (seal(&mut sender, 1), seal(&mut sender, 2));
    assert!(open(&mut receiver, &first));
    sender.on_acknowledged(1);
    assert!(sender.update(3));
    let newer = seal(&mut sender, 3);
    assert!(open(&mut receiver, &newer));
    assert!(open(&mut receiver, &overtaken));
    let much_newer = seal(&mut sender, 4 + KEEP_PREVIOUS_PACKETS);
    assert!(open(&mut receiver, &much_newer));
    assert!(!open(&mut receiver, &overtaken), "forgotten");
    assert!(open(&mut receiver, &newer), "the generation stays");
}

#[test]
fn the_limits_hold() {
    let (mut sender, _) = pair();
    sender.sealed_packets = UPDATE_NOW_AFTER - 2;
    seal(&mut sender, 1);
    sender.on_acknowledged(1);
    assert!(!sender.update_due(None));
    seal(&mut sender, 2);
    assert!(sender.update_due(None) && !sender.exhausted());
    sender.sealed_packets = CONFIDENTIALITY_LIMIT - 1;
    assert!(!sender.exhausted());
    seal(&mut sender, 3);
    assert!(sender.exhausted());
    assert!(sender.update(4));
    assert!(!sender.exhausted() && !sender.update_due(None));

    let mut crc = SealKeys::new(PacketKeys::crc());
    crc.sealed_packets = CONFIDENTIALITY_LIMIT;
    crc.on_acknowledged(1);
    assert!(!crc.update_due(None) && !crc.exhausted());

    let (_, mut receiver) = pair();
    receiver.failed_packets = INTEGRITY_LIMIT - 1;
    assert!(!receiver.exhausted());
    assert!(receiver.open(1, false, b"", &mut [0; 40]).is_err());
    assert!(receiver.exhausted());
}
