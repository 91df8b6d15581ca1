//! Role: proof by simulation: a server and its clients with crashing disks, bad links and strangers, from one seed.
//! Owns: nothing; a run is a function of its plan.
//! Implements: docs/SIMULATION.md, "Crashes and faults".
//!
//! ```
//! use fulmar::sim::crash::{Plan, run};
//! let outcome = run(&Plan::new(7), false);
//! assert_eq!(outcome.violation, None);
//! ```

mod model;
mod plan;
mod process;
#[cfg(test)]
mod tests;
mod trouble;
mod world;

use super::disk::DiskCounters;
pub use plan::{Fault, FileSpec, Hostile, LinkFault, Mutation, NodeId, Plan, Task, Way, What};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How often each kind of fault has fired, and what the runs did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Of all disks.
    pub disk: DiskCounters,
    /// Processes killed, those in mid-operation included.
    pub kills: u64,
    /// Machines that lost power.
    pub power_cuts: u64,
    /// Processes told to end.
    pub stops: u64,
    /// Links gone bad, by `LinkFault`.
    pub link: [u64; 6],
    /// Clients that got another address.
    pub moves: u64,
    /// Clocks that jumped.
    pub clock_steps: u64,
    /// Sources changed while in use.
    pub mutations: u64,
    /// Destinations removed.
    pub removed_dirs: u64,
    /// Disk threads that stood still.
    pub slow_disks: u64,
    /// Bits flipped in memory.
    pub flips: u64,
    /// Datagrams of strangers, by `Hostile`.
    pub hostile: [u64; 5],
    /// Datagrams that arrived.
    pub datagrams: u64,
    /// Datagrams lost.
    pub lost: u64,
    /// Datagrams with flipped bits.
    pub corrupted: u64,
    /// Datagrams twice.
    pub duplicated: u64,
    /// Datagrams out of order.
    pub reordered: u64,
    /// Steps of virtual time.
    pub steps: u64,
    /// Jobs of stores.
    pub jobs: u64,
    /// Processes and commands started.
    pub runs: u64,
    /// Chunks that a resumed file did not need again.
    pub resumed_chunks: u64,
    /// Commands that went on with what an earlier run had begun.
    pub continued: u64,
    /// Chunks whose checksum did not fit, when they came or when the file was to be finished.
    pub refused_chunks: u64,
    /// Files that somebody was told to be safe.
    pub promises: u64,
    /// Errors reported.
    pub reported_errors: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
}

impl Coverage {
    /// Every counter of a fault with its name.
    pub fn faults(&self) -> Vec<(&'static str, u64)> {
        let mut all = vec![
            ("processes killed", self.kills),
            ("power cuts", self.power_cuts),
            ("processes told to end", self.stops),
            ("partitions", self.link[0]),
            ("one way dead, to the server", self.link[1]),
            ("one way dead, to the client", self.link[2]),
            ("links losing a third", self.link[3]),
            ("links corrupting a third", self.link[4]),
            ("links out of order", self.link[5]),
            ("datagrams lost", self.lost),
            ("datagrams corrupted", self.corrupted),
            ("datagrams duplicated", self.duplicated),
            ("datagrams reordered", self.reordered),
            ("clients moved", self.moves),
            ("clock steps", self.clock_steps),
            ("sources changed", self.mutations),
            ("destinations removed", self.removed_dirs),
            ("disks standing still", self.slow_disks),
            ("bits flipped in memory", self.flips),
            ("garbage datagrams", self.hostile[0]),
            ("replayed datagrams", self.hostile[1]),
            ("replayed from elsewhere", self.hostile[2]),
            ("datagrams with flipped bits of strangers", self.hostile[3]),
            ("packets sealed with stale keys", self.hostile[4]),
        ];
        all.extend(self.disk.each());
        all
    }

    /// What the runs did beside.
    pub fn work(&self) -> [(&'static str, u64); 10] {
        [
            ("steps", self.steps),
            ("datagrams", self.datagrams),
            ("jobs of stores", self.jobs),
            ("processes started", self.runs),
            ("files delivered", self.promises),
            ("chunks resumed", self.resumed_chunks),
            ("commands that went on (CONTINUE)", self.continued),
            ("chunks that had to come again", self.refused_chunks),
            ("errors reported", self.reported_errors),
            ("virtual seconds", self.virtual_ms / 1000),
        ]
    }

    /// Adds another run's.
    pub fn add(&mut self, o: &Self) {
        self.disk.add(&o.disk);
        let pairs = [
            (&mut self.kills, o.kills),
            (&mut self.power_cuts, o.power_cuts),
            (&mut self.stops, o.stops),
            (&mut self.moves, o.moves),
            (&mut self.clock_steps, o.clock_steps),
            (&mut self.mutations, o.mutations),
            (&mut self.removed_dirs, o.removed_dirs),
            (&mut self.slow_disks, o.slow_disks),
            (&mut self.flips, o.flips),
            (&mut self.datagrams, o.datagrams),
            (&mut self.lost, o.lost),
            (&mut self.corrupted, o.corrupted),
            (&mut self.duplicated, o.duplicated),
            (&mut self.reordered, o.reordered),
            (&mut self.steps, o.steps),
            (&mut self.jobs, o.jobs),
            (&mut self.runs, o.runs),
            (&mut self.resumed_chunks, o.resumed_chunks),
            (&mut self.continued, o.continued),
            (&mut self.refused_chunks, o.refused_chunks),
            (&mut self.promises, o.promises),
            (&mut self.reported_errors, o.reported_errors),
            (&mut self.virtual_ms, o.virtual_ms),
        ];
        pairs.into_iter().for_each(|(sum, n)| *sum += n);
        self.link.iter_mut().zip(o.link).for_each(|(sum, n)| *sum += n);
        self.hostile.iter_mut().zip(o.hostile).for_each(|(sum, n)| *sum += n);
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The rule that was broken, if one was.
    pub violation: Option<String>,
    /// What happened, line by line, if that was asked for.
    pub trace: Vec<String>,
    /// What fired.
    pub coverage: Coverage,
}

/// Runs a plan to its end, or to the first rule that is broken. A panic breaks the first of all rules.
pub fn run(plan: &Plan, trace: bool) -> Outcome {
    let mut world = world::World::new(plan, trace);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
        Err(format!("a panic: {text}"))
    });
    world.outcome(result)
}

/// Drops faults one at a time as long as the run still breaks a rule: what is left is needed for it.
pub fn minimise(plan: &Plan) -> Plan {
    let mut least = plan.clone();
    let mut at = 0;
    while at < least.faults.len() {
        let mut faults = least.faults.clone();
        faults.remove(at);
        let fewer = least.with_faults(faults);
        if run(&fewer, false).violation.is_some() {
            least = fewer;
        } else {
            at += 1;
        }
    }
    least
}
