//! What a client does before and apart from a session.

use super::*;
use crate::endpoint::config::Secret;
use std::sync::atomic::Ordering;

fn options(remotes: &[&str]) -> ClientOptions {
    ClientOptions {
        remotes: remotes.iter().map(|remote| remote.parse().unwrap()).collect(),
        endpoint: EndpointConfig::new(Secret::Insecure),
        request: Request::List { path: Vec::new() },
        roots: Vec::new(),
        dest: None,
        sim: None,
        retries: 0,
        trace: None,
        limit: None,
    }
}

#[derive(Default)]
struct Count {
    events: Vec<Event>,
    ticks: u32,
}

impl Observer for Count {
    fn event(&mut self, event: &Event, _: &Stats) {
        self.events.push(event.clone());
    }
    fn tick(&mut self, _: &Stats) {
        self.ticks += 1;
    }
}

#[test]
fn a_host_without_an_address_is_an_error() {
    let error = run(options(&[]), Arc::default(), &mut Count::default()).unwrap_err();
    assert_eq!((error.exit_code, error.message.as_str()), (3, "the host has no address"));
}

#[test]
fn a_destination_that_is_not_there_is_an_error() {
    let mut options = options(&["127.0.0.1:9"]);
    let location = crate::transfer::job::Location::Jail(Vec::new());
    let dest = Dest {
        location,
        into_dir: true,
        overwrite: Default::default(),
        no_resume: false,
        name_prefix: Vec::new(),
    };
    options.dest = Some(("/nonexistent/fulmar".into(), dest));
    let error = run(options, Arc::default(), &mut Count::default()).unwrap_err();
    assert_eq!(error.exit_code, 5);
    assert!(error.message.contains("/nonexistent/fulmar"), "{error}");
}

#[test]
fn the_socket_fits_the_addresses() {
    let local = |remotes: &[&str]| {
        let remotes: Vec<SocketAddr> = remotes.iter().map(|remote| remote.parse().unwrap()).collect();
        let (pipe, remotes) = bind_for(remotes).unwrap();
        (crate::net::pipe::DatagramPipe::local_addr(&pipe).unwrap().is_ipv4(), remotes)
    };
    assert!(local(&["127.0.0.1:1", "10.0.0.1:2"]).0);
    // A mapped address is an IPv4 address.
    let (v4, remotes) = local(&["[::ffff:127.0.0.1]:1"]);
    assert!(v4 && remotes == ["127.0.0.1:1".parse().unwrap()]);
    let (v4, remotes) = local(&["[::1]:1", "127.0.0.1:1"]);
    // Without IPv6, the other address is left.
    assert_eq!(remotes.len(), if v4 { 1 } else { 2 });
}

#[test]
fn a_signal_ends_the_attempt() {
    let signal = Arc::new(AtomicI32::new(0));
    let stop = signal.clone();
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut count = Count::default();
        // The discard port: nobody answers.
        let outcome = run(options(&["127.0.0.1:9"]), signal, &mut count);
        done.send((outcome, count.ticks)).unwrap();
    });
    assert!(is_done.recv_timeout(Duration::from_millis(350)).is_err());
    stop.store(2, Ordering::Relaxed);
    let (outcome, ticks) = is_done.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(outcome.unwrap().reason, CloseReason::Interrupted);
    assert!((1..=10).contains(&ticks), "{ticks}");
}
