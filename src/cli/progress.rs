//! Role: shows how a transfer goes: bars on a terminal, a plain line every few seconds elsewhere.
//! Owns: the bars, and the recent history from which rate and remaining time follow.
//! Implements: `--progress`.

use super::args::ProgressWhen;
use super::options::Output;
use super::{report, summary, terminal, text};
use crate::session::event::{Direction, Stats};
use crate::transfer::job::FileId;
use crate::units;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Files below this size come and go too fast for a bar of their own.
const BAR_MIN_BYTES: u64 = 4 << 20;
/// Bars beside the total one: they must fit a small terminal.
const MAX_FILE_BARS: usize = 4;
/// Files that wait for a bar; with more open at once the rest has none.
const MAX_ACTIVE_FILES: usize = 64;
/// Redraws per second: smooth, and cheap over ssh.
const DRAWS_PER_SEC: u8 = 8;
/// Time between plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// The same with `--progress always`.
const LINE_INTERVAL_ALWAYS: Duration = Duration::from_secs(1);
/// Span over which the rate is taken: long enough to be calm, short enough to follow the link.
const RATE_SPAN: Duration = Duration::from_secs(4);
/// Without a byte for so long, the line says so.
const STALL_AFTER: Duration = Duration::from_secs(3);
/// Samples of the rate at ten ticks a second, with room to spare.
const MAX_SAMPLES: usize = 64;

/// The bar of the whole request, once there is something to measure.
const TOTAL_TEMPLATE: &str = "{spinner} {prefix:<24!} [{wide_bar:.cyan}] {percent:>3} %\n  {msg}";
/// The bar of one big file.
const FILE_TEMPLATE: &str = "  {prefix:<24!} [{wide_bar:.cyan}] {percent:>3} %";

/// A big file under way.
#[derive(Debug)]
struct Active {
    direction: Direction,
    file: FileId,
    bytes: u64,
    name: String,
    bar: Option<ProgressBar>,
}

#[derive(Debug)]
enum Display {
    Hidden,
    Lines { last: Option<Instant>, interval: Duration },
    Bars { all: MultiProgress, total: ProgressBar },
}

/// What the user sees while files move.
#[derive(Debug)]
pub struct Progress {
    display: Display,
    command: &'static str,
    samples: VecDeque<(Instant, u64)>,
    last_advance: Option<(Instant, u64)>,
    finished_bytes: u64,
    active: Vec<Active>,
}

impl Progress {
    /// For a command, as the options say.
    pub fn new(command: &'static str, output: Output) -> Self {
        let shown = match output.progress {
            ProgressWhen::Never => false,
            ProgressWhen::Always => true,
            ProgressWhen::Auto => !output.quiet,
        };
        let is_terminal =
            std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let display = if !shown {
            Display::Hidden
        } else if is_terminal {
            bars()
        } else if output.progress == ProgressWhen::Always {
            Display::Lines { last: None, interval: LINE_INTERVAL_ALWAYS }
        } else {
            Display::Lines { last: None, interval: LINE_INTERVAL }
        };
        Self {
            display,
            command,
            samples: VecDeque::with_capacity(MAX_SAMPLES),
            last_advance: None,
            finished_bytes: 0,
            active: Vec::new(),
        }
    }

    /// What is going on before bytes flow.
    pub fn phase(&mut self, what: &str) {
        if let Display::Bars { total, .. } = &self.display {
            total.set_message(what.to_owned());
        }
    }

    /// Something went wrong, and the request goes on all the same: files that were under way begin again.
    pub fn trouble(&mut self, what: &str) {
        for active in std::mem::take(&mut self.active) {
            if let (Some(bar), Display::Bars { all, .. }) = (active.bar, &self.display) {
                bar.finish_and_clear();
                all.remove(&bar);
            }
        }
        match &self.display {
            Display::Hidden => {}
            Display::Lines { .. } => terminal::stderr_line(&format!("{}: {what}", self.command)),
            Display::Bars { total, .. } => total.set_message(what.to_owned()),
        }
    }

