//! Role: what SRC and DEST mean: roots, names, jails, and what is wrong with them before anything is sent.
//! Owns: nothing.
//! Implements: the path rules of `fulmar put --help` and `fulmar get --help`.

use super::exit::{self, Failure};
use super::text;
use crate::transfer::job::{Dest, Location, Overwrite, SourceRoot, StoreError, StoreErrorKind};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Error, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where what outlives a run is kept: `$XDG_STATE_HOME/fulmar`, `~/.local/state/fulmar` by default.
pub fn state_directory(state_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    // The XDG base directory specification: a relative path there is to be ignored.
    let absolute = |path: Option<OsString>| path.map(PathBuf::from).filter(|p| p.is_absolute());
    let state = absolute(state_home).or_else(|| absolute(home).map(|home| home.join(".local/state")));
    state.map(|state| state.join("fulmar"))
}

/// What a place is called wherever one stands; links are not followed.
pub fn absolute(location: &Location) -> Vec<u8> {
    let path = location.path();
    std::path::absolute(OsStr::from_bytes(path))
        .map_or_else(|_| path.to_vec(), |p| p.as_os_str().as_bytes().to_vec())
}

/// A SRC that exists and can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// For the engine.
    pub root: SourceRoot,
    /// A regular file, not a directory.
    pub is_file: bool,
}

/// Checks one SRC: it must be a readable regular file or directory. Links are followed here, as the engine does
/// for roots.
pub fn source(argument: &OsStr) -> Result<Source, StoreError> {
    let path = Path::new(argument);
    if argument.is_empty() {
        return Err(StoreError {
            kind: StoreErrorKind::NotFound,
            message: "cannot send a file with an empty name: check the quoting".into(),
        });
    }
    let refused = |error: &Error| StoreError {
        kind: store_kind(error),
        message: format!("cannot read {}: {}", text::path(path), text::io_error(error)),
    };
    let meta = fs::metadata(path).map_err(|e| refused(&e))?;
    if meta.is_file() {
        fs::File::open(path).map_err(|e| refused(&e))?;
    } else if meta.is_dir() {
        fs::read_dir(path).map_err(|e| refused(&e))?;
    } else {
        return Err(StoreError {
            kind: StoreErrorKind::WrongKind,
            message: format!(
                "cannot send {}: it is neither a regular file nor a directory",
                text::path(path)
            ),
        });
    }
    let raw = argument.as_bytes();
    let root = SourceRoot { location: Location::Local(raw.to_vec()), name: root_name(raw).to_vec() };
    Ok(Source { root, is_file: meta.is_file() })
}

/// The first component of a root's paths at the other side: its base name; empty (the contents go without one) for
/// `.`, `..`, `/` and everything that ends in `/.` or `/..`.
pub fn root_name(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
    let start = path[..end].iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    match &path[start..end] {
        b"." | b".." => b"",
        name => name,
    }
}

/// The directory that a `get` may write into, and the destination inside it. `into_dir`: what comes cannot be
/// given one new name, because there are several paths or the contents of a directory. `several` is the first.
pub fn destination(
    dest: &Path,
    several: bool,
    into_dir: bool,
    overwrite: Overwrite,
) -> Result<(PathBuf, Dest), Failure> {
    let shown = text::path(dest);
    let raw = dest.as_os_str().as_bytes();
    if raw.is_empty() {
        return Err(Failure::usage("DEST is empty: name a directory or a new file, such as `.`"));
    }
    let make = |location: &[u8], into_dir| Dest {
        location: Location::Jail(location.to_vec()),
        into_dir,
        overwrite,
        no_resume: false,
        name_prefix: Vec::new(),
    };
    let has_slash = raw.ends_with(b"/") || raw.ends_with(b"/.");
    let refused = |why: String| Err(Failure::new(exit::REFUSED, why));
    match fs::metadata(dest) {
        Ok(meta) if meta.is_dir() => return Ok((dest.to_owned(), make(b"", true))),
        Ok(_) if several => {
            return refused(format!(
                "{shown} is not a directory: several sources need one, name another DEST"
            ));
        }
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return refused(format!("cannot write to {shown}: a part of that path is not a directory"));
        }
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Failure::io("look at", dest, &error));
        }
        Err(_) if several && !has_slash => {
            return refused(format!(
                "{shown} does not exist: several sources need a directory, write {shown}/ to have it made"
            ));
        }
        _ => {}
    }
    // `file_name` drops trailing slashes and `.`; it is `None` only if the path ends in `..`.
    let (Some(name), Some(parent)) = (dest.file_name(), dest.parent()) else {
        return refused(format!("{shown} does not exist: make it first"));
    };
    let parent = usable_parent(parent, &shown)?;
    Ok((parent, make(name.as_bytes(), has_slash || into_dir)))
}

