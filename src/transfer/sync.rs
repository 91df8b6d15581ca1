//! Role: what a client may wish beyond moving everything: comparing first, leaving out, only telling, removing.
//! Owns: nothing; values that travel in OPTIONS and OFFER.
//! Implements: docs/PROTOCOL.md, "Options", "Offers".

use super::job::{FileId, Meta, StoreError};

/// Most patterns of one request: more than a command line bears, few enough to match each name against all.
pub const MAX_PATTERNS: usize = 256;
/// Longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;

/// How two files are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Equal if size and modification time are.
    SizeAndTime,
    /// Equal if size and SHA-256 are: both sides read the whole file.
    Digest,
}

/// What a pattern does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternKind {
    /// Leave out what matches.
    Exclude,
    /// Take what matches: although an exclude matches too or, without any exclude, only that.
    Include,
    /// Obey the files of this name in the tree (the syntax of .gitignore).
    IgnoreFile,
}

/// One pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// What it does.
    pub kind: PatternKind,
    /// A glob (the syntax of .gitignore), or the name of ignore files.
    pub text: Vec<u8>,
}

/// What is removed at the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delete {
    /// What the sent directories do not hold.
    InSent,
    /// The same, and what lies beside them in the destination itself: the contents of a directory were sent into it.
    InDest,
}

/// Wishes of a client. The default wishes nothing, and then nothing of this goes on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncOptions {
    /// Files that are equal need not travel; those that differ replace what is there.
    pub compare: Option<Compare>,
    /// Nothing is changed on either side; the answers say what would be.
    pub dry_run: bool,
    /// Removes what the source lacks.
    pub delete: Option<Delete>,
    /// The modification time is not set at the destination.
    pub no_mtime: bool,
    /// The mode is not set at the destination.
    pub no_mode: bool,
    /// What is left out.
    pub patterns: Vec<Pattern>,
}

impl SyncOptions {
    /// Whether files are offered first, and sent only when the receiver wants them.
    pub fn offers(&self) -> bool {
        self.compare.is_some() || self.dry_run
    }

    /// What of it the server must know, of a request that sends to it (`put`) or has it send.
    pub fn told(&self, put: bool) -> Self {
        let mut told = self.clone();
        if put && self.delete.is_none() {
            // What is left out is found here; there it matters only for what is removed.
            told.patterns.clear();
        }
        if !put {
            (told.no_mtime, told.no_mode, told.delete) = (false, false, None);
        }
        told
    }

    /// Whether there is anything to tell the server.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A file that its sender has and the receiver may want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its number in the manifest; used up by the answer.
    pub file: FileId,
    /// Manifest path.
    pub path: Vec<u8>,
    /// Mode and modification time.
    pub meta: Meta,
    /// Bytes.
    pub size: u64,
    /// SHA-256, if it is to be compared.
    pub sha256: Option<[u8; 32]>,
}

/// What a receiver's store makes of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is there, equal.
    Equal,
    /// It is not there, or differs and may be replaced.
    Wanted,
    /// Still comparing: ask again (`Job::Compare`).
    More,
    /// It cannot go there.
    Refused(StoreError),
}
