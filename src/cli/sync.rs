//! Role: the options with which put and get compare first, only tell, and leave out.
//! Owns: nothing.
//! Implements: the sync options of `fulmar put --help` and `fulmar get --help`.

use super::args::OverwriteArgs;
use super::exit::Failure;
use super::options;
use crate::transfer::job::Overwrite;
use crate::transfer::sync::{Compare, SyncOptions};
use clap::Args;

/// Comparing first.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Sync")]
pub struct SyncArgs {
    /// Skip files that are there already, equal in size and modification time; replace those that differ
    #[arg(short = 'u', long)]
    pub update: bool,
    /// Compare by size and SHA-256 instead: both sides read every file (implies --update)
    #[arg(long)]
    pub checksum: bool,
    /// Change nothing on either side; list what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// What the options ask of the engine, and what becomes of existing files. `--update` replaces what differs, unless
/// `--overwrite never` is written beside it.
pub fn options(sync: &SyncArgs, overwrite: &OverwriteArgs) -> Result<(SyncOptions, Overwrite), Failure> {
    let compare = match (sync.update, sync.checksum) {
        (_, true) => Some(Compare::Digest),
        (true, false) => Some(Compare::SizeAndTime),
        (false, false) => None,
    };
    let given = options::overwrite(overwrite)?;
    let implied = compare.is_some() && overwrite.overwrite.is_none();
    let options = SyncOptions { compare, dry_run: sync.dry_run, ..SyncOptions::default() };
    Ok((options, if implied { Overwrite::Always } else { given }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sync: SyncArgs, overwrite: Option<&str>) -> (SyncOptions, Overwrite) {
        let overwrite = OverwriteArgs { overwrite: overwrite.map(Into::into), no_resume: false };
        options(&sync, &overwrite).expect("valid")
    }

    #[test]
    fn updating_replaces_unless_forbidden() {
        let update = SyncArgs { update: true, ..SyncArgs::default() };
        assert_eq!(of(update.clone(), None).1, Overwrite::Always);
        assert_eq!(of(update.clone(), Some("never")).1, Overwrite::Never);
        assert_eq!(of(update, None).0.compare, Some(Compare::SizeAndTime));
        let checksum = SyncArgs { checksum: true, ..SyncArgs::default() };
        assert_eq!(of(checksum, None).0.compare, Some(Compare::Digest));
        let (none, overwrite) = of(SyncArgs::default(), None);
        assert!(none.is_default() && overwrite == Overwrite::Never);
        let dry = SyncArgs { dry_run: true, ..SyncArgs::default() };
        assert_eq!(of(dry, None).1, Overwrite::Never, "a dry run tells what the same run would do");
    }
}
