//! Role: what can go wrong on a disk, when, and which operation it strikes.
//! Owns: the counters of what has fired.
//! Implements: docs/SIMULATION.md, "Disks".

use super::State;
use rustix::io::Errno;
use std::io;

/// What kind of operation is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Open,
    Create,
    Read,
    Write,
    Sync,
    SyncDir,
    Rename,
    Remove,
    MakeDir,
    Look,
    SetMeta,
    Lock,
    Allocate,
}

/// A fault of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFault {
    /// It waits for its chance from this operation on.
    pub at_op: u64,
    /// What happens.
    pub kind: DiskFaultKind,
    /// How many operations it strikes.
    pub times: u32,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFaultKind {
    /// Reading fails with EIO.
    ReadError,
    /// Writing fails with EIO.
    WriteError,
    /// Writing or making something fails with ENOSPC.
    NoSpace,
    /// The same with EDQUOT.
    Quota,
    /// Opening fails with EMFILE.
    TooManyFiles,
    /// A read returns less than there is.
    ShortRead,
    /// A write takes less than it was given.
    ShortWrite,
    /// A sync fails with EIO; what was to be synced is lost unless it is written again.
    SyncError,
    /// The same, of directories only: what has its name already may lose it.
    DirSyncError,
    /// Renaming or linking fails with EIO.
    RenameError,
    /// Looking something up, listing, locking or setting a mode, time or length fails with EIO.
    LookError,
    /// Removing fails with EIO.
    RemoveError,
    /// The process is killed in the middle of the operation; what it wrote is in the page cache.
    Kill,
    /// Power fails in the middle of the operation; only what was synced is certain.
    PowerCut,
}

impl DiskFaultKind {
    fn strikes(self, op: Op) -> bool {
        match self {
            Self::ReadError | Self::ShortRead => op == Op::Read,
            Self::WriteError | Self::ShortWrite => op == Op::Write,
            Self::NoSpace | Self::Quota => {
                matches!(op, Op::Write | Op::Create | Op::MakeDir | Op::Allocate)
            }
            Self::TooManyFiles => matches!(op, Op::Open | Op::Create),
            Self::SyncError => matches!(op, Op::Sync | Op::SyncDir),
            Self::DirSyncError => op == Op::SyncDir,
            Self::RenameError => op == Op::Rename,
            Self::LookError => matches!(op, Op::Look | Op::SetMeta | Op::Lock),
            Self::RemoveError => op == Op::Remove,
            Self::Kill | Self::PowerCut => true,
        }
    }
}

/// How this file system differs from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// `RENAME_NOREPLACE` is not supported (EINVAL).
    pub no_noreplace: bool,
    /// There are no locks (ENOLCK).
    pub no_locks: bool,
    /// Holes cannot be told from data.
    pub no_holes: bool,
    /// The types of entries are not in the listing.
    pub no_types: bool,
    /// After a power cut, directories are as they were at one moment (a journal), not any mixture.
    pub ordered: bool,
}

/// How often each kind of fault has fired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// See `DiskFaultKind`.
    pub read_errors: u64,
    /// See `DiskFaultKind`.
    pub write_errors: u64,
    /// See `DiskFaultKind`.
    pub no_space: u64,
    /// See `DiskFaultKind`.
    pub quota: u64,
    /// See `DiskFaultKind`.
    pub too_many_files: u64,
    /// See `DiskFaultKind`.
    pub short_reads: u64,
    /// See `DiskFaultKind`.
    pub short_writes: u64,
    /// See `DiskFaultKind`.
    pub sync_errors: u64,
    /// See `DiskFaultKind`.
    pub rename_errors: u64,
    /// See `DiskFaultKind`.
    pub look_errors: u64,
    /// See `DiskFaultKind`.
    pub remove_errors: u64,
    /// Processes killed in the middle of an operation.
    pub kills: u64,
    /// Power cuts in the middle of an operation.
    pub power_cuts: u64,
    /// Sectors that were dirty at a power cut: persisted, not persisted, torn in the middle or full of something else.
    pub sectors_kept: u64,
    /// See `sectors_kept`.
    pub sectors_lost: u64,
    /// See `sectors_kept`.
    pub sectors_torn: u64,
    /// See `sectors_kept`.
    pub sectors_garbled: u64,
    /// Changes of directories that a power cut undid.
    pub names_lost: u64,
    /// Bits flipped at rest.
    pub rotten: u64,
}

