//! Role: the key log that `FULMAR_KEYLOG` asks for, so that Wireshark can decrypt a capture.
//! Owns: the open file.
//! Implements: docs/PROTOCOL.md, "Packet protection" (key log); contrib/wireshark/README.md.

use super::exit::Failure;
use super::text;
use crate::codec::key_log::KeyLog;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Names the file.
pub const KEY_LOG_VARIABLE: &str = "FULMAR_KEYLOG";

/// The key log, if the environment names one. Lines are appended; a new file is readable by its owner only.
pub fn from_environment() -> Result<Option<KeyLog>, Failure> {
    let Some(name) = std::env::var_os(KEY_LOG_VARIABLE).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let path = PathBuf::from(name);
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    let file = file.map_err(|error| Failure::io("write the key log", &path, &error))?;
    let shown = text::path(&path);
    log::warn!("{KEY_LOG_VARIABLE} is set: whoever reads {shown} can decrypt what is sent now");
    Ok(Some(KeyLog::new(move |lines| {
        // One write for both lines: several processes may share the file.
        if let Err(error) = (&file).write_all(lines.as_bytes()) {
            log::warn!("cannot write the key log {shown}: {}", text::io_error(&error));
        }
    })))
}
