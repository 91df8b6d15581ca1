//! Role: reads config.toml: which value stands on which line, and what does not belong there.
//! Owns: nothing; a `File` is what was read.
//! Implements: "Configuration" of README.md.

use crate::cli::exit::Failure;
use crate::cli::text;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Names the file; an empty value means none.
pub const CONFIG_VARIABLE: &str = "FULMAR_CONFIG";
/// Largest file that is read: a thousand hosts.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Names are similar from here on (Jaro-Winkler); below, no suggestion is better than a silly one.
const MIN_SIMILARITY: f64 = 0.75;

/// A value and the line that it stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// As it would be written on the command line; several for an option that may be repeated.
    pub texts: Vec<String>,
    /// It was `true` or `false`.
    pub is_bool: bool,
    /// Line in the file, from 1.
    pub line: usize,
}

/// A table of options: their long names without the dashes.
pub type Block = BTreeMap<String, Value>;

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Where; for messages.
    pub path: PathBuf,
    /// `[defaults]`: for all client commands.
    pub defaults: Block,
    /// `[put]` and so on.
    pub commands: BTreeMap<String, Block>,
    /// `[host.NAME]`, with the `address`, if it has one.
    pub hosts: BTreeMap<String, (Option<String>, Block)>,
}

/// What may stand where.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Commands with their options' long names.
    pub commands: BTreeMap<String, Vec<String>>,
    /// Options of the commands that talk to a server.
    pub client: Vec<String>,
}

/// Where the file is: `FULMAR_CONFIG`, else below `XDG_CONFIG_HOME`, else `~/.config`.
pub fn path(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    if let Some(path) = variable(CONFIG_VARIABLE) {
        return (!path.is_empty()).then(|| path.into());
    }
    // The XDG base directory specification: a relative path there is to be ignored.
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(base.join("fulmar/config.toml"))
}

/// Reads the file; none is as good as an empty one, unless it was named.
pub fn read(path: &Path, named: bool, known: &Known) -> Result<File, Failure> {
    let fail = |why: String| Failure::usage(format!("cannot read {}: {why}", text::path(path)));
    let meta = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !named => return Ok(File::default()),
        other => other.map_err(|e| fail(text::io_error(&e)))?,
    };
    if meta.len() > MAX_CONFIG_BYTES {
        return Err(fail(format!("it is longer than {MAX_CONFIG_BYTES} bytes")));
    }
    let content = std::fs::read_to_string(path).map_err(|e| fail(text::io_error(&e)))?;
    parse(path, &content, known)
}

/// Understands the text of a file.
pub fn parse(path: &Path, content: &str, known: &Known) -> Result<File, Failure> {
    let reader = Reader { path, content, known };
    let table = DeTable::parse(content).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        reader.complain(at, e.message())
    })?;
    reader.file(table.get_ref())
}

struct Reader<'a> {
    path: &'a Path,
    content: &'a str,
    known: &'a Known,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        1 + self.content.as_bytes().iter().take(at).filter(|b| **b == b'\n').count()
    }

    fn complain(&self, at: usize, what: &str) -> Failure {
        Failure::usage(format!("{}:{}: {}", text::path(self.path), self.line(at), text::one_line(what)))
    }

    fn file(&self, table: &DeTable<'_>) -> Result<File, Failure> {
        let mut file = File { path: self.path.to_owned(), ..File::default() };
        for (name, value) in table {
            let (at, key) = (name.span().start, name.get_ref().as_ref());
            let DeValue::Table(inner) = value.get_ref() else {
                let what = format!(
                    "`{key}` stands outside of any table: put it below [defaults], [put] or [host.NAME]"
                );
                return Err(self.complain(at, &what));
            };
            match key {
                "defaults" => file.defaults = self.block(inner, &self.known.client)?,
                "host" => {
                    for (host, value) in inner {
                        let DeValue::Table(block) = value.get_ref() else {
                            let what =
                                format!("`{}` stands in [host]: write [host.NAME] above it", host.get_ref());
                            return Err(self.complain(host.span().start, &what));
                        };
                        let found = self.host(block)?;
                        file.hosts.insert(host.get_ref().as_ref().to_owned(), found);
                    }
                }
                command => match self.known.commands.get(command) {
                    Some(options) => {
                        let block = self.block(inner, options)?;
                        file.commands.insert(command.to_owned(), block);
                    }
                    None => {
                        let names =
                            self.known.commands.keys().map(String::as_str).chain(["defaults", "host.NAME"]);
                        return Err(self.unknown(at, &format!("table [{command}]"), command, names));
                    }
                },
            }
        }
        Ok(file)
    }

    fn host(&self, table: &DeTable<'_>) -> Result<(Option<String>, Block), Failure> {
        let mut known = self.known.client.clone();
        known.push("address".into());
        let mut block = self.block(table, &known)?;
        let address = match block.remove("address") {
            Some(value) if value.is_bool || value.texts.len() != 1 || value.texts[0].contains('/') => {
                let what = "address: write \"HOST\" or \"HOST:PORT\"";
                return Err(Failure::usage(format!("{}:{}: {what}", text::path(self.path), value.line)));
            }
            other => other.and_then(|value| value.texts.into_iter().next()),
        };
        Ok((address, block))
    }

    fn block(&self, table: &DeTable<'_>, known: &[String]) -> Result<Block, Failure> {
        let mut block = Block::new();
        for (name, value) in table {
            let (at, key) = (name.span().start, name.get_ref().as_ref());
            if matches!(key, "key" | "password" | "secret") {
                let what = format!(
                    "`{key}`: keys do not belong here; name the file that holds it: key-file = \"...\""
                );
                return Err(self.complain(at, &what));
            }
            if !known.iter().any(|k| k == key) {
                return Err(self.unknown(at, &format!("key `{key}`"), key, known.iter().map(String::as_str)));
            }
            block.insert(key.to_owned(), self.value(key, value)?);
        }
        Ok(block)
    }

    fn value(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Value, Failure> {
        let line = self.line(value.span().start);
        let one = |value: &DeValue<'_>| match value {
            DeValue::String(text) => Some(text.as_ref().to_owned()),
            DeValue::Integer(n) => Some(n.to_string().replace('_', "")),
            DeValue::Float(n) => Some(n.to_string().replace('_', "")),
            _ => None,
        };
        let is_bool = matches!(value.get_ref(), DeValue::Boolean(_));
        let texts = match value.get_ref() {
            DeValue::Boolean(on) => Some(vec![on.to_string()]),
            DeValue::Array(list) => list.iter().map(|item| one(item.get_ref())).collect(),
            single => one(single).map(|text| vec![text]),
        };
        let what = format!("{key}: a text, a number, true, false, or a list of texts is needed");
        let texts = texts.ok_or_else(|| self.complain(value.span().start, &what))?;
        Ok(Value { texts, is_bool, line })
    }

    fn unknown<'a>(
        &self,
        at: usize,
        what: &str,
        name: &str,
        known: impl Iterator<Item = &'a str>,
    ) -> Failure {
        let near = known
            .map(|k| (strsim::jaro_winkler(name, k), k))
            .filter(|(score, _)| *score >= MIN_SIMILARITY)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = near.map_or_else(
            || "; `fulmar config show` lists what there is".to_owned(),
            |(_, k)| format!("; did you mean `{k}`?"),
        );
        self.complain(at, &format!("unknown {what}{hint}"))
    }
}
