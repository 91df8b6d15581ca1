//! The loop with a scripted core.

use super::*;
use crate::endpoint::Ecn;
use crate::net::pipe::{RecvReport, SendReport};
use crate::net::udp::UdpPipe;
use crate::session::event::CloseReason;
use crate::transfer::job::FileId;
use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};

/// A train to send: session, address, segment size, bytes.
type Out = (Option<SessionKey>, SocketAddr, Option<usize>, Vec<u8>);

/// Sends back what it receives, a train at a time, and keeps a record.
#[derive(Default)]
struct Script {
    out: VecDeque<Out>,
    echo: bool,
    received: Vec<(SocketAddr, Vec<u8>)>,
    deadline: Option<Instant>,
    keep_deadline: bool,
    timeouts: u32,
    jobs: VecDeque<(SessionKey, Job)>,
    done: Vec<u64>,
    events: VecDeque<(SessionKey, Event)>,
    too_large: Vec<(Option<SessionKey>, usize)>,
    polls: u32,
}

impl Core for Script {
    fn handle_datagram(&mut self, _: Instant, remote: SocketAddr, _: Option<Ecn>, datagram: &mut [u8]) {
        self.received.push((remote, datagram.to_vec()));
        if self.echo {
            self.out.push_back((None, remote, None, datagram.to_vec()));
        }
    }
    fn handle_timeout(&mut self, now: Instant) {
        assert!(self.deadline.is_some_and(|deadline| deadline <= now));
        self.timeouts += 1;
        if !self.keep_deadline {
            self.deadline = None;
        }
    }
    fn poll_timeout(&mut self) -> Option<Instant> {
        self.deadline
    }
    fn poll_transmit(&mut self, _: Instant, buf: &mut Vec<u8>, max_segments: usize) -> Option<Transmit> {
        self.polls += 1;
        assert!(max_segments > 0);
        let (session, remote, segment_size, bytes) = self.out.pop_front()?;
        buf.clear();
        buf.extend_from_slice(&bytes);
        Some(Transmit { session, remote, size: bytes.len(), segment_size, ecn: None })
    }
    fn handle_too_large(&mut self, _: Instant, session: Option<SessionKey>, segment_size: usize) {
        self.too_large.push((session, segment_size));
    }
    fn poll_job(&mut self) -> Option<(SessionKey, Job)> {
        self.jobs.pop_front()
    }
    fn handle_done(&mut self, _: Instant, _: SessionKey, done: Done) {
        if let Done::Written { bytes, .. } = done {
            self.done.push(bytes);
        }
    }
    fn poll_event(&mut self) -> Option<(SessionKey, Event)> {
        self.events.pop_front()
    }
}

/// Answers each job at once, or panics; counts the ends of sessions.
#[derive(Default)]
struct Answers(Arc<AtomicI32>);

