//! fulmar moves files over UDP across links that lose, corrupt, delay and reorder packets.
//!
//! # Library
//!
//! Programs that embed fulmar use what stands at the root of the crate:
//!
//! - [`Client`] uploads, downloads and lists, with a callback for [`Update`]s; [`Server`] serves a directory from a
//!   thread. Both bring the event loop with them and block.
//! - [`Key`] is the shared secret, [`Error`] and [`ErrorKind`] say what failed, [`Stop`] ends things from another thread.
//! - [`sans_io`] is the protocol alone: no sockets, no clock, no files. [`sim`] runs it on a virtual clock over
//!   [`impair`]ed links.
//!
//! The `examples/` folder has a program for each: `upload`, `drop_point`, `mirror`, `channels`, `simulated_link`.
//!
//! **What is stable.** These re-exports, [`sans_io`], [`sim`] and [`impair`] follow [semantic versioning](https://semver.org):
//! as long as the version begins with 0, a change that breaks callers raises the second number. Structs and enums that
//! may grow are `#[non_exhaustive]`, but for those of [`sans_io`], which are built field by field and grow with the second
//! number. Everything else that is `pub` is there for the program, its tests and benches: it is documented, and it may
//! change with any release. The protocol has a version of its own ([`wire::VERSION`]), which the handshake compares.
//!
//! # Inside
//!
//! The crate is a stack of layers; each uses only those below it (see `docs/PROTOCOL.md` for the wire):
//!
//! | layer | role |
//! |---|---|
//! | [`cli`] | arguments, progress, tables, JSON, exit codes |
//! | [`api`] | the library's face: what is re-exported here |
//! | [`net`] | the mio event loop: socket, timers, signals |
//! | [`store`] | sources and sinks of files |
//! | [`endpoint`] | connection-ID demux, admission, session table, shared limits |
//! | [`session`] | one peer: datagrams and time in, datagrams and events out |
//! | [`transfer`], [`arq`] | files and manifests; windows, NACKs, loss detection |
//! | [`congestion`], [`codec`] | rate control and pacing; LZ4, zstd, CRC-32, AEAD, handshake |
//! | [`wire`] | packet and frame encoding |
//! | [`impair`], [`sim`] | one seeded model of a bad link; endpoints on a virtual clock |
//!
//! Everything from [`endpoint`] down is pure: no clock, no socket, no file, no thread, no global random numbers.

pub mod api;
pub mod arq;
pub mod cli;
pub mod codec;
pub mod congestion;
pub mod endpoint;
pub mod impair;
pub mod net;
pub mod session;
pub mod sim;
pub mod store;
pub mod transfer;
pub mod units;
pub mod wire;

pub use api::client::{Client, Entry, Outcome, Settings, Update};
pub use api::sans_io;
pub use api::server::{Server, ServerSettings};
pub use api::{Error, ErrorKind, Key, Stop};
pub use transfer::job::{Compression, EntryKind};

/// Whether a bug is planted here, to prove that the crash simulation finds it: never, but in a build with
/// `--cfg planted`, when the variable `FULMAR_PLANTED` names it. See docs/SIMULATION.md, "Planted bugs".
#[cfg(planted)]
pub(crate) fn planted(bug: &str) -> bool {
    static WANTED: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("FULMAR_PLANTED").ok());
    WANTED.as_deref() == Some(bug)
}

/// No bug is planted in this build.
#[cfg(not(planted))]
pub(crate) const fn planted(_bug: &str) -> bool {
    false
}
