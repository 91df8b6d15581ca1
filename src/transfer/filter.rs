//! Role: which entries of a tree are left out: globs of the user, and ignore files in the tree. Pure: no file is read.
//! Owns: compiled patterns.
//! Implements: docs/PROTOCOL.md, "Options" (patterns).
//!
//! Globs have the syntax of .gitignore. An entry that an exclude matches is left out, unless an include matches too;
//! with includes alone, only files that one of them matches are taken. Directories are left out only by excludes.

use super::sync::{Pattern, PatternKind};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Largest ignore file that is read: thousands of patterns; more is no list that somebody keeps.
pub const MAX_IGNORE_FILE_BYTES: usize = 64 << 10;
/// Most bytes of globs in one request: compiled, they take some hundred times that.
pub const MAX_GLOB_BYTES: usize = 16 << 10;

/// Compiled patterns. The default leaves nothing out.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    exclude: Option<Gitignore>,
    include: Option<Gitignore>,
    ignore_files: Vec<Vec<u8>>,
}

/// The patterns of one ignore file; they hold below its directory.
#[derive(Clone, Debug)]
pub struct IgnoreFile(Gitignore);

impl Filter {
    /// Compiles patterns.
    ///
    /// # Errors
    /// One sentence: a glob that cannot be read, or too many.
    pub fn new(patterns: &[Pattern]) -> Result<Self, String> {
        let total: usize = patterns.iter().map(|p| p.text.len()).sum();
        if total > MAX_GLOB_BYTES {
            return Err(format!("the patterns have {total} bytes together: {MAX_GLOB_BYTES} are the most"));
        }
        let ignore_files: Vec<Vec<u8>> =
            patterns.iter().filter(|p| p.kind == PatternKind::IgnoreFile).map(|p| p.text.clone()).collect();
        for name in &ignore_files {
            if name.is_empty() || name.contains(&b'/') || name.contains(&0) || name == b"." || name == b".." {
                let name = String::from_utf8_lossy(name);
                return Err(format!("`{name}` is no name of an ignore file: give one such as .gitignore"));
            }
        }
        Ok(Self {
            exclude: compile(patterns, PatternKind::Exclude)?,
            include: compile(patterns, PatternKind::Include)?,
            ignore_files,
        })
    }

    /// Whether nothing can be left out.
    pub fn is_empty(&self) -> bool {
        self.exclude.is_none() && self.include.is_none() && self.ignore_files.is_empty()
    }

    /// Names of ignore files to be obeyed.
    pub fn ignore_files(&self) -> &[Vec<u8>] {
        &self.ignore_files
    }

    /// Whether an entry is left out. `path`: below the root, or the root's own name; `ignores`: the ignore files above
    /// it, each with its directory below the root, outermost first.
    pub fn leaves_out(&self, path: &[u8], is_dir: bool, ignores: &[(&[u8], &IgnoreFile)]) -> bool {
        let hits = |list: &Option<Gitignore>| {
            list.as_ref().is_some_and(|list| list.matched(as_path(path), is_dir).is_ignore())
        };
        let included = hits(&self.include);
        if hits(&self.exclude) {
            return !included;
        }
        if self.exclude.is_none() && self.include.is_some() && !is_dir && !included {
            return true;
        }
        if included && !is_dir {
            return false;
        }
        // The innermost file that says anything has the last word.
        for (dir, file) in ignores.iter().rev() {
            let below = path.strip_prefix(*dir).unwrap_or(path);
            let below = below.strip_prefix(b"/").unwrap_or(below);
            match file.0.matched(as_path(below), is_dir) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        false
    }
}

impl IgnoreFile {
    /// Compiles an ignore file; lines that cannot be read are passed over, as git does.
    pub fn parse(text: &[u8]) -> Self {
        let mut builder = GitignoreBuilder::new("");
        for line in String::from_utf8_lossy(text).lines() {
            let _ = builder.add_line(None, line);
        }
        Self(builder.build().unwrap_or_else(|_| Gitignore::empty()))
    }
}

fn compile(patterns: &[Pattern], kind: PatternKind) -> Result<Option<Gitignore>, String> {
    let mut builder = GitignoreBuilder::new("");
    let mut any = false;
    for p in patterns.iter().filter(|p| p.kind == kind) {
        let text = String::from_utf8_lossy(&p.text).into_owned();
        let bad = |why: String| format!("the pattern `{text}` cannot be read: {why}");
        if text.trim().is_empty() || text.starts_with('#') || text.starts_with('!') {
            return Err(bad("a glob such as *.o, build/ or /top is needed".into()));
        }
        builder.add_line(None, &text).map_err(|e| bad(e.to_string()))?;
        any = true;
    }
    if !any {
        return Ok(None);
    }
    builder.build().map(Some).map_err(|e| format!("the patterns cannot be read: {e}"))
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(patterns: &[(PatternKind, &str)]) -> Filter {
        let list: Vec<Pattern> = patterns
            .iter()
            .map(|(kind, text)| Pattern { kind: *kind, text: text.as_bytes().to_vec() })
            .collect();
        Filter::new(&list).expect("valid")
    }

    #[test]
    fn excludes_includes_and_both() {
        use PatternKind::{Exclude, Include};
        let out = |f: &Filter, path: &str, dir: bool| f.leaves_out(path.as_bytes(), dir, &[]);
        let f = filter(&[(Exclude, "*.o"), (Exclude, "build/"), (Exclude, "/top")]);
        assert!(out(&f, "a.o", false) && out(&f, "d/e/a.o", false) && out(&f, "d/build", true));
        assert!(out(&f, "top", false) && !out(&f, "d/top", false), "a leading slash means the root");
        assert!(!out(&f, "build", false) && !out(&f, "a.c", false) && !out(&f, "d", true));
        let f = filter(&[(Include, "*.rs")]);
        assert!(!out(&f, "src", true) && !out(&f, "src/a.rs", false) && out(&f, "src/a.c", false));
        let f = filter(&[(Exclude, "*.log"), (Include, "keep.log")]);
        assert!(out(&f, "a.log", false) && !out(&f, "d/keep.log", false) && !out(&f, "a.c", false));
        assert!(Filter::default().is_empty() && !out(&Filter::default(), "x", false));
        assert!(out(&filter(&[(Exclude, "*")]), "\u{fffd}\n", false));
    }

    #[test]
    fn the_innermost_ignore_file_has_the_last_word() {
        let f = filter(&[(PatternKind::IgnoreFile, ".gitignore")]);
        let outer = IgnoreFile::parse(b"# comment\n*.o\n/only\n");
        let inner = IgnoreFile::parse(b"!keep.o\n");
        let list = [(&b""[..], &outer), (&b"d"[..], &inner)];
        assert!(f.leaves_out(b"d/a.o", false, &list) && !f.leaves_out(b"d/keep.o", false, &list));
        assert!(f.leaves_out(b"only", false, &list[..1]) && !f.leaves_out(b"d/only", false, &list));
    }

    #[test]
    fn bad_patterns_are_named() {
        for (kind, text) in [
            (PatternKind::Exclude, "{a"),
            (PatternKind::Exclude, ""),
            (PatternKind::Include, "!x"),
            (PatternKind::IgnoreFile, "a/b"),
            (PatternKind::IgnoreFile, ".."),
        ] {
            let error = Filter::new(&[Pattern { kind, text: text.into() }]).expect_err(text);
            assert!(error.contains(text) && !error.contains('\n'), "{error}");
        }
        let long = Pattern { kind: PatternKind::Exclude, text: vec![b'a'; MAX_GLOB_BYTES + 1] };
        assert!(Filter::new(&[long]).is_err());
    }
}
