//! Role: runs one client request from connect to close.
//! Owns: the client's event loop instance.

use crate::endpoint::config::EndpointConfig;
use crate::impair::Spec;
use crate::session::event::{CloseReason, Event, Stats};
use crate::transfer::Request;
use crate::transfer::job::{Dest, SourceRoot};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

/// Everything `run` needs.
#[derive(Debug)]
pub struct ClientOptions {
    /// Addresses of the host, tried in order (the next one after a second without an answer).
    pub remotes: Vec<SocketAddr>,
    /// Secret, limits, time-outs.
    pub endpoint: EndpointConfig,
    /// What to ask for.
    pub request: Request,
    /// What is sent (put, echo).
    pub roots: Vec<SourceRoot>,
    /// Where what comes back goes (get, echo): a directory, the jail, and the destination inside it.
    pub dest: Option<(PathBuf, Dest)>,
    /// `--sim`, both directions.
    pub sim: Option<Spec>,
}

/// Called by the loop; must not block.
pub trait Observer {
    /// Something happened.
    fn event(&mut self, event: &Event, stats: &Stats);
    /// About ten times a second.
    fn tick(&mut self, stats: &Stats);
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why the session ended; `CloseReason::Done` even if single files failed.
    pub reason: CloseReason,
    /// Final figures.
    pub stats: Stats,
}

/// Errors before or outside the session (socket, store). The text names what failed and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct NetError {
    /// Suggested exit code.
    pub exit_code: u8,
    /// One sentence.
    pub message: String,
}

/// Runs the request. `signal`: set to a signal number by the signal handler; the loop then tells the peer and ends
/// with `CloseReason::Interrupted`.
pub fn run(
    options: ClientOptions,
    signal: Arc<AtomicI32>,
    observer: &mut dyn Observer,
) -> Result<Outcome, NetError> {
    let _ = (options, signal, observer);
    Err(NetError { exit_code: 1, message: "not built yet".into() })
}
