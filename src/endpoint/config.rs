//! Role: validated settings of an endpoint and of one session.
//! Owns: nothing; values with the defaults and bounds that docs/PROTOCOL.md names.
//! Implements: docs/PROTOCOL.md, "Parameters".

use crate::codec::key_log::KeyLog;
use crate::congestion::ControllerKind;
use crate::transfer::DEFAULT_CHUNK_SIZE;
use crate::transfer::job::{Compression, Dest, SourceRoot};
use crate::transfer::sync::SyncOptions;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// The shared secret, or none.
#[derive(Clone)]
pub enum Secret {
    /// A password or generated key, as bytes, without the line's end.
    Key(Zeroizing<Vec<u8>>),
    /// `--insecure`: no encryption, a CRC-32 in every packet.
    Insecure,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key(..)",
            Self::Insecure => "Insecure",
        })
    }
}

/// Settings of one session; on a server, of every session.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Rate control.
    pub controller: ControllerKind,
    /// `--limit` for this session, IP bytes a second.
    pub limit_bytes_per_sec: Option<u64>,
    /// `--window`: cap on bytes in flight.
    pub window_cap_bytes: Option<u64>,
    /// Chunk size for what this side sends (1 KiB to 4 MiB).
    pub chunk_size: u32,
    /// Compression for what this side sends.
    pub compress: Compression,
    /// `--connect-timeout`.
    pub connect_timeout: Duration,
    /// `--timeout`; the smaller of both sides' counts.
    pub idle_timeout: Duration,
    /// `--max-retries`.
    pub max_retries: Option<u32>,
    /// `--client-id`, at most 64 bytes.
    pub client_id: String,
    /// Largest datagram to try (UDP payload), from the interface MTU.
    pub max_datagram_bytes: u32,
    /// Packets after which keys are updated; `None`: as docs/PROTOCOL.md says. Simulations update often.
    pub key_update_packets: Option<u64>,
    /// Where the secrets of sessions are written for whoever shall decrypt captures of them: normally nowhere.
    pub key_log: Option<KeyLog>,
    /// A client's wishes: compare first, leave out, only tell.
    pub sync: SyncOptions,
    /// A client: an earlier run of the same request was broken off. What stands at its destination and is the same is done.
    pub continues: bool,
    /// `--trace`: sessions keep records for `Endpoint::take_traces`, which must then be called every turn.
    pub trace: bool,
    /// A client that receives: the first components of the paths that may come; whatever else comes ends the session.
    /// `None`: any, as far as they stay inside the destination.
    pub only_roots: Option<Arc<BTreeSet<Vec<u8>>>>,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            controller: ControllerKind::default(),
            limit_bytes_per_sec: None,
            window_cap_bytes: None,
            chunk_size: DEFAULT_CHUNK_SIZE,
            compress: Compression::Auto,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            max_retries: None,
            client_id: String::new(),
            continues: false,
            max_datagram_bytes: 1472,
            key_update_packets: None,
            key_log: None,
            sync: SyncOptions::default(),
            trace: false,
            only_roots: None,
        }
    }
}

/// The one thing that a server was started for. What and where is settled with whoever started it, not with the peer:
/// of the peer's request only the kind counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Send these; the request is a Get, whatever paths it names.
    Send(Vec<SourceRoot>),
    /// Receive into this; the request is a Put, whatever destination it names.
    Receive(Dest),
}

/// Which one of several worker processes on one port this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first byte of its connection IDs, from 0.
    pub index: u8,
    /// How many there are; at least 1.
    pub of: u8,
}

impl Default for Place {
    fn default() -> Self {
        Self { index: 0, of: 1 }
    }
}

/// What a server allows.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Sessions at once; one more is refused with a sentence.
    pub max_sessions: usize,
    /// `serve --limit`: IP bytes a second, shared fairly among sessions.
    pub total_limit_bytes_per_sec: Option<u64>,
    /// `serve --no-echo-sim` clears it.
    pub allow_echo_sim: bool,
    /// `serve --overwrite never` refuses `--overwrite always`.
    pub allow_overwrite: bool,
    /// `serve --read-only`: no put, no echo.
    pub allow_writes: bool,
    /// `serve --allow-delete`: clients may remove what their source lacks.
    pub allow_delete: bool,
    /// Largest file accepted.
    pub max_file_bytes: u64,
    /// The server is there for this alone; `None`: for what its clients ask.
    pub task: Option<Arc<Task>>,
    /// `serve --workers`: which worker this is.
    pub place: Place,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_sessions: 1024,
            total_limit_bytes_per_sec: None,
            allow_echo_sim: true,
            allow_overwrite: true,
            allow_writes: true,
            allow_delete: false,
            max_file_bytes: u64::MAX,
            task: None,
            place: Place::default(),
        }
    }
}

/// Settings of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// The shared secret.
    pub secret: Secret,
    /// Accept sessions (a server); `None`: a client only.
    pub server: Option<ServerConfig>,
    /// Defaults for sessions.
    pub session: SessionConfig,
    /// Receive budget of the whole process, handed out as credit.
    pub receive_budget_bytes: u64,
    /// Send budget of the whole process: chunks held until they are acknowledged.
    pub send_budget_bytes: u64,
}

impl EndpointConfig {
    /// Defaults with this secret.
    pub fn new(secret: Secret) -> Self {
        Self {
            secret,
            server: None,
            session: SessionConfig::default(),
            receive_budget_bytes: 24 << 20,
            send_budget_bytes: 40 << 20,
        }
    }
}