impl DiskCounters {
    /// Faults that a store may rightly report as an I/O error.
    pub fn io_errors(&self) -> u64 {
        self.read_errors
            + self.write_errors
            + self.sync_errors
            + self.rename_errors
            + self.look_errors
            + self.remove_errors
            + self.too_many_files
    }

    /// Every counter with its name.
    pub fn each(&self) -> [(&'static str, u64); 19] {
        [
            ("read errors (EIO)", self.read_errors),
            ("write errors (EIO)", self.write_errors),
            ("disk full (ENOSPC)", self.no_space),
            ("quota (EDQUOT)", self.quota),
            ("too many open files (EMFILE)", self.too_many_files),
            ("short reads", self.short_reads),
            ("short writes", self.short_writes),
            ("failed syncs", self.sync_errors),
            ("failed renames", self.rename_errors),
            ("failed look-ups, locks, modes", self.look_errors),
            ("failed removals", self.remove_errors),
            ("kills in mid-operation", self.kills),
            ("power cuts in mid-operation", self.power_cuts),
            ("unsynced sectors that survived", self.sectors_kept),
            ("unsynced sectors lost", self.sectors_lost),
            ("sectors torn", self.sectors_torn),
            ("sectors garbled", self.sectors_garbled),
            ("unsynced names lost", self.names_lost),
            ("bits rotten at rest", self.rotten),
        ]
    }

    /// Adds another disk's.
    pub fn add(&mut self, o: &Self) {
        self.read_errors += o.read_errors;
        self.write_errors += o.write_errors;
        self.no_space += o.no_space;
        self.quota += o.quota;
        self.too_many_files += o.too_many_files;
        self.short_reads += o.short_reads;
        self.short_writes += o.short_writes;
        self.sync_errors += o.sync_errors;
        self.rename_errors += o.rename_errors;
        self.look_errors += o.look_errors;
        self.remove_errors += o.remove_errors;
        self.kills += o.kills;
        self.power_cuts += o.power_cuts;
        self.sectors_kept += o.sectors_kept;
        self.sectors_lost += o.sectors_lost;
        self.sectors_torn += o.sectors_torn;
        self.sectors_garbled += o.sectors_garbled;
        self.names_lost += o.names_lost;
        self.rotten += o.rotten;
    }
}

/// Lets the first fault strike that waits for such an operation. `Ok(Some(_))`: the operation is to be done short,
/// or its sync is to fail.
pub(super) fn strike(state: &mut State, op: Op) -> io::Result<Option<DiskFaultKind>> {
    let ops = state.ops;
    let due = state.faults.iter().position(|f| f.at_op <= ops && f.kind.strikes(op));
    let Some(at) = due else { return Ok(None) };
    let fault = &mut state.faults[at];
    let kind = fault.kind;
    fault.times = fault.times.saturating_sub(1);
    if fault.times == 0 {
        state.faults.remove(at);
    }
    let c = &mut state.counters;
    let (counter, result) = match kind {
        DiskFaultKind::ReadError => (&mut c.read_errors, Err(Errno::IO)),
        DiskFaultKind::WriteError => (&mut c.write_errors, Err(Errno::IO)),
        DiskFaultKind::NoSpace => (&mut c.no_space, Err(Errno::NOSPC)),
        DiskFaultKind::Quota => (&mut c.quota, Err(Errno::DQUOT)),
        DiskFaultKind::TooManyFiles => (&mut c.too_many_files, Err(Errno::MFILE)),
        DiskFaultKind::ShortRead => (&mut c.short_reads, Ok(Some(kind))),
        DiskFaultKind::ShortWrite => (&mut c.short_writes, Ok(Some(kind))),
        DiskFaultKind::SyncError | DiskFaultKind::DirSyncError => (&mut c.sync_errors, Ok(Some(kind))),
        DiskFaultKind::RenameError => (&mut c.rename_errors, Err(Errno::IO)),
        DiskFaultKind::LookError => (&mut c.look_errors, Err(Errno::IO)),
        DiskFaultKind::RemoveError => (&mut c.remove_errors, Err(Errno::IO)),
        DiskFaultKind::Kill => (&mut c.kills, Err(Errno::IO)),
        DiskFaultKind::PowerCut => (&mut c.power_cuts, Err(Errno::IO)),
    };
    *counter += 1;
    match kind {
        DiskFaultKind::Kill => state.dead = Some(false),
        DiskFaultKind::PowerCut => state.dead = Some(true),
        _ => {}
    }
    result.map_err(io::Error::from)
}