impl Store for Answers {
    fn run(&mut self, session: SessionKey, job: Job, done: &mut Vec<(SessionKey, Done)>) {
        match job {
            Job::CloseSource { file } => done.push((session, Done::Written { file, bytes: file.0 })),
            Job::EndSession => {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
            _ => panic!("planted"),
        }
    }
    fn idle(&mut self, _: &mut Vec<(SessionKey, Done)>) {}
}

fn driver_with<P: DatagramPipe>(core: Script, pipe: P, sim: Option<&str>) -> Driver<Script, P> {
    driver_on(core, pipe, sim, Answers::default())
}

fn driver_on<P: DatagramPipe>(core: Script, pipe: P, sim: Option<&str>, store: Answers) -> Driver<Script, P> {
    let sim = sim.map(|spec| spec.parse().unwrap());
    let (store, signal) = (Box::new(store), Arc::new(AtomicI32::new(0)));
    Driver::new(Parts { core, pipe, store, sim, signal, clock: Clock::start() }).unwrap()
}

fn udp_driver(core: Script, sim: Option<&str>) -> (Driver<Script, UdpPipe>, SocketAddr) {
    let pipe = UdpPipe::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = pipe.local_addr().unwrap();
    (driver_with(core, pipe, sim), address)
}

/// Turns until `ready` says so, for 10 s at most.
fn turn_until<P: DatagramPipe>(driver: &mut Driver<Script, P>, mut ready: impl FnMut(&Script) -> bool) {
    let end = driver.now() + Duration::from_secs(10);
    while !ready(driver.core()) {
        assert!(driver.now() < end, "nothing happened for 10 s");
        let wake_by = driver.now() + Duration::from_millis(100);
        driver.turn(wake_by).unwrap();
    }
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

#[test]
fn datagrams_go_in_and_come_out() {
    let (mut driver, address) = udp_driver(Script { echo: true, ..Script::default() }, None);
    let client = client();
    for round in 0..20 {
        for number in 0..50_u8 {
            client.send_to(&[number; 100], address).unwrap();
        }
        turn_until(&mut driver, |core| core.received.len() == 50 * (round + 1) && core.out.is_empty());
        driver.flush(Duration::from_secs(5)).unwrap();
        for number in 0..50_u8 {
            let mut buf = [0; 200];
            assert_eq!(client.recv_from(&mut buf).unwrap(), (100, address));
            assert_eq!(buf[..100], [number; 100]);
        }
    }
    driver.finish().unwrap();
}

#[test]
fn deadlines_are_kept_without_spinning() {
    let (mut driver, _) = udp_driver(Script::default(), None);
    let start = driver.now();
    driver.core_mut().deadline = Some(start + Duration::from_micros(3300));
    let mut turns = 0;
    while driver.core().timeouts == 0 {
        driver.turn(start + Duration::from_secs(5)).unwrap();
        turns += 1;
    }
    let after = driver.now() - start;
    assert!(after >= Duration::from_micros(3200) && after < Duration::from_secs(4), "{after:?}");
    assert!(turns < 10, "{turns}");
    // Nothing to do at all: one turn sleeps until it is told to wake up.
    let before = driver.now();
    driver.turn(before + Duration::from_millis(20)).unwrap();
    assert!(driver.now() - before >= Duration::from_millis(19));
}

#[test]
fn a_deadline_that_stays_in_the_past_does_not_spin_for_long() {
    let (mut driver, _) = udp_driver(Script::default(), None);
    let start = driver.now();
    let core = driver.core_mut();
    (core.deadline, core.keep_deadline) = (Some(start), true);
    let mut turns = 0;
    while driver.now() < start + Duration::from_millis(100) {
        driver.turn(start + Duration::from_secs(5)).unwrap();
        turns += 1;
    }
    assert!(turns <= STALL_TURNS + 110, "{turns}");
}

#[test]
fn more_jobs_than_the_queue_holds_are_all_run_in_order() {
    let ends = Arc::new(AtomicI32::new(0));
    let mut driver = driver_on(Script::default(), Narrow::default(), None, Answers(ends.clone()));
    driver.core_mut().jobs.extend((0..5000).map(|n| (1, Job::CloseSource { file: FileId(n) })));
    turn_until(&mut driver, |core| core.done.len() == 5000);
    assert!(driver.core().done.iter().copied().eq(0..5000));
    driver.core_mut().jobs.extend((0..500).map(|_| (1, Job::EndSession)));
    driver.finish().unwrap();
    assert_eq!(ends.load(Ordering::Relaxed), 500);
}

#[test]
fn a_panic_of_the_store_ends_the_loop_with_an_error() {
    let (mut driver, _) = udp_driver(Script::default(), None);
    driver.core_mut().jobs.push_back((1, Job::RemoveScratch(Vec::new())));
    let end = driver.now() + Duration::from_secs(10);
    let error = loop {
        assert!(driver.now() < end);
        if let Err(error) = driver.turn(end) {
            break error;
        }
    };
    assert!(error.message.contains("planted"), "{error}");
}

/// Takes a few bytes per call, in whole segments; each second call is blocked.
#[derive(Default)]
struct Narrow {
    taken: Vec<u8>,
    blocked: bool,
    calls: u32,
}

impl DatagramPipe for Narrow {
    fn register(&mut self, _: &mio::Registry, _: Token) -> io::Result<()> {
        Ok(())
    }
    fn recv(&mut self, _: &mut dyn FnMut(Received<'_>)) -> io::Result<RecvReport> {
        Err(io::Error::other("always"))
    }
    fn send(&mut self, train: Train<'_>) -> SendReport {
        self.calls += 1;
        self.blocked = !self.blocked;
        if self.blocked {
            return SendReport::default();
        }
        let take = (2 * train.segment_size.unwrap_or(train.bytes.len())).min(train.bytes.len());
        self.taken.extend_from_slice(&train.bytes[..take]);
        SendReport { consumed_bytes: take, too_large: take < 20 }
    }
    fn max_segments(&self) -> usize {
        64
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(([127, 0, 0, 1], 1).into())
    }
}

#[test]
fn a_train_waits_for_room_and_nothing_overtakes_it() {
    let remote = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut core = Script::default();
    let first: Vec<u8> = (0..95).collect();
    core.out.push_back((Some(3), remote, Some(10), first.clone()));
    core.out.push_back((None, remote, None, vec![200; 30]));
    core.deadline = Some(Clock::start().0);
    core.keep_deadline = true;
    let mut driver = driver_with(core, Narrow::default(), None);
    turn_until(&mut driver, |core| core.polls == 3);
    assert_eq!(driver.pipe.taken, [first, vec![200; 30]].concat());
    // The rest of 15 bytes was refused as too large; what counts is the size of the train's datagrams.
    assert_eq!(driver.core().too_large, [(Some(3), 10)]);
    // A full socket with an overdue deadline: about one attempt a millisecond, no storm of calls.
    assert!(driver.pipe.calls < 40, "{}", driver.pipe.calls);
}

#[test]
fn an_oversized_datagram_is_reported() {
    let (mut driver, address) = udp_driver(Script::default(), None);
    driver.core_mut().out.push_back((Some(5), address, None, vec![0; MAX_TRAIN_BYTES + 1]));
    driver.core_mut().out.push_back((None, address, None, vec![1; 8]));
    turn_until(&mut driver, |core| core.received.len() == 1);
    assert_eq!(driver.core().too_large, [(Some(5), MAX_TRAIN_BYTES + 1)]);
}

#[test]
fn sim_impairs_both_ways() {
    let (mut driver, address) = udp_driver(Script { echo: true, ..Script::default() }, Some("loss-in=100%"));
    let client = client();
    client.send_to(b"x", address).unwrap();
    let wake_by = driver.now() + Duration::from_millis(100);
    driver.turn(wake_by).unwrap();
    driver.turn(wake_by).unwrap();
    assert!(driver.core().received.is_empty());

    let (mut driver, address) =
        udp_driver(Script { echo: true, ..Script::default() }, Some("dup=100%,delay=5ms"));
    let start = driver.now();
    client.send_to(b"y", address).unwrap();
    turn_until(&mut driver, |core| core.received.len() == 1 && core.out.is_empty());
    driver.flush(Duration::from_secs(5)).unwrap();
    assert!(driver.now() - start >= Duration::from_millis(5));
    let mut buf = [0; 8];
    for _ in 0..2 {
        assert_eq!(client.recv_from(&mut buf).unwrap(), (1, address));
    }
}

#[test]
fn the_way_back_of_one_echo_session_is_impaired_until_it_closes() {
    let (mut driver, _) = udp_driver(Script::default(), None);
    let client = client();
    let remote = client.local_addr().unwrap();
    let send = |driver: &mut Driver<Script, UdpPipe>, session, byte: u8| {
        // A train, which is impaired datagram by datagram.
        driver.core_mut().out.push_back((Some(session), remote, Some(2), vec![byte; 4]));
        driver.flush(Duration::from_secs(5)).unwrap();
    };
    driver.core_mut().events.push_back((1, Event::ImpairBack("loss=100%".into())));
    assert!(matches!(driver.poll_event(), Some((1, Event::ImpairBack(_)))));
    send(&mut driver, 1, 11);
    send(&mut driver, 2, 22);
    driver.core_mut().events.push_back((1, Event::Closed(CloseReason::Done)));
    assert!(driver.poll_event().is_some());
    driver.turn(driver.clock.0).unwrap();
    send(&mut driver, 1, 33);
    let mut buf = [0; 8];
    for byte in [22, 22, 33, 33] {
        let len = client.recv(&mut buf).unwrap();
        assert_eq!(buf[..len], [byte; 2]);
    }
    // A text that does not parse is the log's, not the loop's, trouble.
    driver.core_mut().events.push_back((2, Event::ImpairBack("loss=lots".into())));
    assert!(driver.poll_event().is_some());
}

#[test]
fn a_signal_set_by_another_thread_is_seen() {
    let (driver, _) = udp_driver(Script::default(), None);
    assert!(!driver.signalled());
    driver.signal.store(15, Ordering::Relaxed);
    assert!(driver.signalled());
}
