//! Role: `fulmar demo`: a server and a client in one process, with a bad link between them.
//! Owns: a temporary directory.
//! Implements: `fulmar demo --help`.

use super::args::DemoArgs;
use super::echo::{self, Echo};
use super::exit::{self, Failure};
use super::options::{self, Output};
use super::progress::Progress;
use super::report::{FileResult, Report};
use super::{client, key, paths, signals, terminal, text, trace};
use crate::endpoint::config::{EndpointConfig, Secret, ServerConfig};
use crate::impair::Spec;
use crate::net::client::ClientOptions;
use crate::net::server::{Server, ServerOptions};
use crate::transfer::Request;
use crate::transfer::job::{Overwrite, SourceRoot, StoreError, StoreErrorKind};
use crate::units;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;
use zeroize::Zeroizing;

/// Size of the generated file: a few seconds of transfer, enough for thousands of losses.
const GENERATED_BYTES: u64 = 64 << 20;
/// Seed of the generated file, so that every run sends the same bytes.
const GENERATED_SEED: u64 = 5770;
/// Bytes handled at a time when files are written or hashed.
const BLOCK_BYTES: usize = 1 << 20;
/// How long the server may take to say goodbye before the demo ends without it.
const SERVER_END_WAIT: Duration = Duration::from_secs(3);

/// Removes itself, with everything in it.
struct TempDir(PathBuf);

impl TempDir {
    fn name() -> Result<PathBuf, Failure> {
        Ok(std::env::temp_dir().join(format!("fulmar-demo-{}", &key::generate()?[..16])))
    }

    fn make(path: PathBuf) -> Result<Self, Failure> {
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        builder.create(&path).map_err(|e| Failure::io("create", &path, &e))?;
        let this = Self(path);
        for inner in ["served", "back"] {
            let inner = this.0.join(inner);
            builder.create(&inner).map_err(|e| Failure::io("create", &inner, &e))?;
        }
        Ok(this)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs it; the exit code.
pub fn run(args: &DemoArgs) -> Result<u8, Failure> {
    let output = Output::new(&args.output);
    let sim = options::sim("--sim", &args.sim)?;
    let trace = trace::open(args.trace.as_deref(), false)?;
    let temp_path = TempDir::name()?;
    let signal = signals::install(Some(temp_path.clone()))?;
    let temp = TempDir::make(temp_path)?;
    let file = source(args.file.as_deref(), &temp.0, &signal)?;
    let size = std::fs::metadata(&file).map_err(|e| Failure::io("read", &file, &e))?.len();

    let secret = Secret::Key(Zeroizing::new(key::generate()?.as_bytes().to_vec()));
    let server = DemoServer::start(&temp.0.join("served"), secret.clone(), sim.clone())?;
    let say = |line: String| {
        if !output.json && !output.quiet {
            terminal::stdout_line(&line);
        }
    };
    let generated = if args.file.is_none() { " (generated)" } else { "" };
    say(format!("server       {}, key made for this run", server.address));
    say(format!("link         {} each way", text::one_line(&args.sim)));
    say(format!("file         {}{generated}, {}", text::path(&file), units::format_bytes(size)));
    say("now          uploading it, and having it sent back".to_owned());

    let name = paths::root_name(file.as_os_str().as_bytes()).to_vec();
    let root = paths::source(file.as_os_str()).map_err(|e| Failure::new(e.kind.exit_code(), e.message))?.root;
    let roots: Vec<SourceRoot> = vec![root];
    let mut echo = Echo::new(Report::new("demo", output), &roots);
    let back = temp.0.join("back");
    let options = ClientOptions {
        remotes: vec![server.address],
        endpoint: EndpointConfig::new(secret),
        // The server's own impairment works on the way back; a second one is not asked for.
        request: Request::Echo {
            sim_back: String::new(),
            keep: true,
            overwrite: Overwrite::Never,
            no_resume: false,
        },
        roots,
        dest: Some((back.clone(), echo::destination(Overwrite::Never))),
        sim: Some(sim),
        retries: 0,
        trace,
        limit: None,
    };
    let host = server.address.to_string();
    let ended = client::run(options, &host, signal, &mut echo, Progress::new("demo", output));
    server.stop();

    let mut report = echo.into_report(&ended);
    let mut proof = None;
    if ended.is_done() && report.totals.failed == 0 {
        let copies = [
            ("sent", file.clone()),
            ("server", temp.0.join("served").join(std::ffi::OsStr::from_bytes(&name))),
            ("received", echo::received_path(&back, &name)),
        ];
        match check_on_disk(&copies) {
            Ok(digest) => proof = Some(digest),
            Err(error) => {
                report.failed(FileResult { path: name, bytes: size, ..FileResult::default() }, &error);
            }
        }
    }
    let code = report.finish(&ended);
    if let Some(digest) = proof {
        say(format!("on disk      all three files have SHA-256 {digest}"));
        say("demo passed: what came back is what was sent".to_owned());
    }
    Ok(code)
}

/// The user's file, or one made for this.
fn source(given: Option<&Path>, temp: &Path, signal: &AtomicI32) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        let source =
            paths::source(path.as_os_str()).map_err(|e| Failure::new(e.kind.exit_code(), e.message))?;
        if !source.is_file {
            let shown = text::path(path);
            return Err(Failure::new(exit::REFUSED, format!("{shown} is not a regular file: name one")));
        }
        return Ok(path.to_owned());
    }
    let path = temp.join("generated.bin");
    let failed = |error: std::io::Error| Failure::io("write", &path, &error);
    let mut file = File::create_new(&path).map_err(failed)?;
    let mut rng = StdRng::seed_from_u64(GENERATED_SEED);
    let mut block = vec![0; BLOCK_BYTES];
    for _ in 0..GENERATED_BYTES / BLOCK_BYTES as u64 {
        if let Some(code) = signals::exit_code(signal) {
            return Err(Failure::new(code, "interrupted"));
        }
        rng.fill_bytes(&mut block);
        file.write_all(&block).map_err(failed)?;
    }
    Ok(path)
}

