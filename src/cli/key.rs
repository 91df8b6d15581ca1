//! Role: where the shared secret comes from: a file, the environment, a prompt, or the server's own key.
//! Owns: the server's key file in the user's state directory.
//! Implements: "Keys" of `fulmar --help`.

use super::args::KeyArgs;
use super::exit::{self, Failure};
use super::{paths, terminal, text};
use crate::endpoint::config::Secret;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Names the key file when `--key-file` does not.
pub const KEY_FILE_VARIABLE: &str = "FULMAR_KEY_FILE";
/// Bytes of a generated key, before hexadecimal: the strength of the ciphers.
const KEY_BYTES: usize = 32;
/// Longest key or password that is read: far above any password, and small enough to read whole.
const MAX_KEY_FILE_BYTES: usize = 4096;

/// The secret of a client.
pub fn client_secret(args: &KeyArgs, host: &str) -> Result<Secret, Failure> {
    if let Some(secret) = given_secret(args)? {
        return Ok(secret);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "no key for {host}: give --key-file FILE or set {KEY_FILE_VARIABLE} (on a terminal fulmar would ask)"
        )));
    }
    let typed =
        rpassword::prompt_password(format!("Key of {host}: ")).map(Zeroizing::new).map_err(|error| {
            Failure::usage(format!(
                "cannot ask for the key of {host}: {}; give --key-file FILE or set {KEY_FILE_VARIABLE}",
                text::io_error(&error)
            ))
        })?;
    if typed.is_empty() {
        return Err(Failure::usage(format!("the key of {host} is empty: type a key or password")));
    }
    Ok(Secret::Key(Zeroizing::new(typed.as_bytes().to_vec())))
}

/// The secret of a server, which makes its own key if none is given; then the path of that is returned too.
pub fn server_secret(args: &KeyArgs) -> Result<(Secret, Option<PathBuf>), Failure> {
    if let Some(secret) = given_secret(args)? {
        return Ok((secret, None));
    }
    let path = own_key_path(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"))?;
    if !path.exists() {
        make_own_key(&path)?;
    }
    Ok((Secret::Key(read_key_file(&path)?), Some(path)))
}

/// Prints the server's own key, and the line to paste on the client.
pub fn announce(secret: &Secret, path: &Path) {
    let Secret::Key(key) = secret else { return };
    let shown = Zeroizing::new(text::bytes(key));
    terminal::stderr_line(&format!("key (kept in {}): {}", text::path(path), *shown));
    terminal::stderr_line(
        "paste it when the client asks, or paste this line there and use --key-file fulmar.key:",
    );
    terminal::stderr_line(&format!("  (umask 077; echo {} > fulmar.key)", *shown));
}

/// What the options and the environment say.
fn given_secret(args: &KeyArgs) -> Result<Option<Secret>, Failure> {
    if args.insecure {
        return Ok(Some(Secret::Insecure));
    }
    let from_environment =
        || std::env::var_os(KEY_FILE_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    match args.key_file.clone().or_else(from_environment) {
        Some(path) => Ok(Some(Secret::Key(read_key_file(&path)?))),
        None => Ok(None),
    }
}

/// A key that is new: 64 hexadecimal digits.
pub fn generate() -> Result<Zeroizing<String>, Failure> {
    let mut raw = Zeroizing::new([0u8; KEY_BYTES]);
    getrandom::fill(raw.as_mut_slice()).map_err(|error| {
        Failure::new(exit::OTHER, format!("the system's random number generator failed: {error}"))
    })?;
    Ok(Zeroizing::new(text::hex(raw.as_slice())))
}

/// Writes a key to a file that must not exist yet, mode 0600, synced.
pub fn write_new(path: &Path, key: &str) -> Result<(), Failure> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
            if error.kind() == ErrorKind::AlreadyExists {
                Failure::new(
                    exit::REFUSED,
                    format!("{} exists already and is not overwritten: remove it first", text::path(path)),
                )
            } else {
                Failure::io("create", path, &error)
            }
        })?;
    let line = Zeroizing::new(format!("{key}\n"));
    let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a key is worse than none.
        let _ = std::fs::remove_file(path);
        Failure::io("write", path, &error)
    })
}

/// Where the server's own key lives.
fn own_key_path(
    state_home: Option<std::ffi::OsString>,
    home: Option<std::ffi::OsString>,
) -> Result<PathBuf, Failure> {
    paths::state_directory(state_home, home).map(|state| state.join("server.key")).ok_or_else(|| {
        Failure::usage("no place for the server's own key, since HOME is not set: give --key-file FILE")
    })
}

/// Makes the server's own key appear whole, or not at all; whoever comes second uses the first one's.
fn make_own_key(path: &Path) -> Result<(), Failure> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| Failure::io("create", directory, &error))?;
    let key = generate()?;
    let unique = generate()?;
    let fresh = directory.join(format!("server.key.{}", &unique[..16]));
    write_new(&fresh, &key)?;
    let linked = std::fs::hard_link(&fresh, path);
    let _ = std::fs::remove_file(&fresh);
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Failure::io("create", path, &error)),
        _ => Ok(()),
    }
}

