//! Role: checks what the user gave and turns it into the settings of the engine. Pure functions.
//! Owns: nothing.
//! Implements: the option bounds of docs/PROTOCOL.md, "Parameters".

use super::args::{ChunkArgs, ConnectArgs, LinkArgs, OutputArgs, OverwriteArgs, ProgressWhen, ServeArgs};
use super::exit::Failure;
use super::host::Family;
use super::text;
use crate::congestion::ControllerKind;
use crate::endpoint::config::{ServerConfig, SessionConfig};
use crate::impair::Spec;
use crate::transfer::job::{Compression, DEFAULT_ZSTD_LEVEL, MAX_ZSTD_LEVEL, Overwrite};
use crate::transfer::{MAX_CHUNK_SIZE, MIN_CHUNK_SIZE};
use crate::units;
use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Smallest `--window`: about ten full datagrams, below which no feedback scheme can keep a sender going.
pub const MIN_WINDOW_BYTES: u64 = 16 * 1024;
/// Smallest rate: one full datagram of 1,500 bytes in 12 s; slower than that every time-out would fire first.
pub const MIN_RATE_BITS_PER_SEC: u64 = 1_000;
/// Smallest time-out: below it the first round trip across a satellite could not end.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(100);
/// Largest time-out: a week, which is longer than any partial is waited for.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 86_400);
/// How long what an interrupted upload has left waits for its next run, by default. Own choice: a long weekend with a
/// broken link should not cost what had come before it.
pub const DEFAULT_PARTIAL_TTL: Duration = Duration::from_secs(7 * 86_400);
/// Bytes of a `--client-id`; the field of the wire format has this bound.
pub const MAX_CLIENT_ID_BYTES: usize = 64;

/// How much a client says, and in which form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// One JSON object instead of text on stdout.
    pub json: bool,
    /// Nothing but errors.
    pub quiet: bool,
    /// Progress on stderr.
    pub progress: ProgressWhen,
}

impl Output {
    /// From the arguments; these need no check.
    pub fn new(args: &OutputArgs) -> Self {
        Self { json: args.json, quiet: args.verbosity.quiet, progress: args.progress }
    }
}

/// The settings of a session that a client begins.
pub fn client_session(
    link: &LinkArgs,
    connect: &ConnectArgs,
    chunk: &ChunkArgs,
) -> Result<SessionConfig, Failure> {
    let mut session = SessionConfig::default();
    apply_link(&mut session, link)?;
    apply_chunk(&mut session, chunk)?;
    session.limit_bytes_per_sec = super::limit::now(link)?;
    if let Some(after) = timeout("--connect-timeout", connect.connect_timeout.as_deref())? {
        session.connect_timeout = after;
    }
    session.max_retries = count("--max-retries", connect.max_retries.as_deref(), u32::MAX)?;
    if let Some(label) = &connect.client_id {
        session.client_id = client_id(label)?;
    }
    Ok(session)
}

/// The settings of every session of a server, and what the server allows.
pub fn server(args: &ServeArgs) -> Result<(SessionConfig, ServerConfig), Failure> {
    let mut session = SessionConfig::default();
    apply_link(&mut session, &args.link)?;
    apply_chunk(&mut session, &args.chunk)?;
    let defaults = ServerConfig::default();
    let server = ServerConfig {
        max_sessions: count("--max-sessions", args.max_sessions.as_deref(), 1_000_000)?
            .map_or(defaults.max_sessions, |n| n as usize),
        total_limit_bytes_per_sec: super::limit::now(&args.link)?,
        allow_echo_sim: !args.no_echo_sim,
        allow_overwrite: match args.overwrite.as_deref() {
            None => defaults.allow_overwrite,
            Some(when) => overwrite_word("--overwrite", when)? == Overwrite::Always,
        },
        allow_writes: !args.read_only,
        allow_delete: args.allow_delete,
        max_file_bytes: match args.max_file_size.as_deref() {
            None => defaults.max_file_bytes,
            Some(text) => size("--max-file-size", text)?,
        },
        task: defaults.task,
        place: defaults.place,
    };
    Ok((session, server))
}

