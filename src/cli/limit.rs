//! Role: `--limit` and `--limit-file`: the limit that holds now, and a thread that changes it when its time has come.
//! Owns: the thread, and in it what was read of the file.
//! Implements: "Limits" of README.md.

use super::args::LinkArgs;
use super::exit::Failure;
use super::text;
use super::timetable::{Timetable, minute_of_week};
use crate::net::limit::LiveLimit;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks at the clock and at the file: what a person who has saved the file waits for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest file: the longest timetable, with a comment beside each entry.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The limit that holds now, in bytes a second.
pub fn now(link: &LinkArgs) -> Result<Option<u64>, Failure> {
    Ok(table(link)?.and_then(|table| bytes_at(&table, local_minute(), 1)))
}

/// A limit that a thread changes, if there is anything to change, divided among so many processes. The thread ends with the
/// process.
pub fn live(link: &LinkArgs, among: u64) -> Result<Option<LiveLimit>, Failure> {
    let Some(table) = table(link)? else { return Ok(None) };
    if link.limit_file.is_none() && table.is_constant() {
        return Ok(None);
    }
    let limit = LiveLimit::new(bytes_at(&table, local_minute(), among));
    let file = link.limit_file.clone().map(|path| Watched { seen: stamp(&path), path });
    let keeper = Keeper { table, file, limit: limit.clone(), among };
    let failed = |e| Failure::new(super::exit::OTHER, format!("cannot start a thread for the limit: {e}"));
    std::thread::Builder::new().name("limit".into()).spawn(move || keeper.run()).map_err(failed)?;
    Ok(Some(limit))
}

/// What the options say.
fn table(link: &LinkArgs) -> Result<Option<Timetable>, Failure> {
    let usage = |option: &str, why: String| Failure::usage(format!("{option}: {why}"));
    match (&link.limit, &link.limit_file) {
        (Some(text), _) => Timetable::parse(text).map(Some).map_err(|why| usage("--limit", why)),
        (None, Some(path)) => read(path).map(Some).map_err(|why| usage("--limit-file", why)),
        (None, None) => Ok(None),
    }
}

/// Reads a file: what `--limit` would say, on any number of lines, with comments behind `#`.
fn read(path: &Path) -> Result<Timetable, String> {
    let shown = text::path(path);
    let mut content = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut content))
        .map_err(|error| format!("cannot read {shown}: {}", text::io_error(&error)))?;
    let lines = content.lines().map(|line| line.split('#').next().unwrap_or_default());
    let whole = lines.collect::<Vec<_>>().join(" ");
    if whole.trim().is_empty() {
        return Err(format!("{shown} is empty: write a rate such as 20mbit, a timetable, or off"));
    }
    Timetable::parse(&whole).map_err(|why| format!("{shown}: {why}"))
}

fn bytes_at(table: &Timetable, minute: u32, among: u64) -> Option<u64> {
    table.rate_at(minute).map(|bits| (bits / 8 / among).max(1))
}

/// The minute of the week by this machine's time zone (the variable TZ, else /etc/localtime, else UTC).
fn local_minute() -> u32 {
    let now = jiff::Zoned::now();
    let part = |n: i8| u32::try_from(n).unwrap_or_default();
    minute_of_week(part(now.weekday().to_monday_zero_offset()), part(now.hour()), part(now.minute()))
}

/// What tells one version of a file from another: inode, size, modification time.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

struct Watched {
    path: PathBuf,
    seen: Stamp,
}

impl Watched {
    /// The new contents, if it has changed. A file that is gone for a moment, or cannot be understood, changes nothing.
    fn change(&mut self) -> Option<Timetable> {
        let found = stamp(&self.path);
        if found.is_none() || found == self.seen {
            return None;
        }
        self.seen = found;
        match read(&self.path) {
            Ok(table) => Some(table),
            Err(why) => {
                log::warn!("the limit stays as it is: {why}");
                None
            }
        }
    }
}

struct Keeper {
    table: Timetable,
    file: Option<Watched>,
    limit: LiveLimit,
    among: u64,
}

impl Keeper {
    fn run(mut self) {
        loop {
            std::thread::park_timeout(LOOK_EVERY);
            self.look(local_minute());
        }
    }

    fn look(&mut self, minute: u32) {
        if let Some(table) = self.file.as_mut().and_then(Watched::change) {
            self.table = table;
        }
        let bytes = bytes_at(&self.table, minute, self.among);
        if bytes != self.limit.get() {
            let shown =
                bytes.map_or_else(|| "off".into(), |b| crate::units::format_rate(b.saturating_mul(8)));
            log::info!("the limit is now {shown}");
            self.limit.set(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(limit: Option<&str>, file: Option<&Path>) -> LinkArgs {
        LinkArgs { limit: limit.map(Into::into), limit_file: file.map(Into::into), ..LinkArgs::default() }
    }

    #[test]
    fn a_constant_needs_no_thread() {
        assert_eq!(now(&link(Some("8mbit"), None)), Ok(Some(1_000_000)));
        assert_eq!(now(&link(Some("off"), None)), Ok(None));
        assert!(live(&link(Some("8mbit"), None), 1).expect("valid").is_none());
        assert!(live(&link(None, None), 1).expect("valid").is_none());
        let live = live(&link(Some("00:00,8mbit 12:00,16mbit"), None), 2).expect("valid").expect("changes");
        assert!([Some(500_000), Some(1_000_000)].contains(&live.get()));
    }

    #[test]
    fn the_file_is_read_again_when_it_changes_and_nonsense_changes_nothing() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("limit");
        fs::write(&path, "# by day\n08:00,8mbit\n18:00,off   # by night\n").expect("written");
        let table = read(&path).expect("valid");
        let limit = LiveLimit::new(None);
        let file = Some(Watched { seen: stamp(&path), path: path.clone() });
        let mut keeper = Keeper { table, file, limit: limit.clone(), among: 1 };
        keeper.look(minute_of_week(2, 9, 0));
        assert_eq!(limit.get(), Some(1_000_000));
        keeper.look(minute_of_week(2, 18, 0));
        assert_eq!(limit.get(), None);
        let mut write = |content: &str| {
            // Another file, as editors make it; then the same one need not have another time.
            fs::write(dir.path().join("new"), content).expect("written");
            fs::rename(dir.path().join("new"), &path).expect("moved");
            keeper.look(minute_of_week(2, 18, 1));
        };
        write("16mbit");
        assert_eq!(limit.get(), Some(2_000_000));
        for bad in ["", "quick", "25:00,1mbit"] {
            write(bad);
            assert_eq!(limit.get(), Some(2_000_000), "{bad}");
        }
        write("off\n");
        assert_eq!(limit.get(), None);
        fs::remove_file(&path).expect("removed");
        keeper.look(0);
        assert_eq!(limit.get(), None);
    }

    #[test]
    fn what_is_wrong_names_the_option_and_the_file() {
        let failure = now(&link(Some("fast"), None)).expect_err("no rate");
        assert!(failure.exit_code == 2 && failure.message.starts_with("--limit: "), "{failure:?}");
        let failure = now(&link(None, Some(Path::new("/no/limit")))).expect_err("no file");
        assert!(failure.message.starts_with("--limit-file: cannot read /no/limit: "), "{failure:?}");
    }
}
