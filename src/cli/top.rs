//! Role: `fulmar top`: the dashboard's figures in a terminal.
//! Owns: the terminal's alternate screen while it runs.
//! Implements: `fulmar top --help`.

use super::args::VerbosityArgs;
use super::exit::{self, Failure};
use super::{signals, terminal, text};
use clap::Args;
use ratatui::crossterm::event::{self as keys, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::IsTerminal;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

mod draw;
mod source;

use source::{Source, Status};

/// Printed below the options.
pub const EXAMPLES: &str = "\
Examples:
  fulmar serve --dashboard 5771 /srv/drop        on the server
  fulmar top                                     there, in another terminal
  fulmar top 5772                                another port of this machine
  ssh -NL 5771:127.0.0.1:5771 server & fulmar top   from elsewhere
  fulmar top --once | head -3                    once, as text

Keys: q or Ctrl-C ends it.";

/// Where a dashboard is expected if nothing is said.
const DEFAULT_PORT: u16 = 5771;
/// How long a key is waited for before the screen is drawn again.
const BEAT: Duration = Duration::from_millis(200);

/// `fulmar top`
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// The address of serve --dashboard [default: 127.0.0.1:5771]
    #[arg(value_name = "ADDR")]
    pub address: Option<String>,
    /// Print the figures once, as text, and end
    #[arg(long)]
    pub once: bool,
    /// Amount of output.
    #[command(flatten)]
    pub verbosity: VerbosityArgs,
}

/// Runs it; the exit code.
pub fn run(args: &TopArgs) -> Result<u8, Failure> {
    let (address, host) = address(args.address.as_deref())?;
    if args.once {
        let snapshot = source::fetch(address, &host)?;
        for line in draw::lines(&snapshot) {
            terminal::stdout_line(&line);
        }
        return Ok(exit::DONE);
    }
    if !std::io::stdout().is_terminal() {
        return Err(Failure::usage("stdout is no terminal: use fulmar top --once"));
    }
    // Whoever is not there at the beginning is an error; who goes away later is waited for.
    let first = source::fetch(address, &host)?;
    let signal = signals::install(None)?;
    let source = Source::start(address, host, first)?;
    let mut screen = ratatui::try_init().map_err(|error| {
        Failure::new(exit::OTHER, format!("cannot draw on this terminal: {}", text::io_error(&error)))
    })?;
    let ended = watch(&source, &mut screen, &signal);
    ratatui::restore();
    ended.map_err(|error| {
        Failure::new(exit::OTHER, format!("cannot draw on this terminal: {}", text::io_error(&error)))
    })
}

/// Draws until a key or a signal ends it.
fn watch(
    source: &Source,
    screen: &mut ratatui::DefaultTerminal,
    signal: &std::sync::atomic::AtomicI32,
) -> std::io::Result<u8> {
    loop {
        let status: Status = source.status();
        screen.draw(|frame| draw::screen(frame, &status))?;
        if let Some(code) = signals::exit_code(signal) {
            return Ok(code);
        }
        if keys::poll(BEAT)?
            && let Event::Key(key) = keys::read()?
            && key.kind == KeyEventKind::Press
        {
            let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(exit::DONE);
            }
        }
    }
}

/// The address, and how the server is to be called in requests.
fn address(text: Option<&str>) -> Result<(SocketAddr, String), Failure> {
    let given = text.unwrap_or_default().trim_start_matches("http://").trim_end_matches('/');
    let full = match given {
        "" => format!("127.0.0.1:{DEFAULT_PORT}"),
        port if port.parse::<u16>().is_ok() => format!("127.0.0.1:{port}"),
        name if name.parse::<std::net::Ipv6Addr>().is_ok() => format!("[{name}]:{DEFAULT_PORT}"),
        name if !name.contains(':') || name.ends_with(']') => format!("{name}:{DEFAULT_PORT}"),
        name => name.to_owned(),
    };
    let shown = text::one_line(&full);
    let mut found = full.to_socket_addrs().map_err(|error| {
        Failure::new(
            exit::UNREACHABLE,
            format!(
                "cannot resolve {shown}: {}; give the ADDR:PORT of serve --dashboard",
                text::io_error(&error)
            ),
        )
    })?;
    let address = found.next().ok_or_else(|| {
        Failure::new(exit::UNREACHABLE, format!("{shown} has no address; give another ADDR:PORT"))
    })?;
    Ok((address, full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed() {
        let full = |text: &str| address(Some(text)).map(|(_, host)| host).expect("resolves");
        assert_eq!(address(None).expect("the default").1, "127.0.0.1:5771");
        assert_eq!(full("80"), "127.0.0.1:80");
        assert_eq!(full("127.0.0.2"), "127.0.0.2:5771");
        assert_eq!(full("http://127.0.0.1:99/"), "127.0.0.1:99");
        assert_eq!(full("::1"), "[::1]:5771");
        assert_eq!(full("[::1]"), "[::1]:5771");
        assert_eq!(full("[::1]:7"), "[::1]:7");
        assert_eq!(address(Some("a b:1")).expect_err("no name").exit_code, 3);
    }
}
