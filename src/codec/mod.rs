//! Role: everything that turns bytes into other bytes: LZ4, zstd and CRC-32 of chunks, packet protection, the handshake's cryptography.
//! Owns: keys. No protocol state.
//! Implements: docs/PROTOCOL.md, "Handshake", "Packet protection", "Chunks".

pub mod aead;
pub mod choose;
pub mod chunk;
pub mod handshake;
pub mod key_log;
pub mod key_update;
