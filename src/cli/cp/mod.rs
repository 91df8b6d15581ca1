//! Role: `fulmar cp`: copies between here and a host that ssh reaches, the files over UDP.
//! Owns: the course of one copy: ssh, the answer of the other side, the transfer, the way out when UDP is blocked.
//! Implements: `fulmar cp --help`, docs/SSH.md.

pub mod args;
pub mod channel;
pub mod expand;
pub mod grammar;
pub mod pattern;
pub mod place;
pub mod remote;
pub mod ssh;

use super::client::{self, Results};
use super::exit::{self, Failure};
use super::options::{self, Output};
use super::progress::Progress;
use super::report::{Ended, FileResult, Report};
use super::{files_from, key, key_log, limit, signals, sync, text, trace};
use crate::endpoint::config::{EndpointConfig, Secret, SessionConfig};
use crate::impair::Spec;
use crate::net::client::ClientOptions;
use crate::net::limit::LiveLimit;
use crate::net::trace::TraceFile;
use crate::session::event::{CloseReason, Direction};
use crate::transfer::Request;
use crate::transfer::job::{
    Compression, DEFAULT_ZSTD_LEVEL, Dest, EntryKind, Overwrite, SourceRoot, StoreError,
};
use crate::transfer::sync::SyncOptions;
use args::{CpArgs, Fallback};
use channel::{Ask, Bytes, LinkWishes, Ready, Work};
use grammar::{Host, Plan};
use place::Shape;
use ssh::{Ssh, SshLine};
use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long UDP may take to get through. Hellos are repeated from 100 ms on, so some ten of them are tried; with ssh's
/// own set-up the user hears of a firewall within ten seconds.
const UDP_WAIT: Duration = Duration::from_secs(5);
/// How long the other side waits beyond that, for the way over ssh's stream.
const SPARE_WAIT: Duration = Duration::from_secs(60);

/// The checked options of one copy.
struct Copy<'a> {
    args: &'a CpArgs,
    output: Output,
    overwrite: Overwrite,
    session: SessionConfig,
    sync: SyncOptions,
    list: Option<files_from::List>,
    sim: Option<Spec>,
    /// One file for both attempts.
    trace: Option<TraceFile>,
    retries: u32,
    limit: Option<LiveLimit>,
    ports: Option<(u16, u16)>,
    host: Host,
}

/// What moves, once both sides have looked at it.
struct Job {
    request: Request,
    roots: Vec<SourceRoot>,
    dest: Option<(PathBuf, Dest)>,
    /// See `SessionConfig::only_roots`.
    only_roots: Option<Arc<BTreeSet<Vec<u8>>>>,
    sync: SyncOptions,
}

/// Runs it; the exit code.
pub fn run(args: &CpArgs) -> Result<u8, Failure> {
    let (sources, dest) = if args.list.files_from.is_some() && args.paths.len() == 1 {
        (&[][..], args.paths[0].as_os_str())
    } else {
        options::split_last("cp", "SRC... and DEST", &args.paths)?
    };
    let plan = grammar::plan(sources, dest)?;
    let (Plan::Upload { host, .. } | Plan::Download { host, .. }) = &plan;
    let copy = Copy::new(args, host.clone())?;
    match &plan {
        Plan::Upload { sources, dest, .. } => copy.upload(sources, dest),
        Plan::Download { sources, dest, .. } => copy.download(sources, dest),
    }
}

impl<'a> Copy<'a> {
    fn new(args: &'a CpArgs, host: Host) -> Result<Self, Failure> {
        let link = link_args(args)?;
        let mut session = options::client_session(&link, &args.connect, &args.chunk)?;
        if args.compress_always {
            session.compress = Compression::Zstd(DEFAULT_ZSTD_LEVEL);
        }
        if args.connect.connect_timeout.is_none() {
            session.connect_timeout = UDP_WAIT;
        }
        // As with scp, what is there is replaced.
        let when = args.overwrite.clone().unwrap_or_else(|| "always".into());
        let given = super::args::OverwriteArgs { overwrite: Some(when), no_resume: args.no_resume };
        let (sync, overwrite) = sync::options(&args.sync, &given)?;
        session.key_log = key_log::from_environment()?;
        Ok(Self {
            args,
            output: Output::new(&args.output),
            overwrite,
            session,
            sync,
            list: files_from::read(&args.list)?
                .map(|list| if args.recursive { list.without_inner() } else { list }),
            sim: options::link_sim(&args.link)?,
            // A file that cannot be written is told before anybody logs in.
            trace: trace::open(args.link.trace.as_deref(), false)?,
            retries: options::retries(&args.connect)?,
            limit: limit::live(&link, 1)?,
            ports: args.ssh.port_range.as_deref().map(port_range).transpose()?,
            host,
        })
    }

