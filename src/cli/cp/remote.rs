//! Role: `fulmar serve --once`: the other side of a copy, started by ssh, told over stdin what to do.
//! Owns: nothing; the server owns itself.
//! Implements: docs/SSH.md, "The other side".

use super::channel::{self, Answer, Ask, FailedSource, GREETING, LinkWishes, Ready, VERSION, Work};
use super::expand;
use super::place::{Shape, place};
use crate::cli::args::{ChunkArgs, ConnectArgs, LinkArgs};
use crate::cli::exit::{self, Failure};
use crate::cli::{files_from, options, paths, signals, text};
use crate::endpoint::config::{EndpointConfig, Secret, ServerConfig, Task};
use crate::net::client::NetError;
use crate::net::server::{Server, ServerOptions};
use crate::net::stream::StreamPipe;
use crate::net::watch::WatchOptions;
use crate::transfer::job::{Overwrite, SourceRoot, StoreError, StoreErrorKind};
use rustix::event::{PollFd, PollFlags};
use std::ffi::OsStr;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long the task may take to come: the other side writes it before it has even logged in.
const ASK_WAIT: Duration = Duration::from_secs(30);
/// The longest wait for a connection that is granted.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// Sessions at once: a client that tries several addresses of this machine may have two for a moment.
const MAX_SESSIONS: usize = 4;

/// Runs it; the exit code. What goes wrong is told to the other side, not to stderr.
pub fn run() -> Result<u8, Failure> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::usage(
            "serve --once is what fulmar cp starts over ssh, and is told on stdin what to do: run fulmar cp, or serve \
             without --once",
        ));
    }
    let own = |fd: &dyn AsFdDyn| {
        fd.own().map_err(|e| {
            Failure::new(exit::OTHER, format!("cannot use stdin and stdout: {}", text::io_error(&e)))
        })
    };
    let (input, output) = (own(&stdin)?, own(&io::stdout())?);
    let mut buffer = Vec::new();
    let ask: Ask = match channel::read_message(&mut Patient(input.as_fd()), &mut buffer) {
        Ok(ask) => ask,
        // Nobody is there any more.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof && buffer.is_empty() => return Ok(exit::DONE),
        Err(error) => {
            return Err(Failure::new(
                exit::OTHER,
                format!("serve --once was not told what to do: {}", text::io_error(&error)),
            ));
        }
    };
    match prepare(&ask) {
        Ok((server, ready)) => {
            // Handlers first: whoever reads the answer may send a signal at once.
            let signal = signals::install(None)?;
            if !tell(&output, &Answer::Ready(ready)) {
                return Ok(exit::DONE);
            }
            let Some(server) = server else { return Ok(exit::DONE) };
            let stream = StreamPipe::new(input, output, buffer, signal.clone()).map_err(|e| {
                Failure::new(exit::OTHER, format!("cannot use ssh's channel: {}", text::io_error(&e)))
            })?;
            let wait = Duration::from_millis(ask.wait_ms).min(MAX_WAIT);
            server.with_stream(stream).once(wait).run(signal)?;
            Ok(exit::DONE)
        }
        Err(Failure { exit_code, message }) => {
            tell(&output, &Answer::Failed { exit_code, message });
            Ok(exit_code)
        }
    }
}

/// A stream whose descriptor can be had for good.
trait AsFdDyn {
    fn own(&self) -> io::Result<OwnedFd>;
}

impl<T: AsFd> AsFdDyn for T {
    fn own(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}

/// Reads from a descriptor, but waits only so long.
struct Patient<'a>(std::os::fd::BorrowedFd<'a>);

impl Read for Patient<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let timeout = rustix::event::Timespec::try_from(ASK_WAIT).ok();
        if rustix::event::poll(&mut fds, timeout.as_ref())? == 0 {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(rustix::io::read(self.0, out)?)
    }
}

/// False: nobody is there any more, or it cannot be told.
fn tell(output: &OwnedFd, answer: &Answer) -> bool {
    let send = || {
        let mut output = std::fs::File::from(output.try_clone()?);
        output.write_all(GREETING)?;
        match channel::write_message(&mut output, answer) {
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                let message = "too many files match: copy their directory instead".to_owned();
                channel::write_message(&mut output, &Answer::Failed { exit_code: exit::REFUSED, message })?;
                Err(error)
            }
            other => other,
        }
    };
    send().is_ok()
}

