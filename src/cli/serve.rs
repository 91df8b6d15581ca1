//! Role: `fulmar serve`.
//! Owns: nothing; the server owns itself.
//! Implements: `fulmar serve --help`.

use super::args::ServeArgs;
use super::exit::{self, Failure};
use super::workers::Inherited;
use super::{key, key_log, limit, options, signals, terminal, text, trace, watch, workers};
use crate::endpoint::config::{EndpointConfig, Place, Secret, ServerConfig, SessionConfig};
use crate::impair::Spec;
use crate::net::server::{Server, ServerOptions};
use crate::net::watch::WatchOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs it until a signal comes; the exit code.
pub fn run(args: &ServeArgs) -> Result<u8, Failure> {
    if args.once {
        return super::cp::remote::run();
    }
    let own_place = workers::own_place(args)?;
    let count = workers::count(args)?;
    let place = own_place.unwrap_or(Place { index: 0, of: count });
    let checked = Checked::new(args, place)?;
    if own_place.is_some() {
        return work(args, checked, place);
    }
    let (secret, own_key) = key::server_secret(&args.key)?;
    if count > 1 {
        return workers::supervise(args, count, (secret, own_key));
    }
    let server = Server::bind(checked.options(args, secret.clone(), args.link.trace.as_deref())?)?;
    watch::announce(&server);
    // Handlers first: whoever reads the line below may send a signal at once.
    let signal = signals::install(None)?;
    announce(&secret, own_key, args.verbosity.quiet);
    terminal::stdout_line(&format!("listening on {}", server.local_addr()));
    server.run(signal)?;
    Ok(exit::DONE)
}

/// Says who can connect.
pub(super) fn announce(secret: &Secret, own_key: Option<PathBuf>, quiet: bool) {
    match (secret, own_key) {
        (Secret::Insecure, _) => {
            log::warn!("--insecure: no encryption, and everybody who reaches this port is served");
        }
        (Secret::Key(_), Some(path)) if !quiet => key::announce(secret, &path),
        _ => {}
    }
}

/// What can be checked without a key, and before anything is opened.
struct Checked {
    listen: SocketAddr,
    session: SessionConfig,
    server: ServerConfig,
    sim: Option<Spec>,
    partial_ttl: Duration,
    quota_bytes: Option<u64>,
    watch: WatchOptions,
    place: Place,
}

impl Checked {
    fn new(args: &ServeArgs, place: Place) -> Result<Self, Failure> {
        let listen = options::listen(&args.listen)?;
        let (session, mut server) = options::server(args)?;
        let sim = options::link_sim(&args.link)?;
        let partial_ttl = options::partial_ttl(args)?;
        let quota_bytes = options::quota(args)?;
        let meta = std::fs::metadata(&args.dir).map_err(|error| Failure::io("serve", &args.dir, &error))?;
        if !meta.is_dir() {
            let shown = text::path(&args.dir);
            return Err(Failure::new(exit::REFUSED, format!("cannot serve {shown}: it is not a directory")));
        }
        workers::check(args, place.of)?;
        workers::divide(&mut server, place)?;
        let watch = watch::options(args)?;
        Ok(Self { listen, session, server, sim, partial_ttl, quota_bytes, watch, place })
    }

    fn options(
        self,
        args: &ServeArgs,
        secret: Secret,
        trace: Option<&Path>,
    ) -> Result<ServerOptions, Failure> {
        let mut endpoint = EndpointConfig::new(secret);
        endpoint.session = self.session;
        endpoint.session.key_log = key_log::from_environment()?;
        endpoint.server = Some(self.server);
        Ok(ServerOptions {
            listen: self.listen,
            dir: args.dir.clone(),
            endpoint,
            sim: self.sim,
            partial_ttl: Some(self.partial_ttl),
            quota_bytes: self.quota_bytes,
            trace: trace::open(trace, true)?,
            limit: limit::live(&args.link, self.place.of.into())?,
            watch: self.watch,
        })
    }
}

/// One of several workers: serves the socket that the parent gives until it says stop, or is gone.
fn work(args: &ServeArgs, mut checked: Checked, place: Place) -> Result<u8, Failure> {
    let inherited = Inherited::take(place)?;
    let channel = inherited.channel();
    let Inherited { secret, socket, neighbours, .. } = inherited;
    for address in [&mut checked.watch.metrics, &mut checked.watch.dashboard].into_iter().flatten() {
        *address = workers::own_port(*address, place)?;
    }
    let trace = args.link.trace.as_deref().map(|path| workers::own_trace(path, place));
    let options = checked.options(args, secret, trace.as_deref())?;
    let server = Server::adopt(options, socket, neighbours.clone())?;
    watch::announce(&server);
    let signal = signals::install(None)?;
    Inherited::ready(channel, neighbours, signal.clone())?;
    server.run(signal)?;
    Ok(exit::DONE)
}
