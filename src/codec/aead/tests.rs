use super::*;

const HEADER: &[u8] = b"\x40header";
const PAYLOAD: &[u8] = b"sixteen bytes and a few more";

fn both() -> [PacketKeys; 2] {
    [PacketKeys::from_secret(&[7; SECRET_BYTES]), PacketKeys::crc()]
}

fn sealed(keys: &PacketKeys, number: u64) -> Vec<u8> {
    let mut buf = PAYLOAD.to_vec();
    keys.seal(number, HEADER, &mut buf, 0);
    assert_eq!(buf.len(), PAYLOAD.len() + keys.tag_bytes());
    buf
}

#[test]
fn packets_come_back() {
    for keys in both() {
        for number in [0, 1, 255, 1 << 32, u64::MAX] {
            assert_eq!(keys.open(number, HEADER, &mut sealed(&keys, number)), Ok(&mut PAYLOAD.to_vec()[..]));
        }
        let mut empty = Vec::new();
        keys.seal(5, b"", &mut empty, 0);
        assert_eq!(keys.open(5, b"", &mut empty), Ok(&mut [][..]));
    }
}

#[test]
fn the_payload_is_hidden_only_by_the_aead() {
    let [aead, crc] = both();
    assert!(aead.is_encrypted() && !crc.is_encrypted());
    assert!(!sealed(&aead, 1).starts_with(PAYLOAD));
    assert!(sealed(&crc, 1).starts_with(PAYLOAD));
    assert_ne!(sealed(&aead, 1), sealed(&aead, 2));
}

#[test]
fn every_flipped_bit_is_noticed() {
    for keys in both() {
        let good = sealed(&keys, 9);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.open(9, HEADER, &mut bad), Err(OpenError), "bit {bit}");
        }
        for bit in 0..HEADER.len() * 8 {
            let mut header = HEADER.to_vec();
            header[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.open(9, &header, &mut good.clone()), Err(OpenError), "header bit {bit}");
        }
        for bit in 0..64 {
            assert_eq!(keys.open(9 ^ (1 << bit), HEADER, &mut good.clone()), Err(OpenError), "number {bit}");
        }
        for len in 0..good.len() {
            assert_eq!(keys.open(9, HEADER, &mut good[..len].to_vec()), Err(OpenError), "{len} bytes");
        }
    }
}

#[test]
fn the_three_ways_to_seal_agree() {
    for keys in both() {
        let expected = sealed(&keys, 3);
        let mut buf = b"an earlier packet".to_vec();
        let packet_start = buf.len();
        buf.extend_from_slice(HEADER);
        let payload_start = buf.len();
        buf.extend_from_slice(PAYLOAD);

        let mut apart = buf.clone();
        keys.seal(3, HEADER, &mut apart, payload_start);
        assert_eq!(apart[payload_start..], expected);

        keys.seal_packet(3, &mut buf, packet_start, payload_start);
        assert_eq!(buf, apart);

        let mut payload = PAYLOAD.to_vec();
        let tag = keys.seal_in_place(3, HEADER, &mut payload);
        payload.extend_from_slice(tag.as_ref());
        assert_eq!(payload, expected);
    }
}

#[test]
fn generations_follow_alike_on_both_sides_and_differ() {
    let (mut seal, mut open) =
        (PacketKeys::from_secret(&[7; SECRET_BYTES]), PacketKeys::from_secret(&[7; SECRET_BYTES]));
    let mut seen = Vec::new();
    for _ in 0..5 {
        let packet = sealed(&seal, 1);
        assert!(!seen.contains(&packet));
        assert!(open.open(1, HEADER, &mut packet.clone()).is_ok());
        (seal, open) = (seal.next_generation(), open.next_generation());
        assert_eq!(open.open(1, HEADER, &mut packet.clone()), Err(OpenError));
        seen.push(packet);
    }
    assert!(!PacketKeys::crc().next_generation().is_encrypted());
}

#[test]
fn the_keys_of_one_direction_do_not_open_the_other() {
    let [aead, crc] = both();
    let other = PacketKeys::from_secret(&[8; SECRET_BYTES]);
    assert_eq!(other.open(1, HEADER, &mut sealed(&aead, 1)), Err(OpenError));
    assert_eq!(crc.open(1, HEADER, &mut sealed(&aead, 1)), Err(OpenError));
    assert_eq!(aead.open(1, HEADER, &mut sealed(&crc, 1)), Err(OpenError));
}

#[test]
fn debug_output_shows_no_keys() {
    let [aead, crc] = both();
    assert_eq!(format!("{aead:?}"), "PacketKeys(Aead ..)");
    assert_eq!(format!("{crc:?}"), "PacketKeys(Crc)");
}
