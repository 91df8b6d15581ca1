//! Role: what happens in a run, decided by its seed alone: who transfers what, over which link, and every fault.
//! Owns: nothing; values.
//! Implements: docs/SIMULATION.md, "Crashes and faults".

use crate::impair::{Profile, derive_seed};
use crate::sim::disk::{DiskFault, DiskFaultKind, Quirks};
use crate::transfer::job::{Compression, Overwrite};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use std::time::Duration;

/// A machine: 0 is the server, clients follow.
pub type NodeId = usize;

/// Which way the files of a task go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Put,
    /// From the server to the client.
    Get,
    /// To the server and back.
    Echo,
}

/// A file of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// Path below the task's tree.
    pub path: Vec<u8>,
    /// Bytes.
    pub bytes: usize,
    /// Whether they can be compressed.
    pub compressible: bool,
}

/// What one client is to do: the same command again and again, until it succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Which way.
    pub way: Way,
    /// Which files.
    pub files: Vec<FileSpec>,
    /// What happens to existing files (uploads).
    pub overwrite: Overwrite,
    /// When it begins.
    pub start: Duration,
    /// A run after a broken one uses the same port again.
    pub same_port: bool,
    /// Uploads of other bytes under the same names go to the same place: those of the first client.
    pub rival: bool,
}

/// Bytes of a source that somebody changes while it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Half of it is cut off.
    Truncate,
    /// Something is appended.
    Grow,
    /// Its first and its last byte change in place.
    Change,
    /// Another file takes its name.
    Replace,
    /// It is gone for a while; another file takes its name when everything heals.
    Remove,
}

/// What the link does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkFault {
    /// Nothing passes in either direction.
    Partition,
    /// Nothing passes towards the server.
    DeafServer,
    /// Nothing passes towards the client.
    DeafClient,
    /// A third is lost, in bursts.
    Lossy,
    /// A third arrives with flipped bits.
    Corrupting,
    /// Much arrives twice, late and out of order.
    Unruly,
}

/// What a stranger sends to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hostile {
    /// Random bytes.
    Garbage,
    /// Datagrams that were seen on the way, again.
    Replay,
    /// The same, from another address.
    ReplayFromElsewhere,
    /// The same, with flipped bits.
    Mutate,
    /// A packet that ends the session, sealed with keys that were copied at its beginning.
    StaleKeys,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A process is killed; it, or the command, is started again after the pause.
    Kill {
        /// Whose.
        node: NodeId,
        /// How long it is away.
        pause: Duration,
    },
    /// A machine loses power.
    PowerCut {
        /// Which one.
        node: NodeId,
        /// How long it is away.
        pause: Duration,
    },
    /// A process is told to end (SIGTERM).
    Stop {
        /// Whose.
        node: NodeId,
        /// How long it is away.
        pause: Duration,
    },
    /// A disk fails; its faults count their operations from then on.
    Disk {
        /// Whose.
        node: NodeId,
        /// How.
        fault: DiskFault,
        /// How long the machine is away if the fault is a crash.
        pause: Duration,
    },
    /// A bit of a partial or journal flips: where it is not hashed yet, or, after a kill, anywhere.
    Rot {
        /// Whose disk.
        node: NodeId,
        /// Which bit.
        at: u64,
    },
    /// A bit flips in memory between the protocol and the store: in the n-th chunk or piece from now on.
    Flip {
        /// Where.
        node: NodeId,
        /// Which one.
        nth: u32,
    },
    /// The link of a client is bad for a while.
    Link {
        /// Whose.
        client: NodeId,
        /// How.
        fault: LinkFault,
        /// How long.
        length: Duration,
    },
    /// A NAT gives a client another address.
    Move {
        /// Which client.
        client: NodeId,
    },
    /// The wall clock of a machine jumps.
    Clock {
        /// Whose.
        node: NodeId,
        /// By so many seconds.
        by_secs: i64,
    },
    /// Somebody changes a file of the task's source.
    Mutate {
        /// Whose task.
        client: NodeId,
        /// Which file.
        file: usize,
        /// How.
        how: Mutation,
    },
    /// Somebody removes the directory that the files arrive in.
    RemoveDest {
        /// Whose task.
        client: NodeId,
    },
    /// The disk thread of a machine stands still for a while.
    SlowDisk {
        /// Whose.
        node: NodeId,
        /// How long.
        length: Duration,
    },
    /// A stranger sends something.
    Hostile {
        /// To whom.
        node: NodeId,
        /// What.
        how: Hostile,
        /// How many datagrams.
        count: u32,
    },
}

/// A fault and when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Since the run began.
    pub at: Duration,
    /// What.
    pub what: What,
}

