use super::*;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::time::Duration;

fn parse(text: &str) -> Result<Spec, SpecError> {
    text.parse()
}

#[test]
fn every_key() {
    let spec = parse(
        "loss=10%,corrupt=5%,dup=1%,reorder=2%,delay=50ms,jitter=5ms,rate=100mbit,queue=30ms,burst=4,seed=7,\
         outage=2s:500ms,outage=10:1, loss-in = 20% ,corrupt-in=6,dup-in=3%,reorder-in=4%,delay-in=1s,\
         jitter-in=2ms,rate-in=1gbit,queue-in=0,burst-in=2.5,outage-in=0:1",
    )
    .unwrap();
    let (s, ms) = (Duration::from_secs, Duration::from_millis);
    let outgoing = Profile {
        loss: 0.1,
        burst: 4.0,
        corrupt: 0.05,
        duplicate: 0.01,
        reorder: 0.02,
        delay: ms(50),
        jitter: ms(5),
        rate_bits_per_sec: Some(100_000_000),
        queue: Some(ms(30)),
        outages: vec![Outage { start: s(2), length: ms(500) }, Outage { start: s(10), length: s(1) }],
    };
    let incoming = Profile {
        loss: 0.2,
        burst: 2.5,
        corrupt: 0.06,
        duplicate: 0.03,
        reorder: 0.04,
        delay: s(1),
        jitter: ms(2),
        rate_bits_per_sec: Some(1_000_000_000),
        queue: Some(ms(0)),
        outages: vec![Outage { start: s(0), length: s(1) }],
    };
    assert_eq!(spec, Spec { outgoing, incoming, seed: Some(7) });
    assert_eq!(
        spec.to_string(),
        "loss=10%,corrupt=5%,dup=1%,reorder=2%,delay=50ms,jitter=5ms,rate=100mbit,queue=30ms,burst=4,\
         outage=2s:500ms,outage=10s:1s,loss-in=20%,corrupt-in=6%,dup-in=3%,reorder-in=4%,delay-in=1s,\
         jitter-in=2ms,rate-in=1gbit,queue-in=0s,burst-in=2.5,outage-in=0s:1s,seed=7"
    );
}

#[test]
fn nothing_is_a_specification_too() {
    for text in ["", " ", "none", "loss=0%", "burst=1,delay=0s"] {
        assert_eq!(parse(text), Ok(Spec::default()), "{text:?}");
    }
    assert_eq!(Spec::default().to_string(), "none");
    assert!(Spec::default().is_clean());
    assert!(!parse("loss-in=1%").unwrap().is_clean());
    assert!(!parse("outage=1s:1s").unwrap().is_clean());
}

#[test]
fn errors_name_key_value_and_the_known_keys() {
    let keys = format!("; the keys are {KNOWN_KEYS}");
    for (text, start) in [
        ("loss", "`loss` is not key=value, such as loss=10%"),
        ("loss=1%,,dup=1%", "`` is not key=value, such as loss=10%"),
        ("lag=5ms", "unknown key `lag` in `lag=5ms`"),
        ("seed-in=5", "unknown key `seed-in` in `seed-in=5`"),
        ("Loss=5", "unknown key `Loss` in `Loss=5`"),
        ("loss-in-in=5", "unknown key `loss-in-in` in `loss-in-in=5`"),
        ("dup=1%,dup=2%", "`dup` is given a second time, as `dup=2%`"),
        ("loss=lots", "bad value in `loss=lots`: `lots` is not a percentage: write one like 10% or 0.1%"),
        (
            "loss-in=101%",
            "bad value in `loss-in=101%`: `101%` is too large for a percentage: write one like 10% or 0.1%",
        ),
        ("delay=61s", "bad value in `delay=61s`: it must be from 0 to 60 seconds, such as 50ms"),
        ("rate=0", "bad value in `rate=0`: it must be from 1kbit to 1000gbit, such as 100mbit"),
        (
            "burst=0.5",
            "bad value in `burst=0.5`: it must be a mean number of packets from 1 to 1000, such as 4",
        ),
        (
            "burst=1e2",
            "bad value in `burst=1e2`: it must be a mean number of packets from 1 to 1000, such as 4",
        ),
        (
            "outage=5s",
            "bad value in `outage=5s`: it must be START:LENGTH, each from 0 to 24 hours, such as 2s:500ms",
        ),
        ("outage=1s:x", "bad value in `outage=1s:x`: `x` is not a duration: write one like 50ms or 1.5s"),
        (
            "seed=-1",
            "bad value in `seed=-1`: it must be a whole number from 0 to 18446744073709551615, such as 7",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), format!("{start}{keys}"), "{text}");
    }
    for bad in [
        "jitter=61s",
        "queue=1h",
        "rate=1bit",
        "rate=1001gbit",
        "burst=1001",
        "burst=nan",
        "burst=",
        "seed=18446744073709551616",
        "seed=+1",
        "outage=25h:1s",
        "outage=1s:25h",
        "=",
        "=5",
        "none,loss=1%",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    let outages = |n| vec!["outage=1s:1s"; n].join(",");
    assert!(parse(&outages(MAX_OUTAGES)).is_ok());
    assert!(matches!(parse(&outages(MAX_OUTAGES + 1)), Err(SpecError::OutOfBounds { .. })));
    assert!(parse(&"loss=".repeat(100_000)).unwrap_err().to_string().len() < 600);
}

fn random_profile(rng: &mut StdRng) -> Profile {
    let share = |rng: &mut StdRng| match rng.random_range(0..4) {
        0 => 0.0,
        1 => 1.0,
        2 => f64::from(rng.random_range(0..=1_000u32)) / 1_000.0,
        _ => rng.random::<f64>(),
    };
    let time = |rng: &mut StdRng| {
        let nanos = rng.random_range(0..=60_000_000_000u64);
        Duration::from_nanos(nanos >> rng.random_range(0..40))
    };
    let rate = |rng: &mut StdRng| (rng.next_u64() >> rng.random_range(24..64)).clamp(1_000, 1 << 39);
    Profile {
        loss: share(rng),
        burst: if rng.random() { 1.0 } else { rng.random_range(1.0..=1_000.0) },
        corrupt: share(rng),
        duplicate: share(rng),
        reorder: share(rng),
        delay: time(rng),
        jitter: time(rng),
        rate_bits_per_sec: if rng.random() { Some(rate(rng)) } else { None },
        queue: if rng.random() { Some(time(rng)) } else { None },
        outages: (0..rng.random_range(0..4))
            .map(|_| Outage { start: time(rng), length: time(rng) })
            .collect(),
    }
}

#[test]
fn printed_specifications_parse_to_the_same() {
    let mut rng = StdRng::seed_from_u64(12);
    for _ in 0..5_000 {
        let (outgoing, incoming) = (random_profile(&mut rng), random_profile(&mut rng));
        let seed = if rng.random() { Some(rng.next_u64()) } else { None };
        let spec = Spec { outgoing, incoming, seed };
        let text = spec.to_string();
        assert_eq!(parse(&text), Ok(spec), "{text}");
        // Every prefix and every damaged text gives a specification or an error.
        let cut = rng.random_range(0..=text.len());
        let _ = parse(&text[..cut]);
        let mut damaged = text.into_bytes();
        let at = rng.random_range(0..damaged.len());
        damaged[at] = rng.random_range(0..128);
        let _ = parse(std::str::from_utf8(&damaged).unwrap());
    }
}
