//! Role: one upload over a simulated link, on virtual time.
//! Owns: the simulated world of the run.
//! Implements: docs/SIMULATION.md, as `fulmar bench` uses it.

use super::plan::{LinkPlan, Plan, Setting};
use super::result::Run;
use crate::cli::exit;
use crate::impair::Profile;
use crate::net::trace::TraceFile;
use crate::session::event::{CloseReason, Stats};
use crate::session::trace::Trace;
use crate::sim::{Scenario, World};
use crate::store::memory::Content;
use crate::transfer::job::{Compression, Meta};
use std::time::{Duration, Instant};

/// Name of the file that is sent.
const NAME: &[u8] = b"bench";
/// Bounds of the time between two looks at the figures, a quarter of an RTT.
const MIN_LOOK: Duration = Duration::from_millis(5);
const MAX_LOOK: Duration = Duration::from_millis(100);
/// Virtual time after which an upload is given up: far more than the slowest setting should need.
const TIME_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Sends `bytes` with this setting; the same seed, the same figures. Into `trace` goes what happens, as if the world
/// had begun so long after the trace.
pub fn upload(
    plan: &Plan,
    setting: &Setting,
    seed: u64,
    bytes: u64,
    mut trace: Option<(TraceFile, Duration)>,
) -> Run {
    let mut scenario = Scenario::symmetric(seed, profile(&plan.link, setting));
    let session = &mut scenario.client.session;
    session.window_cap_bytes = setting.window_bytes;
    session.chunk_size = setting.chunk_bytes;
    session.controller = setting.controller;
    // The bytes are random: nothing to gain, and the sampling would only cost time.
    session.compress = Compression::None;
    session.trace = trace.is_some();
    let mut world = World::new(&scenario);
    let meta = Meta { mode: 0o644, ..Meta::default() };
    world.client_store(0).insert_file(NAME, Content::Pattern { seed, size: bytes }, meta);
    let key = world.put(0, &[NAME]);

    let mut rtt = Mean::default();
    let look = (plan.link.rtt / 4).clamp(MIN_LOOK, MAX_LOOK);
    let elapsed = loop {
        world.run_for(look);
        if let Some((trace, begin)) = &mut trace {
            record(trace, *begin, &mut world);
        }
        if let Some(at) = world.closed_at(0, key) {
            break at;
        }
        if let Some(stats) = world.stats(0, key) {
            rtt.add(stats.smoothed_rtt);
        }
        if world.elapsed() > TIME_LIMIT {
            break world.elapsed();
        }
    };

    let report = world.report(0, key);
    let stats =
        if report.closed.is_some() { report.stats.clone() } else { world.stats(0, key).unwrap_or_default() };
    let error = match &report.closed {
        None => Some((exit::OTHER, format!("no end after {TIME_LIMIT:?} of virtual time"))),
        Some(CloseReason::Done) => {
            report.failures.first().map(|(_, error)| (error.kind.exit_code(), error.message.clone()))
        }
        Some(reason) => Some((reason.exit_code(), reason.to_string())),
    };
    let arrived = world.server_store().node(NAME).is_some();
    let error = error.or_else(|| (!arrived).then(|| (exit::INTEGRITY, "the file did not arrive".to_owned())));
    let link = world.link_counters(0)[0];
    let mut run = measured(seed, bytes, elapsed, &stats, error);
    run.rtt_ms = rtt.millis();
    run.queue_ms = Some(link.mean_queue().as_secs_f64() * 1e3);
    run.queue_most_ms = Some(link.queued_most.as_secs_f64() * 1e3);
    run
}

/// Hands over what was recorded, on the trace's clock.
fn record(trace: &mut TraceFile, begin: Duration, world: &mut World) {
    let (from, to) = (world.start(), trace.reference() + begin);
    let moved = |at: Instant| to + at.saturating_duration_since(from);
    let (mut records, mut told, left_out) = world.take_trace(0);
    for (_, record) in &mut records {
        record.at = moved(record.at);
        if let Trace::Lost { sent_at, .. } = &mut record.what {
            *sent_at = moved(*sent_at);
        }
    }
    for (_, at, ..) in &mut told {
        *at = moved(*at);
    }
    trace.simulated(to + world.elapsed(), records, told, left_out);
}

/// The link, one direction.
fn profile(link: &LinkPlan, setting: &Setting) -> Profile {
    Profile {
        loss: setting.loss,
        delay: link.rtt / 2,
        rate_bits_per_sec: Some(link.rate_bits_per_sec),
        queue: Some(link.queue),
        ..Profile::default()
    }
}

/// Figures that every upload has, simulated or real.
pub fn measured(seed: u64, bytes: u64, elapsed: Duration, stats: &Stats, error: Option<(u8, String)>) -> Run {
    let seconds = elapsed.as_secs_f64();
    let (exit_code, error) = error.map_or((exit::DONE, None), |(code, error)| (code, Some(error)));
    let is_done = error.is_none() && seconds > 0.0;
    Run {
        seed,
        bytes,
        elapsed_s: seconds,
        goodput_bits_per_sec: if is_done { (bytes as f64 * 8.0 / seconds) as u64 } else { 0 },
        min_rtt_ms: (!stats.min_rtt.is_zero()).then_some(stats.min_rtt.as_secs_f64() * 1e3),
        packets_sent: stats.packets_sent,
        packets_repaired: stats.packets_repaired,
        packets_lost: stats.packets_lost.saturating_sub(stats.packets_spurious),
        loss_pct: stats.loss_pct(),
        wire_bytes_sent: stats.wire_bytes_sent,
        error,
        exit_code,
        ..Run::default()
    }
}

/// Mean of the durations seen, zeros (nothing known yet) left out.
#[derive(Debug, Default)]
pub struct Mean {
    sum: Duration,
    count: u32,
}

impl Mean {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        if !time.is_zero() {
            self.sum = self.sum.saturating_add(time);
            self.count += 1;
        }
    }

    /// Milliseconds; `None` without any.
    pub fn millis(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum.as_secs_f64() * 1e3 / f64::from(self.count))
    }
}
