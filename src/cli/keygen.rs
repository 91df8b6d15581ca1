//! Role: `fulmar keygen`.
//! Owns: nothing.
//! Implements: `fulmar keygen --help`.

use super::args::KeygenArgs;
use super::exit::{self, Failure};
use super::{key, terminal, text};
use std::path::Path;
use zeroize::Zeroizing;

/// Runs it; the exit code.
pub fn run(args: &KeygenArgs) -> Result<u8, Failure> {
    let fresh = key::generate()?;
    if args.file == Path::new("-") {
        let line = Zeroizing::new(format!("{}\n", *fresh));
        if !terminal::stdout(line.as_bytes()) {
            return Err(Failure::new(
                exit::OTHER,
                "the key did not reach the reader of stdout: make another one",
            ));
        }
        return Ok(exit::DONE);
    }
    key::write_new(&args.file, &fresh)?;
    let shown = text::path(&args.file);
    terminal::stdout_line(&format!(
        "{shown}: a new key; copy it to the other side and use --key-file {shown} on both"
    ));
    Ok(exit::DONE)
}
