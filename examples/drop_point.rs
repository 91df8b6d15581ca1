//! A drop point inside another program: serves a directory for a while, to whoever has the key.
//!
//! ```text
//! cargo run --release --example drop_point -- DIR ADDRESS:PORT KEY_FILE [SECONDS]
//! cargo run --release --example drop_point            # a directory of its own, and two clients that use it
//! ```

use fulmar::{Client, Key, Server, ServerSettings};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [dir, listen, key_file, rest @ ..] = arguments.as_slice() {
        let seconds = rest.first().map_or(Ok(u64::MAX), |text| text.parse())?;
        return serve(Path::new(dir), listen, Key::from_file(key_file)?, |_, _| {
            std::thread::park_timeout(Duration::from_secs(seconds));
            Ok(())
        });
    }
    let lab = tempfile::tempdir()?;
    serve(lab.path(), "127.0.0.1:0", Key::generate()?, |address, key| {
        let file = lab.path().with_extension("txt");
        std::fs::write(&file, "dropped")?;
        for name in ["one", "two"] {
            let mut client = Client::new(address, key.clone())?;
            client.settings.label = name.into();
            let outcome = client.put(&[&file], name, |_| ())?;
            assert_eq!(outcome.failed().count(), 0);
            println!("{name} was here");
        }
        std::fs::remove_file(file)?;
        // The file is larger than this server takes, and says so.
        let refused = Client::new(address, key)?.put(&[std::env::current_exe()?], "large", |_| ())?;
        println!("{}", refused.failed().next().and_then(|e| e.error.clone()).ok_or("accepted a large file")?);
        Ok(())
    })
}

/// Serves while `meanwhile` runs.
fn serve(
    dir: &Path,
    listen: &str,
    key: Key,
    meanwhile: impl FnOnce(std::net::SocketAddr, Key) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut settings = ServerSettings::default();
    settings.max_sessions = 50;
    settings.max_file_bytes = 100_000;
    settings.overwrite = false;
    let server = Server::bind(dir, listen.parse()?, key.clone(), settings)?;
    let (address, stop) = (server.local_addr(), server.stop_handle());
    println!("serving {} on {address}", dir.display());
    let running = std::thread::spawn(move || server.run());
    let result = meanwhile(address, key);
    stop.stop();
    running.join().expect("the server does not panic")?;
    result
}
