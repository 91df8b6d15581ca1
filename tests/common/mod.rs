//! A server in a thread, for tests that talk to a real socket.
#![allow(dead_code, reason = "each test file uses its own share")]

use fulmar::endpoint::config::{EndpointConfig, Secret, ServerConfig};
use fulmar::net::client::NetError;
use fulmar::net::server::{Server, ServerOptions};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::JoinHandle;

/// A running server; dropping it stops it.
pub(crate) struct TestServer {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    signal: Arc<AtomicI32>,
    thread: Option<JoinHandle<Result<(), NetError>>>,
}

/// A key that both sides share.
pub(crate) fn secret() -> Secret {
    Secret::Key(b"correct horse battery staple".to_vec().into())
}

impl TestServer {
    /// Serves `dir` on 127.0.0.1 at a free port, with the defaults.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, |_| {})
    }

    /// The same, with options of the caller's.
    pub(crate) fn start_with(dir: &Path, change: impl FnOnce(&mut ServerOptions)) -> Self {
        let mut endpoint = EndpointConfig::new(secret());
        endpoint.server = Some(ServerConfig::default());
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut options = ServerOptions {
            listen,
            dir: dir.into(),
            endpoint,
            sim: None,
            partial_ttl: None,
            quota_bytes: None,
            trace: None,
            limit: None,
            watch: Default::default(),
        };
        change(&mut options);
        let server = Server::bind(options).expect("a free port on loopback");
        let (addr, signal) = (server.local_addr(), Arc::new(AtomicI32::new(0)));
        let stop = signal.clone();
        let thread = std::thread::spawn(move || server.run(stop));
        Self { addr, signal, thread: Some(thread) }
    }

    /// Stops it and says how it ended.
    pub(crate) fn stop(mut self) -> Result<(), NetError> {
        self.signal.store(15, Ordering::Relaxed);
        self.thread.take().expect("only stop takes it").join().expect("the server's thread does not panic")
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.signal.store(15, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