/// Hashes the files as they lie there; the digest if all are equal.
fn check_on_disk(copies: &[(&str, PathBuf)]) -> Result<String, StoreError> {
    let mut digests = Vec::with_capacity(copies.len());
    for (label, path) in copies {
        let digest = digest_of(path).map_err(|error| StoreError {
            kind: paths::store_kind(&error),
            message: format!("cannot read {}: {}", text::path(path), text::io_error(&error)),
        })?;
        digests.push((*label, digest));
    }
    if digests.windows(2).all(|pair| pair[0].1 == pair[1].1) {
        return Ok(digests.pop().map(|(_, digest)| digest).unwrap_or_default());
    }
    let list: Vec<String> = digests.iter().map(|(label, digest)| format!("{label} {digest}")).collect();
    Err(StoreError {
        kind: StoreErrorKind::DigestMismatch,
        message: format!("the files on the disk differ: SHA-256 {}", list.join(", ")),
    })
}

fn digest_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(text::hex(&hash.finalize())),
            n => hash.update(&block[..n]),
        }
    }
}

/// A server on a thread of its own.
struct DemoServer {
    address: SocketAddr,
    signal: Arc<AtomicI32>,
    ended: std::sync::mpsc::Receiver<()>,
}

impl DemoServer {
    fn start(dir: &Path, secret: Secret, sim: Spec) -> Result<Self, Failure> {
        let mut endpoint = EndpointConfig::new(secret);
        endpoint.server = Some(ServerConfig::default());
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::bind(ServerOptions {
            listen,
            dir: dir.to_owned(),
            endpoint,
            sim: Some(sim),
            partial_ttl: None,
            quota_bytes: None,
            trace: None,
            limit: None,
            watch: Default::default(),
        })?;
        let address = server.local_addr();
        let signal = Arc::new(AtomicI32::new(0));
        let (tell, ended) = std::sync::mpsc::channel();
        let theirs = signal.clone();
        let run = move || {
            if let Err(error) = server.run(theirs) {
                exit::complain(&format!("the demo's server failed: {}", error.message));
            }
            let _ = tell.send(());
        };
        std::thread::Builder::new().name("demo-server".into()).spawn(run).map_err(|error| {
            Failure::new(exit::OTHER, format!("cannot start the server's thread: {}", text::io_error(&error)))
        })?;
        Ok(Self { address, signal, ended })
    }

    /// Tells it to end, and waits a little for it.
    fn stop(self) {
        self.signal.store(signal_hook::consts::SIGTERM, Ordering::SeqCst);
        let _ = self.ended.recv_timeout(SERVER_END_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_on_disk_must_be_equal() {
        let dir = tempfile::tempdir().expect("temp dir");
        let copies: Vec<_> = ["a", "b", "c"].iter().map(|n| (*n, dir.path().join(n))).collect();
        for (_, path) in &copies {
            std::fs::write(path, "abc").expect("written");
        }
        // FIPS 180-4, the digest of "abc".
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(check_on_disk(&copies).as_deref(), Ok(expected));
        std::fs::write(&copies[2].1, "abd").expect("written");
        let error = check_on_disk(&copies).expect_err("they differ");
        assert_eq!(error.kind, StoreErrorKind::DigestMismatch);
        std::fs::remove_file(&copies[2].1).expect("removed");
        assert_eq!(check_on_disk(&copies).expect_err("missing").kind, StoreErrorKind::NotFound);
    }

    #[test]
    fn the_temporary_directory_is_removed() {
        let path = TempDir::name().expect("random");
        let temp = TempDir::make(path.clone()).expect("made");
        std::fs::write(path.join("served/x"), "x").expect("written");
        drop(temp);
        assert!(!path.exists());
    }
}
