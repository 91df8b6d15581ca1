//! Role: the single-threaded mio event loop that gives the pure core its datagrams, its time and its disk.
//! Owns: the UDP socket, the poll, the disk thread's queues, signals, the `--sim` impairment of this process.
//! Implements: the "Event loop" of docs/ARCHITECTURE.md.

pub mod client;
mod core;
pub mod disk;
mod driver;
pub mod pipe;
pub mod server;
mod server_log;
mod shims;
mod timer;
pub mod udp;

use crate::store::Store;
use client::NetError;
use std::path::Path;

/// The store on disk. `jail`: the directory that nothing received may leave; `None` when nothing is received.
fn open_store(jail: Option<&Path>) -> Result<Box<dyn Store>, NetError> {
    let _ = jail;
    Ok(Box::new(NoStore))
}

struct NoStore;
impl Store for NoStore {
    fn run(
        &mut self,
        _: crate::store::SessionKey,
        _: crate::transfer::job::Job,
        _: &mut Vec<(crate::store::SessionKey, crate::transfer::job::Done)>,
    ) {
    }
    fn idle(&mut self, _: &mut Vec<(crate::store::SessionKey, crate::transfer::job::Done)>) {}
}
