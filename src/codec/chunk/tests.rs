use super::*;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::time::Duration;

const CHUNK: usize = 256 * 1024;

fn noise(seed: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut out);
    Bytes::from(out)
}

fn text(len: usize) -> Bytes {
    let words = ["segment", "chunk", "window", "repair", "of", "the", "a"];
    let mut rng = StdRng::seed_from_u64(1);
    let mut out = Vec::with_capacity(len + 16);
    while out.len() < len {
        out.extend_from_slice(words[rng.random_range(0..words.len())].as_bytes());
        out.push(b' ');
    }
    out.truncate(len);
    Bytes::from(out)
}

#[test]
fn crc32_is_the_one_of_zlib() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    assert_eq!(crc32(b""), 0);
}

#[test]
fn text_is_compressed_and_comes_back() {
    for len in [CHUNK, CHUNK + 1, MAX_CHUNK_SIZE as usize, 3 * SAMPLE_BYTES + 1, 5000, 300] {
        let plain = text(len);
        for compress in [Compression::Auto, Compression::Lz4] {
            let encoded = encode_chunk(plain.clone(), compress);
            assert_eq!(encoded.codec, ChunkCodec::Lz4, "{len}");
            assert!(encoded.data.len() < len * 3 / 4, "{len}: {}", encoded.data.len());
            assert_eq!(encoded.crc32, crc32(&plain));
            assert_eq!(decode_chunk(encoded.codec, &encoded.data, len), Ok(plain.clone()));
        }
        for level in [1, 3, MAX_ZSTD_LEVEL] {
            let encoded = encode_chunk(plain.clone(), Compression::Zstd(level));
            assert_eq!(encoded.codec, ChunkCodec::Zstd, "{len}");
            assert!(encoded.data.len() < len * 3 / 5, "{len}: {}", encoded.data.len());
            assert_eq!(encoded.crc32, crc32(&plain));
            assert_eq!(decode_chunk(encoded.codec, &encoded.data, len), Ok(plain.clone()));
        }
        assert_eq!(encode_chunk(plain, Compression::None).codec, ChunkCodec::Raw);
    }
}

#[test]
fn what_does_not_shrink_goes_raw_without_a_copy() {
    for len in [0, 1, 2, 12, 1023, 5000, CHUNK] {
        let plain = noise(2, len);
        for compress in [Compression::Auto, Compression::Lz4, Compression::Zstd(3), Compression::None] {
            let encoded = encode_chunk(plain.clone(), compress);
            assert_eq!(encoded.codec, ChunkCodec::Raw);
            assert_eq!(encoded.data.as_ptr(), plain.as_ptr());
            assert_eq!(decode_chunk(encoded.codec, &encoded.data, len), Ok(plain.clone()));
        }
    }
}

#[test]
fn auto_looks_at_samples_and_at_what_is_saved() {
    // Noise at all three samples hides text between: Auto passes, Lz4 finds it.
    let mut plain = text(CHUNK).to_vec();
    let middle = (CHUNK - SAMPLE_BYTES) / 2;
    for start in [0, middle, CHUNK - SAMPLE_BYTES] {
        plain[start..start + SAMPLE_BYTES].copy_from_slice(&noise(3, SAMPLE_BYTES));
    }
    assert_eq!(encode_chunk(plain.clone().into(), Compression::Auto).codec, ChunkCodec::Raw);
    assert_eq!(encode_chunk(plain.into(), Compression::Lz4).codec, ChunkCodec::Lz4);
    // A text header before noise passes the samples, but saves too little.
    let mut plain = noise(4, CHUNK).to_vec();
    plain[..SAMPLE_BYTES].copy_from_slice(&text(SAMPLE_BYTES));
    assert!(Encoder::default().sample_ratio(&plain, false).is_some_and(|r| r < 0.9));
    assert_eq!(encode_chunk(plain.clone().into(), Compression::Auto).codec, ChunkCodec::Raw);
    assert_eq!(encode_chunk(plain.into(), Compression::Lz4).codec, ChunkCodec::Lz4);
}

