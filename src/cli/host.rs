//! Role: `HOST[:PORT][/PATH]`: parsing, and name resolution.
//! Owns: nothing.
//! Implements: the host grammar of `fulmar --help`.

use super::exit::{self, Failure};
use super::text;
use std::ffi::OsStr;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;

/// Port when none is given. From the range that IANA leaves for users; nothing common listens there.
pub const DEFAULT_PORT: u16 = 5770;

/// Which address families may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Either, in the order of the resolver.
    #[default]
    Any,
    /// `-4`
    V4,
    /// `-6`
    V6,
}

/// A parsed `HOST[:PORT][/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name, IPv4 address or IPv6 address (without brackets).
    pub host: String,
    /// UDP port.
    pub port: u16,
    /// Path below the served directory, `/`-separated without empty or `.` components; empty: the directory itself.
    pub path: Vec<u8>,
    /// The path was written with a trailing slash, or is empty: it names a directory.
    pub is_dir: bool,
}

impl Target {
    /// Parses what the user wrote. The path's bytes need not be UTF-8.
    pub fn parse(argument: &OsStr) -> Result<Self, Failure> {
        let raw = argument.as_bytes();
        let shown = text::bytes(raw);
        let bad = |why: &str| Failure::usage(format!("'{shown}': {why}; write HOST[:PORT][/PATH]"));
        let cut = raw.iter().position(|b| *b == b'/').unwrap_or(raw.len());
        let (authority, path) = raw.split_at(cut);
        if authority.ends_with(b":") && path.starts_with(b"//") {
            return Err(bad("a scheme is not part of an address here, leave it off"));
        }
        let authority = std::str::from_utf8(authority).map_err(|_| bad("the host is not UTF-8"))?;
        if authority.contains('@') {
            return Err(bad("there are no user names in fulmar addresses, leave the part before '@' off"));
        }
        let (host, port) = split_port(authority).map_err(|why| bad(&why))?;
        let (path, is_dir) = normalise(path);
        Ok(Self { host, port, path, is_dir })
    }

    /// `host:port`, with brackets around IPv6.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// True if both name the same server.
    pub fn same_host(&self, other: &Self) -> bool {
        self.port == other.port && self.host.eq_ignore_ascii_case(&other.host)
    }

    /// All addresses of the host in the family asked for, in the resolver's order. Exit code 3 if there are none.
    pub fn resolve(&self, family: Family) -> Result<Vec<SocketAddr>, Failure> {
        let found = (self.host.as_str(), self.port).to_socket_addrs().map_err(|error| {
            Failure::new(
                exit::UNREACHABLE,
                format!(
                    "cannot find the address of host '{}': {}; check the name",
                    text::bytes(self.host.as_bytes()),
                    text::io_error(&error)
                ),
            )
        })?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in found {
            let wanted = match family {
                Family::Any => true,
                Family::V4 => address.is_ipv4(),
                Family::V6 => address.is_ipv6(),
            };
            if wanted && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            let (kind, option) = if family == Family::V6 { ("IPv6", "-6") } else { ("IPv4", "-4") };
            return Err(Failure::new(
                exit::UNREACHABLE,
                format!(
                    "host '{}' has no {kind} address; leave {option} off",
                    text::bytes(self.host.as_bytes())
                ),
            ));
        }
        Ok(addresses)
    }
}

/// Splits `HOST[:PORT]`.
fn split_port(authority: &str) -> Result<(String, u16), String> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the closing ']' of the IPv6 address is missing")?;
        let address = host.split_once('%').map_or(host, |(address, _zone)| address);
        address.parse::<Ipv6Addr>().map_err(|_| format!("'{host}' is not an IPv6 address"))?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err(format!("'{after}' after the ']' is not a port")),
        }
    } else if authority.matches(':').count() > 1 {
        return Err("an IPv6 address needs brackets, as in [::1] or [::1]:5770".into());
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    if host.is_empty() {
        return Err("the host is missing".into());
    }
    if let Some(c) = host.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("the host contains {c:?}"));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(text) => match text.parse::<u16>() {
            // `parse` takes a leading plus sign.
            Ok(port) if port != 0 && !text.starts_with('+') => port,
            _ => return Err(format!("'{text}' is not a port (1 to 65535)")),
        },
    };
    Ok((host.to_owned(), port))
}

