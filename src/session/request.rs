//! Role: requests: what a client asks, what a server makes of it, and when it is done.
//! Owns: nothing beyond `Session`.
//! Implements: docs/PROTOCOL.md, "Requests".

use super::event::{CloseReason, Direction, Event};
use super::refusal::Refusal;
use super::{MAX_CONTROL_BUFFER, Phase, Role, Session};
use crate::endpoint::config::Task;
use crate::transfer::Request;
use crate::transfer::filter::Filter;
use crate::transfer::job::{
    Compression, Dest, EntryKind, Location, Overwrite, SourceRoot, StoreError, StoreErrorKind,
};
use crate::transfer::receiver::Asked;
use crate::transfer::sync::SyncOptions;
use crate::wire::handshake::{FEATURE_STREAM, FEATURE_SYNC, FEATURE_ZSTD};
use crate::wire::message::{Message, path_is_clean};
use std::collections::HashSet;
use std::time::Instant;

/// A peer's wish below this counts as this, bytes a second: the least that `--limit` takes; slower than that every time-out
/// would fire first.
const MIN_SEND_LIMIT: u64 = 125;

/// Bytes of the control stream that a session works through at once: others have their turn between. A few thousand messages,
/// some milliseconds; a stretch of megabytes becomes readable at once when the gap before it closes.
const MAX_CONTROL_TURN: usize = 64 * 1024;

/// Highest zstd level that a server uses because a client wishes it: a chunk of 4 MiB then takes a tenth of a second of
/// the thread that all sessions share.
const MAX_SERVED_LEVEL: u8 = 9;

impl Session {
    /// Client: everything can be queued before the handshake is done; it leaves with the first flight.
    pub(super) fn start_request(&mut self, request: Request, roots: Vec<SourceRoot>, dest: Option<Dest>) {
        // A wish that only some servers understand waits for the Reply; nothing else is in the stream before.
        let options = self.config.sync.clone();
        let told = options.told(matches!(request, Request::Put { .. }));
        self.request_held = !told.is_default()
            || sends_stream(&roots)
            || matches!(request, Request::Get { compress: Compression::Zstd(_), .. });
        if !self.request_held {
            self.write_request(request.clone());
        }
        if !options.is_default() {
            self.set_options(&options, matches!(request, Request::Put { .. }));
        }
        if let Some(dest) = dest {
            self.receiver.set_dest(dest);
            if self.continues {
                self.receiver.set_continued();
            }
        }
        if matches!(request, Request::List { .. }) {
            self.receiver.set_listing();
        }
        self.receiver.set_asked(match &self.config.only_roots {
            Some(names) => Asked::Roots(names.iter().cloned().collect()),
            None => asked(&request),
        });
        let sends = matches!(request, Request::Put { .. } | Request::Echo { .. });
        self.streams = sends_stream(&roots);
        for root in roots {
            self.sender.add_root(root);
        }
        if sends {
            self.sender.finish_roots();
        }
        if sends && !self.request_held {
            self.sender.pump(0);
        }
    }

    fn write_request(&mut self, request: Request) {
        let sends = matches!(request, Request::Put { .. } | Request::Echo { .. });
        self.write_message(&Message::Request { client_id: self.config.client_id.clone(), request });
        self.request_written = true;
        if self.continues && sends {
            self.write_message(&Message::Continue);
        }
        if self.config.limit_bytes_per_sec.is_some() {
            self.tell_limit();
        }
    }

    /// Another `--limit` from now on, here and, where the peer is the one that sends, there.
    pub fn set_limit(&mut self, now: Instant, bytes_per_sec: Option<u64>) {
        self.config.limit_bytes_per_sec = bytes_per_sec;
        self.path.set_own_limit(now, bytes_per_sec);
        // Else it will be told behind the request.
        if self.request_written {
            self.tell_limit();
        }
    }

    fn tell_limit(&mut self) {
        if let Role::Client { request: Request::Get { .. } | Request::Echo { .. }, .. } = &self.role {
            self.write_message(&Message::SendLimit(self.config.limit_bytes_per_sec.unwrap_or(0)));
        }
    }