    fn upload(&self, sources: &[OsString], dest: &[u8]) -> Result<u8, Failure> {
        let start = client::now();
        let mut report = Report::new("cp", self.output);
        let found = match &self.list {
            Some(list) => listed(list, files_from::base("cp", sources)?, self.args.recursive, &mut report),
            None => self.usable(sources, &mut report),
        };
        if found.is_empty() {
            return Ok(report.finish(&Ended::without_session(start)));
        }
        let shape = match &self.list {
            Some(_) => remote::shape_of_list(&found),
            None => remote::shape_of(&found, sources.len()),
        };
        let sync = self.sync_for(shape, &mut report);
        let work = Work::Receive {
            dest: dest.into(),
            shape,
            overwrite: self.overwrite == Overwrite::Always,
            no_resume: self.args.no_resume,
        };
        let (ssh, ready, key) = match self.reach(work) {
            Ok(reached) => reached,
            // The report may name sources already.
            Err(failure) => return Ok(report.finish(&Ended::before_start(failure))),
        };
        let roots: Vec<SourceRoot> = found.into_iter().map(|source| source.root).collect();
        // Each of these must be heard of again; the contents of a directory may be nothing at all.
        let named = roots.iter().filter(|root| !root.name.is_empty()).count() as u64;
        let unsent = report.totals.failed;
        // The other side knows where to; of the request only its kind counts.
        let request = Request::Put {
            dest: Vec::new(),
            into_dir: true,
            overwrite: self.overwrite,
            no_resume: self.args.no_resume,
        };
        let job = Job { request, roots, dest: None, only_roots: None, sync };
        let ended = self.transfer(ssh, &ready, &key, job, &mut report);
        let heard = report.totals.heard() - unsent;
        if ended.is_done() && heard < named {
            let message =
                format!("only {heard} of {named} sources were confirmed: run the same command again");
            let error = StoreError { kind: crate::transfer::job::StoreErrorKind::Io, message };
            report.failed(FileResult::default(), &error);
        }
        Ok(report.finish(&ended))
    }

    /// The sources that can be sent; the others are reported.
    fn usable(&self, sources: &[OsString], report: &mut Report) -> Vec<super::paths::Source> {
        let mut found = Vec::new();
        for source in sources {
            match remote::usable(source, self.args.recursive) {
                Ok(usable) => found.push(usable),
                Err(error) => fail(report, source.as_bytes(), &error),
            }
        }
        found
    }

    fn download(&self, sources: &[Vec<u8>], dest: &OsStr) -> Result<u8, Failure> {
        let start = client::now();
        // What cannot be written to is known before anybody logs in; what is copied there may still change it.
        let guess = Shape {
            several: self.list.is_some() || sources.len() > 1,
            contents: false,
            dir: self.args.recursive,
        };
        place::place(Path::new(dest), guess, self.overwrite, self.args.no_resume)?;
        let work = self.wanted(sources)?;
        let (ssh, ready, key) = self.reach(work)?;
        let mut report = Report::new("cp", self.output);
        let lines = self.list.as_ref().map(|list| (list, list.index()));
        for failed in &ready.failed {
            let (path, mut error) = (failed.path.as_slice(), failed.error());
            if let Some((list, index)) = &lines
                && let Some(name) = index.get(path)
            {
                error = list.blame(name, error);
            }
            fail(&mut report, path, &error);
        }
        if ready.names.is_empty() {
            ssh.finish();
            return Ok(report.finish(&Ended::without_session(start)));
        }
        let sync = self.sync_for(ready.shape, &mut report);
        let only_roots = match self.asked_for(sources, &ready.names) {
            Ok(only_roots) => only_roots,
            Err(failure) => return Ok(report.finish(&Ended::before_start(failure))),
        };
        let placed = place::place(Path::new(dest), ready.shape, self.overwrite, self.args.no_resume);
        let dest = match placed {
            Ok(placed) => placed,
            Err(failure) => return Ok(report.finish(&Ended::before_start(failure))),
        };
        let request = Request::Get {
            // The other side knows what.
            paths: Vec::new(),
            compress: self.session.compress,
            chunk_size: self.session.chunk_size,
        };
        let job = Job { request, roots: Vec::new(), dest: Some(dest), only_roots, sync };
        let ended = self.transfer(ssh, &ready, &key, job, &mut report);
        Ok(report.finish(&ended))
    }

