//! Role: the end of a process and of a machine: what of unsynced writes and names is there afterwards.
//! Owns: nothing beyond the disk's state.
//! Implements: docs/SIMULATION.md, "Disks" (crashes).

use super::{DirChange, Ino, Inode, Kind, SECTOR, SimDisk, State};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt};

/// Of 256 dirty sectors, so many are torn in the middle at a power cut, and so many hold something else altogether.
const TORN: u32 = 16;
const GARBLED: u32 = 8;

impl SimDisk {
    /// The process is killed: its handles and locks are gone, what it has written is in the page cache.
    pub fn kill(&self) {
        let mut s = self.state();
        s.process += 1;
        s.dead = None;
        (s.open_files, s.open_dirs) = (0, 0);
        for inode in s.inodes.values_mut() {
            inode.lock = None;
            inode.sharers.clear();
        }
    }

    /// Power fails: what was synced is there; of everything else, anything may be.
    pub fn power_cut(&self) {
        self.kill();
        let mut s = self.state();
        let mut rng = s.rng.clone();
        // Of 256: how much of what is dirty has reached the disk on its own. Often nothing or everything.
        let share = match rng.next_u32() % 4 {
            0 => 0,
            1 => 256,
            _ => rng.next_u32() % 256,
        };
        s.lose_names(share, &mut rng);
        for ino in s.all() {
            let counters = s.counters;
            if let Some(inode) = s.inodes.get_mut(&ino).filter(|i| i.kind == Kind::File) {
                let mut c = counters;
                lose_bytes(inode, share, &mut rng, &mut c);
                s.counters = c;
            }
        }
        s.rng = rng;
        s.changes.clear();
    }
}

impl State {
    fn lose_names(&mut self, share: u32, rng: &mut Xoshiro256PlusPlus) {
        let (first, last) = self.pending_span();
        // With a journal, one moment for all directories; else any of the changes, each whole or not at all.
        let cut = first + (last - first) * u64::from(share) / 256;
        let ordered = self.quirks.ordered;
        for ino in self.all() {
            let mut undone = 0;
            if let Some(dir) = self.inodes.get_mut(&ino).filter(|i| i.kind == Kind::Dir) {
                for (at, change) in std::mem::take(&mut dir.pending) {
                    let kept = if ordered { at < cut } else { rng.next_u32() % 256 < share };
                    if kept {
                        apply(dir, change);
                    } else {
                        undone += 1;
                    }
                }
                dir.entries = dir.durable_entries.clone();
                dir.meta = dir.durable_meta;
            }
            self.counters.names_lost += undone;
        }
        self.drop_unreachable();
    }

    fn pending_span(&self) -> (u64, u64) {
        let numbers = self.inodes.values().flat_map(|i| i.pending.iter().map(|(at, _)| *at));
        let (first, last) = numbers.fold((u64::MAX, 0), |(a, b), n| (a.min(n), b.max(n + 1)));
        (first.min(last), last)
    }

    fn drop_unreachable(&mut self) {
        let (mut reached, mut todo) = (std::collections::BTreeSet::new(), vec![super::ROOT]);
        while let Some(ino) = todo.pop() {
            if !reached.insert(ino) {
                continue;
            }
            if let Some(inode) = self.inodes.get(&ino) {
                todo.extend(inode.entries.values().copied());
            }
        }
        let gone: Vec<Ino> = self.inodes.keys().copied().filter(|ino| !reached.contains(ino)).collect();
        for ino in gone {
            self.inodes.remove(&ino);
        }
        let parents: Vec<(Ino, Ino)> = self
            .inodes
            .iter()
            .flat_map(|(dir, i)| i.entries.values().map(move |child| (*child, *dir)))
            .collect();
        for (child, dir) in parents {
            if let Some(inode) = self.inodes.get_mut(&child) {
                inode.parent = dir;
            }
        }
    }
}

fn apply(dir: &mut Inode, change: DirChange) {
    match change {
        DirChange::Set(name, ino) => {
            dir.durable_entries.insert(name, ino);
        }
        DirChange::Remove(name) => {
            dir.durable_entries.remove(&name);
        }
        DirChange::Rename(from, to, ino) => {
            dir.durable_entries.remove(&from);
            dir.durable_entries.insert(to, ino);
        }
    }
}

/// Leaves a file with what was synced and a random part of what was not.
fn lose_bytes(
    inode: &mut Inode,
    share: u32,
    rng: &mut Xoshiro256PlusPlus,
    counters: &mut super::DiskCounters,
) {
    let mut kept = inode.durable.clone();
    if inode.durable.len() != inode.data.len() && rng.next_u32() % 256 < share {
        kept.resize(inode.data.len(), 0);
    }
    if rng.next_u32() % 256 < share {
        inode.durable_meta = inode.meta;
    }
    for sector in std::mem::take(&mut inode.dirty) {
        let from = sector * SECTOR;
        let to = (from + SECTOR).min(kept.len()).min(inode.data.len());
        if from >= to {
            counters.sectors_lost += 1;
            continue;
        }
        let fate = rng.next_u32() % 256;
        if share > 0 && fate < TORN {
            let torn = rng.random_range(from..to);
            kept[from..torn].copy_from_slice(&inode.data[from..torn]);
            counters.sectors_torn += 1;
        } else if share > 0 && fate < TORN + GARBLED {
            rng.fill_bytes(&mut kept[from..to]);
            counters.sectors_garbled += 1;
        } else if rng.next_u32() % 256 < share {
            kept[from..to].copy_from_slice(&inode.data[from..to]);
            counters.sectors_kept += 1;
        } else {
            counters.sectors_lost += 1;
        }
    }
    counters.sectors_lost += inode.lost.len() as u64;
    inode.lost.clear();
    inode.data = kept.clone();
    inode.durable = kept;
    inode.meta = inode.durable_meta;
}