#[test]
fn an_encoded_chunk_holds_no_more_memory_than_it_counts() {
    let encoded = encode_chunk(text(CHUNK), Compression::Auto);
    let vec = Vec::from(encoded.data);
    assert!(vec.capacity() <= vec.len() + 64, "{} for {}", vec.capacity(), vec.len());
}

#[test]
fn a_block_of_another_length_is_refused() {
    for compress in [Compression::Lz4, Compression::Zstd(3)] {
        let encoded = encode_chunk(Bytes::from(vec![7; CHUNK]), compress);
        let decode = |plain_bytes| decode_chunk(encoded.codec, &encoded.data, plain_bytes);
        assert!(decode(CHUNK).is_ok());
        assert_eq!(decode(CHUNK - 1), Err(ChunkError::Length));
        assert_eq!(decode(CHUNK + 1), Err(ChunkError::Length));
        assert_eq!(decode(encoded.data.len()), Err(ChunkError::Length));
        assert_eq!(decode(encoded.data.len() - 1), Err(ChunkError::Length));
        assert_eq!(decode(0), Err(ChunkError::Length));
        assert_eq!(decode(MAX_CHUNK_SIZE as usize + 1), Err(ChunkError::TooLarge));
        assert_eq!(decode(usize::MAX), Err(ChunkError::TooLarge));
    }
    assert_eq!(decode_chunk(ChunkCodec::Raw, b"abc", 2), Err(ChunkError::Length));
    assert_eq!(decode_chunk(ChunkCodec::Raw, b"abc", 4), Err(ChunkError::Length));
    assert!(decode_chunk(ChunkCodec::Lz4, b"", 10).is_err());
    assert!(decode_chunk(ChunkCodec::Zstd, b"", 10).is_err());
    assert!(decode_chunk(ChunkCodec::Zstd, b"", 0).is_err());
}

#[test]
fn damaged_and_random_blocks_never_panic() {
    let plain = text(2000);
    for compress in [Compression::Lz4, Compression::Zstd(3), Compression::Zstd(19)] {
        let encoded = encode_chunk(plain.clone(), compress);
        let codec = encoded.codec;
        for len in 0..encoded.data.len() {
            assert!(decode_chunk(codec, &encoded.data[..len], 2000).is_err());
        }
        for bit in 0..encoded.data.len() * 8 {
            let mut damaged = encoded.data.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = decode_chunk(codec, &damaged, 2000) {
                assert!(other == plain || crc32(&other) != encoded.crc32, "bit {bit}");
            }
        }
        let mut rng = StdRng::seed_from_u64(5);
        for round in 0..10_000 {
            let mut block = noise(round, rng.random_range(0..200)).to_vec();
            // Behind a sound header, too.
            let keep = if round % 2 == 0 { encoded.data.len().min(block.len()).min(9) } else { 0 };
            block[..keep].copy_from_slice(&encoded.data[..keep]);
            if let Ok(out) = decode_chunk(codec, &block, 2000) {
                assert_eq!(out.len(), 2000);
            }
        }
    }
}

