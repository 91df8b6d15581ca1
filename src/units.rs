//! Role: parsing and printing of rates, sizes, durations and percentages.
//! Owns: nothing.
//! Implements: the value syntax of the command line and of docs/SIMULATION.md, "Values".
//!
//! | kind | units (any case) | a bare number is |
//! |---|---|---|
//! | rate | `bit`, `kbit`, `mbit`, `gbit`; also `k`, `m`, `g`, with or without `bps`; powers of 1000 | bits per second |
//! | size | `K`, `KiB`, `M`, `MiB`, `G`, `GiB`, `T`, `TiB`: powers of 1024; `KB`, `MB`, `GB`, `TB`: powers of 1000 | bytes |
//! | duration | `ns`, `us`, `ms`, `s`, `m` or `min`, `h`, `d` | seconds |
//! | percentage | `%` | percent |
//!
//! Numbers are plain decimals such as `1.5`: no sign, no exponent, no separators.

use std::fmt::Write as _;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Characters of a bad input that an error repeats: enough to recognise it, too few to flood a terminal.
const QUOTED_CHARS: usize = 40;

/// Fraction digits that count. Eighteen of them, times the largest unit, stay exact in 128 bits for every
/// result that fits 64 bits, and no unit here can show more.
const FRACTION_DIGITS: usize = 18;

/// What an input was meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bits per second.
    Rate,
    /// Bytes.
    Size,
    /// Time.
    Duration,
    /// A share in percent.
    Percent,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Size => "size",
            Self::Duration => "duration",
            Self::Percent => "percentage",
        }
    }

    fn example(self) -> &'static str {
        match self {
            Self::Rate => "20mbit or 1.5gbit",
            Self::Size => "64KiB or 1MiB",
            Self::Duration => "50ms or 1.5s",
            Self::Percent => "10% or 0.1%",
        }
    }

    fn units(self) -> &'static str {
        match self {
            Self::Rate => "bit, kbit, mbit and gbit",
            Self::Size => "B, KiB, MiB, GiB and TiB, or KB, MB, GB and TB",
            Self::Duration => "ns, us, ms, s, m, h and d",
            Self::Percent => "%",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an input was refused. `input` is the text as given, cut to 40 characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// The input does not begin with a plain decimal number.
    #[error("`{input}` is not a {kind}: write one like {}", kind.example())]
    Malformed {
        /// What was expected.
        kind: Kind,
        /// The input.
        input: String,
    },
    /// The number is followed by something that is no unit of this kind.
    #[error("`{input}` is not a {kind}: its units are {}, as in {}", kind.units(), kind.example())]
    UnknownUnit {
        /// What was expected.
        kind: Kind,
        /// The input.
        input: String,
    },
    /// The value does not fit; for a percentage, it is above 100.
    #[error("`{input}` is too large for a {kind}: write one like {}", kind.example())]
    TooLarge {
        /// What was expected.
        kind: Kind,
        /// The input.
        input: String,
    },
    /// The value is zero where that makes no sense.
    #[error("`{input}` is zero, and this {kind} must be above zero: write one like {}", kind.example())]
    Zero {
        /// What was expected.
        kind: Kind,
        /// The input.
        input: String,
    },
}

/// A copy of `input` that is safe to show in one line: cut, and with control characters escaped.
pub(crate) fn quoted(input: &str) -> String {
    let mut text: String = input.chars().take(QUOTED_CHARS).flat_map(char::escape_debug).collect();
    if input.chars().nth(QUOTED_CHARS).is_some() {
        text.push_str("...");
    }
    text
}

/// A plain decimal number: `mantissa / 10^fraction_digits`.
struct Decimal {
    mantissa: u128,
    fraction_digits: u32,
}

impl Decimal {
    /// `text` holds only digits and dots. `Ok(None)`: not a number. `Err(())`: does not fit.
    fn parse(text: &str) -> Result<Option<Self>, ()> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Ok(None);
        }
        let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS)];
        let mut mantissa = 0u128;
        for digit in whole.bytes().chain(fraction.bytes()) {
            let digit = u128::from(digit - b'0');
            mantissa = mantissa.checked_mul(10).and_then(|m| m.checked_add(digit)).ok_or(())?;
        }
        Ok(Some(Self { mantissa, fraction_digits: fraction.len() as u32 }))
    }

    /// The value times `unit`, rounded to the nearest integer.
    fn times(&self, unit: u64) -> Option<u64> {
        let divisor = 10u128.pow(self.fraction_digits);
        let product = self.mantissa.checked_mul(u128::from(unit))?.checked_add(divisor / 2)?;
        u64::try_from(product / divisor).ok()
    }
}

