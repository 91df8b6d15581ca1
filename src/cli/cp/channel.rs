//! Role: what both sides of a copy say to each other through ssh before datagrams flow.
//! Owns: nothing; messages, and how they are framed.
//! Implements: docs/SSH.md, "The channel".

use super::place::Shape;
use crate::net::stream::{FRAME_HEADER_BYTES, KIND_MESSAGE, MAX_FRAME_BYTES, frame_header, parse_header};
use crate::transfer::job::{StoreError, StoreErrorKind};
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read, Write};
use zeroize::Zeroizing;

/// What both sides must have in common. Raised when an older side would misunderstand a newer one.
pub const VERSION: u32 = 1;
/// Comes before the first frame from the remote side. Whatever a login shell prints before it is passed over; the NUL
/// keeps text from looking like it.
pub const GREETING: &[u8] = b"\0fulmar serve --once\n";
/// What a login shell may print before the greeting; own choice, far above any message of the day.
pub const MAX_NOISE_BYTES: usize = 256 * 1024;

/// Bytes in a message: text where they are UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// They are UTF-8.
    Text(String),
    /// They are not.
    Raw(Vec<u8>),
}

impl From<&[u8]> for Bytes {
    fn from(raw: &[u8]) -> Self {
        match std::str::from_utf8(raw) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Raw(raw.to_vec()),
        }
    }
}

impl Bytes {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Raw(raw) => raw,
        }
    }
}

/// From the local side: all that the remote side needs to know.
#[derive(Clone, Serialize, Deserialize)]
pub struct Ask {
    /// `VERSION`; the only field that every version has.
    pub version: u32,
    /// The key of this copy.
    pub key: String,
    /// What to do.
    pub work: Work,
    /// Ports that may be bound, the first and the last one.
    pub ports: Option<(u16, u16)>,
    /// IPv4 only.
    pub ipv4: bool,
    /// IPv6 only.
    pub ipv6: bool,
    /// Nobody needs to be waited for longer than this, in milliseconds.
    pub wait_ms: u64,
    /// How to use the link.
    pub link: LinkWishes,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is nobody's business.
        f.debug_struct("Ask")
            .field("version", &self.version)
            .field("work", &self.work)
            .finish_non_exhaustive()
    }
}

/// Which way, and with what.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Send these.
    Send {
        /// Paths and patterns, as the user wrote them.
        sources: Vec<Bytes>,
        /// Directories too.
        recursive: bool,
    },
    /// Send what a list names.
    SendListed {
        /// The directory that the names are relative to, as the user wrote it.
        base: Bytes,
        /// Clean relative paths, which are kept; no patterns.
        names: Vec<Bytes>,
        /// Directories too.
        recursive: bool,
    },
    /// Receive.
    Receive {
        /// The path, as the user wrote it.
        dest: Bytes,
        /// Of the sources.
        shape: Shape,
        /// Replace files that are there.
        overwrite: bool,
        /// Start every file anew.
        no_resume: bool,
    },
}

/// The options of the same names, as the user wrote them; the local side has checked them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LinkWishes {
    /// `--limit`
    pub limit: Option<String>,
    /// `--window`
    pub window: Option<String>,
    /// `--cc`
    pub cc: Option<String>,
    /// `--rate`
    pub rate: Option<String>,
    /// `--timeout`
    pub timeout: Option<String>,
}

/// From the remote side.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The port is open.
    Ready(Ready),
    /// It cannot be done.
    Failed {
        /// For the process.
        exit_code: u8,
        /// One sentence.
        message: String,
    },
}

/// The other side is ready.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ready {
    /// UDP port; 0: nothing to do, since no source was found.
    pub port: u16,
    /// The address of the server as its sshd sees it.
    pub address: Option<std::net::IpAddr>,
    /// Of what will be sent.
    pub shape: Shape,
    /// The names that what will be sent gets at its destination; an empty one: the contents of a directory.
    pub names: Vec<Bytes>,
    /// Sources that will not.
    pub failed: Vec<FailedSource>,
}

/// A source that cannot be sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailedSource {
    /// As the user wrote it.
    pub path: Bytes,
    /// Number of the `StoreErrorKind`.
    pub kind: u8,
    /// Why not.
    pub message: String,
}

impl FailedSource {
    /// For the way to the other side.
    pub fn new(path: &[u8], error: &StoreError) -> Self {
        Self { path: path.into(), kind: error.kind as u8, message: error.message.clone() }
    }

    /// The error again.
    pub fn error(&self) -> StoreError {
        let kind = StoreErrorKind::from_wire(self.kind).unwrap_or(StoreErrorKind::Io);
        StoreError { kind, message: self.message.clone() }
    }
}

/// Writes one message.
pub fn write_message(out: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut frame = Zeroizing::new(vec![0; FRAME_HEADER_BYTES]);
    serde_json::to_writer(&mut *frame, message).map_err(io::Error::other)?;
    let len = frame.len() - FRAME_HEADER_BYTES;
    if len > MAX_FRAME_BYTES {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "there are too many names for one copy: copy their directory instead",
        ));
    }
    frame[..FRAME_HEADER_BYTES].copy_from_slice(&frame_header(KIND_MESSAGE, len));
    out.write_all(&frame)?;
    out.flush()
}

