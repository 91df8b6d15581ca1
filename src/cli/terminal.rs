//! Role: writes to stdout and stderr without tearing the progress bars, and sets up logging.
//! Owns: the bars' drawing area, while there is one.
//! Implements: the output rules of `fulmar --help`.

use indicatif::MultiProgress;
use log::LevelFilter;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

/// The bars on stderr now, if any: every other writer to the terminal steps around them.
static BARS: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// The first error on stdout, other than a reader that is gone.
static STDOUT_ERROR: OnceLock<String> = OnceLock::new();

/// Stdout carries a file.
static STDOUT_IS_DATA: AtomicBool = AtomicBool::new(false);

fn bars() -> Option<MultiProgress> {
    BARS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
}

/// From now on, lines are written above these bars; `None`: there are none any more.
pub fn set_bars(new: Option<MultiProgress>) {
    *BARS.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = new;
}

fn around_bars<T>(write: impl FnOnce() -> T) -> T {
    match bars() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// One line on stderr. A closed stderr is no reason to stop.
pub fn stderr_line(line: &str) {
    around_bars(|| {
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    });
}

/// From now on what the user is told on stdout goes to stderr: stdout carries a file.
pub fn give_up_stdout() {
    STDOUT_IS_DATA.store(true, Ordering::Relaxed);
}

/// Text on stdout, flushed. False when it did not get there; `stdout_error` says why.
pub fn stdout(text: &[u8]) -> bool {
    around_bars(|| {
        if STDOUT_IS_DATA.load(Ordering::Relaxed) {
            return std::io::stderr().lock().write_all(text).is_ok();
        }
        let mut out = std::io::stdout().lock();
        match out.write_all(text).and_then(|()| out.flush()) {
            Ok(()) => true,
            Err(error) => {
                // A reader that has seen enough (`fulmar ls ... | head`) is no error.
                if error.kind() != std::io::ErrorKind::BrokenPipe {
                    let _ = STDOUT_ERROR.set(super::text::io_error(&error));
                }
                false
            }
        }
    })
}

/// Why something could not be written to stdout, if that happened (a full disk, say).
pub fn stdout_error() -> Option<&'static str> {
    STDOUT_ERROR.get().map(String::as_str)
}

/// One line on stdout, flushed.
pub fn stdout_line(line: &str) -> bool {
    stdout(format!("{line}\n").as_bytes())
}

/// What every log record of this process begins with.
static LOG_LABEL: OnceLock<String> = OnceLock::new();

/// From now on log records begin with this: several processes share one stderr.
pub fn set_log_label(label: String) {
    let _ = LOG_LABEL.set(label);
}

/// Log records on stderr, around the bars.
struct LogPipe;

impl Write for LogPipe {
    fn write(&mut self, record: &[u8]) -> std::io::Result<usize> {
        // One write for the whole record, or those of several processes might mix.
        let labelled = LOG_LABEL.get().map(|label| [label.as_bytes(), record].concat());
        around_bars(|| std::io::stderr().lock().write_all(labelled.as_deref().unwrap_or(record)))?;
        Ok(record.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().lock().flush()
    }
}

/// Starts logging to stderr. `RUST_LOG` has the first word; else `base` (warnings on a client, information on a
/// server), one level more for every `-v`, errors only with `-q`.
pub fn init_logging(base: LevelFilter, verbose: u8, quiet: bool) {
    let level = if quiet {
        LevelFilter::Error
    } else {
        LevelFilter::iter().nth(base as usize + usize::from(verbose)).unwrap_or(LevelFilter::Trace)
    };
    let mut builder = env_logger::Builder::new();
    match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => builder.parse_filters(&filter),
        _ => builder.filter_level(level),
    };
    builder.format_timestamp_millis().target(env_logger::Target::Pipe(Box::new(LogPipe)));
    // A second call (in tests) changes nothing.
    let _ = builder.try_init();
}