/// `--quota`
pub fn quota(args: &ServeArgs) -> Result<Option<u64>, Failure> {
    args.quota.as_deref().map(|text| size("--quota", text)).transpose()
}

/// `--partial-ttl`
pub fn partial_ttl(args: &ServeArgs) -> Result<Duration, Failure> {
    let Some(text) = args.partial_ttl.as_deref() else { return Ok(DEFAULT_PARTIAL_TTL) };
    units::parse_duration(text).map_err(|error| Failure::usage(format!("--partial-ttl: {error}")))
}

/// Splits a list of arguments into all but the last and the last. `usage`: what is needed, for the error.
pub fn split_last<'a>(
    command: &str,
    usage: &str,
    arguments: &'a [OsString],
) -> Result<(&'a [OsString], &'a OsStr), Failure> {
    match arguments.split_last() {
        Some((last, rest)) if !rest.is_empty() => Ok((rest, last)),
        Some((only, _)) => Err(Failure::usage(format!(
            "only one argument, `{}`: {command} needs {usage}; see fulmar {command} --help",
            text::bytes(only.as_bytes())
        ))),
        None => {
            Err(Failure::usage(format!("no arguments: {command} needs {usage}; see fulmar {command} --help")))
        }
    }
}

/// `--overwrite`
pub fn overwrite(args: &OverwriteArgs) -> Result<Overwrite, Failure> {
    args.overwrite.as_deref().map_or(Ok(Overwrite::default()), |when| overwrite_word("--overwrite", when))
}

/// `--sim` and `--sim-back`
pub fn sim(option: &str, spec: &str) -> Result<Spec, Failure> {
    spec.parse().map_err(|error| Failure::usage(format!("{option}: {error}")))
}

/// `--sim`, when given.
pub fn link_sim(link: &LinkArgs) -> Result<Option<Spec>, Failure> {
    link.sim.as_deref().map(|spec| sim("--sim", spec)).transpose()
}

/// `--retry`
pub fn retries(connect: &ConnectArgs) -> Result<u32, Failure> {
    match connect.retry.as_deref() {
        None | Some("0") => Ok(0),
        text => Ok(count("--retry", text, u32::MAX)?.unwrap_or_default()),
    }
}

/// `-4` and `-6`
pub fn family(connect: &ConnectArgs) -> Family {
    match (connect.ipv4, connect.ipv6) {
        (true, _) => Family::V4,
        (_, true) => Family::V6,
        _ => Family::Any,
    }
}

/// `--listen`: an address and a port, or a port alone, which means all addresses.
pub fn listen(text: &str) -> Result<SocketAddr, Failure> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    match (host, port.parse::<u16>()) {
        ("", Ok(port)) => Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
        ("*", Ok(port)) => Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        ("localhost", Ok(port)) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        _ => Err(Failure::usage(format!(
            "--listen: `{}` is not ADDR:PORT: write an address of this machine and a port, such as [::]:5770, \
             0.0.0.0:5770 or 127.0.0.1:0",
            shown(text)
        ))),
    }
}

/// What client and server share.
fn apply_link(session: &mut SessionConfig, link: &LinkArgs) -> Result<(), Failure> {
    if let Some(text) = link.window.as_deref() {
        let bytes = size("--window", text)?;
        if bytes < MIN_WINDOW_BYTES {
            return Err(Failure::usage(format!(
                "--window: `{}` is too small: give 16KiB or more",
                shown(text)
            )));
        }
        session.window_cap_bytes = Some(bytes);
    }
    if let Some(after) = timeout("--timeout", link.timeout.as_deref())? {
        session.idle_timeout = after;
    }
    session.controller = controller(link.cc.as_deref(), link.rate.as_deref())?;
    Ok(())
}