#[test]
fn a_zstd_bomb_is_refused_before_it_is_decoded() {
    let zeros = |len: usize| zstd::bulk::compress(&vec![0; len], 19).expect("a frame");
    let bomb = zeros(64 << 20);
    assert!(bomb.len() < 1 << 16);
    for plain_bytes in [bomb.len(), CHUNK, MAX_CHUNK_SIZE as usize] {
        assert_eq!(decode_chunk(ChunkCodec::Zstd, &bomb, plain_bytes), Err(ChunkError::Length));
    }
    // A frame that hides its size, by a stream of unknown length.
    let hidden = zstd::stream::encode_all(&vec![0; 64 << 20][..], 3).expect("a frame");
    assert_eq!(decode_chunk(ChunkCodec::Zstd, &hidden, CHUNK), Err(ChunkError::Malformed));
    // Two frames, and a frame with something behind it or before it.
    let one = zeros(CHUNK);
    let two = [one.clone(), one.clone()].concat();
    assert!(decode_chunk(ChunkCodec::Zstd, &one, CHUNK).is_ok());
    assert_eq!(decode_chunk(ChunkCodec::Zstd, &two, CHUNK), Err(ChunkError::Malformed));
    assert_eq!(decode_chunk(ChunkCodec::Zstd, &two, 2 * CHUNK), Err(ChunkError::Malformed));
    let skippable = [&b"\x50\x2a\x4d\x18\x02\0\0\0ab"[..], &one].concat();
    assert_eq!(decode_chunk(ChunkCodec::Zstd, &skippable, CHUNK), Err(ChunkError::Malformed));
    assert!(decode_chunk(ChunkCodec::Zstd, &skippable[..10], CHUNK).is_err());
    // A frame that claims the right size and holds more, or less.
    for len in [CHUNK - 1, CHUNK + 1] {
        let mut liar = zeros(len);
        let at = liar.windows(4).position(|w| w == (len as u32).to_le_bytes()).expect("the size");
        liar[at..at + 4].copy_from_slice(&(CHUNK as u32).to_le_bytes());
        assert!(decode_chunk(ChunkCodec::Zstd, &liar, CHUNK).is_err());
    }
}

#[test]
fn auto_fits_the_link() {
    let plain = text(CHUNK);
    let on = |link, zstd| {
        let budget = EncodeBudget { link_bytes_per_sec: link, zstd };
        Encoder::default().encode(plain.clone(), Compression::Auto, budget, 1)
    };
    let slow = on(Some(1_250_000), true);
    assert_eq!(slow.codec, ChunkCodec::Zstd);
    assert_eq!(decode_chunk(slow.codec, &slow.data, CHUNK), Ok(plain.clone()));
    for other in [on(Some(1_250_000), false), on(None, true), on(Some(1 << 30), true)] {
        assert_eq!(other.codec, ChunkCodec::Lz4);
        assert!(slow.data.len() < other.data.len());
    }
    let budget = EncodeBudget { link_bytes_per_sec: Some(1_250_000), zstd: true };
    let raw = Encoder::default().encode(noise(7, CHUNK), Compression::Auto, budget, 1);
    assert_eq!(raw.codec, ChunkCodec::Raw);
    // Digits have no repetitions, but few values: only an entropy coder shrinks them.
    let digits: Vec<u8> = noise(8, CHUNK).iter().map(|b| b'0' + b % 10).collect();
    let digits = Encoder::default().encode(digits.into(), Compression::Auto, budget, 1);
    assert_eq!(digits.codec, ChunkCodec::Zstd);
    assert!(digits.data.len() < CHUNK / 2);
    // Never a codec that the peer has not said it knows.
    let budget = EncodeBudget::default();
    assert_eq!(
        Encoder::default().encode(plain.clone(), Compression::Zstd(5), budget, 1).codec,
        ChunkCodec::Lz4
    );
}

/// Prints what `choose::LADDER` states, for the file that `FULMAR_LADDER_FILE` names.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods)]
fn ladder() {
    let path = std::env::var_os("FULMAR_LADDER_FILE").expect("FULMAR_LADDER_FILE names a file");
    let data = Bytes::from(std::fs::read(path).expect("readable"));
    let mut encoder = Encoder::default();
    for method in crate::codec::choose::methods() {
        let (mut took, mut encoded, mut plain, mut sampled) = (Duration::ZERO, 0, 0, 0.0);
        for i in (0..data.len() / CHUNK).step_by(3) {
            let chunk = &data[i * CHUNK..(i + 1) * CHUNK];
            let start = Instant::now();
            let (_, block) = encoder.block(chunk, method).expect("encodes");
            took += start.elapsed();
            sampled += encoder.sample_ratio(chunk, true).expect("long enough") * CHUNK as f64;
            (encoded, plain) = (encoded + block.len(), plain + CHUNK);
        }
        let speed = plain as f64 / took.as_secs_f64() / 1e6;
        println!("{method:?}: {speed:.1} MB/s, {:.3} of the samples", encoded as f64 / sampled);
    }
}
