//! Role: SIGINT and SIGTERM: the first asks the event loop to end politely, the second ends the process at once.
//! Owns: the signal handlers of the process.
//! Implements: "a second signal exits at once" of `fulmar --help`.

use super::exit::{self, Failure};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Installs the handlers. The first signal's number is stored in the value returned; 0 means none yet.
/// `remove_at_once`: a temporary directory that even a second signal must not leave behind.
pub fn install(remove_at_once: Option<PathBuf>) -> Result<Arc<AtomicI32>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(exit::OTHER, format!("cannot set up signal handling: {}", super::text::io_error(&error)))
    };
    let stored = Arc::new(AtomicI32::new(0));
    let armed = Arc::new(AtomicBool::new(false));
    if remove_at_once.is_none() {
        for signal in [SIGINT, SIGTERM] {
            // Order matters: the shutdown looks at `armed` before the same signal sets it. It runs in the handler,
            // so it works even if every thread is stuck.
            let code = i32::from(exit::SIGNAL_BASE) + signal;
            signal_hook::flag::register_conditional_shutdown(signal, code, armed.clone()).map_err(failed)?;
            signal_hook::flag::register(signal, armed.clone()).map_err(failed)?;
        }
    }
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let shared = stored.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            // The event loop watches signals too and may have stored this one, so the value says nothing about
            // whether it is the first.
            let mut signals = signals.forever();
            if let Some(first) = signals.next() {
                let _ = shared.compare_exchange(0, first, Ordering::SeqCst, Ordering::SeqCst);
            }
            if let Some(second) = signals.next() {
                if let Some(directory) = &remove_at_once {
                    let _ = std::fs::remove_dir_all(directory);
                }
                std::process::exit(i32::from(exit::SIGNAL_BASE) + second);
            }
        })
        .map_err(failed)?;
    Ok(stored)
}

/// The exit code for what `install` returned: 130 or 143; `None` without a signal.
pub fn exit_code(stored: &AtomicI32) -> Option<u8> {
    match stored.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(exit::SIGNAL_BASE.saturating_add(u8::try_from(signal).unwrap_or(0))),
    }
}