/// Splits `input` into its leading number and the rest, in lower case, without blanks around either.
fn split_number(input: &str) -> (&str, String) {
    let input = input.trim();
    let end = input.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(input.len());
    let (number, unit) = input.split_at(end);
    (number, unit.trim().to_ascii_lowercase())
}

fn parse_scaled(kind: Kind, input: &str, unit_of: impl Fn(&str) -> Option<u64>) -> Result<u64, UnitError> {
    let (number, unit) = split_number(input);
    let decimal = match Decimal::parse(number) {
        Ok(Some(decimal)) => decimal,
        Ok(None) => return Err(UnitError::Malformed { kind, input: quoted(input) }),
        Err(()) => return Err(UnitError::TooLarge { kind, input: quoted(input) }),
    };
    let Some(unit) = unit_of(&unit) else {
        return Err(UnitError::UnknownUnit { kind, input: quoted(input) });
    };
    decimal.times(unit).ok_or_else(|| UnitError::TooLarge { kind, input: quoted(input) })
}

/// Parses a rate into bits per second: `20mbit`, `1.5gbit`, `100k`, `8Mbps`, `93.2 Mbit/s`.
///
/// `bps` means bits, as on every link's data sheet.
///
/// # Errors
/// [`UnitError`] when it is no number, has an unknown unit, or exceeds 64 bits.
///
/// ```
/// assert_eq!(fulmar::units::parse_rate("1.5gbit"), Ok(1_500_000_000));
/// ```
pub fn parse_rate(input: &str) -> Result<u64, UnitError> {
    parse_scaled(Kind::Rate, input, |unit| {
        Some(match unit.strip_suffix("/s").unwrap_or(unit) {
            "" | "bit" | "bps" => 1,
            "k" | "kbit" | "kbps" => 1_000,
            "m" | "mbit" | "mbps" => 1_000_000,
            "g" | "gbit" | "gbps" => 1_000_000_000,
            _ => return None,
        })
    })
}

/// Like [`parse_rate`], and refuses zero.
///
/// # Errors
/// Those of [`parse_rate`], and [`UnitError::Zero`].
pub fn parse_nonzero_rate(input: &str) -> Result<u64, UnitError> {
    match parse_rate(input)? {
        0 => Err(UnitError::Zero { kind: Kind::Rate, input: quoted(input) }),
        rate => Ok(rate),
    }
}

/// Parses a size into bytes: `64KiB`, `16k` and `1M` count in powers of 1024, `1mb` in powers of 1000.
///
/// # Errors
/// [`UnitError`] when it is no number, has an unknown unit, or exceeds 64 bits.
///
/// ```
/// assert_eq!(fulmar::units::parse_size("64KiB"), Ok(65_536));
/// ```
pub fn parse_size(input: &str) -> Result<u64, UnitError> {
    parse_scaled(Kind::Size, input, |unit| {
        Some(match unit {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return None,
        })
    })
}

/// Parses a duration: `50ms`, `1.5s`, `2m` (minutes), `7d`; a bare number counts seconds. Rounds to 1 ns.
///
/// # Errors
/// [`UnitError`] when it is no number, has an unknown unit, or exceeds 2^64 ns (584 years).
pub fn parse_duration(input: &str) -> Result<Duration, UnitError> {
    let nanos = parse_scaled(Kind::Duration, input, |unit| {
        Some(match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "" | "s" | "sec" => 1_000_000_000,
            "m" | "min" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return None,
        })
    })?;
    Ok(Duration::from_nanos(nanos))
}

/// Parses a percentage into a fraction from 0 to 1: `10%`, `0.1%`; a bare number is percent too.
///
/// # Errors
/// [`UnitError`] when it is no number, has another unit than `%`, or is above 100.
pub fn parse_percent(input: &str) -> Result<f64, UnitError> {
    let kind = Kind::Percent;
    let malformed = || UnitError::Malformed { kind, input: quoted(input) };
    let (number, unit) = split_number(input);
    if number.is_empty() {
        return Err(malformed());
    }
    // The exponent moves the decimal point inside the one correctly rounded conversion, so that every fraction
    // has a percentage that parses back to exactly it; a division by 100 would round twice.
    let fraction: f64 = format!("{number}e-2").parse().map_err(|_| malformed())?;
    if !matches!(unit.as_str(), "" | "%") {
        return Err(UnitError::UnknownUnit { kind, input: quoted(input) });
    }
    if fraction > 1.0 {
        return Err(UnitError::TooLarge { kind, input: quoted(input) });
    }
    Ok(fraction)
}

