//! The `fulmar` binary: parse, start logging, run, print the one error line, return the exit code.

use fulmar::cli::config::{self, Refused};
use fulmar::cli::{self, exit, json, terminal};
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let command = match config::parse(&arguments) {
        Ok(command) => command,
        Err(Refused::Usage(error)) => return ExitCode::from(cli::refuse(&error, &arguments)),
        Err(Refused::Layer(failure)) => return ExitCode::from(cli::refuse_layer(&failure, &arguments)),
    };
    let verbosity = command.verbosity();
    terminal::init_logging(command.log_level(), verbosity.verbose, verbosity.quiet);
    let mut code = command.run().unwrap_or_else(|failure| {
        // The command did not come as far as a report of its own.
        exit::complain(&failure.message);
        if command.json() {
            json::print_failure(command.name(), &failure.message, failure.exit_code);
        }
        failure.exit_code
    });
    if let Some(why) = terminal::stdout_error() {
        exit::complain(&format!("cannot write to stdout: {why}"));
        code = code.max(exit::OTHER);
    }
    ExitCode::from(code)
}