    /// The wishes, for this side's half of the work.
    fn set_options(&mut self, options: &SyncOptions, sending: bool) {
        if sending {
            self.sender.set_options(options);
        } else {
            let server = matches!(self.role, Role::Server { .. });
            self.receiver.set_options(options, server);
        }
    }

    /// Client: a Reply has told what the server understands. Anybody can write one, so what it lacks counts only when the
    /// server has proved itself; until then the request stays where it is.
    pub(super) fn write_held_request(&mut self, now: Instant, features: u64) {
        let Role::Client { request, .. } = &self.role else { return };
        if !self.request_held {
            return;
        }
        let mut request = request.clone();
        let options = self.config.sync.told(matches!(request, Request::Put { .. }));
        let lacks = |feature| features & feature == 0;
        let no_stream = self.streams && lacks(FEATURE_STREAM);
        let no_options = !options.is_default() && lacks(FEATURE_SYNC);
        let zstd = matches!(request, Request::Get { compress: Compression::Zstd(_), .. });
        if !matches!(self.phase, Phase::Open) && (no_stream || no_options || zstd && lacks(FEATURE_ZSTD)) {
            // Something must be said for the server to answer.
            self.ping_due = true;
            return;
        }
        self.request_held = false;
        if no_stream {
            let text = "the server is of an older version, which cannot take a stream whose size is not known: bring \
                        it up to date, or write to a file first and send that";
            return self.close(now, CloseReason::Refused(text.into()));
        }
        if no_options {
            let text = "the server is of an older version, which cannot compare, leave out or only tell what \
                        it would do: bring it up to date, or leave those options out";
            return self.close(now, CloseReason::Refused(text.into()));
        }
        if let Request::Get { compress: compress @ Compression::Zstd(_), .. } = &mut request
            && lacks(FEATURE_ZSTD)
        {
            *compress = Compression::Lz4;
        }
        if !options.is_default() {
            self.write_message(&Message::Options(Box::new(options)));
        }
        self.write_request(request);
    }

    pub(super) fn write_message(&mut self, message: &Message) {
        let (out, scratch) = &mut self.scratch;
        out.clear();
        message.encode(out, scratch);
        self.control_tx.write(out);
    }

    /// Works through the control stream as far as it is there and the receiver can take it.
    pub(super) fn process_control(&mut self, now: Instant) {
        // The rest waits for the timer that is set meanwhile, not for more datagrams.
        if self.control_backlog {
            return;
        }
        let mut bytes_left = MAX_CONTROL_TURN;
        // Only entries make more work for the receiver; what resolves entries must never wait behind a full window.
        while !(self.receiver.is_congested() && Message::next_is_entry(self.control_rx.ready()))
            && self.control_tx.buffered() <= MAX_CONTROL_BUFFER
        {
            if bytes_left == 0 {
                self.control_backlog = true;
                return;
            }
            let (message, used) = match Message::decode(self.control_rx.ready()) {
                Ok(Some(found)) => found,
                Ok(None) => return,
                Err(e) => {
                    self.refusals.count(Refusal::Message);
                    return self
                        .close(now, CloseReason::Protocol(format!("a message that cannot be read: {e}")));
                }
            };
            self.control_rx.consume(used);
            bytes_left = bytes_left.saturating_sub(used);
            if let Some(Err(what)) = message.map(|m| self.on_message(now, m)) {
                self.refusals.count(Refusal::OutOfPlace);
                return self.close(now, CloseReason::Protocol(what.into()));
            }
            if matches!(self.phase, Phase::Closing { .. } | Phase::Closed) {
                return;
            }
        }
    }

