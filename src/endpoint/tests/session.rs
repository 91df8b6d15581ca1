//! What a session does over time: key updates, skipped numbers, keep-alive, time-outs, budgets.

use super::*;

fn number(p: &Packet) -> u32 {
    u32::from_be_bytes(p.bytes[9..13].try_into().expect("four bytes"))
}

#[test]
fn keys_are_updated_in_mid_transfer() {
    let mut net = Net::new(1, key(), 1, limited(5_000_000));
    let mut rng = StdRng::seed_from_u64(1);
    net.tap = Box::new(move |p| if rng.random_range(0..10) == 0 { Vec::new() } else { vec![p.clone()] });
    net.put(1, b"f", 8_000_000);
    net.run();
    net.expect_done(1, b"f");
    net.run_for(Duration::from_secs(5));
    let phases: Vec<u8> =
        net.sent_by(1).filter(|p| p.bytes[0] & !1 == TYPE_DATA).map(|p| p.bytes[0] & 1).collect();
    let updates = phases.windows(2).filter(|w| w[0] != w[1]).count();
    assert!(updates >= 5, "{updates} updates in {} packets", phases.len());
    assert_eq!(net.peers[0].last.as_ref().map(|s| s.packets_corrupted), Some(0));
}

#[test]
fn some_numbers_are_skipped() {
    let mut net = Net::new(1, key(), 1, |_, _| {});
    net.put(1, b"f", 8_000_000);
    net.run();
    net.expect_done(1, b"f");
    let numbers: Vec<u32> = net.sent_by(1).filter(|p| p.bytes[0] & !1 == TYPE_DATA).map(number).collect();
    assert!(numbers.is_sorted(), "numbers rise");
    let skipped = numbers.windows(2).map(|w| w[1] - w[0] - 1).sum::<u32>();
    let share = numbers.len() as f64 / f64::from(skipped.max(1));
    assert!((150.0..1500.0).contains(&share), "one number in {share} is skipped");
    assert_eq!(net.peers[1].last.as_ref().map(|s| s.packets_lost), Some(0), "skipped is not lost");
}

#[test]
fn a_hanging_disk_is_ridden_out_by_keep_alives() {
    for hung in [0, 1] {
        let mut net = Net::new(1, key(), 1, |_, c| {
            c.session.idle_timeout = Duration::from_secs(8);
            c.session.limit_bytes_per_sec = Some(5_000_000);
        });
        net.put(1, b"f", 60_000_000);
        net.run_for(ms(500));
        net.peers[hung].hung = true;
        let before = net.log.len();
        net.run_for(Duration::from_secs(300));
        assert_eq!((net.closed(0), net.closed(1)), (None, None), "peer {hung} hangs");
        let quiet = net.log.iter().filter(|p| p.sent > Duration::from_secs(10)).count();
        assert!(quiet > 60 && quiet < 40_000, "peer {hung} hangs: {quiet} packets in 290 s, {before} before");
        net.peers[hung].hung = false;
        net.run();
        net.expect_done(1, b"f");
    }
}

#[test]
fn silence_ends_both_sides_after_the_smaller_idle_time() {
    let mut net = Net::new(1, key(), 1, |i, c| {
        c.session.idle_timeout = Duration::from_secs(if i == 0 { 7 } else { 30 });
        c.session.limit_bytes_per_sec = Some(100_000);
    });
    net.put(1, b"f", 9_000_000);
    net.run_for(ms(2000));
    net.tap = Box::new(|_| Vec::new());
    net.run_for(Duration::from_secs(60));
    for peer in 0..2 {
        let (at, reason) = net.closed(peer).expect("closed");
        assert_eq!(reason, CloseReason::TimedOut { after: Duration::from_secs(7) });
        assert!(at > ms(8500) && at < ms(9500), "{at:?}");
    }
    // Probes were sent, but not at full speed.
    let probes = net.sent_by(1).filter(|p| p.sent > ms(2500)).count();
    assert!((20..2000).contains(&probes), "{probes} probes");
    assert_eq!(net.peers[0].endpoint.session_count(), 0);
}

/// Probes of a silent path are at most three round trips apart.
#[test]
fn probes_are_close_enough_to_notice_the_end_of_an_outage() {
    let mut net = Net::new(1, key(), 1, |_, c| c.session.limit_bytes_per_sec = Some(1_000_000));
    net.delay = ms(50);
    net.put(1, b"f", 9_000_000);
    net.run_for(ms(2000));
    net.tap = Box::new(|_| Vec::new());
    net.run_for(ms(20_000));
    let times: Vec<Duration> = net.sent_by(1).map(|p| p.sent).filter(|t| *t > ms(2300)).collect();
    let widest = times.windows(2).map(|w| w[1] - w[0]).max().expect("probes");
    assert!(widest <= ms(400), "{widest:?}");
    net.tap = Box::new(|p| vec![p.clone()]);
    net.run();
    net.expect_done(1, b"f");
}

/// Many clients share the receive budget: large compressed chunks must get through all the same.
#[test]
fn chunks_larger_than_the_share_of_the_budget_arrive() {
    let mut net = Net::new(1, key(), 1, |_, c| {
        c.receive_budget_bytes = 256 * 1024;
        c.session.chunk_size = 4 << 20;
        c.session.compress = Compression::Lz4;
    });
    let mut rng = StdRng::seed_from_u64(1);
    // Shrinks to about 60 %: bytes of 16 values do not, so mix noise and repetition.
    let mut data = vec![0u8; 9_000_000];
    data.chunks_mut(100).for_each(|c| rng.fill_bytes(&mut c[..60]));
    net.peers[1].store.insert(b"f", data);
    net.put_existing(1, b"f");
    net.run();
    net.expect_done(1, b"f");
}

#[test]
fn thousands_of_files_that_do_not_ride_inline() {
    for budget in [256 * 1024, 24 << 20] {
        let mut net = Net::new(1, key(), 1, |_, c| c.receive_budget_bytes = budget);
        for i in 0..9000u64 {
            let name = format!("t/{i}");
            let content = Content::Pattern { seed: i, size: 17_000 };
            net.peers[1].store.insert_file(name.as_bytes(), content, Default::default());
        }
        net.put_existing(1, b"t");
        net.run_for(Duration::from_secs(120));
        assert_eq!(net.closed(1).map(|(_, r)| r), Some(CloseReason::Done), "budget {budget}");
        assert!(net.peers[0].store.get(b"t/8999") == net.peers[1].store.get(b"t/8999"));
    }
}

#[test]
fn closing_tells_the_peer() {
    let mut net = Net::new(1, key(), 1, limited(5_000_000));
    net.put(1, b"f", 30_000_000);
    net.run_for(ms(200));
    let now = net.now;
    net.peers[0].endpoint.close_all(now, CloseReason::Interrupted);
    net.serve(0);
    net.run();
    assert!(matches!(net.closed(1), Some((_, CloseReason::PeerClosed(_)))), "{:?}", net.closed(1));
    assert_eq!(net.closed(0).map(|(_, r)| r), Some(CloseReason::Interrupted));
    assert!(net.peers[0].store.get(b"f").is_none(), "nothing under the final name");
}