/// Reads one message. `buffer`: what was read before and not used; what is read and not used stays there.
///
/// # Errors
/// `UnexpectedEof`: the stream ended. `InvalidData`: what came is no such message.
pub fn read_message<T: for<'de> Deserialize<'de>>(
    input: &mut impl Read,
    buffer: &mut Vec<u8>,
) -> io::Result<T> {
    fill(input, buffer, FRAME_HEADER_BYTES)?;
    let header = buffer[..FRAME_HEADER_BYTES].try_into().expect("the slice has the header's length");
    let (kind, len) = parse_header(header);
    if kind != KIND_MESSAGE {
        return Err(io::Error::new(ErrorKind::InvalidData, "what came is no message of fulmar"));
    }
    let end = FRAME_HEADER_BYTES + len;
    fill(input, buffer, end)?;
    let message = serde_json::from_slice(&buffer[FRAME_HEADER_BYTES..end]);
    zeroize::Zeroize::zeroize(&mut buffer[..end]);
    buffer.drain(..end);
    message.map_err(|e| io::Error::new(ErrorKind::InvalidData, e.to_string()))
}

/// Reads until the greeting has come; returns what came before it.
pub fn read_greeting(input: &mut impl Read, buffer: &mut Vec<u8>) -> Result<Vec<u8>, (io::Error, Vec<u8>)> {
    loop {
        if let Some(at) = buffer.windows(GREETING.len()).position(|window| window == GREETING) {
            let noise = buffer[..at].to_vec();
            buffer.drain(..at + GREETING.len());
            return Ok(noise);
        }
        let more = buffer.len() + 1;
        let filled = if more > MAX_NOISE_BYTES {
            Err(io::Error::new(ErrorKind::InvalidData, "only other output came"))
        } else {
            fill(input, buffer, more)
        };
        if let Err(error) = filled {
            return Err((error, std::mem::take(buffer)));
        }
    }
}

/// Reads until there are `wanted` bytes.
fn fill(input: &mut impl Read, buffer: &mut Vec<u8>, wanted: usize) -> io::Result<()> {
    let mut block = Zeroizing::new([0; 4096]);
    while buffer.len() < wanted {
        match input.read(&mut block[..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => buffer.extend_from_slice(&block[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(sources: &[&[u8]]) -> Ask {
        Ask {
            version: VERSION,
            key: "00".into(),
            work: Work::Send { sources: sources.iter().map(|s| Bytes::from(*s)).collect(), recursive: true },
            ports: Some((1, 2)),
            ipv4: false,
            ipv6: false,
            wait_ms: 5,
            link: LinkWishes::default(),
        }
    }

    #[test]
    fn names_of_any_bytes_arrive_as_they_are() {
        let names: Vec<Vec<u8>> =
            vec![b"plain".to_vec(), b"\xff\xfe".to_vec(), b"a\n\"'$(x)\0".to_vec(), (1..=255).collect()];
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let mut wire = Vec::new();
        write_message(&mut wire, &ask(&names)).expect("written");
        wire.extend_from_slice(b"rest");
        let mut buffer = Vec::new();
        let got: Ask = read_message(&mut wire.as_slice(), &mut buffer).expect("read");
        let Work::Send { sources, recursive: true } = got.work else { panic!("another work") };
        assert_eq!(sources.iter().map(Bytes::as_slice).collect::<Vec<_>>(), names);
        assert_eq!(buffer, b"rest");
    }

    #[test]
    fn a_key_is_not_shown() {
        let mut ask = ask(&[b"a"]);
        ask.key = "secret".into();
        assert!(!format!("{ask:?}").contains("secret"));
    }

    #[test]
    fn the_greeting_is_found_in_noise() {
        let mut wire = b"Welcome!\nfulmar serve --once\n".to_vec();
        wire.extend_from_slice(GREETING);
        write_message(&mut wire, &Answer::Failed { exit_code: 5, message: "no".into() }).expect("written");
        for chunk in [1, 7, 100_000] {
            let mut input = Slow(&wire, chunk);
            let mut buffer = Vec::new();
            let noise = read_greeting(&mut input, &mut buffer).expect("found");
            assert_eq!(noise, b"Welcome!\nfulmar serve --once\n");
            let answer: Answer = read_message(&mut input, &mut buffer).expect("read");
            assert!(matches!(answer, Answer::Failed { exit_code: 5, .. }));
        }
        let (error, noise) = read_greeting(&mut &b"no such user"[..], &mut Vec::new()).expect_err("none");
        assert_eq!((error.kind(), noise.as_slice()), (ErrorKind::UnexpectedEof, &b"no such user"[..]));
        let endless = &mut io::repeat(b'x');
        let (error, _) = read_greeting(endless, &mut Vec::new()).expect_err("none");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for wire in
            [&b"SSH-2.0 text"[..], &[KIND_MESSAGE, 0, 0, 2, b'{', b'x'], &[KIND_MESSAGE, 0, 0, 2, b'{', b'}']]
        {
            let got: io::Result<Answer> = read_message(&mut &*wire, &mut Vec::new());
            assert_eq!(got.expect_err("no message").kind(), ErrorKind::InvalidData);
        }
        let cut: io::Result<Answer> = read_message(&mut &[KIND_MESSAGE, 0][..], &mut Vec::new());
        assert_eq!(cut.expect_err("cut").kind(), ErrorKind::UnexpectedEof);
    }

    /// Gives so many bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(out.len()).min(self.0.len());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }
}
