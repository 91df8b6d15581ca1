//! Role: options that are not on the command line: from the environment and from config.toml.
//! Owns: nothing.
//! Implements: "Configuration" of README.md.
//!
//! The command line is parsed as it is; then every option that it lacks, and that nothing on it contradicts, is added
//! from the next layer that has it: `FULMAR_...`, `[host.NAME]`, `[COMMAND]`, `[defaults]`. So all layers go through
//! the same checks.

pub mod file;
pub mod show;
#[cfg(test)]
mod tests;

use super::args::{Cli, Command};
use super::exit::Failure;
use super::text;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches};
use file::{Block, File, Known};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Commands that talk to a server: `[defaults]` and `[host.NAME]` are for them.
pub const CLIENT_COMMANDS: [&str; 5] = ["put", "get", "ls", "echo", "cp"];
/// Options for which a layer below the command line makes no sense.
const NEVER: [&str; 3] = ["help", "version", "worker"];

/// Why a command line could not be understood.
#[derive(Debug)]
pub enum Refused {
    /// By clap.
    Usage(Box<clap::Error>),
    /// Because of a layer below the command line.
    Layer(Failure),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// A line of the file.
    File {
        /// Path and line.
        at: String,
        /// The table, as `[host.lab]`.
        table: String,
    },
    /// An environment variable.
    Variable(String),
    /// The command line.
    Option,
}

/// One option of the command that was parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its long name.
    pub name: String,
    /// Its value or values, as they would be written; empty: none.
    pub values: Vec<OsString>,
    /// Who says so.
    pub origin: Origin,
}

/// A command line with all its layers.
#[derive(Debug)]
pub struct Parsed {
    /// The command.
    pub command: Command,
    /// Its options, by name.
    pub settings: Vec<Setting>,
}

/// Understands a command line, with the environment and the user's file.
pub fn parse(arguments: &[OsString]) -> Result<Command, Refused> {
    parse_with(arguments, |name| std::env::var_os(name)).map(|parsed| parsed.command)
}

/// The same with this environment, and with what came from where.
pub fn parse_with(
    arguments: &[OsString],
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Parsed, Refused> {
    let usage = |e: clap::Error| Refused::Usage(Box::new(e));
    let cli = Cli::command();
    let matches = cli.clone().try_get_matches_from(arguments).map_err(usage)?;
    let (depth, definition, inner) = innermost(&cli, &matches);
    let name = matches.subcommand_name().unwrap_or_default().to_owned();
    // The commands that look at the layers themselves must run whatever is in them.
    let file = if name == "config" { File::default() } else { load(&variable).map_err(Refused::Layer)? };
    let first = Cli::from_arg_matches(&matches).map_err(usage)?.command;
    let host = host_of(&first);
    let blocks = blocks(&file, &name, host.as_deref());
    let layers = Layers { variable: &variable, file: &file, blocks };
    let (added, settings) = layers.fill(definition, inner).map_err(Refused::Layer)?;
    let mut whole = arguments.to_vec();
    let at = (1 + depth).min(whole.len());
    whole.splice(at..at, added);
    let matches = cli.try_get_matches_from(&whole).map_err(usage)?;
    let mut command = Cli::from_arg_matches(&matches).map_err(usage)?.command;
    if let Some(host) = host
        && let Some((Some(address), _)) = file.hosts.get(&host)
    {
        rename_host(&mut command, &host, address);
    }
    Ok(Parsed { command, settings })
}

/// The user's file.
fn load(variable: &impl Fn(&str) -> Option<OsString>) -> Result<File, Failure> {
    let Some(path) = file::path(variable) else { return Ok(File::default()) };
    file::read(&path, variable(file::CONFIG_VARIABLE).is_some(), &known())
}

/// The address that the user's file has for a host, as `HOST` or `HOST:PORT`; for commands with targets of their own.
pub fn address_of(host: &str) -> Result<Option<String>, Failure> {
    let file = load(&|name: &str| std::env::var_os(name))?;
    Ok(file.hosts.get(host).and_then(|(address, _)| address.clone()))
}

/// All that may stand in a file.
fn known() -> Known {
    let mut known = Known::default();
    for command in Cli::command().get_subcommands() {
        let options: Vec<String> = command
            .get_arguments()
            .filter_map(|arg| arg.get_long().map(str::to_owned))
            .filter(|name| !NEVER.contains(&name.as_str()))
            .collect();
        if CLIENT_COMMANDS.contains(&command.get_name()) {
            for option in &options {
                if !known.client.contains(option) {
                    known.client.push(option.clone());
                }
            }
        }
        if !options.is_empty() {
            known.commands.insert(command.get_name().to_owned(), options);
        }
    }
    known
}

/// The innermost subcommand: how many names lead to it, what it is, and what was found of it.
fn innermost<'a>(
    cli: &'a clap::Command,
    matches: &'a ArgMatches,
) -> (usize, &'a clap::Command, &'a ArgMatches) {
    let (mut depth, mut definition, mut inner) = (0, cli, matches);
    while let Some((name, next)) = inner.subcommand()
        && let Some(found) = definition.find_subcommand(name)
    {
        (depth, definition, inner) = (depth + 1, found, next);
    }
    (depth, definition, inner)
}