    /// What the other side is to send.
    fn wanted(&self, sources: &[Vec<u8>]) -> Result<Work, Failure> {
        let bytes = |path: &Vec<u8>| Bytes::from(path.as_slice());
        let recursive = self.args.recursive;
        let Some(list) = &self.list else {
            return Ok(Work::Send { sources: sources.iter().map(bytes).collect(), recursive });
        };
        let [base] = sources else {
            let message =
                "cp: with --files-from there is one SRC, the directory that the names are relative to";
            return Err(Failure::usage(message));
        };
        let names = list.names.iter().map(|name| bytes(&name.path)).collect();
        Ok(Work::SendListed { base: bytes(base), names, recursive })
    }

    /// The wishes for what was found. `report` names what was not.
    fn sync_for(&self, shape: Shape, report: &mut Report) -> SyncOptions {
        let mut sync = self.sync.clone();
        report.dry_run = sync.dry_run;
        sync::widen_delete(&mut sync, shape.contents);
        if report.totals.failed > 0 && sync.delete.take().is_some() {
            report.not_removed("nothing is removed at the destination, since not all sources can be read");
        }
        sync
    }

    /// The names that may come: those that the other side has found, if they are what was asked for. A host that is
    /// not what it was must not slip a `.bashrc` into the directory that a copy of something else goes to.
    fn asked_for(
        &self,
        sources: &[Vec<u8>],
        names: &[Bytes],
    ) -> Result<Option<Arc<BTreeSet<Vec<u8>>>>, Failure> {
        let mut roots = BTreeSet::new();
        let listed = self.list.as_ref().map(files_from::List::index);
        for name in names.iter().map(Bytes::as_slice) {
            let is_listed = listed.as_ref().map(|listed| listed.contains_key(name));
            if !is_listed.unwrap_or_else(|| sources.iter().any(|source| expand::may_bring(source, name))) {
                let shown = text::bytes(name);
                let message =
                    format!("{} offers `{shown}`, which was not asked for: nothing is copied", self.name());
                return Err(Failure::new(exit::OTHER, message));
            }
            if name.is_empty() {
                // The contents of a directory: their names are for the other side to choose.
                return Ok(None);
            }
            roots.insert(name.to_vec());
        }
        Ok(Some(Arc::new(roots)))
    }

    /// Starts the other side and tells it what to do. The key is made for this copy.
    fn reach(&self, work: Work) -> Result<(Ssh, Ready, Zeroizing<String>), Failure> {
        let family = match (self.args.connect.ipv4, self.args.connect.ipv6) {
            (true, _) => Some("-4"),
            (_, true) => Some("-6"),
            _ => None,
        };
        let verbose = self.args.output.verbosity.verbose;
        let line = SshLine::new(&self.args.ssh, &self.host, family, verbose)?;
        let key = key::generate()?;
        let link = link_args(self.args)?;
        let ask = Ask {
            version: channel::VERSION,
            key: key.to_string(),
            work,
            ports: self.ports,
            ipv4: self.args.connect.ipv4,
            ipv6: self.args.connect.ipv6,
            wait_ms: (self.session.connect_timeout + SPARE_WAIT).as_millis() as u64,
            link: LinkWishes {
                // It is told in the session, and may change there.
                limit: None,
                window: link.window,
                cc: link.cc,
                rate: link.rate,
                timeout: link.timeout,
            },
        };
        let mut ssh = Ssh::start(&line, &self.host, self.output.quiet, verbose > 1)?;
        let ready = ssh.ask(&ask)?;
        log::info!("the other side is ready on UDP port {}", ready.port);
        Ok((ssh, ready, key))
    }

