//! Many clients at one bottleneck: everybody gets the same, and small requests are not kept waiting.

use super::*;

/// Running transfers.
const CROWD: usize = 200;
/// Small puts beside them.
const SMALL: usize = 20;
const RTT: Duration = Duration::from_millis(50);

#[test]
fn a_crowd_shares_fairly_and_small_puts_pass_quickly() {
    let mut s = Scenario::symmetric(base_seed(), profile("rate=200mbit,queue=50ms,delay=25ms,loss=5%"));
    s.clients = CROWD + SMALL;
    s.shared_link = true;
    let mut w = World::new(&s);
    let size = 1 << 20;
    let mut jobs = Vec::new();
    for i in 0..CROWD {
        let name = format!("job{i}");
        w.client_store(i).insert_file(name.as_bytes(), pattern(i as u64, size), Default::default());
        jobs.push(w.put(i, &[name.as_bytes()]));
    }
    w.run_for(Duration::from_secs(3));
    let mut small = Vec::new();
    for i in CROWD..CROWD + SMALL {
        let name = format!("small{i}");
        w.client_store(i).insert_file(name.as_bytes(), pattern(i as u64, 1024), Default::default());
        small.push((i, w.elapsed(), w.put(i, &[name.as_bytes()])));
        w.run_for(Duration::from_millis(100));
    }
    let running = (0..CROWD).filter(|i| w.closed_at(*i, jobs[*i]).is_none()).count();
    assert!(running > CROWD / 2, "{running} still run beside the small ones");
    w.run().expect("all end");
    let mut late = 0;
    for (client, started, session) in small {
        let r = w.report(client, session);
        assert_eq!(r.closed, Some(CloseReason::Done), "{r:?}");
        let took = r.closed_at - started;
        assert!(took <= 30 * RTT, "a small put took {took:?}");
        late += usize::from(took > 10 * RTT);
    }
    // Seeds 1 to 4 have 0 to 3.
    assert!(late <= 3, "{late} of {SMALL} small puts took more than 10 RTTs");
    let goodputs: Vec<f64> = (0..CROWD)
        .map(|i| {
            let r = w.report(i, jobs[i]);
            assert_eq!(r.closed, Some(CloseReason::Done), "{r:?}");
            size as f64 / r.closed_at.as_secs_f64()
        })
        .collect();
    let (sum, squares) = (goodputs.iter().sum::<f64>(), goodputs.iter().map(|x| x * x).sum::<f64>());
    let jain = sum * sum / (CROWD as f64 * squares);
    // Four packets of the link for each: the shares are those of chance. With less of a crowd they come near 1.
    assert!(jain >= 0.6, "Jain {jain:.3}");
    for i in 0..CROWD {
        let name = format!("job{i}");
        let original = w.client_store(i).get(name.as_bytes());
        assert!(original.is_some() && original == w.server_store().get(name.as_bytes()), "{name}");
    }
    assert!(w.elapsed() < Duration::from_secs(20), "{:?}", w.elapsed());
}
