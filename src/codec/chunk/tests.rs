use super::*;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

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
        assert_eq!(encode_chunk(plain, Compression::None).codec, ChunkCodec::Raw);
    }
}

#[test]
fn what_does_not_shrink_goes_raw_without_a_copy() {
    for len in [0, 1, 2, 12, 1023, 5000, CHUNK] {
        let plain = noise(2, len);
        for compress in [Compression::Auto, Compression::Lz4, Compression::None] {
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
    assert!(samples_shrink(&plain));
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
    let plain = Bytes::from(vec![7; CHUNK]);
    let encoded = encode_chunk(plain, Compression::Lz4);
    let decode = |plain_bytes| decode_chunk(ChunkCodec::Lz4, &encoded.data, plain_bytes);
    assert!(decode(CHUNK).is_ok());
    assert_eq!(decode(CHUNK - 1), Err(ChunkError::Length));
    assert_eq!(decode(CHUNK + 1), Err(ChunkError::Length));
    assert_eq!(decode(encoded.data.len()), Err(ChunkError::Length));
    assert_eq!(decode(encoded.data.len() - 1), Err(ChunkError::Length));
    assert_eq!(decode(0), Err(ChunkError::Length));
    assert_eq!(decode(MAX_CHUNK_SIZE as usize + 1), Err(ChunkError::TooLarge));
    assert_eq!(decode(usize::MAX), Err(ChunkError::TooLarge));
    assert_eq!(decode_chunk(ChunkCodec::Raw, b"abc", 2), Err(ChunkError::Length));
    assert_eq!(decode_chunk(ChunkCodec::Raw, b"abc", 4), Err(ChunkError::Length));
    assert!(decode_chunk(ChunkCodec::Lz4, b"", 10).is_err());
}

#[test]
fn damaged_and_random_blocks_never_panic() {
    let plain = text(2000);
    let encoded = encode_chunk(plain.clone(), Compression::Lz4);
    for len in 0..encoded.data.len() {
        assert!(decode_chunk(ChunkCodec::Lz4, &encoded.data[..len], 2000).is_err());
    }
    for bit in 0..encoded.data.len() * 8 {
        let mut damaged = encoded.data.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = decode_chunk(ChunkCodec::Lz4, &damaged, 2000) {
            assert!(other == plain || crc32(&other) != encoded.crc32, "bit {bit}");
        }
    }
    let mut rng = StdRng::seed_from_u64(5);
    for round in 0..20_000 {
        let block = noise(round, rng.random_range(0..200));
        if let Ok(out) = decode_chunk(ChunkCodec::Lz4, &block, 4096) {
            assert_eq!(out.len(), 4096);
        }
    }
}
