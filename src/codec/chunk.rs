//! Role: chunk encoding: sampling, LZ4, zstd, CRC-32.
//! Owns: the compressors' memory, and (`choose`) what was measured of them.
//! Implements: docs/PROTOCOL.md, "Chunks".

use super::choose::{Chooser, Method, wants_zstd};
use crate::transfer::MAX_CHUNK_SIZE;
use crate::transfer::job::{ChunkCodec, Compression, EncodeBudget, MAX_ZSTD_LEVEL};
use bytes::Bytes;
use lz4_flex::block;
use std::time::Instant;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

/// Bytes of one sample that `Compression::Auto` compresses to decide about a chunk: enough to find the
/// repetitions of text and records, and three of them are a small part of a chunk.
const SAMPLE_BYTES: usize = 4096;
/// Samples: from the start, the middle and the end.
const SAMPLES: usize = 3;
/// `Auto` sends a chunk raw unless compression takes at least this percentage off the samples, and then off the whole.
/// Below it the gain is not worth that the receiver must assemble the chunk in memory before it can write.
const MIN_SAVING_PCT: usize = 3;
/// What a chunk without samples is taken to shrink to: text, roughly.
const UNSAMPLED_RATIO: f64 = 0.5;

/// A chunk as it goes on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedChunk {
    /// How `data` is encoded.
    pub codec: ChunkCodec,
    /// The plain bytes themselves (shared, not copied), or one LZ4 block or zstd frame, which is always shorter.
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
    /// Not an LZ4 block, or not exactly one zstd frame with its content size.
    #[error("a malformed block")]
    Malformed,
}

/// CRC-32 (ISO-HDLC: polynomial 0x04C11DB7 reflected, as in zlib, gzip and PNG).
pub fn crc32(data: &[u8]) -> u32 {
    crc32fast::hash(data)
}

/// Encodes a chunk of at most `MAX_CHUNK_SIZE` plain bytes, for a link that is not known. See `Encoder::encode`.
pub fn encode_chunk(plain: Bytes, compress: Compression) -> EncodedChunk {
    let budget = EncodeBudget { link_bytes_per_sec: None, zstd: true };
    Encoder::default().encode(plain, compress, budget, 1)
}

/// Encodes chunks, and learns which method pays.
#[derive(Default)]
pub struct Encoder {
    /// Measures the compressors; without it the choice goes by what is known beforehand.
    clock: Option<fn() -> Instant>,
    chooser: Chooser,
    /// Made at the first use; one for samples, one for chunks, since their tables differ in size.
    sampler: Option<Compressor<'static>>,
    compressor: Option<Compressor<'static>>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("chooser", &self.chooser).finish_non_exhaustive()
    }
}

impl Encoder {
    /// One that measures with this clock.
    pub fn new(clock: fn() -> Instant) -> Self {
        Self { clock: Some(clock), ..Self::default() }
    }

    /// Encodes a chunk of at most `MAX_CHUNK_SIZE` plain bytes. `sharers`: sessions that use this encoder.
    ///
    /// `Auto` compresses samples first, and keeps a block only if it saves `MIN_SAVING_PCT`; `Lz4` and `Zstd` always
    /// try, and keep a block that is shorter than the plain bytes. Whatever is not kept goes raw, without a copy.
    pub fn encode(
        &mut self,
        plain: Bytes,
        compress: Compression,
        budget: EncodeBudget,
        sharers: usize,
    ) -> EncodedChunk {
        let crc32 = crc32(&plain);
        let block = match compress {
            Compression::None => None,
            Compression::Zstd(level) if budget.zstd => self.block(&plain, Method::Zstd(level)),
            Compression::Lz4 | Compression::Zstd(_) => self.block(&plain, Method::Lz4),
            Compression::Auto => self.auto(&plain, budget, sharers),
        };
        match block.filter(|(_, block)| block.len() < plain.len()) {
            Some((codec, mut block)) => {
                // The compressor worked in a buffer for the worst case; what waits for acknowledgement is held at its
                // true size, since that is what the send budget counts.
                block.shrink_to_fit();
                EncodedChunk { codec, data: Bytes::from(block), crc32 }
            }
            None => EncodedChunk { codec: ChunkCodec::Raw, data: plain, crc32 },
        }
    }

