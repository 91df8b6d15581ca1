//! `--limit`, `--window`, `--max-retries`, the shared limit of a server.

use super::*;

/// IP bytes (with UDP and IPv4 headers) that a peer sent in an interval.
fn ip_bytes(net: &Net, peer: usize, from: Duration, to: Duration) -> u64 {
    net.sent_by(peer).filter(|p| p.sent >= from && p.sent < to).map(|p| p.bytes.len() as u64 + 28).sum()
}

#[test]
fn a_limit_counts_ip_bytes() {
    for rate in [20_000, 250_000, 2_500_000u64] {
        let mut net = Net::new(1, key(), 1, |i, c| {
            c.session.limit_bytes_per_sec = (i == 1).then_some(rate);
        });
        let seconds = 8;
        net.put(1, b"f", 2 * seconds * rate);
        net.run_for(Duration::from_secs(seconds));
        for second in 1..seconds - 1 {
            let sent = ip_bytes(&net, 1, Duration::from_secs(second), Duration::from_secs(second + 1));
            let burst = (rate / 100).max(1280) + 1500;
            assert!(sent <= rate + 2 * burst, "rate {rate}: {sent} bytes in second {second}");
        }
        let sent = ip_bytes(&net, 1, Duration::from_secs(2), Duration::from_secs(seconds));
        let share = sent as f64 / (rate * (seconds - 2)) as f64;
        assert!((0.93..1.02).contains(&share), "rate {rate}: {share:.3} of it used");
        net.run();
        net.expect_done(1, b"f");
    }
}

#[test]
fn a_window_caps_bytes_in_flight() {
    for cap in [4_000, 50_000u64] {
        let mut net = Net::new(1, key(), 1, |_, c| c.session.window_cap_bytes = Some(cap));
        let session = net.put(1, b"f", 20 * cap);
        let mut most = 0;
        while net.peers[1].endpoint.session_count() > 0 && net.step() {
            if let Some(s) = net.peers[1].endpoint.stats(session) {
                most = most.max(s.bytes_in_flight);
            }
        }
        net.expect_done(1, b"f");
        assert!(most <= cap && most > cap / 2, "{most} of {cap}");
        let rounds = net.elapsed().as_millis() as u64 / 20;
        assert!(rounds >= 18, "twenty windows take twenty round trips, not {rounds}");
    }
}

#[test]
fn one_segment_is_not_repeated_for_ever() {
    let mut net = Net::new(1, key(), 1, |_, c| c.session.max_retries = Some(5));
    let server = net.peers[0].addr;
    // Once the handshake is done, large packets never arrive.
    net.tap = Box::new(move |p| {
        if p.to == server && p.bytes[0] & !1 == TYPE_DATA && p.bytes.len() > 500 {
            Vec::new()
        } else {
            vec![p.clone()]
        }
    });
    net.put(1, b"f", 3_000_000);
    net.run();
    let (at, reason) = net.closed(1).expect("closed");
    assert_eq!(reason, CloseReason::RetriesExhausted { times: 6 });
    assert!(at < Duration::from_secs(20), "{at:?}");
    net.run_for(Duration::from_secs(2));
    assert!(
        matches!(net.closed(0), Some((_, CloseReason::PeerClosed(_)))),
        "the server is told: {:?}",
        net.closed(0)
    );
}

#[test]
fn a_servers_limit_is_shared_fairly() {
    for (rate, clients) in [(1_000_000u64, 4), (100_000, 4), (40_000, 8)] {
        let mut net = Net::new(1, key(), clients, |_, c| {
            if let Some(s) = &mut c.server {
                s.total_limit_bytes_per_sec = Some(rate);
            }
        });
        net.peers[0].store.insert_file(
            b"f",
            Content::Pattern { seed: 1, size: 30 * rate },
            Default::default(),
        );
        for i in 1..=clients {
            net.get(i, b"f");
        }
        let seconds = 12;
        net.run_for(Duration::from_secs(seconds));
        let total = ip_bytes(&net, 0, Duration::from_secs(2), Duration::from_secs(seconds));
        let share = total as f64 / (rate * (seconds - 2)) as f64;
        assert!((0.9..1.05).contains(&share), "rate {rate}: {share:.3} of it used");
        let got: Vec<f64> = (1..=clients)
            .map(|i| net.sent_by(0).filter(|p| p.to == net.peers[i].addr).map(|p| p.bytes.len() as f64).sum())
            .collect();
        let (sum, squares) = (got.iter().sum::<f64>(), got.iter().map(|x| x * x).sum::<f64>());
        let jain = sum * sum / (clients as f64 * squares);
        assert!(jain >= 0.95, "rate {rate}: Jain {jain:.3}, {got:?}");
        assert!(net.steps < 400_000, "rate {rate}: {} wake-ups", net.steps);
    }
}