/// Finds what is asked for and opens a port; no server if there is nothing to do.
fn prepare(ask: &Ask) -> Result<(Option<Server>, Ready), Failure> {
    if ask.version != VERSION {
        return Err(Failure::new(
            exit::REFUSED,
            format!(
                "fulmar there speaks version {VERSION} of this, and here version {}: bring both up to date",
                ask.version
            ),
        ));
    }
    let mut ready =
        Ready { address: own_address(std::env::var_os("SSH_CONNECTION").as_deref()), ..Ready::default() };
    let (dir, task) = match &ask.work {
        Work::Send { sources, recursive } => {
            let sources: Vec<&[u8]> = sources.iter().map(channel::Bytes::as_slice).collect();
            let (roots, shape) = find(&sources, *recursive, &mut ready.failed);
            ready.names = roots.iter().map(|root| root.name.as_slice().into()).collect();
            ready.shape = shape;
            if roots.is_empty() {
                return Ok((None, ready));
            }
            (PathBuf::from("/"), Task::Send(roots))
        }
        Work::SendListed { base, names, recursive } => {
            let refused = |e: StoreError| Failure::new(e.kind.exit_code(), e.message);
            let base = expand::tilde(base.as_slice()).map_err(refused)?;
            let names = names.iter().map(channel::Bytes::as_slice);
            let (found, failed) = listed(base.as_os_str(), names, *recursive);
            ready.failed = failed.iter().map(|(path, error)| FailedSource::new(path, error)).collect();
            ready.shape = shape_of_list(&found);
            let roots: Vec<SourceRoot> = found.into_iter().map(|source| source.root).collect();
            ready.names = roots.iter().map(|root| root.name.as_slice().into()).collect();
            if roots.is_empty() {
                return Ok((None, ready));
            }
            (PathBuf::from("/"), Task::Send(roots))
        }
        Work::Receive { dest, shape, overwrite, no_resume } => {
            let refused = |e: StoreError| Failure::new(e.kind.exit_code(), e.message);
            let dest = expand::tilde(dest.as_slice()).map_err(refused)?;
            let overwrite = if *overwrite { Overwrite::Always } else { Overwrite::Never };
            let (dir, dest) = place(&dest, *shape, overwrite, *no_resume)?;
            (dir, Task::Receive(dest))
        }
    };
    let mut endpoint = EndpointConfig::new(Secret::Key(Zeroizing::new(ask.key.as_bytes().to_vec())));
    endpoint.session = session(&ask.link)?;
    endpoint.server = Some(ServerConfig {
        max_sessions: MAX_SESSIONS,
        allow_writes: matches!(task, Task::Receive(_)),
        // Whoever logs in may remove files without fulmar too; it is removed only what the local side asks for.
        allow_delete: matches!(task, Task::Receive(_)),
        allow_echo_sim: false,
        task: Some(Arc::new(task)),
        ..ServerConfig::default()
    });
    let server = bind(ask, &dir, &endpoint)?;
    ready.port = server.local_addr().port();
    Ok((Some(server), ready))
}

/// The settings of the session.
fn session(wishes: &LinkWishes) -> Result<crate::endpoint::config::SessionConfig, Failure> {
    let LinkWishes { limit, window, cc, rate, timeout } = wishes.clone();
    let link = LinkArgs { limit, window, cc, rate, timeout, ..LinkArgs::default() };
    options::client_session(&link, &ConnectArgs::default(), &ChunkArgs::default())
}

/// What is to be sent. Sources that cannot be go to `failed`.
fn find(sources: &[&[u8]], recursive: bool, failed: &mut Vec<FailedSource>) -> (Vec<SourceRoot>, Shape) {
    let mut found = Vec::new();
    for source in sources {
        match expand::expand(source) {
            Ok(paths) => {
                for path in paths {
                    match usable(path.as_os_str(), recursive) {
                        Ok(usable) => found.push(usable),
                        Err(error) => failed.push(FailedSource::new(path.as_os_str().as_bytes(), &error)),
                    }
                }
            }
            Err(error) => failed.push(FailedSource::new(source, &error)),
        }
    }
    let shape = shape_of(&found, sources.len().max(found.len()));
    (found.into_iter().map(|source| source.root).collect(), shape)
}

/// Sources that keep their paths below DEST, and names that cannot be sent.
type Listed<'a> = (Vec<paths::Source>, Vec<(&'a [u8], StoreError)>);

