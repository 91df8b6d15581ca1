//! Role: what SRC and DEST are: paths here, or `[user@]host:path`; and which side is remote. Pure functions.
//! Owns: nothing.
//! Implements: the operand grammar of `fulmar cp --help`.

use crate::cli::exit::Failure;
use crate::cli::text;
use std::ffi::{OsStr, OsString};
use std::net::Ipv6Addr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Characters that no host or user name has, and that a shell would read if ssh's configuration passes the name to one
/// (`ProxyCommand`, `Match exec`); ssh itself refuses them too.
const FORBIDDEN: &[u8] = b"'\"`$\\;&<>|(){}";

/// Somebody's account on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Without it, ssh decides.
    pub user: Option<String>,
    /// A name, an address, or an alias of ssh's configuration; IPv6 without brackets.
    pub name: String,
}

impl Host {
    /// As ssh takes it: `user@host`.
    pub fn destination(&self) -> String {
        match &self.user {
            Some(user) => format!("{user}@{}", self.name),
            None => self.name.clone(),
        }
    }
}

/// One SRC or DEST.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    Local(OsString),
    Remote(Host, Vec<u8>),
}

/// What is copied where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// From here to there.
    Upload {
        /// Paths here.
        sources: Vec<OsString>,
        /// There.
        host: Host,
        /// Path there, as written; empty is the home directory.
        dest: Vec<u8>,
    },
    /// From there to here.
    Download {
        /// There.
        host: Host,
        /// Paths and patterns there, as written.
        sources: Vec<Vec<u8>>,
        /// Path here.
        dest: OsString,
    },
}

/// Sorts the operands out. `dest` is the last one.
pub fn plan(sources: &[OsString], dest: &OsStr) -> Result<Plan, Failure> {
    let dest = operand(dest)?;
    let sources = sources.iter().map(|s| operand(s)).collect::<Result<Vec<_>, _>>()?;
    match dest {
        Operand::Remote(host, dest) => {
            let mut local = Vec::with_capacity(sources.len());
            for source in sources {
                match source {
                    Operand::Local(path) => local.push(path),
                    Operand::Remote(other, _) => {
                        return Err(Failure::usage(format!(
                            "both {} and {} are remote: copy to here first, or run fulmar cp on one of them",
                            text::bytes(other.name.as_bytes()),
                            text::bytes(host.name.as_bytes())
                        )));
                    }
                }
            }
            Ok(Plan::Upload { sources: local, host, dest })
        }
        Operand::Local(dest) => {
            let mut host: Option<Host> = None;
            let mut paths = Vec::with_capacity(sources.len());
            for source in sources {
                match (source, &host) {
                    (Operand::Local(path), _) => return Err(nothing_remote(&path, host.is_some())),
                    (Operand::Remote(of, path), None) => {
                        host = Some(of);
                        paths.push(path);
                    }
                    (Operand::Remote(of, path), Some(first)) if of == *first => paths.push(path),
                    (Operand::Remote(of, _), Some(first)) => {
                        return Err(Failure::usage(format!(
                            "all remote sources of one copy must be of one host, but {} is not {}: run one cp for each",
                            text::bytes(of.destination().as_bytes()),
                            text::bytes(first.destination().as_bytes())
                        )));
                    }
                }
            }
            let host = host.ok_or_else(|| Failure::usage("nothing to copy: name SRC and DEST"))?;
            Ok(Plan::Download { host, sources: paths, dest })
        }
    }
}

/// The host that operands name, as far as one can be told; for its settings.
pub fn remote_name(operands: &[OsString]) -> Option<String> {
    operands.iter().rev().find_map(|argument| match operand(argument) {
        Ok(Operand::Remote(host, _)) => Some(host.name),
        _ => None,
    })
}

fn nothing_remote(path: &OsStr, mixed: bool) -> Failure {
    let shown = text::bytes(path.as_bytes());
    Failure::usage(if mixed {
        format!("`{shown}` is here and other sources are remote, but DEST is here: use cp for what is here")
    } else {
        format!("`{shown}` and DEST are both here: use cp, or write the remote one as host:path")
    })
}

/// A colon before the first slash makes it remote, as with scp. `./a:b` is local, and so is `:a`.
fn operand(argument: &OsStr) -> Result<Operand, Failure> {
    let raw = argument.as_bytes();
    if raw.is_empty() {
        return Err(Failure::usage("an operand is empty: check the quoting"));
    }
    let local = || Ok(Operand::Local(OsString::from_vec(raw.to_vec())));
    let Some((authority, path)) = split_host(raw) else { return local() };
    let shown = text::bytes(raw);
    let bad = |why: &str| Failure::usage(format!("`{shown}`: {why}; write [user@]host:path"));
    if path.starts_with(b"//") && matches!(authority, b"scp" | b"ssh" | b"sftp" | b"rsync" | b"file") {
        return Err(bad("an address with a scheme is not understood"));
    }
    let authority = std::str::from_utf8(authority).map_err(|_| bad("the host is not UTF-8"))?;
    // A user name may contain an @, a host name never does.
    let (user, name) = match authority.rsplit_once('@') {
        Some((user, name)) => (Some(user), name),
        None => (None, authority),
    };
    let name = match name.strip_prefix('[') {
        Some(rest) => {
            let inner = rest.strip_suffix(']').ok_or_else(|| bad("the closing ] is missing"))?;
            let address = inner.split_once('%').map_or(inner, |(address, _zone)| address);
            address.parse::<Ipv6Addr>().map_err(|_| bad("what is in brackets is not an IPv6 address"))?;
            inner
        }
        None => name,
    };
    for (part, what) in [(user.unwrap_or("x"), "user"), (name, "host")] {
        check(part).map_err(|why| bad(&format!("the {what} name {why}")))?;
    }
    Ok(Operand::Remote(Host { user: user.map(Into::into), name: name.into() }, path.to_vec()))
}

