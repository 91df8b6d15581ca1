//! Role: `--trace`: opens the file before anything else happens, and says in it what is traced.
//! Owns: nothing.
//! Implements: `--trace` of `fulmar --help`.

use super::exit::Failure;
use super::text;
use crate::net::trace::{About, TraceFile};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Characters of the command line that a trace's title keeps.
const TITLE_CHARS: usize = 200;

/// The trace, if one is wanted.
pub fn open(path: Option<&Path>, is_server: bool) -> Result<Option<TraceFile>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let about = About { title: title(), is_server, wall_clock_time: wall_clock_time() };
    let trace = TraceFile::create(path, &about).map_err(|error| Failure::io("write", path, &error))?;
    Ok(Some(trace))
}

/// The command line, as far as it is worth showing.
fn title() -> String {
    let mut title = String::from("fulmar");
    for argument in std::env::args_os().skip(1) {
        title.push(' ');
        title.push_str(&text::one_line(&argument.to_string_lossy()));
    }
    if let Some((at, _)) = title.char_indices().nth(TITLE_CHARS) {
        title.truncate(at);
        title.push_str("...");
    }
    title
}

#[allow(clippy::disallowed_methods, reason = "a trace says when it was made")]
fn wall_clock_time() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    format!("{}.{:03}Z", text::utc(seconds).replace(' ', "T"), since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("missing/x.sqlog");
        let failure = open(Some(&path), false).expect_err("no such directory");
        assert!(failure.message.contains("missing/x.sqlog"), "{}", failure.message);
        assert!(open(None, false).expect("nothing to do").is_none());
    }

    #[test]
    fn the_wall_clock_is_rfc_3339() {
        let time = wall_clock_time();
        assert_eq!(time.len(), "2026-01-01T00:00:00.000Z".len(), "{time}");
        assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T');
    }
}