    /// Moves the files: over UDP or, if that does not get through and the user wants it, over ssh's stream.
    fn transfer(&self, mut ssh: Ssh, ready: &Ready, key: &str, job: Job, report: &mut Report) -> Ended {
        let signal = match signals::install(None) {
            Ok(signal) => signal,
            Err(failure) => return Ended::before_start(failure),
        };
        let start = client::now();
        let mut results = OnceEach { report, failed: HashSet::new() };
        let (remotes, proxied) = ssh.addresses(&self.host, ready.port, ready.address);
        let remotes = self.of_family(remotes);
        let mut ended = if remotes.is_empty() {
            let failure = Failure::new(exit::UNREACHABLE, "");
            Ended::before_start(failure)
        } else {
            let host = format!("{} (UDP port {})", self.name(), ready.port);
            let progress = Progress::new("cp", self.output);
            let options = self.options(key, &job, remotes.clone());
            client::run(options, &host, signal.clone(), &mut results, progress)
        };
        if self.is_blocked(&ended, &remotes) {
            if self.args.ssh.fallback == Fallback::Ssh {
                if !self.output.quiet {
                    let blocked = self.blocked(&remotes, ready.port, proxied);
                    exit::complain(&format!("{blocked}; copying over ssh instead"));
                }
                ended = self.over_ssh(&mut ssh, key, &job, signal, &mut results);
            } else {
                let blocked = self.blocked(&remotes, ready.port, proxied);
                let message = format!("{blocked}; {}", self.way_out());
                ended.outcome = Err(Failure::new(exit::UNREACHABLE, message));
            }
        } else {
            self.explain_loss(&mut ssh, &mut ended);
        }
        ended.elapsed = client::now().saturating_duration_since(start);
        ssh.finish();
        ended
    }

    fn over_ssh(
        &self,
        ssh: &mut Ssh,
        key: &str,
        job: &Job,
        signal: Arc<AtomicI32>,
        results: &mut dyn Results,
    ) -> Ended {
        // The end of ssh is not a signal to this process: it is told by its own number, and looked for below.
        let ended_by_ssh = Arc::new(AtomicI32::new(0));
        let stream = match ssh.stream(ended_by_ssh) {
            Ok(stream) => stream,
            Err(failure) => return Ended::before_start(failure),
        };
        let options = self.options(key, job, Vec::new());
        let progress = Progress::new("cp", self.output);
        let mut ended = client::run_over_stream(stream, options, &self.name(), signal, results, progress);
        self.explain_loss(ssh, &mut ended);
        ended
    }

    fn options(&self, key: &str, job: &Job, remotes: Vec<SocketAddr>) -> ClientOptions {
        let mut endpoint = EndpointConfig::new(Secret::Key(Zeroizing::new(key.as_bytes().to_vec())));
        endpoint.session = SessionConfig {
            only_roots: job.only_roots.clone(),
            sync: job.sync.clone(),
            ..self.session.clone()
        };
        ClientOptions {
            remotes,
            endpoint,
            request: job.request.clone(),
            roots: job.roots.clone(),
            dest: job.dest.clone(),
            sim: self.sim.clone(),
            retries: self.retries,
            trace: self.trace.as_ref().map(TraceFile::part),
            limit: self.limit.clone(),
        }
    }

    fn of_family(&self, mut remotes: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let connect = &self.args.connect;
        remotes.retain(|remote| !(connect.ipv4 && remote.is_ipv6() || connect.ipv6 && remote.is_ipv4()));
        remotes
    }

    fn name(&self) -> String {
        text::bytes(self.host.name.as_bytes())
    }

    /// Nothing came back from any address.
    fn is_blocked(&self, ended: &Ended, remotes: &[SocketAddr]) -> bool {
        if ended.connected || ended.signal.is_some() {
            return false;
        }
        remotes.is_empty()
            || matches!(&ended.outcome, Ok(outcome) if matches!(outcome.reason, CloseReason::Unreachable { .. }))
    }