    /// A file begins.
    pub fn started(&mut self, direction: Direction, file: FileId, path: &[u8], bytes: u64) {
        if !matches!(self.display, Display::Bars { .. })
            || bytes < BAR_MIN_BYTES
            || self.active.len() >= MAX_ACTIVE_FILES
        {
            return;
        }
        let name = text::bytes(super::paths::root_name(path));
        self.active.push(Active { direction, file, bytes, name, bar: None });
        self.give_bars();
    }

    /// A file ends, one way or the other.
    pub fn finished(&mut self, direction: Direction, file: FileId, bytes: u64, ok: bool) {
        if ok {
            self.finished_bytes = self.finished_bytes.saturating_add(bytes);
        }
        if let Some(at) = self.active.iter().position(|a| a.direction == direction && a.file == file) {
            if let (Some(bar), Display::Bars { all, .. }) = (self.active.remove(at).bar, &self.display) {
                bar.finish_and_clear();
                all.remove(&bar);
            }
            self.give_bars();
        }
    }

    fn give_bars(&mut self) {
        let Display::Bars { all, total } = &self.display else { return };
        let free = MAX_FILE_BARS.saturating_sub(self.active.iter().filter(|a| a.bar.is_some()).count());
        for active in self.active.iter_mut().filter(|a| a.bar.is_none()).take(free) {
            let bar = all.insert_before(total, ProgressBar::new(active.bytes));
            bar.set_style(style(FILE_TEMPLATE));
            bar.set_prefix(active.name.clone());
            active.bar = Some(bar);
        }
    }

    /// About ten times a second.
    pub fn tick(&mut self, now: Instant, stats: &Stats, connected: bool) {
        if matches!(self.display, Display::Hidden) {
            return;
        }
        let done = stats.file_bytes_done;
        self.sample(now, done);
        self.share_out(done);
        let message = self.message(now, stats);
        match &mut self.display {
            Display::Hidden => {}
            Display::Bars { total, .. } => {
                if connected {
                    if total.length().is_none() {
                        total.set_style(style(TOTAL_TEMPLATE));
                    }
                    let of = units::format_bytes(stats.file_bytes_total.max(done));
                    total.set_prefix(format!("{} of {of}", units::format_bytes(done)));
                    total.set_length(stats.file_bytes_total.max(done));
                    total.set_position(done);
                    total.set_message(message);
                }
                total.tick();
            }
            Display::Lines { last, interval } => {
                // Before the connection stands, the one line that matters is how it fails.
                let due =
                    connected && last.is_none_or(|last| now.saturating_duration_since(last) >= *interval);
                let first = last.is_none();
                if due {
                    *last = Some(now);
                    // Short transfers end before the second line would be due: no line at all for them.
                    if !first {
                        let of = units::format_bytes(stats.file_bytes_total.max(done));
                        terminal::stderr_line(&format!(
                            "{}: {} of {of}, {message}",
                            self.command,
                            units::format_bytes(done)
                        ));
                    }
                }
            }
        }
    }

    /// Takes everything off the terminal.
    pub fn clear(&mut self) {
        if let Display::Bars { all, .. } = &self.display {
            let _ = all.clear();
            terminal::set_bars(None);
        }
        self.display = Display::Hidden;
    }

