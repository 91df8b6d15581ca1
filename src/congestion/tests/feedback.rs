//! Controllers fed by hand: feedback that lies, and silence.

use super::super::{Controller, FeedbackSample, PacketInfo};
use super::{Adaptive, Cubic, Rng, origin};
use std::time::{Duration, Instant};

/// Nothing that a peer can put into feedback makes a controller panic or stop.
#[test]
fn hostile_feedback() {
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let start = origin();
        let mut controllers: Vec<Box<dyn Controller>> =
            vec![Box::new(Adaptive::new(start, 1472)), Box::new(Cubic::new(start, 1472))];
        for controller in &mut controllers {
            let mut number = 0;
            for step in 0..400_u64 {
                let now = start + Duration::from_millis(step * 7);
                let mut sent = vec![];
                for _ in 0..8 {
                    number += 1 + (rng.unit() * 3.0) as u64;
                    let packet =
                        PacketInfo { number, size_bytes: 1472, sent_at: now, app_limited: rng.unit() < 0.2 };
                    controller.on_sent(&packet, 1472 * step);
                    sent.push(packet);
                }
                let wild = |rng: &mut Rng| match (rng.unit() * 4.0) as u32 {
                    0 => 0,
                    1 => u64::MAX,
                    2 => (rng.unit() * 1e19) as u64,
                    _ => step * 7000,
                };
                let sample = FeedbackSample {
                    now: now + Duration::from_micros(wild(&mut rng) % 50_000),
                    acked: &sent[..4],
                    lost: &sent[4..6],
                    spurious: (rng.unit() * 5.0) as u32,
                    largest_sent_at: now,
                    largest_received_us: wild(&mut rng),
                    written_us: wild(&mut rng),
                    received_bytes_total: wild(&mut rng),
                    latest_rtt: Some(Duration::from_micros(wild(&mut rng) % 10_000_000)),
                    smoothed_rtt: Duration::from_micros(wild(&mut rng) % 10_000_000),
                    rttvar: Duration::ZERO,
                    min_rtt: Duration::from_micros(wild(&mut rng) % 10_000_000),
                    bytes_in_flight: wild(&mut rng) % (1 << 40),
                    ce_marked: (rng.unit() * 3.0) as u64,
                };
                controller.on_feedback(&sample);
                if rng.unit() < 0.05 {
                    controller.on_silence(now, 1 + (rng.unit() * 5.0) as u32, wild(&mut rng));
                }
                assert!(controller.rate_bytes_per_sec() > 0 && controller.burst_bytes() > 0);
                assert!(controller.window_bytes() >= 2 * 1472, "seed {seed}");
            }
        }
    }
}

/// A sender that waits for something else sends pings, which get lost like all else: that says nothing of the rate. Silence
/// with a window in flight does.
#[test]
fn silence_counts_by_what_is_in_flight() {
    const DATAGRAM: u32 = 65_507;
    const RTT: Duration = Duration::from_micros(100);
    let start = origin();
    let mut controller = Adaptive::new(start, DATAGRAM);
    let pass = |controller: &mut Adaptive, number: u64, sent_at: Instant| {
        let packet = PacketInfo { number, size_bytes: DATAGRAM, sent_at, app_limited: false };
        controller.on_sent(&packet, DATAGRAM.into());
        controller.on_feedback(&FeedbackSample {
            now: sent_at + RTT,
            acked: &[packet],
            lost: &[],
            spurious: 0,
            largest_sent_at: sent_at,
            largest_received_us: (sent_at + RTT - start).as_micros() as u64,
            written_us: (sent_at + RTT - start).as_micros() as u64,
            received_bytes_total: (number + 1) * u64::from(DATAGRAM),
            latest_rtt: Some(RTT),
            smoothed_rtt: RTT,
            rttvar: Duration::ZERO,
            min_rtt: RTT,
            bytes_in_flight: 0,
            ce_marked: 0,
        });
    };
    let mut now = start;
    for number in 0..40 {
        now += RTT;
        pass(&mut controller, number, now);
    }
    let rate = controller.rate_bytes_per_sec();
    for _ in 0..20 {
        now += Duration::from_millis(20);
        controller.on_silence(now, 1, 2 * 35);
    }
    assert_eq!(controller.rate_bytes_per_sec(), rate);
    for ptos in 1..40 {
        now += Duration::from_millis(20);
        controller.on_silence(now, ptos, 64 * u64::from(DATAGRAM));
    }
    assert_eq!(controller.rate_bytes_per_sec(), 2 * u64::from(DATAGRAM), "two datagrams a second at least");
}
