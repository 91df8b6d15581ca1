//! Role: `fulmar put`.
//! Owns: nothing.
//! Implements: `fulmar put --help`.

use super::args::PutArgs;
use super::client::Setup;
use super::exit::Failure;
use super::host::Target;
use super::options::{self, Output};
use super::progress::Progress;
use super::report::{Ended, FileResult, Report};
use super::unfinished::Unfinished;
use super::{client, files_from, paths, sync};
use crate::transfer::Request;
use crate::transfer::job::{Location, SourceRoot, StoreError, StoreErrorKind};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Runs it; the exit code.
pub fn run(args: &PutArgs) -> Result<u8, Failure> {
    let output = Output::new(&args.output);
    let (mut sync, overwrite) = sync::options(&args.sync, &args.overwrite)?;
    let list = args.list.files_from.is_some();
    let (sources, target) = if list && args.paths.len() == 1 {
        (&[][..], args.paths[0].as_os_str())
    } else {
        options::split_last("put", "SRC... and HOST[:PORT][/PATH]", &args.paths)?
    };
    let target = Target::parse(target)?;
    options::client_session(&args.link, &args.connect, &args.chunk)?;
    options::link_sim(&args.link)?;
    options::retries(&args.connect)?;
    if sync.offers() && sources.iter().any(|source| source == "-") {
        return Err(Failure::usage(
            "--update, --checksum and --dry-run cannot tell anything about - (standard input): leave them out",
        ));
    }

    let start = client::now();
    let mut report = Report::new("put", output);
    let stream = !list && sources.iter().any(|source| source == "-");
    let roots = match files_from::read(&args.list)? {
        Some(list) => listed(list, files_from::base("put", sources)?, &mut report),
        None if stream => stdin_root(sources, &target)?,
        None => readable(sources, &mut report),
    };
    if roots.is_empty() {
        // Nothing to send: no reason to ask for a key or to connect.
        return Ok(report.finish(&Ended::without_session(start)));
    }
    // The contents of a directory cannot be given a new name, nor can several sources.
    let into_dir =
        list || target.is_dir || sources.len() > 1 || roots.iter().any(|root| root.name.is_empty());
    let request =
        Request::Put { dest: target.path.clone(), into_dir, overwrite, no_resume: args.overwrite.no_resume };
    report.dry_run = sync.dry_run;
    sync::widen_delete(&mut sync, roots.iter().any(|root| root.name.is_empty()));
    if report.totals.failed > 0 && sync.delete.take().is_some() {
        report.not_removed("nothing is removed at the destination, since not all sources can be read");
    }
    let mut what =
        vec![b"put".to_vec(), target.authority().into_bytes(), target.path.clone(), vec![into_dir.into()]];
    what.extend(roots.iter().map(|root| paths::absolute(&root.location)));
    let setup = match Setup::new(target, &args.link, &args.connect, &args.chunk, &args.key) {
        Ok(setup) => setup.with_sync(sync),
        // The report may name sources already.
        Err(failure) => return Ok(report.finish(&Ended::before_start(failure))),
    };
    // Each of these must be heard of again; the contents of a directory may be nothing at all.
    let named = roots.iter().filter(|root| !root.name.is_empty()).count() as u64;
    let unsent = report.totals.failed;
    let run = Unfinished::begin(&what);
    let setup = setup.going_on(run.is_rerun() && !args.overwrite.no_resume && !stream);
    let ended = setup.run(request, roots, None, &mut report, Progress::new("put", output));
    run.end(&ended);
    let heard = report.totals.heard() - unsent;
    if ended.is_done() && heard < named {
        let message = format!("only {heard} of {named} sources were confirmed: see the server's log");
        report.failed(FileResult::default(), &StoreError { kind: StoreErrorKind::Io, message });
    }
    Ok(report.finish(&ended))
}

/// Standard input, alone, under a name that the target gives.
fn stdin_root(sources: &[OsString], target: &Target) -> Result<Vec<SourceRoot>, Failure> {
    if sources.len() > 1 {
        return Err(Failure::usage(
            "- (standard input) cannot be sent together with files: run one put for each",
        ));
    }
    let name = paths::root_name(&target.path);
    if target.is_dir || name.is_empty() {
        return Err(Failure::usage(
            "- (standard input) has no name: write the name to give it, as in `fulmar put - HOST/x.tar`",
        ));
    }
    Ok(vec![SourceRoot { location: Location::Stream, name: name.to_vec() }])
}

/// What a list names and can be read; the rest is reported.
fn listed(list: files_from::List, base: &OsStr, report: &mut Report) -> Vec<SourceRoot> {
    let list = list.without_inner();
    let mut roots = Vec::with_capacity(list.names.len());
    for name in &list.names {
        let path = files_from::below(base, &name.path);
        match paths::source(&path) {
            Ok(_) => roots.push(files_from::root(&path, &name.path)),
            Err(error) => {
                let path = name.path.clone();
                report.failed(FileResult { path, ..FileResult::default() }, &list.blame(name, error));
            }
        }
    }
    roots
}

/// The sources that can be read; the others are reported.
fn readable(sources: &[OsString], report: &mut Report) -> Vec<SourceRoot> {
    let mut roots = Vec::new();
    for argument in sources {
        match paths::source(argument) {
            Ok(source) => roots.push(source.root),
            Err(error) => {
                let path = argument.as_bytes().to_vec();
                report.failed(FileResult { path, ..FileResult::default() }, &error);
            }
        }
    }
    roots
}
