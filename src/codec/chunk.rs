//! Role: chunk encoding: sampling, LZ4, CRC-32.
//! Owns: nothing.
