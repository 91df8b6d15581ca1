//! Uploads one file over a simulated link and prints what it took, on virtual time.
//!
//! ```text
//! cargo run --release --example simulated_link -- MEGABYTES RATE_MBIT RTT_MS LOSS_PCT [MORE_SPEC [SEED]]
//! cargo run --release --example simulated_link -- 250 200 100 5
//! cargo run --release --example simulated_link -- 200 200 50 0 jitter=10ms 3
//! ```
//!
//! `STALLS=EVERY_MS:LONGEST_MS` makes both hosts busy ones; `TRACE=1` prints what the sender does, four times per RTT.

use fulmar::impair::{Profile, Spec};
use fulmar::sim::{Scenario, Stalls, World};
use fulmar::store::memory::Content;

/// IPv4 and UDP header bytes of a datagram.
const IP_OVERHEAD: u64 = 28;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: f64| args.get(i).map_or(default, |a| a.parse().expect("a number"));
    let (megabytes, rate, rtt, loss) = (number(0, 50.0), number(1, 200.0), number(2, 100.0), number(3, 0.0));
    let more = args.get(4).filter(|m| !m.is_empty()).map_or(String::new(), |m| format!(",{m}"));
    let seed = number(5, 1.0) as u64;
    let queue = if more.contains("queue") { String::new() } else { format!(",queue={}ms", rtt.max(5.0)) };
    let spec = format!("rate={rate}mbit{queue},delay={}us,loss={loss}%{more}", rtt * 500.0);
    let profile: Profile = spec.parse::<Spec>().expect("a valid link").outgoing;
    let mut scenario = Scenario::symmetric(seed, profile);
    scenario.stalls = std::env::var("STALLS").ok().map(|law| {
        let (every, longest) = law.split_once(':').expect("STALLS=EVERY_MS:LONGEST_MS");
        let ms =
            |text: &str| std::time::Duration::from_secs_f64(text.parse::<f64>().expect("milliseconds") / 1e3);
        Stalls { every: ms(every), longest: ms(longest) }
    });
    let mut world = World::new(&scenario);
    let size = (megabytes * 1e6) as u64;
    world.client_store(0).insert_file(b"file", Content::Pattern { seed, size }, Default::default());
    let session = world.put(0, &[b"file"]);
    let mut last = (0.0, 0);
    if std::env::var_os("TRACE").is_some() {
        loop {
            world.run_for(std::time::Duration::from_millis((rtt as u64 / 4).max(1)));
            let Some(s) = world.stats(0, session) else { break };
            let t = world.elapsed().as_secs_f64();
            println!(
                "{t:7.3} s  sent {:7.1} Mbit/s  pace {:7.1}  flight {:6} KB  window {:6} KB  queue {:5.1} ms  lost {:5}  repaired {:5} spurious {:4} mtu {} srtt {:?}",
                (s.wire_bytes_sent - last.1) as f64 * 8e-6 / (t - last.0),
                s.rate_bytes_per_sec as f64 * 8e-6,
                s.bytes_in_flight / 1000,
                s.window_bytes / 1000,
                s.queue_delay.unwrap_or_default().as_secs_f64() * 1e3,
                s.packets_lost,
                s.packets_repaired,
                s.packets_spurious,
                s.datagram_bytes,
                s.smoothed_rtt,
            );
            last = (t, s.wire_bytes_sent);
        }
    }
    let end = world.run();
    let report = world.report(0, session);
    let (seconds, s) = (report.closed_at.as_secs_f64(), &report.stats);
    let ceiling = rate * 1e6 * (1.0 - loss / 100.0);
    let offered = s.wire_bytes_sent + s.packets_sent * IP_OVERHEAD;
    println!(
        "{end:?} {:?} {seconds:.3} s  share {:.3}  offered x (1 - loss) {:.3}  packets {} repaired {} lost {} spurious {} ({:.2} %)  RTT min {:?} smoothed {:?}",
        report.closed,
        size as f64 * 8.0 / (ceiling * seconds),
        offered as f64 / size as f64 * (1.0 - loss / 100.0),
        s.packets_sent,
        s.packets_repaired,
        s.packets_lost,
        s.packets_spurious,
        100.0 * s.packets_spurious as f64 / s.packets_sent.max(1) as f64,
        s.min_rtt,
        s.smoothed_rtt,
    );
}