/// Drops empty and `.` components. The flag tells whether the path was written as a directory's.
/// `..` stays: it is for the server to refuse.
fn normalise(path: &[u8]) -> (Vec<u8>, bool) {
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    let is_dir = parts.last().is_none_or(|last| last.is_empty() || *last == b"." || *last == b"..");
    let kept: Vec<&[u8]> = parts.into_iter().filter(|p| !p.is_empty() && *p != b".").collect();
    let joined = kept.join(&b'/');
    let is_dir = is_dir || joined.is_empty();
    (joined, is_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, Failure> {
        Target::parse(OsStr::new(text))
    }

    fn target(host: &str, port: u16, path: &str, is_dir: bool) -> Target {
        Target { host: host.into(), port, path: path.into(), is_dir }
    }

    #[test]
    fn accepts_names_addresses_ports_and_paths() {
        let cases = [
            ("host", target("host", 5770, "", true)),
            ("host/", target("host", 5770, "", true)),
            ("host:99", target("host", 99, "", true)),
            ("host:65535/a", target("host", 65535, "a", false)),
            ("host/a/b", target("host", 5770, "a/b", false)),
            ("host/a/b/", target("host", 5770, "a/b", true)),
            ("host//a/./b//", target("host", 5770, "a/b", true)),
            ("host/a/.", target("host", 5770, "a", true)),
            ("host/a/..", target("host", 5770, "a/..", true)),
            ("host/a:b", target("host", 5770, "a:b", false)),
            ("10.0.0.1:5/x y", target("10.0.0.1", 5, "x y", false)),
            ("[::1]", target("::1", 5770, "", true)),
            ("[::1]:77/p", target("::1", 77, "p", false)),
            ("[fe80::1%eth0]:77", target("fe80::1%eth0", 77, "", true)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn path_bytes_need_not_be_utf8() {
        let target = Target::parse(OsStr::from_bytes(b"h/\xff\xfe/x")).expect("valid");
        assert_eq!(target.path, b"\xff\xfe/x");
        assert!(Target::parse(OsStr::from_bytes(b"\xff/x")).is_err());
    }

    #[test]
    fn refuses_what_it_cannot_mean() {
        let cases = [
            ("", "host is missing"),
            ("/a", "host is missing"),
            (":80", "host is missing"),
            ("host:", "not a port"),
            ("host:0", "not a port"),
            ("host:65536", "not a port"),
            ("host:+5", "not a port"),
            ("host:x/y", "not a port"),
            ("::1", "needs brackets"),
            ("[::1", "closing ']'"),
            ("[::1]77", "not a port"),
            ("[host]", "not an IPv6 address"),
            ("udp://host/a", "scheme"),
            ("me@host/a", "user names"),
            ("ho st", "contains ' '"),
        ];
        for (text, expected) in cases {
            let failure = parse(text).expect_err(text);
            assert_eq!(failure.exit_code, 2, "{text}");
            assert!(failure.message.contains(expected), "{text}: {}", failure.message);
            assert!(!failure.message.contains('\n'));
        }
    }

    #[test]
    fn resolves_literals_and_filters_families() {
        let v4 = parse("127.0.0.1:7").expect("valid");
        assert_eq!(v4.resolve(Family::Any), Ok(vec!["127.0.0.1:7".parse().expect("valid")]));
        assert_eq!(v4.resolve(Family::V6).expect_err("no IPv6").exit_code, 3);
        let v6 = parse("[::1]").expect("valid");
        assert_eq!(v6.resolve(Family::V6), Ok(vec!["[::1]:5770".parse().expect("valid")]));
        assert_eq!(v6.resolve(Family::V4).expect_err("no IPv4").exit_code, 3);
        assert_eq!(v6.authority(), "[::1]:5770");
    }

    #[test]
    fn hosts_compare_without_case() {
        let one = parse("Host/a").expect("valid");
        assert!(one.same_host(&parse("host:5770/b").expect("valid")));
        assert!(!one.same_host(&parse("host:5771/b").expect("valid")));
    }
}
