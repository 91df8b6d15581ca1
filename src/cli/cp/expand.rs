//! Role: what a path of the other side means here: `~`, patterns, and the files that match them. No shell takes part.
//! Owns: nothing.
//! Implements: the PATH rules of `fulmar cp --help`.

use super::pattern::{Pattern, has_pattern};
use crate::cli::{paths, text};
use crate::transfer::job::{StoreError, StoreErrorKind};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Most files that one pattern may match: above any directory that is copied by pattern, and a bound for memory.
const MAX_MATCHES: usize = 100_000;

/// The path with `~` or `~user` in front replaced; an empty one is the directory in which ssh's commands start.
pub fn tilde(path: &[u8]) -> Result<PathBuf, StoreError> {
    if path.is_empty() {
        return Ok(PathBuf::from("."));
    }
    let Some(rest) = path.strip_prefix(b"~") else { return Ok(as_path(path)) };
    let (user, below) = rest.split_at(rest.iter().position(|b| *b == b'/').unwrap_or(rest.len()));
    let home = if user.is_empty() { own_home() } else { home_of(user) };
    let home = home.ok_or_else(|| StoreError {
        kind: StoreErrorKind::NotFound,
        message: match user {
            b"" => "the home directory is not known there: write an absolute path".to_owned(),
            user => format!("there is no user {} there", text::bytes(user)),
        },
    })?;
    let mut whole = home.into_os_string().into_vec();
    whole.extend_from_slice(below);
    Ok(PathBuf::from(OsString::from_vec(whole)))
}

fn own_home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

#[cfg(target_os = "linux")]
fn home_of(user: &[u8]) -> Option<PathBuf> {
    let name = std::str::from_utf8(user).ok().filter(|name| !name.contains('\0'))?;
    nix::unistd::User::from_name(name).ok().flatten().map(|user| user.dir)
}

#[cfg(not(target_os = "linux"))]
fn home_of(_user: &[u8]) -> Option<PathBuf> {
    None
}

/// The paths that `source` stands for: itself if it exists (or has nothing of a pattern), else what matches, sorted.
pub fn expand(source: &[u8]) -> Result<Vec<PathBuf>, StoreError> {
    let path = tilde(source)?;
    let raw = path.as_os_str().as_bytes();
    if !has_pattern(raw) || fs::symlink_metadata(&path).is_ok() {
        return Ok(vec![path]);
    }
    let fail = |kind, message| StoreError { kind, message };
    let shown = text::bytes(source);
    let mut found = vec![if raw.starts_with(b"/") { PathBuf::from("/") } else { PathBuf::new() }];
    for part in raw.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        if !has_pattern(part) {
            found.iter_mut().for_each(|path| path.push(OsStr::from_bytes(part)));
            continue;
        }
        let pattern = Pattern::new(part);
        let mut next = Vec::new();
        for base in &found {
            add_matches(base, &pattern, &mut next);
            if next.len() > MAX_MATCHES {
                let message =
                    format!("{shown} matches more than {MAX_MATCHES} files: copy the directory instead");
                return Err(fail(StoreErrorKind::Limit, message));
            }
        }
        found = next;
    }
    // What is behind the last pattern need not be there in all directories that matched.
    found.retain(|path| fs::symlink_metadata(path).is_ok());
    if found.is_empty() {
        return Err(fail(StoreErrorKind::NotFound, format!("{shown}: no such file, and none matches")));
    }
    if raw.ends_with(b"/") {
        found.iter_mut().for_each(|path| path.push(""));
    }
    Ok(found)
}

/// Whether a copy of `source` may bring something of this name (empty: the contents of a directory). The other side
/// finds what matches, but it must not choose names that nobody asked for.
pub fn may_bring(source: &[u8], name: &[u8]) -> bool {
    let last = paths::root_name(source);
    if last.is_empty() || name.is_empty() {
        return last.is_empty() && name.is_empty();
    }
    let whole = source.strip_suffix(b"/").unwrap_or(source);
    if whole == last && last.starts_with(b"~") {
        // A home directory, called as it may be; at least nothing hidden.
        return !name.starts_with(b".");
    }
    name == last || has_pattern(last) && Pattern::new(last).is_match(name)
}

/// Names in `base` that match, sorted. What cannot be read has nothing that matches.
fn add_matches(base: &Path, pattern: &Pattern, out: &mut Vec<PathBuf>) {
    let directory = if base.as_os_str().is_empty() { Path::new(".") } else { base };
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut names: Vec<OsString> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| pattern.is_match(name.as_bytes()))
        .take(MAX_MATCHES + 1)
        .collect();
    names.sort_unstable();
    out.extend(names.into_iter().map(|name| base.join(name)));
}

