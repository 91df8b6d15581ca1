//! Role: `fulmar serve`.
//! Owns: nothing; the server owns itself.
//! Implements: `fulmar serve --help`.

use super::args::ServeArgs;
use super::exit::{self, Failure};
use super::{key, key_log, limit, options, signals, terminal, text, trace, watch};
use crate::endpoint::config::{EndpointConfig, Secret};
use crate::net::server::{Server, ServerOptions};

/// Runs it until a signal comes; the exit code.
pub fn run(args: &ServeArgs) -> Result<u8, Failure> {
    if args.once {
        return super::cp::remote::run();
    }
    let listen = options::listen(&args.listen)?;
    let (session, server) = options::server(args)?;
    let sim = options::link_sim(&args.link)?;
    let partial_ttl = Some(options::partial_ttl(args)?);
    let quota_bytes = options::quota(args)?;
    let shown = text::path(&args.dir);
    let meta = std::fs::metadata(&args.dir).map_err(|error| Failure::io("serve", &args.dir, &error))?;
    if !meta.is_dir() {
        return Err(Failure::new(exit::REFUSED, format!("cannot serve {shown}: it is not a directory")));
    }
    let (secret, own_key) = key::server_secret(&args.key)?;

    let trace = trace::open(args.link.trace.as_deref(), true)?;
    let watch = watch::options(args)?;
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
        limit: limit::live(&args.link)?,
        watch,
    })?;
    watch::announce(&server);
    // Handlers first: whoever reads the line below may send a signal at once.
    let signal = signals::install(None)?;
    match (&secret, own_key) {
        (Secret::Insecure, _) => {
            log::warn!("--insecure: no encryption, and everybody who reaches this port is served");
        }
        (Secret::Key(_), Some(path)) if !args.verbosity.quiet => key::announce(&secret, &path),
        _ => {}
    }
    terminal::stdout_line(&format!("listening on {}", server.local_addr()));
    server.run(signal)?;
    Ok(exit::DONE)
}
