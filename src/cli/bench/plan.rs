//! Role: checks what the user asked for and turns it into the list of settings to try. Pure functions.
//! Owns: nothing.
//! Implements: the values and bounds of `fulmar bench --help`.

use super::args::SweepArgs;
use super::result::Link;
use crate::cli::exit::Failure;
use crate::cli::options::{MIN_RATE_BITS_PER_SEC, MIN_WINDOW_BYTES};
use crate::congestion::ControllerKind;
use crate::transfer::{DEFAULT_CHUNK_SIZE, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE};
use crate::units::{self, UnitError};
use std::time::Duration;

/// The link when nothing is said: a fast path across a continent with the loss at which TCP CUBIC is lost.
const DEFAULT_RATE_BITS_PER_SEC: u64 = 100_000_000;
const DEFAULT_RTT: Duration = Duration::from_millis(100);
const DEFAULT_LOSS: f64 = 0.01;
/// What is tried when nothing is said. The windows go from far below to far above most links' product.
const DEFAULT_WINDOWS: &str = "16KiB,32KiB,64KiB,128KiB,256KiB,512KiB,1MiB,2MiB,4MiB,8MiB,16MiB,32MiB,64MiB";
const DEFAULT_LOSSES: &str = "0%,1%,2%,5%,10%,20%,30%";
const DEFAULT_CHUNKS: &str = "1KiB,4KiB,16KiB,64KiB,256KiB,1MiB,4MiB";
const DEFAULT_CONTROLLERS: &str = "adaptive,cubic,fixed";
/// Bounds of a size that was not given: long enough to have losses, short enough for any disk.
const MIN_UPLOAD_BYTES: u64 = 256 << 10;
const MAX_UPLOAD_BYTES: u64 = 1 << 30;
/// Values of one sweep, and uploads for each: more is a mistake, and would take days on a real link.
const MAX_VALUES: usize = 200;
const MAX_RUNS: u64 = 1000;
/// The slowest round trip and the longest queue that the model takes; see docs/SIMULATION.md.
const MAX_RTT: Duration = Duration::from_secs(60);
/// UDP payload of a full datagram, and its size with IPv4 and UDP headers.
const PAYLOAD_BYTES: u64 = 1472;
const PACKET_BYTES: u64 = 1500;

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--window`
    Window,
    /// Loss of the link.
    Loss,
    /// `--chunk-size`
    Chunk,
    /// `--cc`
    Cc,
}

impl Kind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Loss => "loss",
            Self::Chunk => "chunk",
            Self::Cc => "cc",
        }
    }

    fn defaults(self) -> &'static str {
        match self {
            Self::Window => DEFAULT_WINDOWS,
            Self::Loss => DEFAULT_LOSSES,
            Self::Chunk => DEFAULT_CHUNKS,
            Self::Cc => DEFAULT_CONTROLLERS,
        }
    }
}

/// One value with all that goes with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The value, for people.
    pub label: String,
    /// The value as a number, if it is one: bytes, or percent.
    pub number: Option<f64>,
    /// `--window`
    pub window_bytes: Option<u64>,
    /// Loss of the link, 0 to 1.
    pub loss: f64,
    /// `--chunk-size`
    pub chunk_bytes: u32,
    /// `--cc`
    pub controller: ControllerKind,
}

/// The simulated link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkPlan {
    /// Bits a second, counting IP bytes.
    pub rate_bits_per_sec: u64,
    /// Round trip.
    pub rtt: Duration,
    /// 0 to 1, each way.
    pub loss: f64,
    /// Longest wait before the bottleneck.
    pub queue: Duration,
}

/// A sweep, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is varied.
    pub kind: Kind,
    /// In the order given.
    pub settings: Vec<Setting>,
    /// The link to simulate.
    pub link: LinkPlan,
    /// What is known of the link: all of it in simulation, what was said of a real one.
    pub known: Link,
    /// Bytes of each upload, if given.
    pub size_bytes: Option<u64>,
    /// How long an upload should take otherwise.
    pub upload_time: Duration,
    /// Uploads for each value.
    pub runs: u64,
    /// See `--seed`.
    pub seed: u64,
    /// `--cc` as written.
    pub cc: String,
}

impl Plan {
    /// Checks everything.
    ///
    /// # Errors
    /// The first option that cannot be carried out; exit code 2.
    pub fn new(kind: Kind, args: &SweepArgs) -> Result<Self, Failure> {
        let link = link(args)?;
        let given = |is_given: bool| args.server.is_none() || is_given;
        let known = Link {
            rate_bits_per_sec: given(args.rate.is_some()).then_some(link.rate_bits_per_sec),
            rtt_ms: given(args.rtt.is_some()).then_some(link.rtt.as_secs_f64() * 1e3),
            loss_pct: given(args.loss.is_some()).then_some(link.loss * 100.0),
            queue_ms: given(args.queue.is_some()).then_some(link.queue.as_secs_f64() * 1e3),
        };
        let cc = args.cc.clone().unwrap_or_else(|| "adaptive".into());
        let base = Setting {
            label: String::new(),
            number: None,
            window_bytes: args.window.as_deref().map(|text| window("--window", text)).transpose()?,
            loss: link.loss,
            chunk_bytes: match args.chunk_size.as_deref() {
                None => DEFAULT_CHUNK_SIZE,
                Some(text) => chunk("--chunk-size", text)?,
            },
            controller: controller("--cc", &cc, known.rate_bits_per_sec)?,
        };
        refuse_both(kind, args)?;
        let list = args.values.as_deref().unwrap_or(kind.defaults());
        let settings: Result<Vec<Setting>, Failure> =
            list.split(',').map(|text| setting(kind, text.trim(), &base, known.rate_bits_per_sec)).collect();
        let settings = settings?;
        if settings.len() > MAX_VALUES {
            return Err(Failure::usage(format!(
                "--values: {} are too many: give 200 at most",
                settings.len()
            )));
        }
        if kind == Kind::Loss && args.server.is_some() {
            return Err(Failure::usage(
                "--server: the loss of a real link cannot be varied from here: use `bench window`, `chunk` or `cc`",
            ));
        }
        let size_bytes = args.size.as_deref().map(|text| size("--size", text)).transpose()?;
        if size_bytes == Some(0) {
            return Err(Failure::usage("--size: `0` is too small: give 1 or more"));
        }
        Ok(Self {
            kind,
            settings,
            link,
            known,
            size_bytes,
            upload_time: duration("--seconds", Some(&args.seconds))?.unwrap_or_default(),
            runs: number("--runs", &args.runs, 1..=MAX_RUNS)?,
            seed: number("--seed", &args.seed, 0..=u64::MAX)?,
            cc,
        })
    }

    /// The link as far as it is known, with the loss of this setting.
    pub fn known_link(&self, setting: &Setting) -> Link {
        let mut link = self.known.clone();
        if self.kind == Kind::Loss {
            link.loss_pct = Some(setting.loss * 100.0);
        }
        link
    }

    /// What this setting should give, if enough is known.
    pub fn expected_bits_per_sec(&self, setting: &Setting) -> Option<u64> {
        self.known_link(setting).expected_bits_per_sec(setting.window_bytes)
    }

    /// Bytes to send: as asked, or what `bits_per_sec` carries in the time an upload should take.
    pub fn size_for(&self, bits_per_sec: Option<u64>) -> u64 {
        self.size_bytes.unwrap_or_else(|| {
            let bytes = bits_per_sec.unwrap_or(0) as f64 / 8.0 * self.upload_time.as_secs_f64();
            (bytes as u64).clamp(MIN_UPLOAD_BYTES, MAX_UPLOAD_BYTES)
        })
    }
}

/// An option that says once what the sweep says again.
fn refuse_both(kind: Kind, args: &SweepArgs) -> Result<(), Failure> {
    let (option, is_given) = match kind {
        Kind::Window => ("--window", args.window.is_some()),
        Kind::Loss => ("--loss", args.loss.is_some()),
        Kind::Chunk => ("--chunk-size", args.chunk_size.is_some()),
        Kind::Cc => ("--cc", args.cc.is_some()),
    };
    if is_given {
        let name = kind.name();
        return Err(Failure::usage(format!("{option}: `bench {name}` varies that: use --values")));
    }
    Ok(())
}

fn link(args: &SweepArgs) -> Result<LinkPlan, Failure> {
    let rate_bits_per_sec = match args.rate.as_deref() {
        None => DEFAULT_RATE_BITS_PER_SEC,
        Some(text) => rate("--rate", text)?,
    };
    let rtt = duration("--rtt", args.rtt.as_deref())?.unwrap_or(DEFAULT_RTT);
    let queue = duration("--queue", args.queue.as_deref())?.unwrap_or(rtt);
    let loss = args.loss.as_deref().map_or(Ok(DEFAULT_LOSS), |text| percent("--loss", text))?;
    Ok(LinkPlan { rate_bits_per_sec, rtt, loss, queue })
}

/// One value of the list.
fn setting(kind: Kind, text: &str, base: &Setting, rate: Option<u64>) -> Result<Setting, Failure> {
    let mut setting = base.clone();
    match kind {
        Kind::Window => {
            let bytes = window("--values", text)?;
            setting.window_bytes = Some(bytes);
            (setting.label, setting.number) = (size_label(bytes), Some(bytes as f64));
        }
        Kind::Loss => {
            setting.loss = percent("--values", text)?;
            (setting.label, setting.number) =
                (units::exact_percent(setting.loss), Some(setting.loss * 100.0));
        }
        Kind::Chunk => {
            setting.chunk_bytes = chunk("--values", text)?;
            let bytes = u64::from(setting.chunk_bytes);
            (setting.label, setting.number) = (size_label(bytes), Some(bytes as f64));
        }
        Kind::Cc => {
            setting.controller = controller("--values", text, rate)?;
            setting.label = text.to_owned();
        }
    }
    Ok(setting)
}

/// `64 KiB`, or the plain number where that would not be exact.
fn size_label(bytes: u64) -> String {
    for (scale, unit) in [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= scale && bytes.is_multiple_of(scale) {
            return format!("{} {unit}", bytes / scale);
        }
    }
    format!("{bytes} B")
}

fn controller(option: &str, text: &str, rate_known: Option<u64>) -> Result<ControllerKind, Failure> {
    let fixed =
        |ip_bits: u64| ControllerKind::Fixed { bytes_per_sec: ip_bits / 8 * PAYLOAD_BYTES / PACKET_BYTES };
    match (text, text.strip_prefix("fixed:"), rate_known) {
        ("adaptive", ..) => Ok(ControllerKind::Adaptive),
        ("cubic", ..) => Ok(ControllerKind::Cubic),
        ("fixed", _, Some(bits)) => Ok(fixed(bits)),
        ("fixed", _, None) => Err(Failure::usage(format!(
            "{option}: `fixed` needs a rate: write fixed:RATE, or give the link's by --rate"
        ))),
        (_, Some(text), _) => Ok(fixed(rate(option, text)?)),
        (other, ..) => Err(Failure::usage(format!(
            "{option}: `{}` is unknown: give adaptive, cubic, fixed or fixed:RATE",
            units::quoted(other)
        ))),
    }
}

fn window(option: &str, text: &str) -> Result<u64, Failure> {
    let bytes = size(option, text)?;
    if bytes < MIN_WINDOW_BYTES {
        let shown = units::quoted(text);
        return Err(Failure::usage(format!(
            "{option}: `{shown}` is too small for a window: give 16KiB or more"
        )));
    }
    Ok(bytes)
}

fn chunk(option: &str, text: &str) -> Result<u32, Failure> {
    u32::try_from(size(option, text)?)
        .ok()
        .filter(|bytes| (MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE).contains(bytes))
        .ok_or_else(|| {
            let shown = units::quoted(text);
            Failure::usage(format!("{option}: `{shown}` is out of range for a chunk: give 1KiB to 4MiB"))
        })
}

fn unit<T>(option: &str, parsed: Result<T, UnitError>) -> Result<T, Failure> {
    parsed.map_err(|error| Failure::usage(format!("{option}: {error}")))
}

fn size(option: &str, text: &str) -> Result<u64, Failure> {
    unit(option, units::parse_size(text))
}

fn percent(option: &str, text: &str) -> Result<f64, Failure> {
    let share = unit(option, units::parse_percent(text))?;
    if share >= 1.0 {
        return Err(Failure::usage(format!(
            "{option}: with `{}` nothing arrives: give less than 100%",
            units::quoted(text)
        )));
    }
    Ok(share)
}

fn rate(option: &str, text: &str) -> Result<u64, Failure> {
    let bits = unit(option, units::parse_rate(text))?;
    if !(MIN_RATE_BITS_PER_SEC..=1_000_000_000_000).contains(&bits) {
        return Err(Failure::usage(format!(
            "{option}: `{}` is out of range: give 1kbit to 1000gbit",
            units::quoted(text)
        )));
    }
    Ok(bits)
}

fn duration(option: &str, text: Option<&str>) -> Result<Option<Duration>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let time = unit(option, units::parse_duration(text))?;
    if time > MAX_RTT {
        let shown = units::quoted(text);
        return Err(Failure::usage(format!("{option}: `{shown}` is too long: give 60s or less")));
    }
    Ok(Some(time))
}

fn number(option: &str, text: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, Failure> {
    text.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| {
        Failure::usage(format!(
            "{option}: `{}` is not a whole number from {} to {}",
            units::quoted(text),
            range.start(),
            range.end()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::cli::bench::args::BenchCommand;
    use clap::Parser;

    fn plan(words: &[&str]) -> Result<Plan, Failure> {
        let line = ["fulmar", "bench"].iter().chain(words);
        let Command::Bench(args) = Cli::try_parse_from(line).expect("clap takes it").command else {
            unreachable!()
        };
        match &args.what {
            BenchCommand::Window(args) => Plan::new(Kind::Window, args),
            BenchCommand::Loss(args) => Plan::new(Kind::Loss, args),
            BenchCommand::Chunk(args) => Plan::new(Kind::Chunk, args),
            BenchCommand::Cc(args) => Plan::new(Kind::Cc, args),
            BenchCommand::Report(_) => unreachable!(),
        }
    }

    #[test]
    fn defaults_are_valid() {
        for kind in ["window", "loss", "chunk", "cc"] {
            let plan = plan(&[kind]).expect(kind);
            assert!(plan.settings.len() >= 3, "{kind}");
            assert_eq!(plan.link.queue, plan.link.rtt);
        }
        let windows = plan(&["window"]).expect("valid").settings;
        assert_eq!(windows[0].window_bytes, Some(16 << 10));
        assert_eq!(windows.last().and_then(|s| s.window_bytes), Some(64 << 20));
        assert_eq!(windows[0].label, "16 KiB");
    }

    #[test]
    fn fixed_is_the_links_rate_in_payload() {
        let plan = plan(&["cc", "--rate", "15mbit", "--values", "fixed,fixed:30mbit"]).expect("valid");
        let rates: Vec<_> = plan.settings.iter().map(|s| s.controller).collect();
        assert_eq!(rates[0], ControllerKind::Fixed { bytes_per_sec: 1_840_000 });
        assert_eq!(rates[1], ControllerKind::Fixed { bytes_per_sec: 3_680_000 });
    }

    #[test]
    fn sizes_follow_the_expectation_within_bounds() {
        let plan = plan(&["window"]).expect("valid");
        assert_eq!(plan.size_for(Some(8_000_000)), 20_000_000);
        assert_eq!(plan.size_for(None), MIN_UPLOAD_BYTES);
        assert_eq!(plan.size_for(Some(u64::MAX)), MAX_UPLOAD_BYTES);
        assert_eq!(self::plan(&["window", "--size", "5"]).expect("valid").size_for(Some(9)), 5);
    }

    #[test]
    fn of_a_real_link_only_what_was_said_is_known() {
        let plan = plan(&["window", "--server", "h", "--rtt", "50ms"]).expect("valid");
        assert_eq!((plan.known.rtt_ms, plan.known.rate_bits_per_sec), (Some(50.0), None));
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for words in [
            &["window", "--values", "1KiB"][..],
            &["window", "--values", "64KiB,,1MiB"],
            &["window", "--window", "64KiB"],
            &["window", "--rtt", "2m"],
            &["window", "--runs", "0"],
            &["window", "--seed", "x"],
            &["window", "--size", "0"],
            &["window", "--loss", "100%"],
            &["window", "--rate", "9"],
            &["window", "--cc", "fixed:9"],
            &["window", "--cc", "bbr"],
            &["loss", "--values", "101%"],
            &["loss", "--server", "h"],
            &["chunk", "--values", "8MiB"],
            &["cc", "--values", "adaptive,reno"],
            &["cc", "--server", "h"],
        ] {
            let failure = plan(words).expect_err(&words.join(" "));
            assert_eq!(failure.exit_code, 2, "{words:?}");
            assert!(
                failure.message.starts_with("--") && !failure.message.contains('\n'),
                "{}",
                failure.message
            );
        }
    }
}
