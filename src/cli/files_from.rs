//! Role: `--files-from`: a list of what is to be copied, from a file or from standard input.
//! Owns: nothing.
//! Implements: the list rules of `fulmar put --help`, `get --help` and `cp --help`.
//!
//! As with rsync, the names are relative to the one SRC and keep their path below DEST. What lies inside a directory
//! that is listed too goes with it, and once.

use super::exit::Failure;
use super::text;
use crate::transfer::job::{Location, SourceRoot, StoreError};
use crate::wire::{MAX_GET_PATHS, MAX_MESSAGE_BYTES, MAX_PATH_BYTES};
use clap::Args;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Longest list, in bytes: a million names of 64 bytes. It is held in memory; above that, a directory is what to copy.
const MAX_LIST_BYTES: u64 = 64 << 20;

/// Bytes of all paths of one GET, with their lengths: a message less its other fields.
const MAX_GET_BYTES: usize = MAX_MESSAGE_BYTES - 256;

/// A list of sources.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Files")]
pub struct FilesFromArgs {
    /// Copy what this file lists, one name a line, below SRC (a directory; put and cp: this one, if there is no SRC);
    /// names keep their path; - is standard input
    #[arg(long, value_name = "FILE")]
    pub files_from: Option<PathBuf>,
    /// The names of --files-from end with a NUL, as find -print0 writes them
    #[arg(short = '0', long, requires = "files_from")]
    pub from0: bool,
}

/// One name of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Relative and clean: no `.`, no `..`, no slash too many. Empty: the whole of SRC.
    pub path: Vec<u8>,
    /// Where it stands, counted from 1.
    pub line: usize,
}

/// A list that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// For messages.
    shown: String,
    /// In the order of the list.
    pub names: Vec<Name>,
}

/// Reads the list, if one is asked for.
pub fn read(args: &FilesFromArgs) -> Result<Option<List>, Failure> {
    let Some(path) = &args.files_from else { return Ok(None) };
    let stdin = path.as_os_str() == "-";
    let shown = if stdin { "standard input".to_owned() } else { text::path(path) };
    let mut raw = Vec::new();
    let mut read = |from: &mut dyn Read| from.take(MAX_LIST_BYTES + 1).read_to_end(&mut raw).map(|_| ());
    let done = if stdin {
        read(&mut std::io::stdin().lock())
    } else {
        File::open(path).and_then(|mut f| read(&mut f))
    };
    done.map_err(|error| {
        Failure::usage(format!("--files-from: cannot read {shown}: {}", text::io_error(&error)))
    })?;
    if raw.len() as u64 > MAX_LIST_BYTES {
        return Err(Failure::usage(format!(
            "--files-from: {shown} is longer than {} MiB: list directories instead of what is in them",
            MAX_LIST_BYTES >> 20
        )));
    }
    let names = parse(&raw, args.from0, &shown)?;
    if names.is_empty() {
        return Err(Failure::usage(format!("--files-from: {shown} names nothing")));
    }
    Ok(Some(List { shown, names }))
}

/// Understands a list. Empty lines are passed over.
fn parse(raw: &[u8], zero: bool, shown: &str) -> Result<Vec<Name>, Failure> {
    let end = if zero { 0 } else { b'\n' };
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for (at, line) in raw.split(|b| *b == end).enumerate() {
        if line.is_empty() {
            continue;
        }
        let bad = |why: &str| {
            let name = text::bytes(&line[..line.len().min(MAX_PATH_BYTES)]);
            Failure::usage(format!("{shown}:{}: `{name}` {why}", at + 1))
        };
        if line.contains(&0) {
            return Err(bad("holds a NUL: if the names end with one, add -0"));
        }
        if line.starts_with(b"/") {
            return Err(bad("is absolute: names are relative to SRC, which may be /"));
        }
        let parts: Vec<&[u8]> = line.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
        if parts.contains(&&b".."[..]) {
            return Err(bad("leads out of SRC: name a directory above as SRC"));
        }
        let path = parts.join(&b'/');
        if path.len() > MAX_PATH_BYTES {
            return Err(bad(&format!("has more than {MAX_PATH_BYTES} bytes")));
        }
        if seen.insert(path.clone()) {
            names.push(Name { path, line: at + 1 });
        }
    }
    Ok(names)
}

impl List {
    /// Leaves out what lies inside a directory of the list, when directories go with all that is in them.
    pub fn without_inner(mut self) -> Self {
        let all: HashSet<Vec<u8>> = self.names.iter().map(|name| name.path.clone()).collect();
        let whole = all.contains(&[][..]);
        self.names.retain(|name| {
            let slashes = name.path.iter().enumerate().filter(|(_, b)| **b == b'/');
            let mut above = slashes.map(|(at, _)| &name.path[..at]);
            !(whole && !name.path.is_empty() || above.any(|above| all.contains(above)))
        });
        self
    }

