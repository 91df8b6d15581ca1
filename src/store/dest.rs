//! Role: where a received entry goes: the rules of `Dest`, shared by all stores.
//! Owns: nothing; pure (whoever asks says whether the destination is a directory).
//! Implements: docs/PROTOCOL.md, "Files" (destinations).

use super::error::forbidden;
use super::names::{check_component, check_relative, join, split_first, split_last};
use crate::transfer::job::{Dest, EntryKind, Location, Overwrite, StoreError};

/// The name space of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// Below the jail.
    Jail,
    /// Below the scratch area.
    Scratch,
}

/// A destination with its rules applied: every entry path maps to a path below `base`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DestPlan {
    /// Name space of `base`.
    pub(crate) space: Space,
    /// The directory that entries are placed below; made when missing.
    pub(crate) base: Vec<u8>,
    /// What happens to existing files.
    pub(crate) overwrite: Overwrite,
    /// What an earlier run has left is not used.
    pub(crate) no_resume: bool,
    /// The name that the single root gets instead of its own.
    rename: Option<Vec<u8>>,
    /// With `rename`: the root's own name, once it has been seen. A second root has no place.
    root: Option<Vec<u8>>,
    prefix: Vec<u8>,
}

/// Checks a destination before any look at the disk: its name space, and its path.
pub(crate) fn checked(dest: &Dest) -> Result<(Space, &[u8]), StoreError> {
    let (space, path) = match &dest.location {
        Location::Jail(path) => (Space::Jail, path),
        Location::Scratch(path) => (Space::Scratch, path),
        Location::Stream => {
            return Err(forbidden(b"-", "is no destination of this store; name one below the directory"));
        }
        Location::Local(path) => {
            return Err(forbidden(path, "cannot be a destination; name one below the destination directory"));
        }
    };
    check_relative(path, true)?;
    if dest.name_prefix.contains(&b'/') || dest.name_prefix.contains(&0) {
        return Err(forbidden(&dest.name_prefix, "cannot be put before a name; use plain letters"));
    }
    Ok((space, path))
}

impl DestPlan {
    /// Applies the rules. `is_dir`: the destination path is an existing directory.
    pub(crate) fn new(dest: &Dest, is_dir: bool) -> Result<Self, StoreError> {
        let (space, path) = checked(dest)?;
        let inside = dest.into_dir || is_dir || path.is_empty();
        let (base, rename) = if inside {
            (path.to_vec(), None)
        } else {
            let (parent, name) = split_last(path);
            (parent.to_vec(), Some(name.to_vec()))
        };
        let prefix = dest.name_prefix.clone();
        Ok(Self {
            space,
            base,
            overwrite: dest.overwrite,
            no_resume: dest.no_resume,
            rename,
            root: None,
            prefix,
        })
    }

    /// The path below `base` where the entry `path` goes.
    pub(crate) fn place(&mut self, path: &[u8], kind: EntryKind) -> Result<Vec<u8>, StoreError> {
        check_relative(path, false)?;
        let mut out = match &self.rename {
            None => path.to_vec(),
            Some(name) => {
                let (first, rest) = split_first(path);
                if *self.root.get_or_insert_with(|| first.to_vec()) != first {
                    let why =
                        "only one file or directory can be given a new name; name a directory to put several";
                    return Err(forbidden(path, why));
                }
                join(name, rest)
            }
        };
        if kind == EntryKind::File && !self.prefix.is_empty() {
            let (parent, name) = split_last(&out);
            let named = [self.prefix.as_slice(), name].concat();
            check_component(path, &named)?;
            out = join(parent, &named);
        }
        Ok(out)
    }
}