/// Everything about a run. The same plan always runs alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Where it comes from.
    pub seed: u64,
    /// Without encryption.
    pub insecure: bool,
    /// Plain bytes per chunk.
    pub chunk_size: u32,
    /// How chunks are encoded.
    pub compress: Compression,
    /// One per client.
    pub tasks: Vec<Task>,
    /// Both ways, while nothing is wrong with it.
    pub link: Profile,
    /// What the disks are like, the server's first.
    pub quirks: Vec<Quirks>,
    /// The longest time that a job takes on a disk.
    pub disk_delay: Duration,
    /// A command that is run again says that it goes on with what its last run has begun (CONTINUE).
    pub continues: bool,
    /// What the server's directory may take, if that is bounded: enough for everything, so that only counting can fail.
    pub quota_bytes: Option<u64>,
    /// What goes wrong, in order.
    pub faults: Vec<Fault>,
    /// From then on nothing goes wrong any more.
    pub heal_at: Duration,
}

/// The whole of a run's faults lies in this time; transfers take about as long.
const ACTIVE: Duration = Duration::from_secs(8);
/// Of a quota: the largest tasks of three clients, several times.
const ENOUGH_BYTES: u64 = 16 << 20;
/// Faults end so long after the last of them.
const AFTERMATH: Duration = Duration::from_secs(4);

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(derive_seed(seed, 900));
        let r = &mut rng;
        let clients = 1 + pick(r, &[0, 0, 1, 1, 2]);
        let chunk_size = pick(r, &[1024, 4096, 4096, 16_384]);
        let mut tasks: Vec<Task> = (0..clients).map(|_| task(r, chunk_size)).collect();
        if clients > 1 && tasks[0].way == Way::Put && r.random_range(0..3) == 0 {
            let start = tasks[1].start;
            let overwrite = pick(r, &[Overwrite::Never, Overwrite::Always]);
            tasks[1] = Task { start, overwrite, rival: true, ..tasks[0].clone() };
        }
        let quirks = (0..=clients).map(|_| quirks(r)).collect();
        let compress = pick(r, &[Compression::Auto, Compression::Lz4, Compression::None, Compression::None]);
        let link = Profile {
            loss: pick(r, &[0.0, 0.01, 0.05]),
            burst: pick(r, &[1.0, 3.0]),
            corrupt: pick(r, &[0.0, 0.01, 0.05]),
            duplicate: pick(r, &[0.0, 0.02]),
            reorder: pick(r, &[0.0, 0.05]),
            delay: Duration::from_millis(pick(r, &[1, 10, 60])),
            jitter: Duration::from_millis(pick(r, &[0, 1])),
            rate_bits_per_sec: Some(pick(r, &[1_000_000, 3_000_000, 10_000_000])),
            ..Profile::default()
        };
        let disk_delay = Duration::from_micros(pick(r, &[0, 500, 5000]));
        let insecure = r.random_range(0..4) == 0;
        // Another stream: what goes wrong does not depend on how the rest was drawn.
        let mut r = Xoshiro256PlusPlus::seed_from_u64(derive_seed(seed, 901));
        let count = pick(&mut r, &[1, 2, 3, 4, 6, 9]);
        let mut faults: Vec<Fault> = (0..count).map(|_| fault(&mut r, &tasks)).collect();
        faults.sort_by_key(|f| f.at);
        // One more stream, for the same reason.
        let mut r = Xoshiro256PlusPlus::seed_from_u64(derive_seed(seed, 902));
        let continues = r.random_range(0..2) == 0;
        let quota_bytes = (r.random_range(0..2) == 0).then_some(ENOUGH_BYTES);
        let last = faults.iter().map(|f| f.at).max().unwrap_or_default();
        Self {
            seed,
            insecure,
            chunk_size,
            compress,
            tasks,
            link,
            quirks,
            disk_delay,
            continues,
            quota_bytes,
            faults,
            heal_at: last + AFTERMATH,
        }
    }

    /// The same with only some of its faults.
    pub fn with_faults(&self, faults: Vec<Fault>) -> Self {
        Self { faults, ..self.clone() }
    }
}

fn pick<T: Copy>(r: &mut impl Rng, from: &[T]) -> T {
    from[r.random_range(0..from.len())]
}

fn quirks(r: &mut impl Rng) -> Quirks {
    let mut rare = || r.random_range(0..8) == 0;
    let (no_noreplace, no_locks, no_holes, no_types) = (rare(), rare(), rare(), rare());
    Quirks { no_noreplace, no_locks, no_holes, no_types, ordered: r.random_range(0..2) == 0 }
}

