//! Role: the single-threaded mio event loop that gives the pure core its datagrams, its time and its disk.
//! Owns: the UDP socket, the poll, the disk thread's queues, signals, the `--sim` impairment of this process.
//! Implements: the "Event loop" of docs/ARCHITECTURE.md.

pub mod client;
pub mod server;