/// What names below a directory stand for.
pub fn listed<'a>(base: &OsStr, names: impl Iterator<Item = &'a [u8]>, recursive: bool) -> Listed<'a> {
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in names {
        let path = files_from::below(base, name);
        match usable(&path, recursive) {
            Ok(source) => found.push(paths::Source { root: files_from::root(&path, name), ..source }),
            Err(error) => failed.push((name, error)),
        }
    }
    (found, failed)
}

/// What DEST must know of a list.
pub fn shape_of_list(sources: &[paths::Source]) -> Shape {
    Shape { several: true, contents: sources.iter().any(|source| source.root.name.is_empty()), dir: false }
}

/// A source that may be sent: a directory only with -r.
pub fn usable(path: &OsStr, recursive: bool) -> Result<paths::Source, StoreError> {
    let source = paths::source(path)?;
    if source.is_file || recursive {
        return Ok(source);
    }
    let shown = text::bytes(path.as_bytes());
    Err(StoreError {
        kind: StoreErrorKind::WrongKind,
        message: format!("{shown} is a directory: add -r to copy it"),
    })
}

/// What DEST must know of the sources; `count`: of all that were named or matched, those that cannot be sent too.
pub fn shape_of(sources: &[paths::Source], count: usize) -> Shape {
    Shape {
        several: count > 1,
        contents: sources.iter().any(|source| source.root.name.is_empty()),
        dir: sources.len() == 1 && !sources[0].is_file,
    }
}

/// The third field of SSH_CONNECTION (ssh(1)): the address of the server that the client has connected to.
fn own_address(variable: Option<&OsStr>) -> Option<IpAddr> {
    let address = variable?.to_str()?.split(' ').nth(2)?;
    // A zone is a name of this machine's interface, and means nothing elsewhere.
    let address: IpAddr = address.split('%').next()?.parse().ok()?;
    let local = match address {
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    };
    (!local).then_some(address)
}

/// Binds one of the ports that may be used.
fn bind(ask: &Ask, dir: &std::path::Path, endpoint: &EndpointConfig) -> Result<Server, Failure> {
    let ip = if ask.ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let bind = |port: u16| -> Result<Server, NetError> {
        Server::bind(ServerOptions {
            listen: SocketAddr::new(ip, port),
            dir: dir.to_owned(),
            endpoint: endpoint.clone(),
            sim: None,
            partial_ttl: None,
            quota_bytes: None,
            trace: None,
            limit: None,
            watch: WatchOptions::default(),
        })
    };
    let Some((first, last)) = ask.ports else { return Ok(bind(0)?) };
    for port in first..=last {
        match bind(port) {
            Ok(server) => return Ok(server),
            Err(error) if error.exit_code != exit::OTHER => return Err(error.into()),
            Err(error) => log::debug!("port {port}: {error}"),
        }
    }
    Err(Failure::new(
        exit::OTHER,
        format!("no UDP port from {first} to {last} is free there: give a wider --port-range, or none"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_that_of_the_server() {
        let of = |text: &str| own_address(Some(OsStr::new(text)));
        assert_eq!(of("192.0.2.1 50000 198.51.100.7 22"), "198.51.100.7".parse().ok());
        assert_eq!(of("2001:db8::1 50000 2001:db8::2 22"), "2001:db8::2".parse().ok());
        for none in ["UNKNOWN 65535 UNKNOWN 65535", "", "x", "fe80::1%a 5 fe80::2%eth0 22"] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(own_address(None), None);
    }

    #[test]
    fn directories_need_the_option() {
        let temp = tempfile::tempdir().expect("temp dir");
        std::fs::write(temp.path().join("f"), "x").expect("written");
        let dir = temp.path().as_os_str();
        let file = temp.path().join("f");
        let error = usable(dir, false).expect_err("a directory");
        assert_eq!(error.kind, StoreErrorKind::WrongKind);
        assert!(error.message.contains("-r"));
        assert!(usable(file.as_os_str(), false).is_ok());
        let mut failed = Vec::new();
        let sources = [dir.as_bytes(), file.as_os_str().as_bytes(), b"/no/such/file"];
        let (roots, shape) = find(&sources, true, &mut failed);
        assert_eq!((roots.len(), failed.len()), (2, 1));
        assert_eq!(shape, Shape { several: true, contents: false, dir: false });
        let (_, shape) = find(&sources[..1], true, &mut failed);
        assert_eq!(shape, Shape { several: false, contents: false, dir: true });
    }
}