/// Bytes a second that a peer sends in the two seconds after one in which a change takes hold.
fn rate_after(net: &mut Net, peer: usize) -> f64 {
    let from = net.elapsed() + Duration::from_secs(1);
    net.run_for(Duration::from_secs(3));
    ip_bytes(net, peer, from, from + Duration::from_secs(2)) as f64 / 2.0
}

fn is_about(rate: f64, expected: u64, what: &str) {
    assert!((0.85..1.1).contains(&(rate / expected as f64)), "{what}: {rate:.0} of {expected}");
}

#[test]
fn a_clients_limit_can_be_changed_on_the_way() {
    for get in [false, true] {
        // Of a GET it is the server that sends; it has no limit of its own.
        let mut net = Net::new(1, key(), 1, |i, c| {
            c.session.limit_bytes_per_sec = (i == 1).then_some(200_000);
        });
        let size = 40_000_000;
        if get {
            net.peers[0].store.insert_file(b"f", Content::Pattern { seed: 1, size }, Default::default());
            net.get(1, b"f");
        } else {
            net.put(1, b"f", size);
        }
        let sender = usize::from(!get);
        for limit in [Some(200_000), Some(2_000_000), Some(50_000), Some(1_000_000)] {
            let now = net.now;
            net.peers[1].endpoint.set_limit(now, limit);
            net.serve(1);
            is_about(rate_after(&mut net, sender), limit.unwrap_or_default(), &format!("get {get}"));
        }
        let now = net.now;
        net.peers[1].endpoint.set_limit(now, None);
        net.serve(1);
        let lifted = net.elapsed();
        net.run();
        // At the last limit it would be half a minute.
        assert!(net.elapsed() < lifted + Duration::from_secs(10), "get {get}: {:?}", net.elapsed() - lifted);
        net.expect_done(1, b"f");
    }
}

#[test]
fn a_servers_limit_can_be_made_changed_and_lifted() {
    let mut net = Net::new(1, key(), 3, |_, _| {});
    let size = 60_000_000;
    net.peers[0].store.insert_file(b"f", Content::Pattern { seed: 1, size }, Default::default());
    (1..=3).for_each(|i| {
        net.get(i, b"f");
    });
    net.run_for(ms(100));
    for limit in [900_000, 90_000, 3_000_000] {
        let now = net.now;
        net.peers[0].endpoint.set_limit(now, Some(limit));
        net.serve(0);
        is_about(rate_after(&mut net, 0), limit, "all together");
    }
    let from = net.elapsed() - Duration::from_secs(2);
    let got: Vec<u64> = (1..=3)
        .map(|i| {
            let to = net.peers[i].addr;
            net.sent_by(0).filter(|p| p.to == to && p.sent > from).map(|p| p.bytes.len() as u64).sum()
        })
        .collect();
    assert!(got.iter().max() < got.iter().min().map(|least| 2 * least).as_ref(), "fair shares: {got:?}");
    let now = net.now;
    net.peers[0].endpoint.set_limit(now, None);
    net.serve(0);
    net.run();
    assert!(net.elapsed() < Duration::from_secs(60), "{:?}", net.elapsed());
    (1..=3).for_each(|i| net.expect_done(i, b"f"));
}

/// One session with a great many jobs does not keep the disk from the others.
#[test]
fn the_store_works_for_sessions_in_turns() {
    let mut net = Net::new(1, key(), 2, |_, _| {});
    net.peers[0].hung = true;
    for client in [1, 2] {
        net.put(client, format!("f{client}").as_bytes(), 3_000_000);
    }
    net.run_for(Duration::from_secs(1));
    let server = &mut net.peers[0].endpoint;
    let order: Vec<SessionKey> =
        std::iter::from_fn(|| server.poll_job()).take(4).map(|(session, _)| session).collect();
    assert_eq!(order.len(), 4, "each session has some");
    assert!(order.windows(2).all(|pair| pair[0] != pair[1]), "{order:?}");
}
