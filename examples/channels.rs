//! The protocol without sockets and files: two endpoints in two threads, which talk over channels that lose every tenth
//! datagram, with stores in memory. It is what a program does that brings its own transport: a radio, a serial line, a
//! browser's data channel.
//!
//! ```text
//! cargo run --release --example channels
//! ```

use fulmar::sans_io::{
    CloseReason, Endpoint, EndpointConfig, Event, Location, MemoryStore, Overwrite, Request, Secret,
    ServerConfig, SourceRoot, Store,
};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// The address of an endpoint means nothing here but its name.
const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 1], 1);
const SERVER: ([u8; 4], u16) = ([10, 0, 0, 2], 5770);

/// An endpoint, its files, and its two channels.
struct Node {
    endpoint: Endpoint,
    store: MemoryStore,
    incoming: Receiver<Vec<u8>>,
    outgoing: Sender<Vec<u8>>,
    peer: SocketAddr,
    sent: u64,
}

impl Node {
    /// Drives the endpoint until its session has ended.
    fn run(mut self) -> (CloseReason, MemoryStore) {
        loop {
            if let Some(reason) = self.serve() {
                return (reason, self.store);
            }
            let pause = self.endpoint.poll_timeout().map_or(Duration::from_secs(1), |at| at - now().min(at));
            match self.incoming.recv_timeout(pause) {
                Ok(mut datagram) => {
                    self.endpoint.handle_datagram(now(), self.peer, None, &mut datagram);
                }
                // The other side is gone; the end of the session is not far.
                Err(RecvTimeoutError::Disconnected) => std::thread::yield_now(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.endpoint.poll_timeout().is_some_and(|at| at <= now()) {
                self.endpoint.handle_timeout(now());
            }
        }
    }

    /// Does all that can be done now; why the session has ended, if it has.
    fn serve(&mut self) -> Option<CloseReason> {
        let (mut done, mut buffer, mut closed) = (Vec::new(), Vec::new(), None);
        loop {
            let mut busy = false;
            while let Some((session, job)) = self.endpoint.poll_job() {
                self.store.run(session, job, &mut done);
                busy = true;
            }
            self.store.idle(&mut done);
            for (session, answer) in done.drain(..) {
                self.endpoint.handle_done(now(), session, answer);
                busy = true;
            }
            while let Some(train) = self.endpoint.poll_transmit(now(), &mut buffer, 1) {
                self.sent += 1;
                if !self.sent.is_multiple_of(10) {
                    let _ = self.outgoing.send(buffer[..train.size].to_vec());
                }
                busy = true;
            }
            while let Some((_, event)) = self.endpoint.poll_event() {
                if let Event::Closed(reason) = event {
                    closed = Some(reason);
                }
            }
            if !busy {
                return closed;
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the loop, which reads the clock for the endpoint")]
fn now() -> Instant {
    Instant::now()
}

fn main() {
    let secret = Secret::Key(b"a password".to_vec().into());
    let (to_server, at_server) = channel();
    let (to_client, at_client) = channel();
    let node = |config, seed, incoming, outgoing, peer| Node {
        endpoint: Endpoint::new(config, [seed; 32], now()),
        store: MemoryStore::new(),
        incoming,
        outgoing,
        peer: SocketAddr::from(peer),
        sent: 0,
    };
    // A real program takes the seed from the system's generator: keys come from it.
    let mut config = EndpointConfig::new(secret.clone());
    config.server = Some(ServerConfig::default());
    let server = node(config, 1, at_server, to_client, CLIENT);
    let mut client = node(EndpointConfig::new(secret), 2, at_client, to_server, SERVER);

    let contents = "over channels that lose every tenth datagram\n".repeat(20_000);
    client.store.insert(b"letter.txt", contents.clone());
    let request =
        Request::Put { dest: Vec::new(), into_dir: true, overwrite: Overwrite::Never, no_resume: false };
    let root = SourceRoot { location: Location::Local(b"letter.txt".to_vec()), name: b"letter.txt".to_vec() };
    client.endpoint.connect(now(), SERVER.into(), request, vec![root], None);

    let serving = std::thread::spawn(move || server.run());
    let (reason, _) = client.run();
    let (_, store) = serving.join().expect("the server's thread does not panic");
    let arrived = store.get(b"letter.txt").expect("it arrived");
    assert_eq!(arrived, contents.as_bytes());
    println!("client: {reason}; {} bytes arrived", arrived.len());
}