/// The directory in which a new DEST is to appear.
fn usable_parent(parent: &Path, dest_shown: &str) -> Result<PathBuf, Failure> {
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let why = match fs::metadata(parent) {
        Ok(meta) if meta.is_dir() => return Ok(parent.to_owned()),
        Ok(_) => "it is not a directory".to_owned(),
        Err(error) => text::io_error(&error),
    };
    Err(Failure::new(
        exit::REFUSED,
        format!(
            "cannot write to {dest_shown}: the directory {} cannot be used: {why}; make it first",
            text::path(parent)
        ),
    ))
}

/// The class of a local error, so that its exit code is the one a peer's error of that class has.
pub fn store_kind(error: &Error) -> StoreErrorKind {
    match error.kind() {
        ErrorKind::NotFound => StoreErrorKind::NotFound,
        ErrorKind::AlreadyExists => StoreErrorKind::Exists,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Permission,
        ErrorKind::StorageFull => StoreErrorKind::NoSpace,
        ErrorKind::QuotaExceeded => StoreErrorKind::Quota,
        ErrorKind::NotADirectory | ErrorKind::IsADirectory => StoreErrorKind::WrongKind,
        ErrorKind::InvalidFilename => StoreErrorKind::NameTooLong,
        _ => StoreErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jail(name: &str) -> Location {
        Location::Jail(name.into())
    }

    #[test]
    fn roots_are_named_as_cp_names_them() {
        let cases = [
            ("a", "a"),
            ("a/", "a"),
            ("a//", "a"),
            ("/x/a", "a"),
            ("x/../a", "a"),
            (".", ""),
            ("./", ""),
            ("..", ""),
            ("/", ""),
            ("//", ""),
            ("a/.", ""),
            ("a/..", ""),
            ("...", "..."),
            (".hidden", ".hidden"),
        ];
        for (path, name) in cases {
            assert_eq!(root_name(path.as_bytes()), name.as_bytes(), "{path}");
        }
        assert_eq!(root_name(b"d/\xff\n"), b"\xff\n");
    }

    #[test]
    fn sources_are_checked_before_anything_is_sent() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("f");
        fs::write(&file, "x").expect("written");
        std::os::unix::fs::symlink("f", dir.path().join("l")).expect("linked");
        let check = |name: &str| source(dir.path().join(name).as_os_str());
        assert!(check("f").expect("a file").is_file);
        assert!(check("l").expect("a link to a file").is_file);
        let tree = source(dir.path().as_os_str()).expect("a directory");
        assert!(!tree.is_file);
        assert_eq!(tree.root.name, dir.path().file_name().expect("named").as_bytes());
        for (name, kind) in [("nope", StoreErrorKind::NotFound), ("f/x", StoreErrorKind::WrongKind)] {
            let error = check(name).expect_err(name);
            assert_eq!(error.kind, kind);
            assert!(error.message.contains(name), "{}", error.message);
        }
        assert_eq!(source(OsStr::new("")).expect_err("empty").kind, StoreErrorKind::NotFound);
        assert_eq!(source(OsStr::new("/dev/null")).expect_err("device").kind, StoreErrorKind::WrongKind);
    }

    #[test]
    fn destination_rules() {
        let dir = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("have")).expect("made");
        fs::write(at("file"), "x").expect("written");
        let go = |name: &str, several: bool, into_dir: bool| {
            destination(&at(name), several, several || into_dir, Overwrite::Never)
        };
        // An existing directory: inside it.
        let (root, dest) = go("have", true, false).expect("valid");
        assert_eq!((root, dest.location, dest.into_dir), (at("have"), jail(""), true));
        // A new name.
        let (root, dest) = go("new", false, false).expect("valid");
        assert_eq!((root, dest.location, dest.into_dir), (dir.path().into(), jail("new"), false));
        // An existing file: the receiver decides.
        let (root, dest) = go("file", false, false).expect("valid");
        assert_eq!((root, dest.location, dest.into_dir), (dir.path().into(), jail("file"), false));
        // A trailing slash: a directory that is made, for one source or several.
        for several in [false, true] {
            let (root, dest) = go("new/", several, false).expect("valid");
            assert_eq!((root, dest.location, dest.into_dir), (dir.path().into(), jail("new"), true));
        }
        // The contents of a directory under a new name.
        assert!(go("new", false, true).expect("valid").1.into_dir);
        // Nothing to write into.
        for (name, several, expected) in [
            ("new", true, "several sources"),
            ("file", true, "several sources"),
            ("file/", false, "not a directory"),
            ("file/x", false, "not a directory"),
            ("no/x", false, "/no cannot be used"),
            ("no/x/", false, "/no cannot be used"),
            ("no/..", false, "does not exist"),
        ] {
            let failure = go(name, several, false).expect_err(name);
            assert_eq!(failure.exit_code, 5, "{name}");
            assert!(failure.message.contains(expected), "{name}: {}", failure.message);
        }
        let (root, dest) =
            destination(Path::new("just-a-name"), false, false, Overwrite::Always).expect("valid");
        assert_eq!(
            (root, dest.location, dest.overwrite),
            (".".into(), jail("just-a-name"), Overwrite::Always)
        );
        assert_eq!(
            destination(Path::new(""), false, false, Overwrite::Never).expect_err("empty").exit_code,
            2
        );
    }
}
