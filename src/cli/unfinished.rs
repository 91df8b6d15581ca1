//! Role: remembers which commands have not come to their end, so that the same one, run again, goes on where it was.
//! Owns: an empty file for each of them in the state directory, named by a digest of what was asked.
//! Implements: "Interrupted transfers" of README.md.
//!
//! Partials say which chunks of a file are there. Of a tree, most files are there as a whole, under their names: without this the
//! same command would find them in its way.

use super::report::Ended;
use super::{paths, text};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What nobody has run again for so long is forgotten, as a server forgets partials by default.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

#[allow(clippy::disallowed_methods, reason = "compared with the file system's times")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// A command under way.
#[derive(Debug)]
pub struct Unfinished {
    /// `None`: there is no place to remember it.
    mark: Option<PathBuf>,
    is_rerun: bool,
}

impl Unfinished {
    /// Begins a command, told apart by `parts`. That it cannot be remembered is no reason not to run it.
    pub fn begin(parts: &[Vec<u8>]) -> Self {
        let state = paths::state_directory(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"));
        match state {
            Some(state) => Self::begin_in(&state.join("unfinished"), parts),
            None => Self { mark: None, is_rerun: false },
        }
    }

    fn begin_in(directory: &Path, parts: &[Vec<u8>]) -> Self {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        forget_old(directory);
        let mark = directory.join(text::hex(&digest.finalize()[..16]));
        let is_rerun = mark.exists();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory).and_then(|()| {
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&mark)
        });
        if let Err(error) = &made {
            log::debug!("{}: {error}: a run after this one would not know of it", mark.display());
        }
        Self { mark: made.is_ok().then_some(mark), is_rerun }
    }

    /// An earlier run of the same command was broken off.
    pub fn is_rerun(&self) -> bool {
        self.is_rerun
    }

    /// It ended like this.
    pub fn end(self, ended: &Ended) {
        if ended.is_done() || !ended.connected && !self.is_rerun {
            self.mark.map(fs::remove_file);
        }
    }
}

fn forget_old(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).map(|at| wall_clock().duration_since(at));
        if age.is_ok_and(|age| age.is_ok_and(|age| age > FORGOTTEN_AFTER)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Failure;

    fn broken(connected: bool) -> Ended {
        Ended { connected, ..Ended::before_start(Failure::new(3, "lost".to_string())) }
    }

    #[test]
    fn a_command_is_remembered_until_it_is_done() {
        let dir = tempfile::tempdir().expect("temp dir");
        let dir = dir.path().join("unfinished");
        let parts = [b"put".to_vec(), b"host:5770".to_vec(), b"a".to_vec()];
        let begin = || Unfinished::begin_in(&dir, &parts);
        let run = begin();
        assert!(!run.is_rerun());
        // It never reached anybody: nothing is begun.
        run.end(&broken(false));
        let run = begin();
        assert!(!run.is_rerun());
        run.end(&broken(true));
        let run = begin();
        assert!(run.is_rerun());
        // Killed: nothing is said of its end. Nor does a rerun that reaches nobody change anything.
        drop(run);
        begin().end(&broken(false));
        // Others have nothing to do with it.
        assert!(!Unfinished::begin_in(&dir, &[b"put".to_vec(), b"host:5770a".to_vec()]).is_rerun());
        let run = begin();
        assert!(run.is_rerun());
        run.end(&Ended::without_session(crate::cli::client::now()));
        assert!(!begin().is_rerun());
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let dir = tempfile::tempdir().expect("temp dir");
        let run = Unfinished::begin_in(dir.path(), &[b"x".to_vec()]);
        let mark = run.mark.clone().expect("made");
        let old = wall_clock() - FORGOTTEN_AFTER - Duration::from_secs(60);
        fs::File::options().write(true).open(mark).and_then(|f| f.set_modified(old)).expect("aged");
        assert!(!Unfinished::begin_in(dir.path(), &[b"x".to_vec()]).is_rerun());
    }

    #[test]
    fn no_place_is_no_trouble() {
        let run = Unfinished::begin_in(Path::new("/proc/no/such"), &[b"x".to_vec()]);
        assert!(!run.is_rerun());
        run.end(&broken(true));
    }
}
