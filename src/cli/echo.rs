//! Role: `fulmar echo`, and the comparison of digests that `demo` shares.
//! Owns: the digests of files under way.
//! Implements: `fulmar echo --help`.

use super::args::EchoArgs;
use super::client::{self, Results, Setup};
use super::exit::Failure;
use super::host::Target;
use super::options::{self, Output};
use super::progress::Progress;
use super::report::{Ended, FileResult, Report};
use super::{paths, text};
use crate::session::event::Direction;
use crate::transfer::Request;
use crate::transfer::job::{Dest, EntryKind, Location, Overwrite, SourceRoot, StoreError, StoreErrorKind};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Put before the name of what comes back.
pub const PREFIX: &[u8] = b"received_";

/// Runs it; the exit code.
pub fn run(args: &EchoArgs) -> Result<u8, Failure> {
    let output = Output::new(&args.output);
    let overwrite = options::overwrite(&args.overwrite)?;
    let (files, server) = options::split_last("echo", "FILE... and HOST[:PORT]", &args.paths)?;
    let target = Target::parse(server)?;
    if !target.path.is_empty() {
        return Err(Failure::usage(format!(
            "'{}': echo takes no path on the server: write {} alone",
            text::bytes(server.as_bytes()),
            target.authority()
        )));
    }
    options::client_session(&args.link, &args.connect, &args.chunk)?;
    options::link_sim(&args.link)?;
    options::retries(&args.connect)?;
    options::sim("--sim-back", &args.sim_back)?;
    refuse_equal_names(files)?;

    let start = client::now();
    let mut report = Report::new("echo", output);
    let roots = sendable(files, overwrite, &mut report);
    if roots.is_empty() {
        return Ok(report.finish(&Ended::without_session(start)));
    }
    let setup = match Setup::new(target, &args.link, &args.connect, &args.chunk, &args.key) {
        Ok(setup) => setup,
        // The report may name files already.
        Err(failure) => return Ok(report.finish(&Ended::before_start(failure))),
    };
    let no_resume = args.overwrite.no_resume;
    let request = Request::Echo { sim_back: args.sim_back.clone(), keep: args.keep, overwrite, no_resume };
    let mut echo = Echo::new(report, &roots);
    let dest = (PathBuf::from("."), Dest { no_resume, ..destination(overwrite) });
    let ended = setup.run(request, roots, Some(dest), &mut echo, Progress::new("echo", output));
    Ok(echo.into_report(&ended).finish(&ended))
}

/// What comes back goes right into the directory, with the prefix.
pub fn destination(overwrite: Overwrite) -> Dest {
    Dest {
        location: Location::Jail(Vec::new()),
        into_dir: true,
        overwrite,
        no_resume: false,
        name_prefix: PREFIX.to_vec(),
    }
}

/// Files of one name would overwrite each other here.
fn refuse_equal_names(files: &[OsString]) -> Result<(), Failure> {
    let mut names: Vec<&[u8]> = files.iter().map(|f| paths::root_name(f.as_bytes())).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1] && !pair[0].is_empty()) {
        None => Ok(()),
        Some(pair) => Err(Failure::usage(format!(
            "two FILEs are named {}, and both would come back as received_{0}: run one echo for each",
            text::bytes(pair[0])
        ))),
    }
}

/// The files that can be sent and have a free place to come back to; the others are reported.
fn sendable(files: &[OsString], overwrite: Overwrite, report: &mut Report) -> Vec<SourceRoot> {
    let mut roots = Vec::new();
    for argument in files {
        let checked = paths::source(argument).and_then(|source| {
            let shown = text::bytes(argument.as_bytes());
            if !source.is_file {
                let message = format!("cannot echo {shown}: it is not a regular file");
                return Err(StoreError { kind: StoreErrorKind::WrongKind, message });
            }
            let back = [PREFIX, &source.root.name].concat();
            let taken = std::fs::symlink_metadata(std::ffi::OsStr::from_bytes(&back)).is_ok();
            if taken && overwrite == Overwrite::Never {
                let message = format!(
                    "{} exists already: move it away, or use --overwrite always to replace it",
                    text::bytes(&back)
                );
                return Err(StoreError { kind: StoreErrorKind::Exists, message });
            }
            Ok(source.root)
        });
        match checked {
            Ok(root) => roots.push(root),
            Err(error) => {
                let path = argument.as_bytes().to_vec();
                report.failed(FileResult { path, ..FileResult::default() }, &error);
            }
        }
    }
    roots
}

/// One file on its way there and back.
#[derive(Debug)]
struct Pending {
    name: Vec<u8>,
    bytes: u64,
    sent: Option<[u8; 32]>,
    received: Option<[u8; 32]>,
    reported: bool,
}

/// Joins the two directions of every file and compares their digests.
#[derive(Debug)]
pub struct Echo {
    report: Report,
    files: Vec<Pending>,
}

impl Echo {
    /// For these files.
    pub fn new(report: Report, roots: &[SourceRoot]) -> Self {
        let pending = |root: &SourceRoot| Pending {
            name: root.name.clone(),
            bytes: 0,
            sent: None,
            received: None,
            reported: false,
        };
        Self { report, files: roots.iter().map(pending).collect() }
    }

    /// The report, with every file in it that the session should have brought back and did not.
    pub fn into_report(mut self, ended: &Ended) -> Report {
        if ended.is_done() {
            for file in self.files.iter().filter(|f| !f.reported) {
                let message = format!("{} was not sent back: see the server's log", text::bytes(&file.name));
                let error = StoreError { kind: StoreErrorKind::Io, message };
                self.report.failed(
                    FileResult {
                        path: file.name.clone(),
                        bytes: file.bytes,
                        sha256: file.sent,
                        ..Default::default()
                    },
                    &error,
                );
            }
        }
        self.report
    }

