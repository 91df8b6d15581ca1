//! What an event costs does not depend on how many sessions there are.

use super::*;

/// Datagrams and timers per session that are watched, and how often a session was looked at meanwhile, on the server.
struct Cost {
    events: u64,
    visits: u64,
}

/// So many clients put files at once; what their transfers cost the server, the handshakes left out.
fn cost(clients: usize, total_limit: Option<u64>) -> Cost {
    let mut net = Net::new(1, Secret::Insecure, clients, |_, c| {
        c.session.limit_bytes_per_sec = Some(60_000);
        if let Some(s) = &mut c.server {
            s.total_limit_bytes_per_sec = total_limit;
        }
    });
    let content = Content::Pattern { seed: 1, size: 1 << 20 };
    net.peers[0].store.insert_file(b"f", content, Default::default());
    for i in 1..=clients {
        // Not all at the same instant.
        net.run_for(Duration::from_micros(500));
        match i % 2 {
            0 => net.put(i, format!("g{i}").as_bytes(), 1 << 20),
            _ => net.get(i, b"f"),
        };
    }
    // Computations are rationed, so a crowd takes a moment to be let in.
    net.run_for(ms(1500));
    assert_eq!(net.peers[0].endpoint.session_count(), clients);
    let server = net.peers[0].addr;
    let events = std::rc::Rc::new(std::cell::Cell::new(0u64));
    let counted = events.clone();
    net.tap = Box::new(move |p| {
        if p.to == server || p.from == server {
            counted.set(counted.get() + 1);
        }
        vec![p.clone()]
    });
    let before = net.peers[0].endpoint.visits;
    net.run_for(ms(300));
    assert!(net.peers[0].endpoint.timers.len() <= 2 * clients.max(64) + 1, "void timers are cleared away");
    Cost { events: events.get(), visits: net.peers[0].endpoint.visits - before }
}

#[test]
fn a_session_more_costs_the_others_nothing() {
    for total_limit in [None, Some(1_000_000)] {
        let per_event = |clients| {
            let c = cost(clients, total_limit);
            assert!(c.events > 50, "something happens: {}", c.events);
            c.visits as f64 / c.events as f64
        };
        let (few, many) = (per_event(10), per_event(400));
        assert!(
            many < 1.5 * few + 1.0,
            "limit {total_limit:?}: {few:.2} visits per datagram, then {many:.2}"
        );
    }
}