/// The tables of the file that hold for this command and host, the nearest first, with their names.
fn blocks<'a>(file: &'a File, command: &str, host: Option<&str>) -> Vec<(String, &'a Block)> {
    let client = CLIENT_COMMANDS.contains(&command);
    let host = host.and_then(|host| file.hosts.get(host).map(|(_, block)| (format!("[host.{host}]"), block)));
    let own = file.commands.get(command).map(|block| (format!("[{command}]"), block));
    let defaults = client.then_some(("[defaults]".to_owned(), &file.defaults));
    host.into_iter().chain(own).chain(defaults).collect()
}

struct Layers<'a, V> {
    variable: &'a V,
    file: &'a File,
    blocks: Vec<(String, &'a Block)>,
}

impl<V: Fn(&str) -> Option<OsString>> Layers<'_, V> {
    /// The arguments to be added, and what all options come to.
    fn fill(
        &self,
        definition: &clap::Command,
        matches: &ArgMatches,
    ) -> Result<(Vec<OsString>, Vec<Setting>), Failure> {
        let on_line =
            |arg: &Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        let mut taken: Vec<&Arg> = definition.get_arguments().filter(|arg| on_line(arg)).collect();
        let mut found: BTreeMap<String, Setting> = BTreeMap::new();
        let mut added = Vec::new();
        let options = || definition.get_arguments().filter(|arg| is_option(arg));
        // Layer by layer: a nearer one keeps out what contradicts it in a farther one.
        for layer in 0..=self.blocks.len() {
            for arg in options() {
                let name = arg.get_long().unwrap_or_default();
                if taken.iter().any(|t| t.get_id() == arg.get_id() || contradict(definition, t, arg)) {
                    continue;
                }
                let value = match layer.checked_sub(1) {
                    None => self.variable_value(arg, name)?,
                    Some(at) => self.block_value(arg, name, at)?,
                };
                let Some((values, origin)) = value else { continue };
                added.extend(as_arguments(arg, name, &values));
                taken.push(arg);
                found.insert(name.to_owned(), Setting { name: name.to_owned(), values, origin });
            }
        }
        let settings = options()
            .map(|arg| {
                let name = arg.get_long().unwrap_or_default();
                found.remove(name).unwrap_or_else(|| given(matches, arg, name))
            })
            .collect();
        Ok((added, settings))
    }

    fn variable_value(&self, arg: &Arg, name: &str) -> Result<Option<(Vec<OsString>, Origin)>, Failure> {
        let variable = variable_of(name);
        let Some(value) = (self.variable)(&variable).filter(|v| !v.is_empty()) else { return Ok(None) };
        let values = match arg.get_action() {
            ArgAction::Append => {
                value.as_bytes().split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(to_os).collect()
            }
            _ => vec![value],
        };
        let values = checked(arg, values, &variable)?;
        Ok(Some((values, Origin::Variable(variable))))
    }

    fn block_value(
        &self,
        arg: &Arg,
        name: &str,
        at: usize,
    ) -> Result<Option<(Vec<OsString>, Origin)>, Failure> {
        let (table, block) = &self.blocks[at];
        let Some(value) = block.get(name) else { return Ok(None) };
        let at = format!("{}:{}", text::path(&self.file.path), value.line);
        let place = format!("{at}: {name}");
        if value.is_bool && takes_value(arg) {
            return Err(Failure::usage(format!("{place}: a value is needed, not true or false")));
        }
        if value.texts.len() != 1 && !matches!(arg.get_action(), ArgAction::Append) {
            return Err(Failure::usage(format!("{place}: one value is needed, not a list")));
        }
        let values = value.texts.iter().map(|text| with_home(text, self.variable)).collect();
        let values = checked(arg, values, &place)?;
        Ok(Some((values, Origin::File { at, table: table.clone() })))
    }
}

/// Whether both cannot be given together, whichever of them says so.
fn contradict(definition: &clap::Command, one: &Arg, other: &Arg) -> bool {
    let names =
        |a: &Arg, b: &Arg| definition.get_arg_conflicts_with(a).iter().any(|c| c.get_id() == b.get_id());
    names(one, other) || names(other, one)
}

