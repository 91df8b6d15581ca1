//! Binding, and ending.

use super::*;
use crate::endpoint::config::{Secret, ServerConfig};
use std::sync::atomic::Ordering;

fn options(listen: &str, dir: &std::path::Path) -> ServerOptions {
    let mut endpoint = EndpointConfig::new(Secret::Insecure);
    endpoint.server = Some(ServerConfig::default());
    ServerOptions {
        listen: listen.parse().unwrap(),
        dir: dir.into(),
        endpoint,
        sim: None,
        partial_ttl: None,
        quota_bytes: None,
        trace: None,
        limit: None,
        watch: WatchOptions::default(),
    }
}

#[test]
fn a_port_in_use_is_one_clear_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let first = Server::bind(options("127.0.0.1:0", dir.path())).unwrap();
    let listen = first.local_addr().to_string();
    let error = Server::bind(options(&listen, dir.path())).unwrap_err();
    assert_eq!(error.exit_code, 1);
    let port = first.local_addr().port();
    assert!(error.message.starts_with(&format!("UDP port {port} is in use on 127.0.0.1")), "{error}");
    assert!(error.message.contains("--listen") && !error.message.contains('\n'), "{error}");
}

#[test]
fn an_address_of_another_machine_is_one_clear_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let error = Server::bind(options("192.0.2.1:0", dir.path())).unwrap_err();
    assert_eq!(error.exit_code, 1);
    assert!(error.message.contains("192.0.2.1 is no address of this machine"), "{error}");
}

#[test]
fn a_server_ends_when_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::bind(options("127.0.0.1:0", dir.path())).unwrap();
    assert_ne!(server.local_addr().port(), 0);
    let signal = Arc::new(AtomicI32::new(0));
    let stop = signal.clone();
    let thread = std::thread::spawn(move || server.run(signal));
    stop.store(15, Ordering::Relaxed);
    thread.join().unwrap().unwrap();
}