fn zstd_level(text: &str) -> Result<u8, Failure> {
    let level = text.strip_prefix("zstd:").and_then(|level| level.parse().ok());
    level.filter(|level| (1..=MAX_ZSTD_LEVEL).contains(level)).ok_or_else(|| {
        Failure::usage(format!(
            "--compress: `{}` is out of range: give zstd:1 to zstd:{MAX_ZSTD_LEVEL}",
            shown(text)
        ))
    })
}

fn apply_chunk(session: &mut SessionConfig, chunk: &ChunkArgs) -> Result<(), Failure> {
    if let Some(text) = chunk.chunk_size.as_deref() {
        session.chunk_size = u32::try_from(size("--chunk-size", text)?)
            .ok()
            .filter(|bytes| (MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE).contains(bytes))
            .ok_or_else(|| {
                Failure::usage(format!("--chunk-size: `{}` is out of range: give 1KiB to 4MiB", shown(text)))
            })?;
    }
    session.compress = match chunk.compress.as_deref() {
        None => session.compress,
        Some("auto") => Compression::Auto,
        Some("lz4") => Compression::Lz4,
        Some("none") => Compression::None,
        Some("zstd") => Compression::Zstd(DEFAULT_ZSTD_LEVEL),
        Some(text) if text.starts_with("zstd:") => Compression::Zstd(zstd_level(text)?),
        Some(other) => return Err(unknown_word("--compress", other, "auto, lz4, zstd, zstd:LEVEL or none")),
    };
    Ok(())
}

fn controller(cc: Option<&str>, rate_text: Option<&str>) -> Result<ControllerKind, Failure> {
    let bits = rate("--rate", rate_text)?;
    match (cc, bits) {
        (Some("fixed"), Some(bits)) => Ok(ControllerKind::Fixed { bytes_per_sec: bits / 8 }),
        (Some("fixed"), None) => {
            Err(Failure::usage("--cc: `fixed` needs its rate: add --rate RATE, such as --rate 20mbit"))
        }
        (None | Some("adaptive" | "cubic"), Some(_)) => Err(Failure::usage(format!(
            "--rate: `{}` has no effect without --cc fixed: add that, or use --limit to cap the rate",
            shown(rate_text.unwrap_or_default())
        ))),
        (None, None) => Ok(ControllerKind::default()),
        (Some("adaptive"), None) => Ok(ControllerKind::Adaptive),
        (Some("cubic"), None) => Ok(ControllerKind::Cubic),
        (Some(other), _) => Err(unknown_word("--cc", other, "adaptive, cubic or fixed")),
    }
}

fn overwrite_word(option: &str, word: &str) -> Result<Overwrite, Failure> {
    match word {
        "never" => Ok(Overwrite::Never),
        "always" => Ok(Overwrite::Always),
        other => Err(unknown_word(option, other, "never or always")),
    }
}

fn client_id(label: &str) -> Result<String, Failure> {
    if label.len() > MAX_CLIENT_ID_BYTES {
        return Err(Failure::usage(format!(
            "--client-id: `{}` has {} bytes: give at most {MAX_CLIENT_ID_BYTES}",
            shown(label),
            label.len()
        )));
    }
    if label.chars().any(char::is_control) {
        return Err(Failure::usage(format!(
            "--client-id: `{}` contains a control character: leave it out",
            shown(label)
        )));
    }
    Ok(label.to_owned())
}

/// Bits a second.
fn rate(option: &str, text: Option<&str>) -> Result<Option<u64>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let bits = units::parse_rate(text).map_err(|error| Failure::usage(format!("{option}: {error}")))?;
    if bits < MIN_RATE_BITS_PER_SEC {
        return Err(Failure::usage(format!("{option}: `{}` is too slow: give 1kbit or more", shown(text))));
    }
    Ok(Some(bits))
}

