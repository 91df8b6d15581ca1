//! Role: `fulmar config show`: which value comes from where.
//! Owns: nothing.
//! Implements: `fulmar config --help`.

use super::{Origin, Refused, Setting, file, parse_with};
use crate::cli::exit::{self, Failure};
use crate::cli::{refuse, terminal, text};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// `fulmar config`
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub what: ConfigCommand,
}

/// The subcommands.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say which value every option of a command has, and where it comes from
    Show(ShowArgs),
}

/// `fulmar config show`
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
    /// A command, with as much of its line as matters: `put`, or `put --limit 5mbit x lab` [default: put]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

#[derive(Serialize)]
struct Line<'a> {
    option: &'a str,
    value: Option<String>,
    source: &'static str,
    at: Option<&'a str>,
    table: Option<&'a str>,
}

/// Runs it; the exit code.
pub fn run(args: &ConfigArgs) -> Result<u8, Failure> {
    let ConfigCommand::Show(show) = &args.what;
    let mut line: Vec<OsString> = vec!["fulmar".into()];
    line.extend(show.command.iter().cloned());
    if line.len() == 1 {
        line.push("put".into());
    }
    let parsed = match parse_with(&line, |name| std::env::var_os(name)) {
        Ok(parsed) => parsed,
        Err(Refused::Usage(error)) => return Ok(refuse(&error, &line)),
        Err(Refused::Layer(failure)) => return Err(failure),
    };
    if show.json {
        let lines: Vec<Line<'_>> = parsed.settings.iter().map(object).collect();
        let text = serde_json::to_string(&lines).expect("strings serialise into memory");
        terminal::stdout_line(&text);
        return Ok(exit::DONE);
    }
    match file::path(|name| std::env::var_os(name)) {
        Some(path) if path.exists() => terminal::stdout_line(&format!("# {}", text::path(&path))),
        Some(path) => terminal::stdout_line(&format!("# {} (not there)", text::path(&path))),
        None => terminal::stdout_line("# no file"),
    };
    let shown: Vec<(String, String)> =
        parsed.settings.iter().map(|s| (format!("{} = {}", s.name, value(s)), origin(s))).collect();
    let width = shown.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
    for (left, right) in shown {
        terminal::stdout_line(&format!("{left:<width$}  {right}"));
    }
    Ok(exit::DONE)
}

fn values(setting: &Setting) -> String {
    let all: Vec<String> = setting.values.iter().map(|v| text::bytes(v.as_bytes())).collect();
    all.join(", ")
}

fn value(setting: &Setting) -> String {
    if setting.values.is_empty() { "-".into() } else { values(setting) }
}

fn origin(setting: &Setting) -> String {
    match &setting.origin {
        Origin::Default => "default".into(),
        Origin::File { at, table } => format!("{at} {table}"),
        Origin::Variable(name) => format!("env {name}"),
        Origin::Option => format!("option --{}", setting.name),
    }
}

fn object(setting: &Setting) -> Line<'_> {
    let (source, at, table) = match &setting.origin {
        Origin::Default => ("default", None, None),
        Origin::File { at, table } => ("file", Some(at.as_str()), Some(table.as_str())),
        Origin::Variable(name) => ("env", Some(name.as_str()), None),
        Origin::Option => ("option", None, None),
    };
    let value = (!setting.values.is_empty()).then(|| values(setting));
    Line { option: &setting.name, value, source, at, table }
}
