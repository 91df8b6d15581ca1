//! Sweeps seeds of the crash simulation over all cores; a failing one is printed with the command that replays it and
//! with the faults that it needs.
//!
//!     cargo run --release --example crash_sweep -- --seeds 20000 [--from N] [--threads N]
//!     cargo run --release --example crash_sweep -- --seed N          with a trace
//!     cargo run --release --example crash_sweep -- --seed N --whole  all its faults, not only the ones it needs

use fulmar::sim::crash::{Coverage, Plan, minimise, run};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Exit code when a rule was broken; 2 is for wrong arguments.
const VIOLATION: u8 = 1;
const USAGE: &str =
    "usage: crash_sweep --seeds N [--from N] [--threads N] [--keep-going] | --seed N [--whole]";

#[derive(Default)]
struct Arguments {
    seed: Option<u64>,
    seeds: u64,
    from: u64,
    threads: usize,
    keep_going: bool,
    whole: bool,
}

fn arguments() -> Option<Arguments> {
    let mut a = Arguments { seeds: 1000, ..Arguments::default() };
    a.threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seeds" => a.seeds = words.next()?.parse().ok()?,
            "--from" => a.from = words.next()?.parse().ok()?,
            "--threads" => a.threads = words.next()?.parse().ok().filter(|n| *n > 0)?,
            "--seed" => a.seed = Some(words.next()?.parse().ok()?),
            "--keep-going" => a.keep_going = true,
            "--whole" => a.whole = true,
            // `cargo test --all-targets` and nextest run examples as tests.
            "--list" | "--test" | "--bench" => a.seeds = 0,
            _ => return None,
        }
    }
    Some(a)
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match arguments.seed {
        Some(seed) => replay(seed, arguments.whole),
        None => sweep(&arguments),
    }
}

/// Runs one seed again, with as few faults as it takes to fail, and tells everything.
fn replay(seed: u64, whole: bool) -> ExitCode {
    let plan = Plan::new(seed);
    let failed = run(&plan, false).violation.is_some();
    let plan = if failed && !whole { minimise(&plan) } else { plan };
    println!("{plan:#?}");
    let outcome = run(&plan, true);
    outcome.trace.iter().for_each(|line| println!("{line}"));
    match outcome.violation {
        Some(violation) => {
            println!("seed {seed}: VIOLATION: {violation}");
            ExitCode::from(VIOLATION)
        }
        None => {
            println!("seed {seed}: no rule was broken");
            ExitCode::SUCCESS
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a sweep tells how long it took")]
fn sweep(a: &Arguments) -> ExitCode {
    let started = Instant::now();
    let next = AtomicU64::new(a.from);
    let stop = AtomicBool::new(false);
    let total = Mutex::new((Coverage::default(), Vec::new(), 0));
    std::thread::scope(|scope| {
        for _ in 0..a.threads {
            scope.spawn(|| {
                let (mut coverage, mut ran) = (Coverage::default(), 0);
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= a.from + a.seeds {
                        break;
                    }
                    let outcome = run(&Plan::new(seed), false);
                    coverage.add(&outcome.coverage);
                    ran += 1;
                    if let Some(violation) = outcome.violation {
                        println!("seed {seed}: VIOLATION: {violation}");
                        println!("  replay: cargo run --release --example crash_sweep -- --seed {seed}");
                        stop.store(!a.keep_going, Ordering::Relaxed);
                        total.lock().unwrap_or_else(PoisonError::into_inner).1.push((seed, violation));
                    }
                }
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                total.0.add(&coverage);
                total.2 += ran;
            });
        }
    });
    let (coverage, failed, ran) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (name, n) in coverage.faults().into_iter().chain(coverage.work()) {
        println!("{n:>14}  {name}");
    }
    if let Some((seed, _)) = failed.iter().min() {
        let least = minimise(&Plan::new(*seed));
        println!("seed {seed} needs these faults:");
        least.faults.iter().for_each(|f| println!("  {:?} {:?}", f.at, f.what));
    }
    let secs = started.elapsed().as_secs_f64();
    println!("{ran} seeds from {} in {secs:.1} s, {} with a broken rule", a.from, failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(VIOLATION) }
}
