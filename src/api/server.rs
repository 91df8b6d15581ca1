//! Role: a server inside another program.
//! Owns: the bound server and its stop flag.
//! Implements: the "Library" section of the crate's documentation.

use super::{Error, Key, Stop};
use crate::endpoint::config::{EndpointConfig, ServerConfig};
use crate::net::server::{self, ServerOptions};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// What a server allows. The defaults are those of the program.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerSettings {
    /// Refuse everything that writes.
    pub read_only: bool,
    /// Grant clients that ask for it to replace files.
    pub overwrite: bool,
    /// Sessions at once; one more is refused.
    pub max_sessions: usize,
    /// Largest file that is accepted, bytes.
    pub max_file_bytes: u64,
    /// Send at most so much in all sessions together, IP bytes a second, shared fairly.
    pub limit_bytes_per_sec: Option<u64>,
    /// Remove what interrupted uploads have left when nobody went on with them for so long; `None`: never.
    pub partial_ttl: Option<Duration>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        let config = ServerConfig::default();
        Self {
            read_only: !config.allow_writes,
            overwrite: config.allow_overwrite,
            max_sessions: config.max_sessions,
            max_file_bytes: config.max_file_bytes,
            limit_bytes_per_sec: config.total_limit_bytes_per_sec,
            partial_ttl: None,
        }
    }
}

/// A server that is bound and not running yet: clients that come early wait for [`Server::run`].
///
/// ```no_run
/// use fulmar::{Key, Server, ServerSettings};
///
/// let key = Key::generate()?;
/// let server = Server::bind("/srv/drop", "[::]:5770".parse().unwrap(), key, ServerSettings::default())?;
/// println!("listening on {}", server.local_addr());
/// let stop = server.stop_handle();
/// let running = std::thread::spawn(move || server.run());
/// // ...
/// stop.stop();
/// running.join().unwrap()?;
/// # Ok::<(), fulmar::Error>(())
/// ```
#[derive(Debug)]
pub struct Server {
    inner: server::Server,
    stop: Stop,
}

impl Server {
    /// Binds the address (port 0: the system chooses) and opens the directory.
    ///
    /// # Errors
    /// The address cannot be bound, or the directory cannot be used.
    pub fn bind(
        dir: impl AsRef<Path>,
        listen: SocketAddr,
        key: Key,
        settings: ServerSettings,
    ) -> Result<Self, Error> {
        let mut endpoint = EndpointConfig::new(key.0);
        let config = endpoint.server.insert(ServerConfig::default());
        (config.allow_writes, config.allow_overwrite) = (!settings.read_only, settings.overwrite);
        (config.max_sessions, config.max_file_bytes) = (settings.max_sessions, settings.max_file_bytes);
        config.total_limit_bytes_per_sec = settings.limit_bytes_per_sec;
        let partial_ttl = settings.partial_ttl;
        let dir = dir.as_ref().to_owned();
        let inner = server::Server::bind(ServerOptions {
            listen,
            dir,
            endpoint,
            sim: None,
            partial_ttl,
            quota_bytes: None,
            trace: None,
            limit: None,
            watch: Default::default(),
        })?;
        Ok(Self { inner, stop: Stop::default() })
    }

    /// The address bound, with its real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }

    /// Ends [`Server::run`] from another thread.
    pub fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }

    /// Serves until it is stopped, by the handle or by SIGINT or SIGTERM; then the clients are told. What happens goes to
    /// the `log` crate.
    ///
    /// # Errors
    /// The disk thread or the poll failed. No client and no network trouble ends a server.
    pub fn run(self) -> Result<(), Error> {
        Ok(self.inner.run(self.stop.0)?)
    }
}