fn task(r: &mut impl Rng, chunk_size: u32) -> Task {
    let way = pick(r, &[Way::Put, Way::Put, Way::Put, Way::Get, Way::Get, Way::Echo]);
    let chunk = chunk_size as usize;
    let mut files: Vec<FileSpec> = Vec::new();
    let dirs: [&[u8]; 3] = [b"", b"a/", b"a/b/"];
    // Small ones in numbers that pass the bounds of single syncs and of the first batch now and then.
    let small = pick(r, &[0, 1, 3, 12, 40]);
    for n in 0..small {
        let path = [pick(r, &dirs), format!("s{n}").as_bytes()].concat();
        files.push(FileSpec { path, bytes: r.random_range(0..700), compressible: false });
    }
    for n in 0..pick(r, &[1, 1, 2, 3]) {
        let path = [pick(r, &dirs), format!("big{n}").as_bytes()].concat();
        let bytes = match r.random_range(0..4) {
            0 => chunk * r.random_range(2..6),
            1 => chunk * r.random_range(1..5) + 1,
            _ => r.random_range(20_000..250_000),
        };
        files.push(FileSpec { path, bytes, compressible: r.random_range(0..2) == 0 });
    }
    let overwrite = pick(r, &[Overwrite::Never, Overwrite::Never, Overwrite::Always]);
    let start = Duration::from_millis(r.random_range(0..1000));
    Task { way, files, overwrite, start, same_port: r.random_range(0..3) == 0, rival: false }
}

fn fault(r: &mut impl Rng, tasks: &[Task]) -> Fault {
    let at = ACTIVE.mul_f64(r.random_range(0.0..1.0f64).powi(2));
    let client = 1 + r.random_range(0..tasks.len());
    let node = pick(r, &[0, client]);
    let pause = Duration::from_millis(pick(r, &[50, 500, 3000]));
    let what = match r.random_range(0..36) {
        0..=2 => What::Kill { node, pause },
        3..=5 => What::PowerCut { node, pause },
        6 => What::Stop { node, pause },
        7..=11 => {
            let kind = pick(r, &[DiskFaultKind::Kill, DiskFaultKind::PowerCut]);
            let fault = DiskFault { at_op: r.random_range(0..400), kind, times: 1 };
            What::Disk { node, fault, pause }
        }
        12..=16 => What::Disk { node, fault: disk_fault(r), pause },
        17 | 34..36 => What::Rot { node, at: r.next_u64() },
        18..=19 => What::Flip { node, nth: r.random_range(0..60) },
        20..=23 => {
            let fault = pick(
                r,
                &[
                    LinkFault::Partition,
                    LinkFault::DeafServer,
                    LinkFault::DeafClient,
                    LinkFault::Lossy,
                    LinkFault::Corrupting,
                    LinkFault::Unruly,
                ],
            );
            let length = Duration::from_millis(pick(r, &[300, 2000, 12_000]));
            What::Link { client, fault, length }
        }
        24 => What::Move { client },
        25 => {
            let by_secs = pick(r, &[-86_400 * 30, -3600, -1, 1, 3600, 86_400 * 30]);
            What::Clock { node, by_secs }
        }
        26..=27 => {
            use Mutation as M;
            let how =
                pick(r, &[M::Truncate, M::Grow, M::Change, M::Change, M::Change, M::Replace, M::Remove]);
            // The last ones are the big ones.
            let files = tasks[client - 1].files.len();
            What::Mutate { client, file: files - 1 - r.random_range(0..files.min(4)), how }
        }
        28 => What::RemoveDest { client },
        29 => {
            let length = Duration::from_millis(pick(r, &[200, 2000]));
            What::SlowDisk { node, length }
        }
        _ => {
            let how = pick(
                r,
                &[
                    Hostile::Garbage,
                    Hostile::Replay,
                    Hostile::ReplayFromElsewhere,
                    Hostile::Mutate,
                    Hostile::StaleKeys,
                    Hostile::StaleKeys,
                ],
            );
            What::Hostile { node, how, count: pick(r, &[3, 40]) }
        }
    };
    Fault { at, what }
}

fn disk_fault(r: &mut impl Rng) -> DiskFault {
    let kind = pick(
        r,
        &[
            DiskFaultKind::ReadError,
            DiskFaultKind::WriteError,
            DiskFaultKind::NoSpace,
            DiskFaultKind::Quota,
            DiskFaultKind::TooManyFiles,
            DiskFaultKind::ShortRead,
            DiskFaultKind::ShortWrite,
            DiskFaultKind::SyncError,
            DiskFaultKind::SyncError,
            DiskFaultKind::DirSyncError,
            DiskFaultKind::DirSyncError,
            DiskFaultKind::RenameError,
            DiskFaultKind::LookError,
            DiskFaultKind::RemoveError,
        ],
    );
    DiskFault { at_op: pick(r, &[0, 5, 50, 200]), kind, times: pick(r, &[1, 1, 3, 20]) }
}
