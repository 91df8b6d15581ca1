//! Role: the options with which put and get compare first, only tell, and leave out.
//! Owns: nothing.
//! Implements: the sync options of `fulmar put --help` and `fulmar get --help`.

use super::args::OverwriteArgs;
use super::exit::Failure;
use super::{options, text};
use crate::transfer::filter::Filter;
use crate::transfer::job::Overwrite;
use crate::transfer::sync::{
    Compare, Delete, MAX_PATTERN_BYTES, MAX_PATTERNS, Pattern, PatternKind, SyncOptions,
};
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
    /// Remove at the destination what the source lacks, inside the directories that are sent; nothing, if anything failed
    #[arg(long)]
    pub delete: bool,
    /// What of the source is kept: mode, times, both (separated by a comma) or none [default: mode,times]
    #[arg(long, value_name = "WHAT")]
    pub preserve: Option<String>,
    /// What of that is not kept after all: mode, times or both
    #[arg(long, value_name = "WHAT")]
    pub no_preserve: Option<String>,
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
    let delete = sync.delete.then_some(Delete::InSent);
    let keeps = preserved("--preserve", sync.preserve.as_deref().unwrap_or("mode,times"))?;
    let drops = preserved("--no-preserve", sync.no_preserve.as_deref().unwrap_or("none"))?;
    let (no_mode, no_mtime) = (!keeps.0 || drops.0, !keeps.1 || drops.1);
    let options = SyncOptions { no_mode, no_mtime, delete, compare, dry_run: sync.dry_run, patterns };
    Ok((options, if implied { Overwrite::Always } else { given }))
}

/// Whether a list names mode and times.
fn preserved(option: &str, list: &str) -> Result<(bool, bool), Failure> {
    let (mut mode, mut times) = (false, false);
    for word in list.split(',') {
        match word {
            "mode" => mode = true,
            "times" => times = true,
            "none" if list == "none" => {}
            _ => {
                let word = text::one_line(word);
                return Err(Failure::usage(format!(
                    "{option}: `{word}` is unknown: give mode, times, or mode,times"
                )));
            }
        }
    }
    Ok((mode, times))
}

/// `contents`: the contents of a directory go into the destination itself, which is then one of those that are sent.
pub fn widen_delete(options: &mut SyncOptions, contents: bool) {
    if options.delete.is_some() && contents {
        options.delete = Some(Delete::InDest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sync: SyncArgs, overwrite: Option<&str>) -> (SyncOptions, Overwrite) {
        let overwrite = OverwriteArgs { overwrite: overwrite.map(Into::into), no_resume: false };
        options(&sync, &overwrite).expect("valid")
    }

    #[test]
    fn what_is_preserved() {
        let kept = |preserve: Option<&str>, not: Option<&str>| {
            let text = |text: Option<&str>| text.map(str::to_owned);
            let args = SyncArgs { preserve: text(preserve), no_preserve: text(not), ..SyncArgs::default() };
            options(&args, &OverwriteArgs::default()).map(|(o, _)| (!o.no_mode, !o.no_mtime))
        };
        assert_eq!(kept(None, None), Ok((true, true)));
        assert_eq!(kept(None, Some("mode")), Ok((false, true)));
        assert_eq!(kept(None, Some("times,mode")), Ok((false, false)));
        assert_eq!(kept(Some("times"), None), Ok((false, true)));
        assert_eq!(kept(Some("none"), None), Ok((false, false)));
        for bad in ["", "owner", "mode,", "none,mode"] {
            assert_eq!(kept(None, Some(bad)).expect_err(bad).exit_code, 2);
        }
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
