//! Role: `serve --metrics` and `--dashboard`: who may look at a server, and where.
//! Owns: nothing.
//! Implements: `fulmar serve --help`.

use super::args::ServeArgs;
use super::exit::Failure;
use super::text;
use crate::net::server::Server;
use crate::net::watch::WatchOptions;
use clap::Args;
use std::net::{Ipv4Addr, SocketAddr};

/// What a server shows of itself.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Watching")]
pub struct WatchArgs {
    /// Serve figures for Prometheus at http://ADDR/metrics; a port alone is one of 127.0.0.1
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<String>,
    /// Serve a live page at http://ADDR/, also for fulmar top; a port alone is one of 127.0.0.1
    #[arg(long, value_name = "ADDR:PORT")]
    pub dashboard: Option<String>,
    /// A host name under which the two may be opened. Addresses other than loopback need one: whoever
    /// reaches them sees names, addresses and rates without a password. May be repeated
    #[arg(long, value_name = "NAME")]
    pub status_host: Vec<String>,
}

/// The checked options.
pub fn options(args: &ServeArgs) -> Result<WatchOptions, Failure> {
    let WatchArgs { metrics, dashboard, status_host } = &args.watch;
    let checked = |option: &str, text: &Option<String>| {
        text.as_deref().map(|text| address(option, text, status_host)).transpose()
    };
    if let Some(name) = status_host.iter().find(|name| !is_host_name(name)) {
        return Err(Failure::usage(format!(
            "--status-host: `{}` is no host name: give what stands between http:// and the port",
            text::one_line(name)
        )));
    }
    Ok(WatchOptions {
        metrics: checked("--metrics", metrics)?,
        dashboard: checked("--dashboard", dashboard)?,
        hosts: status_host.clone(),
    })
}

/// Says where to look.
pub fn announce(server: &Server) {
    let (metrics, dashboard) = server.watch_addrs();
    let all = [(metrics, "metrics", "/metrics"), (dashboard, "dashboard", "/")];
    for (address, what, path) in all {
        let Some(address) = address else { continue };
        log::info!("{what} on http://{address}{path}");
        if !address.ip().is_loopback() {
            log::warn!(
                "{what}: whoever reaches {address} sees names, addresses and rates without a password"
            );
        }
    }
}

fn address(option: &str, text: &str, hosts: &[String]) -> Result<SocketAddr, Failure> {
    let shown = text::one_line(text);
    let parsed = match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        Ok(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Err(_) => {
            let text = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
            text.as_deref().unwrap_or(shown.as_str()).parse().ok()
        }
    };
    let Some(address) = parsed else {
        return Err(Failure::usage(format!(
            "{option}: `{shown}` is not ADDR:PORT: write a port, or an address of this machine and a port, such as \
             127.0.0.1:5771"
        )));
    };
    if !address.ip().is_loopback() && hosts.is_empty() {
        return Err(Failure::usage(format!(
            "{option}: {address} can be reached from elsewhere, and whoever reaches it sees names, addresses and \
             rates without a password: allow it with --status-host NAME, the name under which it is opened, or use \
             127.0.0.1:{}",
            address.port()
        )));
    }
    Ok(address)
}

fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_loopback_unless_a_name_is_given() {
        let none: &[String] = &[];
        let one = &["mon.example.org".to_owned()][..];
        for text in ["5771", ":5771", "127.0.0.1:5771", "localhost:5771"] {
            assert_eq!(address("--metrics", text, none), Ok(([127, 0, 0, 1], 5771).into()), "{text}");
        }
        assert_eq!(address("--metrics", "[::1]:0", none).map(|a| a.port()), Ok(0));
        for text in ["0.0.0.0:9100", "[::]:9100", "192.0.2.7:9100"] {
            let failure = address("--dashboard", text, none).expect_err("public");
            assert_eq!(failure.exit_code, 2);
            assert!(failure.message.contains("without a password"), "{}", failure.message);
            assert!(address("--dashboard", text, one).is_ok(), "{text}");
        }
        for text in ["", "x", "127.0.0.1", "127.0.0.1:99999", "http://127.0.0.1:1/"] {
            let failure = address("--metrics", text, one).expect_err("no address");
            assert!(failure.message.contains("is not ADDR:PORT"), "{}", failure.message);
        }
        assert!(is_host_name("mon-1.example.org") && !is_host_name("http://x/") && !is_host_name(""));
    }
}