    fn on_message(&mut self, now: Instant, message: Message) -> Result<(), &'static str> {
        match message {
            Message::Request { client_id, request } => self.on_request(now, client_id, request),
            Message::Continue => {
                if !matches!(self.role, Role::Server { .. }) || !self.may_receive() {
                    return Err("a continuation of nothing");
                }
                self.receiver.set_continued();
                Ok(())
            }
            Message::RequestFailed(e) => {
                let Role::Client { .. } = self.role else { return Err("a server's message from a client") };
                self.close(now, CloseReason::Refused(e.message));
                Ok(())
            }
            Message::Options(options) => self.on_options(*options),
            Message::SendLimit(rate) => {
                let Role::Server { requested: Some(_), .. } = self.role else {
                    return Err("a limit of nothing");
                };
                self.path.set_peer_limit(now, (rate > 0).then(|| rate.max(MIN_SEND_LIMIT)));
                Ok(())
            }
            Message::Result { .. }
            | Message::Have { .. }
            | Message::Resend { .. }
            | Message::Removed(_)
            | Message::RemovalEnd(_)
            | Message::Unchanged(_)
            | Message::Want(_) => {
                if self.sender.handle_message(message) {
                    Ok(())
                } else {
                    Err("feedback for an unknown file")
                }
            }
            _ => {
                if !self.may_receive() {
                    return Err("a manifest that nobody asked for");
                }
                self.receiver.handle_message(message)
            }
        }
    }

    fn may_receive(&self) -> bool {
        match &self.role {
            Role::Client { request, .. } => !matches!(request, Request::Put { .. }),
            Role::Server { requested, .. } => {
                matches!(requested, Some(Request::Put { .. } | Request::Echo { .. }))
            }
        }
    }

    fn on_options(&mut self, wished: SyncOptions) -> Result<(), &'static str> {
        let Role::Server { requested: None, options: options @ None, .. } = &mut self.role else {
            return Err("options that come twice, too late, or from a server");
        };
        *options = Some(wished);
        Ok(())
    }

    fn on_request(&mut self, now: Instant, client_id: String, request: Request) -> Result<(), &'static str> {
        let Role::Server { config, requested, serial, options } = &mut self.role else {
            return Err("a request from a server");
        };
        if requested.is_some() {
            return Err("a second request");
        }
        *requested = Some(request.clone());
        let (config, serial, options) = (config.clone(), *serial, options.take().unwrap_or_default());
        self.events.push_back(Event::Connected { remote: self.path.remote, client_id });
        self.events.push_back(Event::Requested(request.clone()));
        let writes = matches!(request, Request::Put { .. } | Request::Echo { .. });
        let replaces = matches!(
            request,
            Request::Put { overwrite: Overwrite::Always, .. }
                | Request::Echo { overwrite: Overwrite::Always, .. }
        );
        if !options.is_default() {
            let sending = match &request {
                Request::Put { .. } => false,
                Request::Get { .. } => true,
                _ => return Err("options with a request that has none"),
            };
            if let Err(why) = Filter::new(&options.patterns) {
                self.refuse(now, StoreErrorKind::Limit, &why);
                return Ok(());
            }
            self.set_options(&options, sending);
            if options.delete.is_some() && !config.allow_delete && !options.dry_run {
                let text = "this server removes nothing: leave --delete out, or start it with --allow-delete";
                self.refuse(now, StoreErrorKind::Permission, text);
                return Ok(());
            }
        }
        if let Some(task) = &config.task {
            self.serve_task(now, task, request);
        } else if writes && !config.allow_writes {
            self.refuse(now, StoreErrorKind::Permission, "this server is read-only");
        } else if replaces && !config.allow_overwrite {
            self.refuse(now, StoreErrorKind::Permission, "this server never overwrites files");
        } else {
            self.serve_request(now, request, config.allow_echo_sim, serial);
        }
        Ok(())
    }

    fn refuse(&mut self, _now: Instant, kind: StoreErrorKind, text: &str) {
        self.refusals.count(Refusal::Request);
        self.write_message(&Message::RequestFailed(StoreError { kind, message: text.into() }));
        self.refused = true;
    }

    /// The request must be of the kind that the server was started for; the rest is as the task says.
    fn serve_task(&mut self, now: Instant, task: &Task, request: Request) {
        match (task, request) {
            (Task::Receive(dest), Request::Put { .. }) => self.receiver.set_dest(dest.clone()),
            (Task::Send(roots), Request::Get { compress, chunk_size, .. }) => {
                self.sender.set_wishes(chunk_size, served(compress));
                for root in roots {
                    self.sender.add_root(root.clone());
                }
                self.sender.finish_roots();
            }
            _ => self.refuse(now, StoreErrorKind::Permission, "this server was started for one other thing"),
        }
    }

    fn serve_request(&mut self, now: Instant, request: Request, allow_sim: bool, serial: u64) {
        match request {
            Request::Put { dest, into_dir, overwrite, no_resume } => {
                let Some(dest) = clean(&dest) else { return self.refuse_path(now, &dest) };
                let into_dir = into_dir || dest.is_empty();
                let location = Location::Jail(dest);
                self.receiver.set_dest(Dest {
                    location,
                    into_dir,
                    overwrite,
                    no_resume,
                    name_prefix: Vec::new(),
                });
            }
            Request::Get { paths, compress, chunk_size } => {
                self.sender.set_wishes(chunk_size, served(compress));
                for path in paths {
                    let Some(root) = wanted_root(&path) else { return self.refuse_path(now, &path) };
                    self.sender.add_root(root);
                }
                self.sender.finish_roots();
            }
            Request::List { path } => {
                let Some(path) = clean(&path) else { return self.refuse_path(now, &path) };
                self.sender.set_list_only();
                self.sender.add_root(jail_root(path));
                self.sender.finish_roots();
            }
            Request::Echo { sim_back, keep, overwrite, no_resume } => {
                let sim = !sim_back.is_empty() && sim_back != "none";
                if sim && !allow_sim {
                    let text = "this server does not impair the way back; leave --sim-back empty (none)";
                    return self.refuse(now, StoreErrorKind::Permission, text);
                }
                if sim {
                    if let Err(e) = sim_back.parse::<crate::impair::Spec>() {
                        return self.refuse(now, StoreErrorKind::Limit, &e.to_string());
                    }
                    self.events.push_back(Event::ImpairBack(sim_back));
                }
                let location =
                    if keep { Location::Jail(Vec::new()) } else { Location::Scratch(scratch_dir(serial)) };
                self.receiver.set_dest(Dest {
                    location,
                    into_dir: true,
                    overwrite,
                    no_resume,
                    name_prefix: Vec::new(),
                });
            }
        }
    }

    fn refuse_path(&mut self, now: Instant, path: &[u8]) {
        let text = format!("{}: a path must stay inside the served directory", String::from_utf8_lossy(path));
        self.refuse(now, StoreErrorKind::Forbidden, &text);
    }

    /// The destination turned out unusable.
    pub(super) fn on_dest_set(&mut self, now: Instant, result: Result<(), StoreError>) {
        let Err(e) = result else { return };
        match &self.role {
            Role::Server { .. } => self.refuse(now, e.kind, &e.message.clone()),
            Role::Client { .. } => self.close(now, CloseReason::Refused(e.message)),
        }
    }

    /// Echo, on a server: a file that has arrived goes back at once.
    pub(super) fn on_transfer_event(&mut self, event: &Event) {
        let Role::Server { requested: Some(Request::Echo { keep, .. }), serial, .. } = &self.role else {
            return;
        };
        let Event::EntryFinished {
            direction: Direction::Receiving,
            kind: EntryKind::File,
            path,
            error: None,
            ..
        } = event
        else {
            return;
        };
        let location = if *keep {
            Location::Jail(path.clone())
        } else {
            let mut below = scratch_dir(*serial);
            below.push(b'/');
            below.extend_from_slice(path);
            Location::Scratch(below)
        };
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path).to_vec();
        self.sender.add_root(SourceRoot { location, name });
    }

    /// Notices that the request is done, and what follows from that.
    pub(super) fn check_completion(&mut self, now: Instant) {
        // A client whose sources have all failed still learns whether it has the server's key.
        if matches!(self.phase, Phase::Hello(_) | Phase::Confirming) {
            return;
        }
        if self.refused && self.control_tx.is_drained() {
            return self.close(now, CloseReason::Refused("the request was refused".into()));
        }
        if self.completed_at.is_none() {
            if !self.is_request_done() {
                return;
            }
            self.completed_at = Some(now);
            self.events.push_back(Event::Completed);
        }
        // A client leaves at once when it only sent; else when its last results are confirmed, or that takes too long.
        if let Role::Client { request, .. } = &self.role {
            // What failed is no result that the server knows of by itself.
            let only_sent =
                matches!(request, Request::Put { .. } | Request::List { .. }) && !self.must_be_heard;
            let waited = self.drain_deadline().is_some_and(|t| now >= t);
            if only_sent || waited || self.control_tx.is_drained() {
                self.close(now, CloseReason::Done);
            }
        }
    }

    /// Echo, on a server: when all has arrived, nothing more will go back.
    pub(super) fn finish_echo_roots(&mut self) {
        if let Role::Server { requested: Some(Request::Echo { .. }), .. } = &self.role
            && self.receiver.is_finished()
        {
            self.sender.finish_roots();
        }
    }

    fn is_request_done(&self) -> bool {
        let (request, server) = match &self.role {
            Role::Client { request, .. } => (Some(request), false),
            Role::Server { requested, .. } => (requested.as_ref(), true),
        };
        match request {
            None => false,
            Some(_) if self.refused || server && !self.control_tx.is_drained() => false,
            Some(Request::Put { .. }) if server => self.receiver.is_finished(),
            Some(Request::Put { .. }) => self.sender.is_finished(),
            Some(Request::Get { .. } | Request::List { .. }) if server => self.sender.is_finished(),
            Some(Request::Get { .. } | Request::List { .. }) => self.receiver.is_finished(),
            Some(Request::Echo { .. }) => self.receiver.is_finished() && self.sender.is_finished(),
        }
    }

    /// Called when the server's first valid packet has arrived.
    pub(super) fn on_open(&mut self, now: Instant) {
        self.write_held_request(now, self.peer_features);
        let client_id = self.config.client_id.clone();
        self.events.push_back(Event::Connected { remote: self.path.remote, client_id });
    }
}

