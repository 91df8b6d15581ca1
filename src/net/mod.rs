//! Role: the single-threaded mio event loop that gives the pure core its datagrams, its time and its disk.
//! Owns: the UDP socket, the poll, the disk thread's queues, signals, the `--sim` impairment of this process.
//! Implements: the "Event loop" of docs/ARCHITECTURE.md.

pub mod client;
mod core;
pub mod disk;
mod driver;
pub mod limit;
pub mod pipe;
pub mod server;
mod server_log;
mod shims;
pub mod steer;
pub mod stream;
mod timer;
pub mod trace;
pub mod udp;
pub mod watch;
pub mod workers;

use crate::store::Store;
use crate::store::file::{FileOptions, FileStore};
use client::NetError;
use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Each streamed file of each session is an open file: the soft limit of 1,024, kept low for programs that use `select`, is raised to
/// what the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        log::debug!("the limit of open files could not be raised: {e}");
    }
}

/// The store on disk. `jail`: the directory that nothing received may leave; `None` when nothing is received: what
/// is sent then has paths of its own, and any directory will do.
fn open_store(
    jail: Option<&Path>,
    partial_ttl: Option<Duration>,
    quota_bytes: Option<u64>,
) -> Result<Box<dyn Store>, NetError> {
    Ok(Box::new(open_file_store(jail, partial_ttl, quota_bytes)?))
}

/// The same, as what it is.
fn open_file_store(
    jail: Option<&Path>,
    partial_ttl: Option<Duration>,
    quota_bytes: Option<u64>,
) -> Result<FileStore, NetError> {
    raise_file_limit();
    let options = FileOptions { partial_ttl, quota_bytes, ..FileOptions::default() };
    FileStore::open(jail.unwrap_or(Path::new("/")), options).map_err(|e| {
        let kind = e.source().and_then(|source| source.downcast_ref()).map(io::Error::kind);
        let refused = matches!(
            kind,
            Some(io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory)
        );
        NetError { exit_code: if refused { 5 } else { 1 }, message: e.to_string() }
    })
}