fn as_path(raw: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path, pattern: &[u8]) -> Result<Vec<Vec<u8>>, StoreErrorKind> {
        let mut whole = dir.as_os_str().as_bytes().to_vec();
        whole.push(b'/');
        whole.extend_from_slice(pattern);
        let found = expand(&whole).map_err(|e| e.kind)?;
        let below = |path: &PathBuf| path.strip_prefix(dir).expect("below").as_os_str().as_bytes().to_vec();
        Ok(found.iter().map(below).collect())
    }

    #[test]
    fn patterns_match_names_as_bytes() {
        let temp = tempfile::tempdir().expect("temp dir");
        let dir = temp.path();
        for name in [
            &b"a.txt"[..],
            b"b.txt",
            b".hidden.txt",
            b"\xff.txt",
            "é.txt".as_bytes(),
            b"x[1]",
            b"x1",
            b"st*r",
            b"star",
        ] {
            fs::write(dir.join(OsStr::from_bytes(name)), "x").expect("written");
        }
        fs::create_dir_all(dir.join("d1/in")).expect("made");
        fs::create_dir_all(dir.join("d2")).expect("made");
        fs::write(dir.join("d1/in/f"), "x").expect("written");
        let cases: &[(&[u8], &[&[u8]])] = &[
            (b"*.txt", &[b"a.txt", b"b.txt", "é.txt".as_bytes(), b"\xff.txt"]),
            (b"[!b].txt", &[b"a.txt", "é.txt".as_bytes(), b"\xff.txt"]),
            (b"[ab].txt", &[b"a.txt", b"b.txt"]),
            (b"?.txt", &[b"a.txt", b"b.txt", "é.txt".as_bytes(), b"\xff.txt"]),
            (b"\xff*", &[b"\xff.txt"]),
            (b".h*", &[b".hidden.txt"]),
            (b"d?/in/f", &[b"d1/in/f"]),
            (b"d*/*", &[b"d1/in"]),
            // A file that is called so is meant, whatever else would match.
            (b"x[1]", &[b"x[1]"]),
            (b"st*r", &[b"st*r"]),
            (b"x\\[1\\]", &[b"x[1]"]),
            (b"st\\*r", &[b"st*r"]),
        ];
        for (pattern, expected) in cases {
            let got = names(dir, pattern).expect("something matches");
            assert_eq!(got, *expected, "{}", String::from_utf8_lossy(pattern));
        }
        for none in [&b"*.zip"[..], b"[", b"d*/nope", b"\xfe*"] {
            assert_eq!(names(dir, none), Err(StoreErrorKind::NotFound), "{none:?}");
        }
        // Without a pattern the path is taken as it is, there or not.
        assert_eq!(names(dir, b"missing"), Ok(vec![b"missing".to_vec()]));
    }

    #[test]
    fn only_what_was_asked_for_may_come() {
        let cases: &[(&[u8], &[u8], bool)] = &[
            (b"a/b.txt", b"b.txt", true),
            (b"a/b.txt/", b"b.txt", true),
            (b"b.txt", b".bashrc", false),
            (b"b.txt", b"", false),
            (b"d/.", b"", true),
            (b"", b"", true),
            (b"d/.", b"x", false),
            (b"*.txt", b"x.txt", true),
            (b"*.txt", b"x.sh", false),
            (b"*", b".bashrc", false),
            (b".*", b".bashrc", true),
            (b"*", b"*", true),
            (b"a[1]", b"a[1]", true),
            (b"a[1]", b"a1", true),
            (b"a\\*", b"a*", true),
            (b"a\\*", b"ab", false),
            (b"~", b"ada", true),
            (b"~ada/", b"ada", true),
            (b"~", b".ssh", false),
            (b"~/x", b"x", true),
            (b"~/x", b"y", false),
            (b"\xff", b"\xff", true),
            (b"\xff*", b"\xff*", true),
        ];
        for (source, name, expected) in cases {
            let shown = format!("{} {}", String::from_utf8_lossy(source), String::from_utf8_lossy(name));
            assert_eq!(may_bring(source, name), *expected, "{shown}");
        }
    }

    #[test]
    fn homes() {
        let home = std::env::var_os("HOME").map(PathBuf::from).expect("set where tests run");
        assert_eq!(tilde(b"~"), Ok(home.clone()));
        assert_eq!(tilde(b"~/a~b"), Ok(home.join("a~b")));
        assert_eq!(tilde(b"~root/x").expect("root is everywhere").file_name(), Some(OsStr::new("x")));
        assert_eq!(tilde(b"~nobody-is-called-so").expect_err("none").kind, StoreErrorKind::NotFound);
        assert_eq!(tilde(b""), Ok(PathBuf::from(".")));
        assert_eq!(tilde(b"a/~"), Ok(PathBuf::from("a/~")));
        assert_eq!(tilde(b"\xff"), Ok(PathBuf::from(OsStr::from_bytes(b"\xff"))));
    }
}
