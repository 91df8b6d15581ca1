//! Role: chunk encoding: sampling, LZ4, CRC-32.
//! Owns: nothing.
//! Implements: docs/PROTOCOL.md, "Chunks".

use crate::transfer::MAX_CHUNK_SIZE;
use crate::transfer::job::{ChunkCodec, Compression};
use bytes::Bytes;
use lz4_flex::block;

/// Bytes of one sample that `Compression::Auto` compresses to decide about a chunk: enough for LZ4 to find the
/// repetitions of text and records, and three of them are a small part of a chunk.
const SAMPLE_BYTES: usize = 4096;
/// Samples: from the start, the middle and the end.
const SAMPLES: usize = 3;
/// `Auto` sends a chunk raw unless LZ4 takes at least this percentage off the samples, and then off the whole.
/// Below it the gain is not worth that the receiver must assemble the chunk in memory before it can write.
const MIN_SAVING_PCT: usize = 3;

/// A chunk as it goes on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedChunk {
    /// How `data` is encoded.
    pub codec: ChunkCodec,
    /// The plain bytes themselves (shared, not copied), or one LZ4 block, which is always shorter.
    pub data: Bytes,
    /// CRC-32 of the plain bytes.
    pub crc32: u32,
}

/// A chunk that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// More plain bytes than `MAX_CHUNK_SIZE`.
    #[error("a chunk of more than {MAX_CHUNK_SIZE} bytes")]
    TooLarge,
    /// The block decodes to more or fewer bytes than were announced, or is itself longer than they are.
    #[error("a chunk of another length than announced")]
    Length,
    /// Not an LZ4 block.
    #[error("a malformed LZ4 block")]
    Malformed,
}

/// CRC-32 (ISO-HDLC: polynomial 0x04C11DB7 reflected, as in zlib, gzip and PNG).
pub fn crc32(data: &[u8]) -> u32 {
    crc32fast::hash(data)
}

/// Encodes a chunk of at most `MAX_CHUNK_SIZE` plain bytes.
///
/// `Auto` compresses samples first, and keeps an LZ4 block only if it saves `MIN_SAVING_PCT`; `Lz4` always tries,
/// and keeps a block that is shorter than the plain bytes. Whatever is not kept goes raw, without a copy.
pub fn encode_chunk(plain: Bytes, compress: Compression) -> EncodedChunk {
    let crc32 = crc32(&plain);
    let block = match compress {
        Compression::None => None,
        Compression::Lz4 => Some(block::compress(&plain)).filter(|block| block.len() < plain.len()),
        Compression::Auto if samples_shrink(&plain) => {
            Some(block::compress(&plain)).filter(|block| saves_enough(block.len(), plain.len()))
        }
        Compression::Auto => None,
    };
    match block {
        Some(mut block) => {
            // LZ4 worked in a buffer for the worst case; what waits for acknowledgement is held at its true size,
            // since that is what the send budget counts.
            block.shrink_to_fit();
            EncodedChunk { codec: ChunkCodec::Lz4, data: Bytes::from(block), crc32 }
        }
        None => EncodedChunk { codec: ChunkCodec::Raw, data: plain, crc32 },
    }
}

/// Decodes a chunk that was announced with `plain_bytes`. Never allocates more than that; the CRC-32 is for the
/// caller to compare.
///
/// # Errors
/// See `ChunkError`. No input panics.
pub fn decode_chunk(codec: ChunkCodec, data: &[u8], plain_bytes: usize) -> Result<Bytes, ChunkError> {
    if plain_bytes > MAX_CHUNK_SIZE as usize {
        return Err(ChunkError::TooLarge);
    }
    if data.len() > plain_bytes {
        return Err(ChunkError::Length);
    }
    match codec {
        ChunkCodec::Raw if data.len() == plain_bytes => Ok(Bytes::copy_from_slice(data)),
        ChunkCodec::Raw => Err(ChunkError::Length),
        ChunkCodec::Lz4 => {
            let mut plain = vec![0; plain_bytes];
            match block::decompress_into(data, &mut plain) {
                Ok(n) if n == plain_bytes => Ok(Bytes::from(plain)),
                Ok(_) | Err(block::DecompressError::OutputTooSmall { .. }) => Err(ChunkError::Length),
                Err(_) => Err(ChunkError::Malformed),
            }
        }
    }
}

/// Whether LZ4 takes `MIN_SAVING_PCT` off the samples together. A chunk not longer than the samples needs none.
fn samples_shrink(plain: &[u8]) -> bool {
    if plain.len() <= SAMPLES * SAMPLE_BYTES {
        return true;
    }
    let last = plain.len() - SAMPLE_BYTES;
    let compressed: usize = (0..SAMPLES)
        .map(|i| last * i / (SAMPLES - 1))
        .map(|start| block::compress(&plain[start..start + SAMPLE_BYTES]).len())
        .sum();
    saves_enough(compressed, SAMPLES * SAMPLE_BYTES)
}

fn saves_enough(compressed_bytes: usize, plain_bytes: usize) -> bool {
    compressed_bytes < plain_bytes && compressed_bytes * 100 <= plain_bytes * (100 - MIN_SAVING_PCT)
}

#[cfg(test)]
mod tests;