    /// Why UDP did not get through, without what to do.
    fn blocked(&self, remotes: &[SocketAddr], port: u16, proxied: bool) -> String {
        let name = self.name();
        if remotes.is_empty() {
            return format!("{name} has no address that UDP could be sent to from here");
        }
        let addresses: Vec<String> =
            remotes.iter().map(|remote| text::bytes(remote.ip().to_string().as_bytes())).collect();
        let through = if proxied { " (ssh goes through another host, UDP cannot)" } else { "" };
        format!(
            "no answer by UDP from {} port {port} within {}{through}",
            addresses.join(" or "),
            crate::units::format_duration(self.session.connect_timeout)
        )
    }

    /// What can be done about it.
    fn way_out(&self) -> String {
        let ports = match self.ports {
            Some((first, last)) => format!("open UDP ports {first}-{last} in the firewalls on the way"),
            None => {
                "open some UDP ports in the firewalls on the way and name them with --port-range A-B".into()
            }
        };
        format!("{ports}, or copy over ssh with --fallback ssh")
    }

    /// The peer is gone because ssh is: then its words are the reason.
    fn explain_loss(&self, ssh: &mut Ssh, ended: &mut Ended) {
        let lost = matches!(
            &ended.outcome,
            Ok(outcome) if matches!(
                outcome.reason,
                CloseReason::PeerClosed(_) | CloseReason::TimedOut { .. } | CloseReason::Unreachable { .. }
            )
        );
        if lost
            && ended.signal.is_none()
            && let Some(last) = ssh.ended_with()
        {
            let message = format!(
                "the ssh connection to {} ended during the copy: {last}; run the same command again to go on",
                self.name()
            );
            ended.outcome = Err(Failure::new(exit::UNREACHABLE, message));
        }
    }
}

/// Passes results on; an error that an earlier attempt has told is not told again.
struct OnceEach<'a> {
    report: &'a mut Report,
    failed: HashSet<Vec<u8>>,
}

impl Results for OnceEach<'_> {
    fn entry(&mut self, direction: Direction, file: FileResult, error: Option<&StoreError>) {
        if error.is_some() && !self.failed.insert(file.path.clone()) {
            return;
        }
        self.report.entry(direction, file, error);
    }

    fn unchanged(&mut self, path: &[u8], kind: EntryKind, bytes: u64) {
        self.report.unchanged(path, kind, bytes);
    }

    fn planned(&mut self, path: &[u8], bytes: u64) {
        self.report.planned(path, bytes);
    }

    fn removed(&mut self, path: &[u8], kind: EntryKind) {
        self.report.removed(path, kind);
    }

    fn removal_failed(&mut self, error: &StoreError) {
        self.report.removal_failed(error);
    }
}

/// What a list names and can be sent; the rest is reported.
fn listed(
    list: &files_from::List,
    base: &OsStr,
    recursive: bool,
    report: &mut Report,
) -> Vec<super::paths::Source> {
    let (found, failed) = remote::listed(base, list.names.iter().map(|name| name.path.as_slice()), recursive);
    let lines = list.index();
    for (path, error) in failed {
        fail(report, path, &lines.get(path).map_or(error.clone(), |name| list.blame(name, error)));
    }
    found
}

fn fail(report: &mut Report, path: &[u8], error: &StoreError) {
    report.failed(FileResult { path: path.to_vec(), ..FileResult::default() }, error);
}

/// The link's options, with `-l` among them.
fn link_args(args: &CpArgs) -> Result<super::args::LinkArgs, Failure> {
    let mut link = args.link.clone();
    if let Some(limit) = &args.kbit {
        let bare = !limit.is_empty() && limit.bytes().all(|b| b.is_ascii_digit());
        link.limit = Some(if bare { format!("{limit}kbit") } else { limit.clone() });
    }
    Ok(link)
}

/// `A-B` or one port.
fn port_range(given: &str) -> Result<(u16, u16), Failure> {
    let (first, last) = given.split_once('-').unwrap_or((given, given));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && !text.starts_with('+'));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(Failure::usage(format!(
            "--port-range: `{}` is no range of ports: write it as in 60000-60010",
            text::bytes(given.as_bytes())
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges() {
        assert_eq!(port_range("60000-60010"), Ok((60_000, 60_010)));
        assert_eq!(port_range("7"), Ok((7, 7)));
        for bad in ["", "-", "0", "0-5", "5-4", "1-65536", "+1-2", "a-b", "1-2-3", "1 - 2"] {
            assert_eq!(port_range(bad).expect_err(bad).exit_code, 2);
        }
    }
}
