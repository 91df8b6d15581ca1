use super::*;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

#[test]
fn rates() {
    for (text, bits) in [
        ("20mbit", 20_000_000),
        ("1.5gbit", 1_500_000_000),
        ("1.5 Gbit/s", 1_500_000_000),
        ("93.2 Mbit/s", 93_200_000),
        ("100k", 100_000),
        ("8Mbps", 8_000_000),
        ("7", 7),
        ("7bit", 7),
        ("0", 0),
        (" .5m ", 500_000),
        ("1.m", 1_000_000),
        ("18446744073709551615", u64::MAX),
        ("000000000000000000000000000000000000000000000001k", 1_000),
        ("1.000000000000000000000000000000000000000000000001k", 1_000),
    ] {
        assert_eq!(parse_rate(text), Ok(bits), "{text}");
    }
    assert_eq!(parse_nonzero_rate("1k"), Ok(1_000));
    assert!(matches!(parse_nonzero_rate("0.0000001bit"), Err(UnitError::Zero { .. })));
}

#[test]
fn sizes() {
    for (text, bytes) in [
        ("64KiB", 65_536),
        ("1MiB", 1 << 20),
        ("16k", 16_384),
        ("16K", 16_384),
        ("1mb", 1_000_000),
        ("1MB", 1_000_000),
        ("3M", 3 << 20),
        ("2G", 2 << 30),
        ("1.5GiB", 3 << 29),
        ("1gb", 1_000_000_000),
        ("1tib", 1 << 40),
        ("4096", 4096),
        ("4096 B", 4096),
        ("0.1kib", 102),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
}

#[test]
fn durations() {
    for (text, nanos) in [
        ("50ms", 50_000_000),
        ("1.5s", 1_500_000_000),
        ("2m", 120_000_000_000),
        ("2min", 120_000_000_000),
        ("30", 30_000_000_000),
        ("0.25", 250_000_000),
        ("7us", 7_000),
        ("9ns", 9),
        ("1h", 3_600_000_000_000),
        ("7d", 604_800_000_000_000),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
    }
}

#[test]
fn percentages() {
    for (text, fraction) in
        [("10%", 0.1), ("0.1%", 0.001), ("10", 0.1), ("100%", 1.0), ("0", 0.0), ("7 %", 0.07), (".5%", 0.005)]
    {
        assert_eq!(parse_percent(text), Ok(fraction), "{text}");
    }
}

#[test]
fn errors_name_the_input_and_an_example() {
    let text = |e: UnitError| e.to_string();
    assert_eq!(
        text(parse_rate("fast").unwrap_err()),
        "`fast` is not a rate: write one like 20mbit or 1.5gbit"
    );
    assert_eq!(
        text(parse_rate("20mbyte").unwrap_err()),
        "`20mbyte` is not a rate: its units are bit, kbit, mbit and gbit, as in 20mbit or 1.5gbit"
    );
    assert_eq!(
        text(parse_size("99999999999TiB").unwrap_err()),
        "`99999999999TiB` is too large for a size: write one like 64KiB or 1MiB"
    );
    assert_eq!(
        text(parse_percent("101%").unwrap_err()),
        "`101%` is too large for a percentage: write one like 10% or 0.1%"
    );
    assert_eq!(
        text(parse_nonzero_rate("0k").unwrap_err()),
        "`0k` is zero, and this rate must be above zero: write one like 20mbit or 1.5gbit"
    );
    for bad in ["", " ", "-1", "+1", "1.2.3", ".", "1e3", "0x10", "nan", "inf", "٣", "1,5s", "\u{0}", "1 0"]
    {
        assert!(parse_rate(bad).is_err(), "{bad:?}");
        assert!(parse_size(bad).is_err(), "{bad:?}");
        assert!(parse_duration(bad).is_err(), "{bad:?}");
        assert!(parse_percent(bad).is_err(), "{bad:?}");
    }
    let long = text(parse_size(&"x\n".repeat(5_000)).unwrap_err());
    assert!(long.len() < 200 && !long.contains('\n'), "{long}");
    let digits = "9".repeat(5_000);
    assert!(matches!(parse_size(&digits), Err(UnitError::TooLarge { .. })));
    assert!(matches!(parse_percent(&digits), Err(UnitError::TooLarge { .. })));
    assert_eq!(parse_size(&format!("1.{digits}")), Ok(2));
}

#[test]
fn people_read() {
    for (bytes, text) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_572_864, "1.5 MiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (u64::MAX, "16.0 EiB"),
    ] {
        assert_eq!(format_bytes(bytes), text);
    }
    for (bits, text) in [
        (0, "0 bit/s"),
        (999, "999 bit/s"),
        (93_200_000, "93.2 Mbit/s"),
        (999_999_999, "1.0 Gbit/s"),
        (u64::MAX, "18.4 Ebit/s"),
    ] {
        assert_eq!(format_rate(bits), text);
    }
    for (nanos, text) in [
        (0, "0 s"),
        (400, "400 ns"),
        (250_000, "250 µs"),
        (999_999, "1.0 ms"),
        (50_000_000, "50.0 ms"),
        (999_990_000, "1.0 s"),
        (12_300_000_000, "12.3 s"),
        (59_990_000_000, "1 min 00 s"),
        (125_000_000_000, "2 min 05 s"),
        (3_599_900_000_000, "1 h 00 min"),
        (3_720_000_000_000, "1 h 02 min"),
    ] {
        assert_eq!(format_duration(Duration::from_nanos(nanos)), text);
    }
    assert!(format_duration(Duration::MAX).ends_with(" min"));
}

