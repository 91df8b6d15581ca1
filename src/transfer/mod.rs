//! Role: files as the protocol sees them: requests, manifests, chunks, results.
//! Owns: per session, what is still to be sent and what has been received (`sender`, `receiver`).
//! Implements: docs/PROTOCOL.md, "Transfer".

pub mod confirmed;
pub mod filter;
pub mod job;
pub mod receiver;
pub mod sender;
pub mod sync;

#[cfg(test)]
mod tests;

use job::{Compression, Overwrite};

/// Default plain bytes per chunk.
pub const DEFAULT_CHUNK_SIZE: u32 = 256 * 1024;
/// Smallest chunk size that may be asked for.
pub const MIN_CHUNK_SIZE: u32 = 1024;
/// Largest chunk size that may be asked for.
pub const MAX_CHUNK_SIZE: u32 = 4 * 1024 * 1024;

/// What a client asks of a server; one per session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Upload. `roots` stay on the client; the rest travels.
    Put {
        /// Destination path below the served directory (empty: the directory itself).
        dest: Vec<u8>,
        /// See `job::Dest::into_dir`.
        into_dir: bool,
        /// Existing files.
        overwrite: Overwrite,
        /// See `job::Dest::no_resume`.
        no_resume: bool,
    },
    /// Download.
    Get {
        /// Paths below the served directory; an empty path is the whole of it.
        paths: Vec<Vec<u8>>,
        /// What the server should do about compression.
        compress: Compression,
        /// Chunk size wished for.
        chunk_size: u32,
    },
    /// Names, sizes, kinds and times below one path, one level deep.
    List {
        /// A directory or file.
        path: Vec<u8>,
    },
    /// Upload, then have it sent back through an impaired link.
    Echo {
        /// `impair` specification for the way back, as text.
        sim_back: String,
        /// Keep the server's copy (under the file's own name).
        keep: bool,
        /// Existing files, with `keep`.
        overwrite: Overwrite,
        /// See `job::Dest::no_resume`.
        no_resume: bool,
    },
}