/// Reads a key file: one line, without its end.
fn read_key_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let shown = text::path(path);
    let unreadable = |error: std::io::Error| {
        let hint = match error.kind() {
            ErrorKind::NotFound => "; make one with `fulmar keygen`, or copy the server's",
            _ => "",
        };
        Failure::usage(format!("cannot read the key file {shown}: {}{hint}", text::io_error(&error)))
    };
    let file = File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if meta.is_dir() {
        return Err(Failure::usage(format!("cannot read the key file {shown}: it is a directory")));
    }
    // Read by group or others; pipes and devices have no mode that means anything.
    if meta.is_file() && meta.mode() & 0o044 != 0 {
        log::warn!("the key file {shown} can be read by other users: run chmod 600 on it");
    }
    let mut raw = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE_BYTES + 1));
    file.take(MAX_KEY_FILE_BYTES as u64 + 1).read_to_end(&mut raw).map_err(unreadable)?;
    if raw.len() > MAX_KEY_FILE_BYTES {
        return Err(Failure::usage(format!(
            "the key file {shown} is longer than {MAX_KEY_FILE_BYTES} bytes: it must hold one line, the key"
        )));
    }
    one_line(&raw).map_err(|why| Failure::usage(format!("the key file {shown} {why}")))
}

/// The only line of a key file.
fn one_line(raw: &[u8]) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let is_end = |b: &u8| *b == b'\n' || *b == b'\r';
    let end = raw.iter().rposition(|b| !is_end(b)).map_or(0, |last| last + 1);
    let line = &raw[..end];
    if line.iter().all(|b| b.is_ascii_whitespace()) {
        return Err("is empty: it must hold one line, a key or password");
    }
    if line.iter().any(is_end) {
        return Err("has several lines: it must hold one, a key or password");
    }
    Ok(Zeroizing::new(line.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn args(path: &Path) -> KeyArgs {
        KeyArgs { key_file: Some(path.to_owned()), insecure: false }
    }

    fn key_of(secret: Secret) -> Vec<u8> {
        match secret {
            Secret::Key(key) => key.to_vec(),
            Secret::Insecure => panic!("a key was expected"),
        }
    }

    #[test]
    fn a_key_is_the_line_without_its_end() {
        for raw in [&b"pass word"[..], b"pass word\n", b"pass word\r\n", b"pass word\n\n"] {
            assert_eq!(one_line(raw).expect("valid").as_slice(), b"pass word");
        }
        assert_eq!(one_line(b" x ").expect("valid").as_slice(), b" x ");
        assert!(one_line(b"").is_err());
        assert!(one_line(b"\n").is_err());
        assert!(one_line(b" \t\n").is_err());
        assert!(one_line(b"a\nb\n").is_err());
    }

    #[test]
    fn bad_key_files_are_usage_errors_that_name_the_file() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("key");
        for (content, expected) in [
            (None, "fulmar keygen"),
            (Some(String::new()), "is empty"),
            (Some("a\nb".into()), "several lines"),
            (Some("x".repeat(4097)), "longer than 4096"),
        ] {
            if let Some(content) = content {
                std::fs::write(&path, content).expect("written");
            }
            let failure = client_secret(&args(&path), "h").expect_err(expected);
            assert_eq!(failure.exit_code, 2);
            assert!(failure.message.contains(expected), "{}", failure.message);
            assert!(failure.message.contains(&text::path(&path)));
        }
        assert!(client_secret(&args(dir.path()), "h").expect_err("dir").message.contains("is a directory"));
    }

    #[test]
    fn generated_keys_are_private_and_never_overwritten() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("key");
        let key = generate().expect("random");
        assert_eq!(key.len(), 64);
        assert_ne!(*key, *generate().expect("random"));
        write_new(&path, &key).expect("new");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o600);
        assert_eq!(key_of(client_secret(&args(&path), "h").expect("read")), key.as_bytes());
        let failure = write_new(&path, "other").expect_err("exists");
        assert_eq!(failure.exit_code, 5);
        assert_eq!(std::fs::read_to_string(&path).expect("there"), format!("{}\n", *key));
    }

    #[test]
    fn the_servers_own_key_is_made_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = own_key_path(Some(dir.path().join("state").into()), None).expect("absolute");
        assert_eq!(path, dir.path().join("state/fulmar/server.key"));
        make_own_key(&path).expect("made");
        let first = read_key_file(&path).expect("read");
        assert_eq!(first.len(), 64);
        make_own_key(&path).expect("a second one is no error");
        assert_eq!(*read_key_file(&path).expect("read"), *first);
        let parent = path.parent().expect("has one");
        assert_eq!(std::fs::read_dir(parent).expect("there").count(), 1);
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::metadata(parent).expect("there").permissions().mode() & 0o7777, 0o700);
    }

    #[test]
    fn the_state_directory_follows_the_xdg_rules() {
        let at = |state: Option<&str>, home: Option<&str>| {
            own_key_path(state.map(Into::into), home.map(Into::into))
        };
        assert_eq!(at(None, Some("/h")), Ok("/h/.local/state/fulmar/server.key".into()));
        assert_eq!(at(Some("relative"), Some("/h")), Ok("/h/.local/state/fulmar/server.key".into()));
        assert_eq!(at(Some("/s"), Some("/h")), Ok("/s/fulmar/server.key".into()));
        assert_eq!(at(None, None).expect_err("nowhere").exit_code, 2);
    }
}
