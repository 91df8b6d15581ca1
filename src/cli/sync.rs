//! Role: the options with which put and get compare first, only tell, and leave out.
//! Owns: nothing.
//! Implements: the sync options of `fulmar put --help` and `fulmar get --help`.

use super::args::OverwriteArgs;
use super::exit::Failure;
use super::options;
use crate::transfer::filter::Filter;
use crate::transfer::job::Overwrite;
use crate::transfer::sync::{Compare, MAX_PATTERN_BYTES, MAX_PATTERNS, Pattern, PatternKind, SyncOptions};
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
    /// Leave out what matches (*.o, build/, /top: the syntax of .gitignore); repeatable
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Take what matches although an --exclude does too; without any --exclude, only files that match; repeatable
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Obey the files of this name in the tree, such as .gitignore or .fulmarignore; repeatable
    #[arg(long, value_name = "NAME")]
    pub ignore_file: Vec<String>,
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
    let lists = [
        (PatternKind::Exclude, &sync.exclude),
        (PatternKind::Include, &sync.include),
        (PatternKind::IgnoreFile, &sync.ignore_file),
    ];
    let pattern = |kind, text: &String| Pattern { kind, text: text.as_bytes().to_vec() };
    let patterns: Vec<Pattern> =
        lists.iter().flat_map(|(kind, list)| list.iter().map(|text| pattern(*kind, text))).collect();
    if patterns.len() > MAX_PATTERNS || patterns.iter().any(|p| p.text.len() > MAX_PATTERN_BYTES) {
        return Err(Failure::usage(format!(
            "--exclude, --include, --ignore-file: at most {MAX_PATTERNS} patterns of {MAX_PATTERN_BYTES} bytes; \
             put longer lists into an ignore file"
        )));
    }
    Filter::new(&patterns)
        .map_err(|why| Failure::usage(format!("--exclude, --include, --ignore-file: {why}")))?;
    let options = SyncOptions { compare, dry_run: sync.dry_run, patterns, ..SyncOptions::default() };
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