fn sends_stream(roots: &[SourceRoot]) -> bool {
    roots.iter().any(|root| root.location == Location::Stream)
}

/// What a server makes of a wish for compression.
fn served(compress: Compression) -> Compression {
    match compress {
        Compression::Zstd(level) => Compression::Zstd(level.min(MAX_SERVED_LEVEL)),
        other => other,
    }
}

/// What a server may send because of this request.
fn asked(request: &Request) -> Asked {
    match request {
        Request::Get { paths, .. } => {
            // A path that is not clean is refused there, and so brings nothing.
            let names: HashSet<_> =
                paths.iter().filter_map(|path| wanted_root(path)).map(|root| root.name).collect();
            // The whole of what is served has no name of its own.
            if names.contains(&[][..]) { Asked::Anything } else { Asked::Roots(names) }
        }
        Request::Echo { .. } => Asked::PlainFiles,
        Request::Put { .. } | Request::List { .. } => Asked::Anything,
    }
}

fn scratch_dir(serial: u64) -> Vec<u8> {
    format!("echo-{serial}").into_bytes()
}

/// A peer's path without leading and trailing slashes; `None` if it is not clean. Empty: the served directory.
fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let start = path.iter().position(|b| *b != b'/').unwrap_or(path.len());
    let end = path.iter().rposition(|b| *b != b'/').map_or(start, |i| i + 1);
    let path = &path[start..end];
    (path.is_empty() || path_is_clean(path)).then(|| path.to_vec())
}

/// What a path of a GET asks for. What stands behind the first `/./` keeps its whole path, else the last component is
/// the name.
fn wanted_root(path: &[u8]) -> Option<SourceRoot> {
    let (base, below) = match path.strip_prefix(b"./") {
        Some(below) => (&[][..], below),
        None => match path.windows(3).position(|w| w == b"/./") {
            Some(at) => (&path[..at], &path[at + 3..]),
            None => return clean(path).map(jail_root),
        },
    };
    let (base, name) = (clean(base)?, clean(below)?);
    let whole = if base.is_empty() { name.clone() } else { [base.as_slice(), b"/", &name].concat() };
    (!name.is_empty() && whole.len() <= crate::wire::MAX_PATH_BYTES)
        .then_some(SourceRoot { location: Location::Jail(whole), name })
}

fn jail_root(path: Vec<u8>) -> SourceRoot {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec();
    SourceRoot { location: Location::Jail(path), name }
}
