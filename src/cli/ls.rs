//! Role: `fulmar ls`.
//! Owns: nothing.
//! Implements: `fulmar ls --help`.

use super::args::{ChunkArgs, LsArgs};
use super::client::{Results, Setup};
use super::exit::Failure;
use super::host::Target;
use super::options::Output;
use super::progress::Progress;
use super::report::{FileResult, Report};
use super::{terminal, text};
use crate::session::event::Direction;
use crate::transfer::Request;
use crate::transfer::job::{EntryKind, SourceEntry, StoreError};
use crate::units;

/// Runs it; the exit code.
pub fn run(args: &LsArgs) -> Result<u8, Failure> {
    let output = Output::new(&args.output);
    let target = Target::parse(&args.target)?;
    let request = Request::List { path: target.path.clone() };
    let setup = Setup::new(target, &args.link, &args.connect, &ChunkArgs::default(), &args.key)?;
    let mut listing = Listing { report: Report::new("ls", output), json: output.json, reader_gone: false };
    // A listing is its own progress.
    let silent = Output { progress: super::args::ProgressWhen::Never, ..output };
    let mut ended = setup.run(request, Vec::new(), None, &mut listing, Progress::new("ls", silent));
    // No closing summary under a listing.
    ended.connected = false;
    Ok(listing.report.finish(&ended))
}

/// Prints entries as they come, or keeps them for the JSON object.
struct Listing {
    report: Report,
    json: bool,
    reader_gone: bool,
}

impl Results for Listing {
    fn entry(&mut self, _: Direction, file: FileResult, error: Option<&StoreError>) {
        if let Some(error) = error {
            self.report.failed(file, error);
        }
    }

    fn listed(&mut self, entry: &SourceEntry) {
        if self.json {
            self.report.listed(entry);
        } else if !self.reader_gone {
            self.reader_gone = !terminal::stdout_line(&line(entry));
        }
    }
}

/// One entry: permissions, size, time, name.
fn line(entry: &SourceEntry) -> String {
    let (letter, suffix) = match entry.kind {
        EntryKind::File => ('-', String::new()),
        EntryKind::Dir | EntryKind::DirEnd => ('d', "/".to_owned()),
        EntryKind::Symlink => ('l', format!(" -> {}", text::bytes(&entry.target))),
    };
    let size = match entry.kind {
        EntryKind::File => units::format_bytes(entry.size),
        _ => "-".to_owned(),
    };
    let permissions = match entry.kind {
        EntryKind::Symlink => "rwxrwxrwx".to_owned(),
        _ => permissions(entry.meta.mode),
    };
    format!(
        "{letter}{permissions} {size:>10}  {}  {}{suffix}",
        text::utc(entry.meta.mtime_s),
        text::bytes(&entry.path)
    )
}

/// The nine permission letters.
fn permissions(mode: u32) -> String {
    (0..9).map(|bit| if mode >> (8 - bit) & 1 == 1 { ['r', 'w', 'x'][bit % 3] } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::job::Meta;

    fn entry(kind: EntryKind, path: &[u8]) -> SourceEntry {
        SourceEntry {
            root: 0,
            below: Vec::new(),
            path: path.to_vec(),
            kind,
            meta: Meta { mode: 0o754, mtime_s: 0, mtime_ns: 0 },
            size: 1536,
            target: b"../x".to_vec(),
            inline: None,
        }
    }

    #[test]
    fn lines_are_aligned_and_safe() {
        let file = line(&entry(EntryKind::File, b"a\x1b[31m"));
        assert_eq!(file, "-rwxr-xr--    1.5 KiB  1970-01-01 00:00:00  a\\u{1b}[31m");
        assert_eq!(line(&entry(EntryKind::Dir, b"d")), "drwxr-xr--          -  1970-01-01 00:00:00  d/");
        assert_eq!(
            line(&entry(EntryKind::Symlink, b"l")),
            "lrwxrwxrwx          -  1970-01-01 00:00:00  l -> ../x"
        );
    }
}