    /// Where a name stands: the beginning of a message about it.
    pub fn place(&self, name: &Name) -> String {
        format!("{}:{}", self.shown, name.line)
    }

    /// The error of a name, with its place.
    pub fn blame(&self, name: &Name, error: StoreError) -> StoreError {
        StoreError { message: format!("{}: {}", self.place(name), error.message), ..error }
    }

    /// The names by their paths.
    pub fn index(&self) -> HashMap<&[u8], &Name> {
        self.names.iter().map(|name| (name.path.as_slice(), name)).collect()
    }

    /// The names as the paths of one GET, below the directory `base`.
    pub fn wanted(&self, base: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
        let marked = |name: &Name| {
            let dir = if base.is_empty() { vec![] } else { [base, b"/"].concat() };
            match name.path.as_slice() {
                b"" => base.to_vec(),
                path => [dir.as_slice(), b"./", path].concat(),
            }
        };
        let wanted: Vec<Vec<u8>> = self.names.iter().map(marked).collect();
        let bytes: usize = wanted.iter().map(|path| path.len() + 2).sum();
        if wanted.len() > MAX_GET_PATHS || bytes > MAX_GET_BYTES {
            return Err(Failure::usage(format!(
                "--files-from: {} has {} names with {bytes} bytes, and one get takes {MAX_GET_PATHS} with {MAX_GET_BYTES}: \
                 list directories instead of what is in them, or use fulmar cp",
                self.shown,
                wanted.len()
            )));
        }
        Ok(wanted)
    }
}

/// The directory that the names of a list are relative to: the only SRC, or without one the working directory.
pub fn base<'a>(command: &str, sources: &'a [OsString]) -> Result<&'a OsStr, Failure> {
    match sources {
        [] => Ok(OsStr::new(".")),
        [base] => Ok(base),
        _ => Err(Failure::usage(format!(
            "{command}: with --files-from there is one SRC, the directory that the names are relative to"
        ))),
    }
}

/// A name below a base, as a path of this machine.
pub fn below(base: &OsStr, name: &[u8]) -> OsString {
    match name {
        b"" => base.to_owned(),
        name => Path::new(base).join(OsStr::from_bytes(name)).into_os_string(),
    }
}

/// The root for a path that was found under this name: it keeps its path below DEST.
pub fn root(path: &OsStr, name: &[u8]) -> SourceRoot {
    SourceRoot { location: Location::Local(path.to_owned().into_vec()), name: name.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(raw: &[u8], zero: bool) -> Result<Vec<Vec<u8>>, String> {
        parse(raw, zero, "list")
            .map(|names| names.into_iter().map(|n| n.path).collect())
            .map_err(|f| f.message)
    }

    #[test]
    fn names_are_lines_or_end_with_a_nul() {
        let lines = b"a\n./b//c/\n\n d e \n$(x)\n\xff\n-rf\na\n#not a comment";
        let expected: [&[u8]; 7] = [b"a", b"b/c", b" d e ", b"$(x)", b"\xff", b"-rf", b"#not a comment"];
        assert_eq!(paths(lines, false), Ok(expected.map(<[u8]>::to_vec).to_vec()));
        let expected: [&[u8]; 3] = [b"a\nb", b"c", b""];
        assert_eq!(paths(b"a\nb\0c\0\0./", true), Ok(expected.map(<[u8]>::to_vec).to_vec()));
        assert_eq!(paths(b"", false), Ok(Vec::new()));
    }

    #[test]
    fn what_cannot_be_meant_names_its_line() {
        let long = [b"a\n".to_vec(), vec![b'x'; MAX_PATH_BYTES + 1]].concat();
        for (raw, words) in [
            (&b"a\n/etc/passwd\n"[..], ["list:2: `/etc/passwd`", "relative to SRC"]),
            (b"\n\na/../../b", ["list:3:", "leads out of SRC"]),
            (b"..", ["list:1:", "leads out of SRC"]),
            (b"a\0b\0", ["list:1:", "add -0"]),
            (&long, ["list:2:", "4096 bytes"]),
        ] {
            let message = paths(raw, false).expect_err("no list");
            assert!(words.iter().all(|w| message.contains(w)) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_directory_brings_what_is_in_it_once() {
        let left = |raw: &[u8]| -> Vec<String> {
            let names = parse(raw, false, "list").expect("valid");
            let list = List { shown: "list".into(), names }.without_inner();
            list.names.iter().map(|n| String::from_utf8(n.path.clone()).expect("text")).collect()
        };
        assert_eq!(left(b"a/b\na\nab/c\na/b/c\nx/y/z\nx/y"), ["a", "ab/c", "x/y"]);
        assert_eq!(left(b".\n./a\n./a/b"), [""]);
    }
}