#[test]
fn exact_texts() {
    assert_eq!(exact_rate(100_000_000), "100mbit");
    assert_eq!(exact_rate(1_500_000_000), "1.5gbit");
    assert_eq!(exact_rate(12), "12bit");
    assert_eq!(exact_duration(Duration::from_millis(50)), "50ms");
    assert_eq!(exact_duration(Duration::from_millis(1_500)), "1.5s");
    assert_eq!(exact_duration(Duration::ZERO), "0s");
    for (fraction, text) in [
        (0.0, "0%"),
        (0.1, "10%"),
        (0.07, "7%"),
        (0.001, "0.1%"),
        (0.12345, "12.345%"),
        (1.0, "100%"),
        (1e-5, "0.001%"),
        (f64::NAN, "0%"),
        (-1.0, "0%"),
        (7.0, "100%"),
    ] {
        assert_eq!(exact_percent(fraction), text);
    }
}

#[test]
fn exact_texts_parse_back() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..20_000 {
        let number = rng.next_u64() >> rng.random_range(0..64);
        assert_eq!(parse_rate(&exact_rate(number)), Ok(number));
        let duration = Duration::from_nanos(number);
        assert_eq!(parse_duration(&exact_duration(duration)), Ok(duration));
        let fraction = rng.random::<f64>() * 0.1f64.powi(rng.random_range(0..20));
        assert_eq!(parse_percent(&exact_percent(fraction)), Ok(fraction));
        // What is printed for people parses too, to within its rounding.
        let read = parse_rate(&format_rate(number)).map_or(f64::NAN, |r| r as f64);
        assert!(number >= 1_000_000_000_000 || (read - number as f64).abs() <= number as f64 * 0.0501);
    }
    assert_eq!(parse_percent(&exact_percent(f64::MIN_POSITIVE)), Ok(f64::MIN_POSITIVE));
}

#[test]
fn no_input_panics() {
    const PIECES: [&str; 20] = [
        "0",
        "1",
        "9",
        "99999999999999999999",
        ".",
        "-",
        "k",
        "K",
        "iB",
        "b",
        "bit",
        "m",
        "g",
        "%",
        "s",
        "ms",
        " ",
        "e",
        "é",
        "\u{1F600}",
    ];
    let mut rng = StdRng::seed_from_u64(2);
    for _ in 0..50_000 {
        let count = rng.random_range(0..12);
        let text: String = (0..count).map(|_| PIECES[rng.random_range(0..PIECES.len())]).collect();
        let (rate, size) = (parse_rate(&text), parse_size(&text));
        let (duration, percent) = (parse_duration(&text), parse_percent(&text));
        assert!(percent.as_ref().map_or(true, |p| (0.0..=1.0).contains(p)), "{text:?}");
        for message in [
            rate.err().map(|e| e.to_string()),
            size.err().map(|e| e.to_string()),
            duration.err().map(|e| e.to_string()),
            percent.err().map(|e| e.to_string()),
        ] {
            assert!(message.is_none_or(|m| m.len() < 400), "{text:?}");
        }
        let _ = format_bytes(rng.next_u64());
        let _ = format_duration(Duration::new(rng.next_u64(), 0));
    }
}