fn size(option: &str, text: &str) -> Result<u64, Failure> {
    units::parse_size(text).map_err(|error| Failure::usage(format!("{option}: {error}")))
}

fn timeout(option: &str, text: Option<&str>) -> Result<Option<Duration>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let time = units::parse_duration(text).map_err(|error| Failure::usage(format!("{option}: {error}")))?;
    if !(MIN_TIMEOUT..=MAX_TIMEOUT).contains(&time) {
        return Err(Failure::usage(format!(
            "{option}: `{}` is out of range: give 0.1 (seconds) to 7d",
            shown(text)
        )));
    }
    Ok(Some(time))
}

/// A whole number from 1 to `max`.
fn count(option: &str, text: Option<&str>, max: u32) -> Result<Option<u32>, Failure> {
    let Some(text) = text else { return Ok(None) };
    text.parse::<u32>().ok().filter(|n| (1..=max).contains(n)).map(Some).ok_or_else(|| {
        Failure::usage(format!("{option}: `{}` is not a whole number from 1 to {max}", shown(text)))
    })
}

fn unknown_word(option: &str, word: &str, choices: &str) -> Failure {
    Failure::usage(format!("{option}: `{}` is unknown: give {choices}", shown(word)))
}

/// The user's text in an error: safe, and not longer than a line bears.
fn shown(text: &str) -> String {
    let mut safe = text::bytes(text.as_bytes());
    if let Some((cut, _)) = safe.char_indices().nth(80) {
        safe.truncate(cut);
        safe.push_str("...");
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn session(options: &[&str]) -> Result<SessionConfig, Failure> {
        let line = ["fulmar", "put"].iter().chain(options).chain(&["a", "host"]);
        match Cli::try_parse_from(line).expect("clap takes it").command {
            Command::Put(args) => client_session(&args.link, &args.connect, &args.chunk),
            _ => unreachable!(),
        }
    }

    fn serve(options: &[&str]) -> Result<(SessionConfig, ServerConfig), Failure> {
        match Cli::try_parse_from(["fulmar", "serve"].iter().chain(options)).expect("clap takes it").command {
            Command::Serve(args) => server(&args),
            _ => unreachable!(),
        }
    }

    #[test]
    fn defaults_are_the_engines() {
        let session = session(&[]).expect("valid");
        let defaults = SessionConfig::default();
        assert_eq!(session.controller, defaults.controller);
        assert_eq!(session.chunk_size, defaults.chunk_size);
        assert_eq!(session.connect_timeout, Duration::from_secs(10));
        assert_eq!(session.idle_timeout, Duration::from_secs(60));
        assert_eq!(session.max_retries, None);
        assert_eq!(session.limit_bytes_per_sec, None);
        let (_, server) = serve(&[]).expect("valid");
        assert!(server.allow_overwrite && server.allow_writes && server.allow_echo_sim);
    }

    #[test]
    fn values_arrive() {
        let s = session(&[
            "--limit",
            "20mbit",
            "--window",
            "64KiB",
            "--chunk-size",
            "1KiB",
            "--compress",
            "lz4",
            "--connect-timeout",
            "0.5",
            "--timeout",
            "90",
            "--max-retries",
            "7",
            "--cc",
            "fixed",
            "--rate",
            "8mbit",
            "--client-id",
            "lab 3",
        ])
        .expect("valid");
        assert_eq!(s.limit_bytes_per_sec, Some(2_500_000));
        assert_eq!(s.window_cap_bytes, Some(65_536));
        assert_eq!(s.chunk_size, 1024);
        assert_eq!(s.compress, Compression::Lz4);
        assert_eq!(s.connect_timeout, Duration::from_millis(500));
        assert_eq!(s.idle_timeout, Duration::from_secs(90));
        assert_eq!(s.max_retries, Some(7));
        assert_eq!(s.controller, ControllerKind::Fixed { bytes_per_sec: 1_000_000 });
        assert_eq!(s.client_id, "lab 3");
        let (s, c) = serve(&[
            "--limit",
            "1gbit",
            "--max-sessions",
            "3",
            "--overwrite",
            "never",
            "--read-only",
            "--no-echo-sim",
            "--max-file-size",
            "1GiB",
            "--timeout",
            "5",
        ])
        .expect("valid");
        assert_eq!((s.limit_bytes_per_sec, s.idle_timeout), (None, Duration::from_secs(5)));
        assert_eq!(c.total_limit_bytes_per_sec, Some(125_000_000));
        assert_eq!((c.max_sessions, c.max_file_bytes), (3, 1 << 30));
        assert!(!c.allow_overwrite && !c.allow_writes && !c.allow_echo_sim);
    }

    #[test]
    fn every_bad_value_names_its_option_and_exits_2() {
        let long = "x".repeat(65);
        let cases: &[&[&str]] = &[
            &["--limit", "fast"],
            &["--limit", "0"],
            &["--limit", "999"],
            &["--window", "16383"],
            &["--window", "-1"],
            &["--chunk-size", "1023"],
            &["--chunk-size", "4MiB1"],
            &["--chunk-size", "4194305"],
            &["--chunk-size", "99999999999999999999"],
            &["--compress", "zip"],
            &["--compress", "zstd:"],
            &["--compress", "zstd:0"],
            &["--compress", "zstd:20"],
            &["--compress", "zstd:-1"],
            &["--compress", "zstd:fast"],
            &["--connect-timeout", "0"],
            &["--connect-timeout", "soon"],
            &["--timeout", "8d"],
            &["--max-retries", "0"],
            &["--max-retries", "-3"],
            &["--max-retries", "4294967296"],
            &["--cc", "bbr"],
            &["--cc", "fixed"],
            &["--rate", "1mbit"],
            &["--client-id", &long],
            &["--client-id", "a\nb"],
        ];
        for case in cases {
            let joined = match case {
                [option, value] => format!("{option}={value}"),
                _ => unreachable!(),
            };
            let failure = session(&[&joined]).expect_err(&joined);
            assert_eq!(failure.exit_code, 2, "{joined}");
            assert!(failure.message.starts_with(case[0]), "{joined}: {}", failure.message);
            assert!(!failure.message.contains('\n'), "{joined}");
        }
        for case in [["--max-sessions", "0"], ["--max-file-size", "x"], ["--overwrite", "maybe"]] {
            let failure = serve(&case).expect_err(case[0]);
            assert_eq!(failure.exit_code, 2);
            assert!(failure.message.starts_with(case[0]), "{}", failure.message);
        }
    }

    #[test]
    fn the_last_argument_is_the_target() {
        let list: Vec<OsString> = ["a", "b", "h"].iter().map(OsString::from).collect();
        let (rest, last) = split_last("put", "x", &list).expect("three");
        assert_eq!((rest, last), (&list[..2], OsStr::new("h")));
        for few in [&list[..1], &[]] {
            assert_eq!(split_last("put", "x", few).expect_err("too few").exit_code, 2);
        }
    }

    #[test]
    fn listen_addresses() {
        assert_eq!(listen("[::]:5770"), Ok("[::]:5770".parse().expect("valid")));
        assert_eq!(listen("127.0.0.1:0"), Ok("127.0.0.1:0".parse().expect("valid")));
        assert_eq!(listen(":99"), Ok("[::]:99".parse().expect("valid")));
        assert_eq!(listen("99"), Ok("[::]:99".parse().expect("valid")));
        assert_eq!(listen("localhost:1"), Ok("127.0.0.1:1".parse().expect("valid")));
        for bad in ["", "host:1", "1.2.3.4", "[::]", "1.2.3.4:99999"] {
            assert_eq!(listen(bad).expect_err(bad).exit_code, 2);
        }
    }
}
