//! Role: `fulmar get`.
//! Owns: nothing.
//! Implements: `fulmar get --help`.

use super::args::GetArgs;
use super::client::Setup;
use super::exit::Failure;
use super::host::Target;
use super::options::{self, Output};
use super::progress::Progress;
use super::report::Report;
use super::unfinished::Unfinished;
use super::{files_from, paths, sync, terminal};
use crate::transfer::Request;
use crate::transfer::job::{Dest, Location, Overwrite};
use crate::transfer::sync::SyncOptions;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Runs it; the exit code.
pub fn run(args: &GetArgs) -> Result<u8, Failure> {
    let output = Output::new(&args.output);
    let (mut sync, overwrite) = sync::options(&args.sync, &args.overwrite)?;
    let (sources, dest) = options::split_last("get", "HOST[:PORT]/PATH... and DEST", &args.paths)?;
    let (target, wanted) = targets(sources)?;
    let session = options::client_session(&args.link, &args.connect, &args.chunk)?;
    options::link_sim(&args.link)?;
    let list = files_from::read(&args.list)?;
    let several = list.is_some() || wanted.len() > 1;
    let wanted = match list {
        None => wanted,
        Some(list) => {
            files_from::base("get", sources)?;
            list.without_inner().wanted(&target.path)?
        }
    };
    // The whole of what is served has no name of its own.
    let into_dir = several || wanted.iter().any(Vec::is_empty);
    sync::widen_delete(&mut sync, wanted.iter().any(Vec::is_empty));
    let dest = if dest == "-" {
        stdout_dest(into_dir, &sync)?
    } else {
        let mut dest = paths::destination(Path::new(dest), several, into_dir, overwrite)?;
        dest.1.no_resume = args.overwrite.no_resume;
        dest
    };

    let place = paths::absolute(&Location::Local(dest.0.as_os_str().as_bytes().to_vec()));
    let (host, inside) = (target.authority(), dest.1.location.path().to_vec());
    let mut what = vec![b"get".to_vec(), host.into_bytes(), place, inside];
    what.extend(wanted.iter().cloned());
    let request = Request::Get { paths: wanted, compress: session.compress, chunk_size: session.chunk_size };
    let mut report = Report::new("get", output);
    report.dry_run = sync.dry_run;
    let setup = Setup::new(target, &args.link, &args.connect, &args.chunk, &args.key)?.with_sync(sync);
    let run = Unfinished::begin(&what);
    let no_resume = dest.1.no_resume;
    let setup = setup.going_on(run.is_rerun() && !no_resume);
    let ended = setup.run(request, Vec::new(), Some(dest), &mut report, Progress::new("get", output));
    run.end(&ended);
    Ok(report.finish(&ended))
}

/// Standard output: one file, and what is told besides goes to stderr.
fn stdout_dest(into_dir: bool, sync: &SyncOptions) -> Result<(PathBuf, Dest), Failure> {
    if into_dir {
        return Err(Failure::usage(
            "- (standard output) takes one file: name one, as in `fulmar get HOST/x.tar -`",
        ));
    }
    if sync.offers() {
        return Err(Failure::usage(
            "--update, --checksum and --dry-run cannot tell anything about - (standard output): leave them out",
        ));
    }
    terminal::give_up_stdout();
    let dest = Dest {
        location: Location::Stream,
        into_dir: false,
        overwrite: Overwrite::Always,
        no_resume: true,
        name_prefix: Vec::new(),
    };
    Ok((PathBuf::new(), dest))
}

/// The one server, and the paths wanted from it.
fn targets(arguments: &[OsString]) -> Result<(Target, Vec<Vec<u8>>), Failure> {
    let mut server: Option<Target> = None;
    let mut wanted = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let target = Target::parse(argument)?;
        wanted.push(target.path.clone());
        match &server {
            None => server = Some(target),
            Some(first) if first.same_host(&target) => {}
            Some(first) => {
                return Err(Failure::usage(format!(
                    "all sources of one get must be of one server, but {} is not {}: run one get for each",
                    target.authority(),
                    first.authority()
                )));
            }
        }
    }
    let server = server.ok_or_else(|| Failure::usage("nothing to get: name HOST[:PORT]/PATH"))?;
    Ok((server, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_only() {
        let of = |list: &[&str]| targets(&list.iter().map(OsString::from).collect::<Vec<_>>());
        let (server, wanted) = of(&["h/a", "H:5770/b/", "h"]).expect("one server");
        assert_eq!(server.authority(), "h:5770");
        assert_eq!(wanted, [b"a".to_vec(), b"b".to_vec(), Vec::new()]);
        let failure = of(&["h/a", "h:1/b"]).expect_err("two servers");
        assert_eq!(failure.exit_code, 2);
        assert!(failure.message.contains("h:1 is not h:5770"), "{}", failure.message);
    }
}