/// Prints bytes for people, in binary units: `512 B`, `1.5 MiB`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    format_steps(bytes, 1024, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// Prints bits per second for people, in decimal units: `93.2 Mbit/s`.
#[must_use]
pub fn format_rate(bits_per_sec: u64) -> String {
    format_steps(bits_per_sec, 1000, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s", "Ebit/s"])
}

/// The largest unit in which the value is at least 1, with one decimal; whole numbers in the first unit.
fn format_steps(value: u64, step: u128, units: &[&str]) -> String {
    let value = u128::from(value);
    if value < step {
        return format!("{value} {}", units[0]);
    }
    let mut scale = step;
    for (index, unit) in units.iter().enumerate().skip(1) {
        // Rounded before it is compared: 1023.96 KiB is 1.0 MiB, never 1024.0 KiB.
        let tenths = (value * 10 + scale / 2) / scale;
        if tenths < step * 10 || index + 1 == units.len() {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        scale *= step;
    }
    unreachable!("the last unit returns")
}

/// Prints a duration for people: `0 s`, `250 µs`, `50.0 ms`, `12.3 s`, `2 min 05 s`, `1 h 02 min`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let tenths_of = |unit: u128| (nanos * 10 + unit / 2) / unit;
    let (us, ms, s) = (1_000, 1_000_000, 1_000_000_000);
    let micros = (nanos + us / 2) / us;
    let seconds = (nanos + s / 2) / s;
    if nanos == 0 {
        "0 s".to_owned()
    } else if nanos < us {
        format!("{nanos} ns")
    } else if micros < 1_000 {
        format!("{micros} µs")
    } else if tenths_of(ms) < 10_000 {
        format!("{}.{} ms", tenths_of(ms) / 10, tenths_of(ms) % 10)
    } else if tenths_of(s) < 600 {
        format!("{}.{} s", tenths_of(s) / 10, tenths_of(s) % 10)
    } else if seconds < 3_600 {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    } else {
        let minutes = seconds / 60;
        format!("{} h {:02} min", minutes / 60, minutes % 60)
    }
}

/// Prints a rate so that [`parse_rate`] gives exactly it back: `100mbit`, `1.5gbit`.
#[must_use]
pub fn exact_rate(bits_per_sec: u64) -> String {
    let (scale, unit) = match bits_per_sec {
        1_000_000_000.. => (1_000_000_000, "gbit"),
        1_000_000.. => (1_000_000, "mbit"),
        1_000.. => (1_000, "kbit"),
        _ => (1, "bit"),
    };
    exact_decimal(u128::from(bits_per_sec), scale, unit)
}

/// Prints a duration so that [`parse_duration`] gives exactly it back (up to 584 years): `50ms`, `1.5s`.
#[must_use]
pub fn exact_duration(duration: Duration) -> String {
    let (scale, unit) = match duration.as_nanos() {
        0 | 1_000_000_000.. => (1_000_000_000, "s"),
        1_000_000.. => (1_000_000, "ms"),
        1_000.. => (1_000, "us"),
        _ => (1, "ns"),
    };
    exact_decimal(duration.as_nanos(), scale, unit)
}

/// Prints a fraction so that [`parse_percent`] gives exactly it back: `10%`, `0.1%`. What lies outside 0 to 1
/// is drawn to the nearer end, and what is no number to zero.
#[must_use]
pub fn exact_percent(fraction: f64) -> String {
    let fraction = if fraction > 0.0 { fraction.min(1.0) } else { 0.0 };
    // The shortest digits that parse back, `d.ddde-x`; the rest moves the decimal point two places.
    let scientific = format!("{fraction:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} always writes an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} writes the exponent as an integer");
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let point = exponent + 3; // digits before the decimal point, in percent
    let mut text = String::new();
    if point <= 0 {
        text.push_str("0.");
        text.extend(std::iter::repeat_n('0', point.unsigned_abs() as usize));
        text.push_str(&digits);
    } else {
        let point = point as usize;
        for (index, digit) in digits.chars().enumerate() {
            if index == point {
                text.push('.');
            }
            text.push(digit);
        }
        text.extend(std::iter::repeat_n('0', point.saturating_sub(digits.len())));
    }
    if fraction == 0.0 {
        text = "0".to_owned();
    }
    text.push('%');
    text
}

/// `value / scale` without rounding; `scale` is a power of ten of at most nine zeros.
fn exact_decimal(value: u128, scale: u128, unit: &str) -> String {
    let mut text = (value / scale).to_string();
    let rest = value % scale;
    if rest != 0 {
        let width = scale.ilog10() as usize;
        let fraction = format!("{rest:0width$}");
        write!(text, ".{}", fraction.trim_end_matches('0')).expect("writing to a String cannot fail");
    }
    text + unit
}
