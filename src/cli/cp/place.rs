//! Role: where a copy ends up, on whichever side that is, by the rules of scp.
//! Owns: nothing.
//! Implements: the DEST rules of `fulmar cp --help`.

use crate::cli::exit::Failure;
use crate::cli::paths;
use crate::transfer::job::{Dest, Overwrite};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What DEST must know of the sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// There are several: DEST must be a directory.
    pub several: bool,
    /// There is the contents of a directory among them, which has no name of its own.
    pub contents: bool,
    /// The only one is a directory.
    pub dir: bool,
}

/// The directory that may be written into, and the destination inside it.
pub fn place(
    dest: &Path,
    shape: Shape,
    overwrite: Overwrite,
    no_resume: bool,
) -> Result<(PathBuf, Dest), Failure> {
    let found = fs::metadata(dest);
    let is_link = || fs::symlink_metadata(dest).is_ok_and(|meta| meta.is_symlink());
    let dest = if found.as_ref().is_ok_and(|meta| meta.is_file()) && is_link() {
        // The file that the link leads to is replaced, not the link.
        fs::canonicalize(dest).map_err(|e| Failure::io("look at", dest, &e))?
    } else if shape.dir && !shape.several && found.is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        // A directory that is copied to a new name becomes it, whether or not the name has a slash.
        without_slash(dest)
    } else {
        dest.to_owned()
    };
    let into_dir = shape.several || shape.contents;
    let (jail, mut dest) = paths::destination(&dest, shape.several, into_dir, overwrite)?;
    dest.no_resume = no_resume;
    Ok((jail, dest))
}

fn without_slash(path: &Path) -> PathBuf {
    let raw = path.as_os_str().as_bytes();
    let end = raw.iter().rposition(|b| *b != b'/').map_or(raw.len(), |last| last + 1);
    PathBuf::from(OsStr::from_bytes(&raw[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::job::Location;

    const FILE: Shape = Shape { several: false, contents: false, dir: false };
    const DIR: Shape = Shape { dir: true, ..FILE };
    const SEVERAL: Shape = Shape { several: true, ..FILE };
    const CONTENTS: Shape = Shape { contents: true, ..DIR };

    #[test]
    fn destinations_are_those_of_scp() {
        let temp = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| temp.path().join(name);
        fs::create_dir(at("have")).expect("made");
        fs::write(at("file"), "x").expect("written");
        std::os::unix::fs::symlink("have", at("to-dir")).expect("linked");
        std::os::unix::fs::symlink("have/real", at("to-file")).expect("linked");
        fs::write(at("have/real"), "x").expect("written");
        let go = |name: &str, shape: Shape| {
            let (jail, dest) = place(&at(name), shape, Overwrite::Always, false).expect(name);
            let Location::Jail(name) = dest.location else { panic!("not in the jail") };
            let jail = jail.strip_prefix(temp.path()).unwrap_or(&jail).to_owned();
            (jail, String::from_utf8(name).expect("text"), dest.into_dir)
        };
        let expect =
            |jail: &str, name: &str, into_dir: bool| (PathBuf::from(jail), name.to_owned(), into_dir);
        for shape in [FILE, DIR, SEVERAL, CONTENTS] {
            assert_eq!(go("have", shape), expect("have", "", true));
            assert_eq!(go("have/", shape), expect("have", "", true));
            assert_eq!(go("to-dir", shape), expect("to-dir", "", true));
        }
        for shape in [FILE, DIR] {
            assert_eq!(go("new", shape), expect("", "new", false));
        }
        assert_eq!(go("new/", DIR), expect("", "new", false));
        assert_eq!(go("new//", CONTENTS), expect("", "new", true));
        assert_eq!(go("new/", FILE), expect("", "new", true));
        assert_eq!(go("new/", SEVERAL), expect("", "new", true));
        assert_eq!(go("file", FILE), expect("", "file", false));
        let real = fs::canonicalize(at("have")).expect("there");
        let (jail, dest) = place(&at("to-file"), FILE, Overwrite::Always, true).expect("a link to a file");
        assert_eq!((jail, dest.location, dest.no_resume), (real, Location::Jail(b"real".to_vec()), true));
        for (name, shape) in [("new", SEVERAL), ("file", SEVERAL), ("no/x", FILE), ("file/", FILE)] {
            assert_eq!(place(&at(name), shape, Overwrite::Always, false).expect_err(name).exit_code, 5);
        }
    }
}
