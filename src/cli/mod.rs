//! Role: arguments, progress, tables, JSON, exit codes.
//! Owns: the terminal.
//! Implements: `fulmar --help`, which is the manual.

pub mod args;
pub mod bench;
pub mod client;
pub mod config;
pub mod cp;
pub mod demo;
pub mod echo;
pub mod exit;
pub mod files_from;
pub mod generate;
pub mod get;
pub mod host;
pub mod json;
pub mod key;
pub mod key_log;
pub mod keygen;
pub mod limit;
pub mod ls;
pub mod options;
pub mod paths;
pub mod progress;
pub mod put;
pub mod report;
pub mod serve;
pub mod signals;
pub mod summary;
pub mod sync;
pub mod terminal;
pub mod text;
pub mod timetable;
pub mod top;
pub mod trace;
pub mod trace_report;
pub mod unfinished;
pub mod watch;
pub mod workers;

use args::{Command, OutputArgs, VerbosityArgs};
use exit::Failure;
use std::ffi::OsString;

/// The commands' names, for errors that come before clap knows which it is.
const NAMES: [&str; 13] = [
    "completions",
    "config",
    "bench",
    "report",
    "top",
    "serve",
    "cp",
    "put",
    "get",
    "ls",
    "echo",
    "demo",
    "keygen",
];

impl Command {
    /// Runs it; the exit code.
    pub fn run(&self) -> Result<u8, Failure> {
        match self {
            Self::Serve(args) => serve::run(args),
            Self::Cp(args) => cp::run(args),
            Self::Put(args) => put::run(args),
            Self::Get(args) => get::run(args),
            Self::Ls(args) => ls::run(args),
            Self::Echo(args) => echo::run(args),
            Self::Demo(args) => demo::run(args),
            Self::Bench(args) => bench::run(args),
            Self::Keygen(args) => keygen::run(args),
            Self::Completions(args) => generate::completions(args),
            Self::Man(args) => generate::man(args),
            Self::Config(args) => config::show::run(args),
            Self::Report(args) => trace_report::run(args),
            Self::Top(args) => top::run(args),
        }
    }

    /// As it is written.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Serve(_) => "serve",
            Self::Cp(_) => "cp",
            Self::Put(_) => "put",
            Self::Get(_) => "get",
            Self::Ls(_) => "ls",
            Self::Echo(_) => "echo",
            Self::Demo(_) => "demo",
            Self::Bench(_) => "bench",
            Self::Keygen(_) => "keygen",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
            Self::Config(_) => "config",
            Self::Report(_) => "report",
            Self::Top(_) => "top",
        }
    }

    fn output(&self) -> Option<&OutputArgs> {
        match self {
            Self::Serve(_)
            | Self::Keygen(_)
            | Self::Report(_)
            | Self::Top(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Config(_) => None,
            Self::Cp(args) => Some(&args.output),
            Self::Put(args) => Some(&args.output),
            Self::Get(args) => Some(&args.output),
            Self::Ls(args) => Some(&args.output),
            Self::Echo(args) => Some(&args.output),
            Self::Demo(args) => Some(&args.output),
            Self::Bench(args) => Some(args.what.output()),
        }
    }

    /// `--json`
    pub fn json(&self) -> bool {
        self.output().is_some_and(|output| output.json)
    }

    /// `-q` and `-v`
    pub fn verbosity(&self) -> VerbosityArgs {
        match self {
            Self::Serve(args) => args.verbosity.clone(),
            Self::Report(args) => args.verbosity.clone(),
            Self::Top(args) => args.verbosity.clone(),
            _ => self.output().map(|output| output.verbosity.clone()).unwrap_or_default(),
        }
    }

    /// What is logged without `-q` and `-v`: a server tells what it does, a client only what is wrong.
    pub fn log_level(&self) -> log::LevelFilter {
        match self {
            Self::Serve(args) if !args.once => log::LevelFilter::Info,
            _ => log::LevelFilter::Warn,
        }
    }
}

/// A command line that clap refuses: help and version are printed as they are, errors become one line (and the
/// object that `--json` promises). Returns the exit code.
pub fn refuse(error: &clap::Error, arguments: &[OsString]) -> u8 {
    use clap::error::ErrorKind as Kind;
    if matches!(
        error.kind(),
        Kind::DisplayHelp | Kind::DisplayVersion | Kind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let _ = error.print();
        return u8::try_from(error.exit_code()).unwrap_or(exit::USAGE);
    }
    let options: Vec<&str> =
        arguments.iter().skip(1).take_while(|a| *a != "--").filter_map(|a| a.to_str()).collect();
    let name = NAMES.iter().copied().find(|name| options.contains(name));
    let help = name.map_or_else(|| "fulmar --help".to_owned(), |name| format!("fulmar {name} --help"));
    let rendered = error.render().to_string();
    let what = rendered.split("\n\nUsage:").next().unwrap_or_default();
    let what = what.split("\n\nFor more information").next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(what).trim().replace("\n\n", "; ");
    let message = text::one_line(&format!("{what}; see {help}"));
    exit::complain(&message);
    if options.contains(&"--json") {
        json::print_failure(name.unwrap_or("fulmar"), &message, exit::USAGE);
    }
    exit::USAGE
}

/// A setting beside the command line that cannot be used. Returns the exit code.
pub fn refuse_layer(failure: &Failure, arguments: &[OsString]) -> u8 {
    exit::complain(&failure.message);
    let options: Vec<&str> =
        arguments.iter().skip(1).take_while(|a| *a != "--").filter_map(|a| a.to_str()).collect();
    if options.contains(&"--json") {
        let name = NAMES.iter().copied().find(|name| options.contains(name)).unwrap_or("fulmar");
        json::print_failure(name, &failure.message, failure.exit_code);
    }
    failure.exit_code
}