/// Splits at the colon that ends the host, if there is one.
fn split_host(raw: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut in_brackets = false;
    for (at, byte) in raw.iter().enumerate() {
        match byte {
            b'[' if at == 0 || raw[at - 1] == b'@' => in_brackets = true,
            b']' => in_brackets = false,
            b'/' => return None,
            b':' if at == 0 => return None,
            b':' if !in_brackets => return Some((&raw[..at], &raw[at + 1..])),
            _ => {}
        }
    }
    None
}

fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("is missing")
    } else if name.starts_with('-') {
        Err("begins with a dash")
    } else if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        Err("contains white space")
    } else if name.bytes().any(|b| FORBIDDEN.contains(&b)) {
        Err("contains a character that no such name has")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(user: Option<&str>, name: &str) -> Host {
        Host { user: user.map(Into::into), name: name.into() }
    }

    fn parse(text: &str) -> Result<Operand, Failure> {
        operand(OsStr::new(text))
    }

    fn planned(words: &[&str]) -> Result<Plan, Failure> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let (dest, sources) = words.split_last().expect("some");
        plan(sources, dest)
    }

    #[test]
    fn operands_are_told_apart_as_scp_does() {
        let remote = [
            ("h:", None, "h", ""),
            ("h:a", None, "h", "a"),
            ("h:/a b", None, "h", "/a b"),
            ("u@h:~/x", Some("u"), "h", "~/x"),
            ("u@dom@h:x", Some("u@dom"), "h", "x"),
            ("h:a:b", None, "h", "a:b"),
            ("[::1]:x", None, "::1", "x"),
            ("u@[fe80::1%eth0]:x", Some("u"), "fe80::1%eth0", "x"),
            ("h:[x]", None, "h", "[x]"),
            ("h:-rf", None, "h", "-rf"),
        ];
        for (text, user, name, path) in remote {
            assert_eq!(parse(text), Ok(Operand::Remote(host(user, name), path.into())), "{text}");
        }
        for text in ["a", "/a:b", "./a:b", ":a", "a/b:c", "[a", "-x", "~/a:b"] {
            assert_eq!(parse(text), Ok(Operand::Local(text.into())), "{text}");
        }
    }

    #[test]
    fn path_bytes_need_not_be_utf8() {
        let got = operand(OsStr::from_bytes(b"h:\xff\n")).expect("valid");
        assert_eq!(got, Operand::Remote(host(None, "h"), b"\xff\n".to_vec()));
    }

    #[test]
    fn what_could_be_an_option_or_a_command_is_no_host() {
        let cases = [
            ("", "empty"),
            ("-oProxyCommand=x:a", "dash"),
            ("u@-x:a", "dash"),
            ("-u@h:a", "dash"),
            ("$(id):a", "no such name has"),
            ("h;id:a", "no such name has"),
            ("h`id`:a", "no such name has"),
            ("a b:c", "white space"),
            ("a\nb:c", "white space"),
            ("@h:a", "user name is missing"),
            ("u@:a", "host name is missing"),
            ("[h]:a", "not an IPv6"),
            ("[::1]x:a", "closing ]"),
            ("scp://h/a", "scheme"),
        ];
        for (text, expected) in cases {
            let failure = parse(text).expect_err(text);
            assert_eq!(failure.exit_code, 2, "{text}");
            assert!(failure.message.contains(expected), "{text}: {}", failure.message);
            assert!(!failure.message.contains('\n'));
        }
    }

    #[test]
    fn exactly_one_side_is_remote() {
        let up = planned(&["a", "b", "u@h:x"]).expect("valid");
        assert_eq!(
            up,
            Plan::Upload {
                sources: vec!["a".into(), "b".into()],
                host: host(Some("u"), "h"),
                dest: b"x".to_vec()
            }
        );
        let down = planned(&["h:a", "h:b*", "."]).expect("valid");
        let sources = vec![b"a".to_vec(), b"b*".to_vec()];
        assert_eq!(down, Plan::Download { host: host(None, "h"), sources, dest: ".".into() });
        for (words, expected) in [
            (&["a", "b"][..], "use cp"),
            (&["h:a", "h:b"], "both h and h are remote"),
            (&["a", "h:a", "g:b"], "both h and g are remote"),
            (&["h:a", "g:b", "."], "one host"),
            (&["h:a", "u@h:b", "."], "one host"),
            (&["h:a", "b", "."], "use cp"),
        ] {
            let failure = planned(words).expect_err("no plan");
            assert_eq!(failure.exit_code, 2);
            assert!(failure.message.contains(expected), "{}", failure.message);
        }
    }
}
