//! Role: `fulmar serve`.
//! Owns: nothing; the server owns itself.
//! Implements: `fulmar serve --help`.

use super::args::ServeArgs;
use super::exit::{self, Failure};
use super::workers::Inherited;
use super::{key, key_log, options, signals, terminal, text, trace, watch, workers};
use crate::endpoint::config::{EndpointConfig, Place, Secret, ServerConfig, SessionConfig};
use crate::impair::Spec;
use crate::net::server::{Server, ServerOptions};
use crate::net::watch::WatchOptions;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Runs it until a signal comes; the exit code.
pub fn run(args: &ServeArgs) -> Result<u8, Failure> {
    if args.once {
        return super::cp::remote::run();
    }
    let listen = options::listen(&args.listen)?;
    let (session, mut server) = options::server(args)?;
    let sim = options::link_sim(&args.link)?;
    let partial_ttl = Some(options::partial_ttl(args)?);
    let quota_bytes = options::quota(args)?;
    let shown = text::path(&args.dir);
    let meta = std::fs::metadata(&args.dir).map_err(|error| Failure::io("serve", &args.dir, &error))?;
    if !meta.is_dir() {
        return Err(Failure::new(exit::REFUSED, format!("cannot serve {shown}: it is not a directory")));
    }
    let place = workers::own_place(args)?;
    let count = workers::count(args)?;
    workers::check(args, count)?;
    workers::divide(&mut server, place.unwrap_or(Place { index: 0, of: count }))?;
    let watch = watch::options(args)?;
    if let Some(place) = place {
        let options = Options { listen, session, server, sim, partial_ttl, watch };
        return work(args, options, place);
    }
    let (secret, own_key) = key::server_secret(&args.key)?;
    if count > 1 {
        return workers::supervise(args, count, (secret, own_key));
    }

    let trace = trace::open(args.link.trace.as_deref(), true)?;
    let mut endpoint = EndpointConfig::new(secret.clone());
    endpoint.session = session;
    endpoint.session.key_log = key_log::from_environment()?;
    endpoint.server = Some(server);
    let server = Server::bind(ServerOptions {
        listen,
        dir: args.dir.clone(),
        endpoint,
        sim,
        partial_ttl,
        quota_bytes,
        trace,
        watch,
    })?;
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

/// The checked options of a worker.
struct Options {
    listen: SocketAddr,
    session: SessionConfig,
    server: ServerConfig,
    sim: Option<Spec>,
    partial_ttl: Option<Duration>,
    watch: WatchOptions,
}

/// One of several workers: serves the socket that the parent gives until it says stop, or is gone.
fn work(args: &ServeArgs, options: Options, place: Place) -> Result<u8, Failure> {
    let inherited = Inherited::take(place)?;
    let channel = inherited.channel();
    let Inherited { secret, socket, neighbours, .. } = inherited;
    let Options { listen, session, server, sim, partial_ttl, mut watch } = options;
    for address in [&mut watch.metrics, &mut watch.dashboard].into_iter().flatten() {
        *address = workers::own_port(*address, place)?;
    }
    let trace = args.link.trace.as_deref().map(|path| workers::own_trace(path, place));
    let trace = trace::open(trace.as_deref(), true)?;
    let mut endpoint = EndpointConfig::new(secret);
    endpoint.session = session;
    endpoint.session.key_log = key_log::from_environment()?;
    endpoint.server = Some(server);
    let dir = args.dir.clone();
    let options = ServerOptions { listen, dir, endpoint, sim, partial_ttl, quota_bytes: None, trace, watch };
    let server = Server::adopt(options, socket, neighbours.clone())?;
    watch::announce(&server);
    let signal = signals::install(None)?;
    Inherited::ready(channel, neighbours, signal.clone())?;
    server.run(signal)?;
    Ok(exit::DONE)
}
