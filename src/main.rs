//! The `fulmar` binary: parse, start logging, run, print the one error line, return the exit code.

use clap::Parser;
use fulmar::cli::{self, args::Cli, exit, json, terminal};
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let command = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli.command,
        Err(error) => return ExitCode::from(cli::refuse(&error, &arguments)),
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