    fn auto(&mut self, plain: &[u8], budget: EncodeBudget, sharers: usize) -> Option<(ChunkCodec, Vec<u8>)> {
        let sample_ratio = self.sample_ratio(plain, wants_zstd(budget));
        if sample_ratio.is_some_and(|r| r * 100.0 > (100 - MIN_SAVING_PCT) as f64) {
            return None;
        }
        let guess = sample_ratio.unwrap_or(UNSAMPLED_RATIO);
        let method = self.chooser.choose(guess, budget, sharers);
        let start = self.clock.map(|now| now());
        let (codec, block) = self.block(plain, method)?;
        let took = start.and_then(|start| Some(self.clock?().saturating_duration_since(start)));
        if let Some(ratio) = sample_ratio.filter(|_| wants_zstd(budget)) {
            self.chooser.learn(method, ratio, (plain.len(), block.len()), took);
        }
        saves_enough(block.len(), plain.len()).then_some((codec, block))
    }

    /// The whole of `plain`, compressed; `None`: raw, or no memory for a compressor.
    fn block(&mut self, plain: &[u8], method: Method) -> Option<(ChunkCodec, Vec<u8>)> {
        match method {
            Method::Raw => None,
            Method::Lz4 => Some((ChunkCodec::Lz4, block::compress(plain))),
            Method::Zstd(level) => {
                let level = level.clamp(1, MAX_ZSTD_LEVEL);
                Some((ChunkCodec::Zstd, zstd_frame(&mut self.compressor, level, plain)?))
            }
        }
    }

    /// What the samples shrink to together, in parts of their size; `None`: a chunk not longer than the samples.
    fn sample_ratio(&mut self, plain: &[u8], zstd: bool) -> Option<f64> {
        if plain.len() <= SAMPLES * SAMPLE_BYTES {
            return None;
        }
        let last = plain.len() - SAMPLE_BYTES;
        let compressed: usize = (0..SAMPLES)
            .map(|i| last * i / (SAMPLES - 1))
            .map(|start| {
                let sample = &plain[start..start + SAMPLE_BYTES];
                let frame = if zstd { zstd_frame(&mut self.sampler, 1, sample) } else { None };
                frame.map_or_else(|| block::compress(sample).len(), |frame| frame.len())
            })
            .sum();
        Some(compressed as f64 / (SAMPLES * SAMPLE_BYTES) as f64)
    }
}

/// One frame with its content size, without dictionary and checksum, which is how the library writes it by default.
fn zstd_frame(kept: &mut Option<Compressor<'static>>, level: u8, plain: &[u8]) -> Option<Vec<u8>> {
    if kept.is_none() {
        *kept = Compressor::new(level.into()).ok();
    }
    let compressor = kept.as_mut()?;
    compressor.set_compression_level(level.into()).ok()?;
    compressor.compress(plain).ok()
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
        ChunkCodec::Zstd => decode_zstd(data, plain_bytes),
    }
}

/// Exactly one frame that says its content size, which must be that of the plain bytes: so no skippable frames, nothing
/// behind it, and no output before both lengths are known to fit. The output is the window, so it needs no other bound.
fn decode_zstd(data: &[u8], plain_bytes: usize) -> Result<Bytes, ChunkError> {
    if zstd_safe::find_frame_compressed_size(data) != Ok(data.len()) {
        return Err(ChunkError::Malformed);
    }
    match zstd_safe::get_frame_content_size(data) {
        Ok(Some(n)) if n == plain_bytes as u64 => {}
        Ok(Some(_)) => return Err(ChunkError::Length),
        _ => return Err(ChunkError::Malformed),
    }
    let mut plain = vec![0; plain_bytes];
    let mut decompressor = Decompressor::new().map_err(|_| ChunkError::Malformed)?;
    match decompressor.decompress_to_buffer(data, plain.as_mut_slice()) {
        Ok(n) if n == plain_bytes => Ok(Bytes::from(plain)),
        Ok(_) => Err(ChunkError::Length),
        Err(_) => Err(ChunkError::Malformed),
    }
}

fn saves_enough(compressed_bytes: usize, plain_bytes: usize) -> bool {
    compressed_bytes < plain_bytes && compressed_bytes * 100 <= plain_bytes * (100 - MIN_SAVING_PCT)
}

#[cfg(test)]
mod tests;