fn is_option(arg: &Arg) -> bool {
    arg.get_long().is_some_and(|name| !NEVER.contains(&name))
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// The variable of an option: `--chunk-size` is `FULMAR_CHUNK_SIZE`.
pub fn variable_of(name: &str) -> String {
    format!("FULMAR_{}", name.replace('-', "_").to_ascii_uppercase())
}

fn to_os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// `~/` at the beginning is the home directory, as a shell would have it.
fn with_home(text: &str, variable: &impl Fn(&str) -> Option<OsString>) -> OsString {
    match (text.strip_prefix("~/"), variable("HOME")) {
        (Some(rest), Some(home)) => {
            let mut path = home;
            path.push("/");
            path.push(rest);
            path
        }
        _ => text.into(),
    }
}

/// Values of switches as `true` or a number; nothing for `false`.
fn checked(arg: &Arg, values: Vec<OsString>, place: &str) -> Result<Vec<OsString>, Failure> {
    if takes_value(arg) {
        return Ok(values);
    }
    let text = values.first().map(|v| v.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let count = matches!(arg.get_action(), ArgAction::Count);
    match text.as_str() {
        "1" | "true" | "yes" | "on" => Ok(vec!["true".into()]),
        "0" | "false" | "no" | "off" => Ok(vec!["false".into()]),
        n if count && n.parse::<u8>().is_ok_and(|n| n <= 9) => Ok(vec![n.into()]),
        _ => Err(Failure::usage(format!("{place}: `{}` is neither true nor false", text::one_line(&text)))),
    }
}

/// As it would be written on the command line.
fn as_arguments(arg: &Arg, name: &str, values: &[OsString]) -> Vec<OsString> {
    let switch = OsString::from(format!("--{name}"));
    if takes_value(arg) {
        return values
            .iter()
            .map(|value| {
                let mut whole = switch.clone();
                whole.push("=");
                whole.push(value);
                whole
            })
            .collect();
    }
    let times = match values.first().and_then(|v| v.to_str()) {
        Some("true") => 1,
        Some(n) => n.parse().unwrap_or(0),
        None => 0,
    };
    vec![switch; times]
}

/// What the command line says of an option, or its default.
fn given(matches: &ArgMatches, arg: &Arg, name: &str) -> Setting {
    let id = arg.get_id().as_str();
    let on_line = matches.value_source(id) == Some(ValueSource::CommandLine);
    let values = if takes_value(arg) {
        matches.get_raw(id).map(|raw| raw.map(OsStr::to_owned).collect()).unwrap_or_default()
    } else if matches!(arg.get_action(), ArgAction::Count) {
        vec![matches.get_count(id).to_string().into()]
    } else {
        vec![matches.get_flag(id).to_string().into()]
    };
    let origin = if on_line { Origin::Option } else { Origin::Default };
    Setting { name: name.to_owned(), values, origin }
}

/// The host in an address `HOST[:PORT][/PATH]`, if it can be the name of a table.
fn host_in(address: &OsStr) -> Option<String> {
    let bytes = address.as_bytes();
    let end = bytes.iter().position(|b| *b == b':' || *b == b'/').unwrap_or(bytes.len());
    let host = std::str::from_utf8(&bytes[..end]).ok()?;
    (!host.is_empty() && !host.starts_with('[')).then(|| host.to_owned())
}

/// The host that a command talks to.
fn host_of(command: &Command) -> Option<String> {
    match command {
        Command::Put(args) => args.paths.last().and_then(|a| host_in(a)),
        Command::Get(args) => args.paths.first().and_then(|a| host_in(a)),
        Command::Echo(args) => args.paths.last().and_then(|a| host_in(a)),
        Command::Ls(args) => host_in(&args.target),
        Command::Cp(args) => super::cp::grammar::remote_name(&args.paths),
        _ => None,
    }
}

/// Puts the address in the place of the alias.
fn rename_host(command: &mut Command, host: &str, address: &str) {
    let rename = |argument: &mut OsString| {
        if host_in(argument).as_deref() == Some(host) {
            *argument = renamed(argument, host, address);
        }
    };
    match command {
        Command::Put(args) => args.paths.last_mut().into_iter().for_each(rename),
        Command::Get(args) => {
            let sources = args.paths.len().saturating_sub(1);
            args.paths[..sources].iter_mut().for_each(rename);
        }
        Command::Echo(args) => args.paths.last_mut().into_iter().for_each(rename),
        Command::Ls(args) => rename(&mut args.target),
        _ => {}
    }
}

/// A port that was written beside the alias takes the place of that in the address.
fn renamed(argument: &OsStr, host: &str, address: &str) -> OsString {
    let rest = &argument.as_bytes()[host.len()..];
    let own_port = rest.first() == Some(&b':');
    let bare = match address.rsplit_once(':') {
        Some((bare, _)) if own_port && (!bare.contains(':') || bare.ends_with(']')) => bare,
        _ => address,
    };
    to_os(&[bare.as_bytes(), rest].concat())
}