    /// Both directions are done: the verdict.
    fn compare(&mut self, at: usize) {
        let file = &mut self.files[at];
        let (Some(sent), Some(received)) = (file.sent, file.received) else { return };
        file.reported = true;
        let result = FileResult {
            path: file.name.clone(),
            kind: EntryKind::File,
            bytes: file.bytes,
            sha256: Some(sent),
            // The server confirms a file only with the digest that both sides computed.
            server_sha256: Some(sent),
            received_sha256: Some(received),
            resumed_bytes: 0,
            error: None,
        };
        if sent == received {
            self.report.done(result);
        } else {
            let message = format!(
                "{} came back changed: sent SHA-256 {}, received {}",
                text::bytes(&file.name),
                text::hex(&sent),
                text::hex(&received)
            );
            self.report.failed(result, &StoreError { kind: StoreErrorKind::DigestMismatch, message });
        }
    }
}

impl Results for Echo {
    fn entry(&mut self, direction: Direction, result: FileResult, error: Option<&StoreError>) {
        let bare = result.path.strip_prefix(PREFIX);
        let at = self
            .files
            .iter()
            .position(|f| f.name == result.path)
            .or_else(|| bare.and_then(|bare| self.files.iter().position(|f| f.name == bare)));
        let Some(at) = at else {
            // Directories around the files are of no interest; a file that was never sent is.
            if let Some(error) = error {
                self.report.failed(result, error);
            } else if result.kind == EntryKind::File {
                let message = format!("{} came back, but was never sent", text::bytes(&result.path));
                self.report.failed(result, &StoreError { kind: StoreErrorKind::DigestMismatch, message });
            }
            return;
        };
        let file = &mut self.files[at];
        file.bytes = file.bytes.max(result.bytes);
        if let Some(error) = error {
            if !file.reported {
                file.reported = true;
                self.report.failed(result, error);
            }
            return;
        }
        match direction {
            Direction::Sending => file.sent = result.sha256,
            Direction::Receiving => file.received = result.sha256,
        }
        self.compare(at);
    }
}

/// Where a file of this name comes back to, in `directory`.
pub fn received_path(directory: &Path, name: &[u8]) -> PathBuf {
    directory.join(std::ffi::OsStr::from_bytes(&[PREFIX, name].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::client::Outcome;
    use crate::session::event::{CloseReason, Stats};
    use std::time::Duration;

    fn echo(names: &[&str]) -> Echo {
        let output = Output { quiet: true, ..Output::default() };
        let root = |name: &&str| SourceRoot {
            location: Location::Local(name.as_bytes().to_vec()),
            name: name.as_bytes().to_vec(),
        };
        Echo::new(Report::new("echo", output), &names.iter().map(root).collect::<Vec<_>>())
    }

    fn file(path: &str, digest: u8) -> FileResult {
        FileResult { path: path.into(), bytes: 9, sha256: Some([digest; 32]), ..FileResult::default() }
    }

    fn code(echo: Echo) -> u8 {
        let ended = Ended {
            outcome: Ok(Outcome { reason: CloseReason::Done, stats: Stats::default() }),
            signal: None,
            connected: true,
            elapsed: Duration::ZERO,
        };
        echo.into_report(&ended).finish(&ended)
    }

    #[test]
    fn equal_digests_are_success_in_either_order_and_with_either_name() {
        let mut e = echo(&["a", "b"]);
        e.entry(Direction::Sending, file("a", 1), None);
        e.entry(Direction::Receiving, file("b", 2), None);
        e.entry(Direction::Receiving, file("received_a", 1), None);
        e.entry(Direction::Sending, file("b", 2), None);
        assert_eq!(e.report.totals.ok, 2);
        assert_eq!(code(e), 0);
    }

    #[test]
    fn a_file_that_is_itself_named_received_is_not_mistaken() {
        let mut e = echo(&["x", "received_x"]);
        for (name, digest) in [("x", 1), ("received_x", 2)] {
            e.entry(Direction::Sending, file(name, digest), None);
            e.entry(Direction::Receiving, file(name, digest), None);
        }
        assert_eq!(code(e), 0);
    }

    #[test]
    fn unequal_missing_and_foreign_files_are_not() {
        let mut e = echo(&["a"]);
        e.entry(Direction::Sending, file("a", 1), None);
        e.entry(Direction::Receiving, file("a", 2), None);
        assert_eq!(code(e), 6);
        let mut e = echo(&["a"]);
        e.entry(Direction::Sending, file("a", 1), None);
        assert_eq!(code(e), 1);
        let mut e = echo(&["a"]);
        e.entry(Direction::Receiving, file("evil", 2), None);
        assert_eq!(code(e), 6);
        let mut e = echo(&["a"]);
        let error = StoreError { kind: StoreErrorKind::NoSpace, message: "full".into() };
        e.entry(Direction::Sending, file("a", 1), Some(&error));
        e.entry(Direction::Receiving, file("a", 1), Some(&error));
        assert_eq!(e.report.totals.failed, 1);
        assert_eq!(code(e), 5);
    }

    #[test]
    fn files_of_one_name_are_refused() {
        let files = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(refuse_equal_names(&files(&["a/x", "b/y"])), Ok(()));
        let failure = refuse_equal_names(&files(&["a/x", "y", "b/x"])).expect_err("same name");
        assert_eq!(failure.exit_code, 2);
        assert!(failure.message.contains("received_x"), "{}", failure.message);
    }
}