    fn sample(&mut self, now: Instant, done: u64) {
        while self.samples.len() > 1
            && (self.samples.len() >= MAX_SAMPLES
                || self.samples.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= RATE_SPAN))
        {
            self.samples.pop_front();
        }
        self.samples.push_back((now, done));
        if self.last_advance.is_none_or(|(_, bytes)| bytes < done) {
            self.last_advance = Some((now, done));
        }
    }

    /// Bits per second over the recent past.
    fn rate(&self) -> u64 {
        match (self.samples.front(), self.samples.back()) {
            (Some((from, before)), Some((to, after))) => {
                report::bits_per_sec(after.saturating_sub(*before), to.saturating_duration_since(*from))
            }
            _ => 0,
        }
    }

    /// Gives the bytes done to the open files: files go in order, so what exceeds the finished ones belongs to the
    /// oldest that is still open. With several open at once this is an estimate.
    fn share_out(&self, done: u64) {
        let mut rest = done.saturating_sub(self.finished_bytes);
        for active in &self.active {
            let part = rest.min(active.bytes);
            rest -= part;
            if let Some(bar) = &active.bar {
                bar.set_position(part);
            }
        }
    }

    fn message(&self, now: Instant, stats: &Stats) -> String {
        let rate = self.rate();
        let left = stats.file_bytes_total.saturating_sub(stats.file_bytes_done);
        let silent = self.last_advance.map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(at));
        let eta = if left > 0 && silent >= STALL_AFTER {
            format!("no progress for {} s", silent.as_secs())
        } else if left == 0 {
            "finishing".to_owned()
        } else if rate == 0 {
            "ETA -".to_owned()
        } else {
            // Whole seconds: the estimate is no better.
            match left.saturating_mul(8).div_ceil(rate) {
                seconds @ 0..60 => format!("ETA {seconds} s"),
                seconds => format!("ETA {}", units::format_duration(Duration::from_secs(seconds))),
            }
        };
        format!(
            "{}, {eta}, loss {:.1} %, RTT {}",
            units::format_rate(rate),
            report::loss_pct(self.command, stats),
            summary::rtt(stats.smoothed_rtt)
        )
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bars() -> Display {
    let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SEC));
    // Without a length there is nothing to measure yet: only the spinner.
    let total = all.add(ProgressBar::no_length());
    total.set_style(style("{spinner} {msg}"));
    terminal::set_bars(Some(all.clone()));
    Display::Bars { all, total }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates are constants, and a test builds them")
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Progress {
        Progress {
            display: Display::Hidden,
            command: "put",
            samples: VecDeque::new(),
            last_advance: None,
            finished_bytes: 0,
            active: Vec::new(),
        }
    }

    #[test]
    fn rate_follows_the_last_seconds_and_history_is_bounded() {
        #[allow(clippy::disallowed_methods)] // A test needs some instant to count from.
        let start = Instant::now();
        let mut progress = progress();
        for tick in 0..1_000u64 {
            // 1 MB/s for 50 s, then 2 MB/s.
            let bytes = if tick < 500 { tick * 100_000 } else { 50_000_000 + (tick - 500) * 200_000 };
            progress.sample(start + Duration::from_millis(tick * 100), bytes);
            assert!(progress.samples.len() <= MAX_SAMPLES);
        }
        assert_eq!(progress.rate(), 16_000_000);
    }

    #[test]
    fn a_stall_is_never_silent() {
        #[allow(clippy::disallowed_methods)] // A test needs some instant to count from.
        let start = Instant::now();
        let mut progress = progress();
        let mut stats = Stats { file_bytes_done: 500, file_bytes_total: 1_000, ..Stats::default() };
        progress.sample(start, 0);
        progress.sample(start + Duration::from_secs(1), 500);
        let message = progress.message(start + Duration::from_secs(1), &stats);
        assert!(message.contains("ETA 1"), "{message}");
        let message = progress.message(start + Duration::from_secs(8), &stats);
        assert!(message.contains("no progress for 7 s"), "{message}");
        stats.file_bytes_done = 1_000;
        assert!(progress.message(start + Duration::from_secs(8), &stats).contains("finishing"));
    }

    #[test]
    fn bars_can_be_built_and_shared_out() {
        let mut progress = progress();
        progress.display = bars();
        for (id, bytes) in [(1, 5 << 20), (2, 6 << 20)] {
            progress.started(Direction::Sending, FileId(id), b"dir/name", bytes);
        }
        progress.share_out(7 << 20);
        let position = |p: &Progress, n: usize| p.active[n].bar.as_ref().map(ProgressBar::position);
        assert_eq!((position(&progress, 0), position(&progress, 1)), (Some(5 << 20), Some(2 << 20)));
        progress.finished(Direction::Sending, FileId(1), 5 << 20, true);
        progress.share_out(7 << 20);
        assert_eq!(position(&progress, 0), Some(2 << 20));
        let stats = Stats { file_bytes_total: 11 << 20, ..Stats::default() };
        progress.tick(super::super::client::now(), &stats, true);
        progress.clear();
    }
}
