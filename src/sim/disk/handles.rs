//! Role: the handles through which a store works on the simulated disk.
//! Owns: per handle, which process has it and which failed write-backs it has heard of.
//! Implements: docs/SIMULATION.md, "Disks".

use super::faults::{DiskFaultKind, Op};
use super::{DirChange, Ino, Kind, SECTOR, SimDisk, State};
use crate::store::fs::{DirOps, Disk, File, FileOps, FileType, How, Listing, Local, Stat};
use crate::store::jail::DirHandle;
use crate::transfer::job::Meta;
use rand::RngExt;
use rustix::io::Errno;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// The largest file that fits.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// The disk in the eyes of one process.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) disk: SimDisk,
    pub(super) process: u64,
}

impl Mount {
    fn dir(&self, ino: Ino) -> io::Result<DirHandle> {
        let mut s = self.disk.state();
        s.begin(self.process, Op::Open)?;
        let handle = Handle::new(&self.disk, &mut s, self.process, ino);
        drop(s);
        DirHandle::new(Box::new(SimDir(handle)))
    }
}

impl Disk for Mount {
    fn top(&self) -> io::Result<DirHandle> {
        self.dir(super::ROOT)
    }

    fn resolve(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let mut s = self.disk.state();
        s.begin(self.process, Op::Look)?;
        s.find(path).ok_or(Errno::NOENT)?;
        Ok(path.to_vec())
    }

    fn open_dir(&self, path: &[u8]) -> io::Result<DirHandle> {
        let (ino, kind) = {
            let s = self.disk.state();
            let ino = s.find(path).ok_or(Errno::NOENT)?;
            (ino, s.inodes.get(&ino).map(|i| i.kind))
        };
        if kind == Some(Kind::Dir) { self.dir(ino) } else { Err(Errno::NOTDIR.into()) }
    }

    fn open_local(&self, path: &[u8]) -> io::Result<Local> {
        let (ino, kind) = {
            let s = self.disk.state();
            let ino = s.find(path).ok_or(Errno::NOENT)?;
            (ino, s.inodes.get(&ino).map(|i| i.kind))
        };
        match kind {
            Some(Kind::Dir) => Ok(Local::Dir(self.dir(ino)?)),
            Some(Kind::File) => {
                let mut s = self.disk.state();
                s.begin(self.process, Op::Open)?;
                Ok(Local::File(Box::new(SimFile(Handle::new(&self.disk, &mut s, self.process, ino)))))
            }
            _ => Ok(Local::Special),
        }
    }

    fn wall_clock(&self) -> SystemTime {
        self.disk.state().now
    }

    fn now(&self) -> Instant {
        self.disk.state().clock
    }
}

/// What files and directories have in common.
#[derive(Debug)]
struct Handle {
    disk: SimDisk,
    process: u64,
    ino: Ino,
    id: u64,
    is_dir: bool,
    /// Failed write-backs of the inode, of the file system, that were known when it was opened or last synced.
    heard: Mutex<(u64, u64)>,
}

impl Handle {
    fn new(disk: &SimDisk, s: &mut State, process: u64, ino: Ino) -> Self {
        let id = s.next_handle;
        s.next_handle += 1;
        let is_dir = s.inodes.get(&ino).is_some_and(|i| i.kind == Kind::Dir);
        if is_dir {
            s.open_dirs += 1;
        } else {
            s.open_files += 1;
        }
        let heard = (s.inodes.get(&ino).map_or(0, |i| i.failures), s.fs_failures);
        Self { disk: disk.clone(), process, ino, id, is_dir, heard: Mutex::new(heard) }
    }

    fn begin(&self, op: Op) -> io::Result<(std::sync::MutexGuard<'_, State>, Option<DiskFaultKind>)> {
        let mut s = self.disk.state();
        let fault = s.begin(self.process, op)?;
        Ok((s, fault))
    }

    fn stat(&self) -> io::Result<Stat> {
        self.begin(Op::Look)?.0.stat(self.ino)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        let mut s = self.begin(Op::SetMeta)?.0;
        let now = s.now;
        let inode = s.inodes.get_mut(&self.ino).ok_or(Errno::NOENT)?;
        (inode.meta.mode, inode.changed) = (mode, now);
        Ok(())
    }

    fn set_times(&self, meta: &Meta) -> io::Result<()> {
        let mut s = self.begin(Op::SetMeta)?.0;
        let now = s.now;
        let inode = s.inodes.get_mut(&self.ino).ok_or(Errno::NOENT)?;
        (inode.meta.mtime_s, inode.meta.mtime_ns) = (meta.mtime_s, meta.mtime_ns);
        inode.changed = now;
        Ok(())
    }

    fn lock(&self) -> io::Result<()> {
        let mut s = self.begin(Op::Lock)?.0;
        if s.quirks.no_locks {
            return Err(Errno::NOLCK.into());
        }
        let inode = s.inodes.get_mut(&self.ino).ok_or(Errno::NOENT)?;
        let shared = inode.sharers.iter().any(|holder| *holder != self.id);
        if shared || inode.lock.is_some_and(|holder| holder != self.id) {
            return Err(Errno::WOULDBLOCK.into());
        }
        inode.sharers.clear();
        inode.lock = Some(self.id);
        Ok(())
    }

    fn lock_shared(&self) -> io::Result<()> {
        let mut s = self.begin(Op::Lock)?.0;
        if s.quirks.no_locks {
            return Err(Errno::NOLCK.into());
        }
        let inode = s.inodes.get_mut(&self.ino).ok_or(Errno::NOENT)?;
        if inode.lock.is_some_and(|holder| holder != self.id) {
            return Err(Errno::WOULDBLOCK.into());
        }
        inode.lock = None;
        inode.sharers.insert(self.id);
        Ok(())
    }

    /// Syncs the inode, or everything. A handle is told of each failure since it was opened, once.
    fn sync(&self, everything: bool) -> io::Result<()> {
        let (mut s, fault) = self.begin(if self.is_dir { Op::SyncDir } else { Op::Sync })?;
        let which = if everything { s.all() } else { vec![self.ino] };
        if fault.is_some() {
            which.iter().for_each(|ino| s.fail_sync(*ino));
        }
        let mut heard = self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = (s.inodes.get(&self.ino).map_or(0, |i| i.failures), s.fs_failures);
        let news = if everything { heard.1 != known.1 } else { heard.0 != known.0 };
        if everything {
            heard.1 = known.1;
        } else {
            heard.0 = known.0;
        }
        if fault.is_none() {
            which.iter().for_each(|ino| s.sync(*ino));
        }
        if fault.is_some() || news { Err(Errno::IO.into()) } else { Ok(()) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut s = self.disk.state();
        if s.process != self.process {
            return;
        }
        if let Some(inode) = s.inodes.get_mut(&self.ino) {
            inode.lock.take_if(|holder| *holder == self.id);
            inode.sharers.remove(&self.id);
        }
        if self.is_dir {
            s.open_dirs -= 1;
        } else {
            s.open_files -= 1;
        }
    }
}

#[derive(Debug)]
struct SimFile(Handle);

impl FileOps for SimFile {
    fn stat(&self) -> io::Result<Stat> {
        self.0.stat()
    }

    fn read_at(&self, offset: u64, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let (mut s, fault) = self.0.begin(Op::Read)?;
        let room = buffer.capacity() - buffer.len();
        let len = s.inodes.get(&self.0.ino).map_or(0, |i| i.data.len());
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(len);
        let mut take = room.min(len - from);
        if fault.is_some() && take > 1 {
            take = s.rng.random_range(1..take);
        }
        if let Some(inode) = s.inodes.get(&self.0.ino) {
            buffer.extend_from_slice(&inode.data[from..from + take]);
        }
        Ok(take)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        let (mut s, fault) = self.0.begin(Op::Write)?;
        if offset.saturating_add(data.len() as u64) > MAX_FILE_BYTES {
            return Err(Errno::FBIG.into());
        }
        let mut put = data.len();
        if fault.is_some() && put > 1 {
            put = s.rng.random_range(1..put);
        }
        let (now, stamp) = (s.now, s.stamp());
        let from = offset as usize;
        let inode = s.inodes.get_mut(&self.0.ino).ok_or(Errno::BADF)?;
        let old = inode.data.len();
        if old < from + put {
            inode.data.resize(from + put, 0);
        }
        inode.data[from..from + put].copy_from_slice(&data[..put]);
        // What lies between the old end and the new bytes is new as well: zeros.
        for sector in from.min(old) / SECTOR..(from + put).div_ceil(SECTOR) {
            if sector >= from / SECTOR || sector >= old / SECTOR {
                inode.dirty.insert(sector);
                inode.lost.remove(&sector);
            }
        }
        inode.changed = now;
        (inode.meta.mtime_s, inode.meta.mtime_ns) = (stamp.mtime_s, stamp.mtime_ns);
        s.note_written(self.0.ino);
        Ok(put)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync(false)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut s = self.0.begin(Op::SetMeta)?.0;
        if bytes > MAX_FILE_BYTES {
            return Err(Errno::FBIG.into());
        }
        let now = s.now;
        let inode = s.inodes.get_mut(&self.0.ino).ok_or(Errno::BADF)?;
        let (old, new) = (inode.data.len(), bytes as usize);
        inode.data.resize(new, 0);
        // The end that moves is dirty; if it grows again, so are the zeros.
        inode.dirty.retain(|sector| *sector < new.div_ceil(SECTOR));
        inode.dirty.extend(old.min(new) / SECTOR..new.div_ceil(SECTOR));
        inode.changed = now;
        s.note_written(self.0.ino);
        Ok(())
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.0.set_mode(mode)
    }

    fn set_times(&self, meta: &Meta) -> io::Result<()> {
        self.0.set_times(meta)
    }

    fn lock(&self) -> io::Result<()> {
        self.0.lock()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let s = self.0.begin(Op::Look)?.0;
        if s.quirks.no_holes {
            return Err(Errno::OPNOTSUPP.into());
        }
        let Some(inode) = s.inodes.get(&self.0.ino) else { return Ok(None) };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        if from >= inode.data.len() {
            return Ok(None);
        }
        // Holes come in blocks.
        let start = from / SECTOR * SECTOR;
        let found = inode.data[start..].chunks(SECTOR).position(|sector| sector.iter().any(|b| *b != 0));
        Ok(found.map(|n| ((start + n * SECTOR).max(from)) as u64))
    }

    fn free_bytes(&self) -> Option<u64> {
        let s = self.0.disk.state();
        s.capacity
    }

    fn push_out(&self, _offset: u64, _bytes: u64) {
        // Whatever is dirty may reach the disk at any time.
    }

    fn allocate(&self, _bytes: u64) -> io::Result<()> {
        self.0.begin(Op::Allocate).map(|_| ())
    }

    fn read_stream(&self, _buffer: &mut Vec<u8>, _wait: Duration) -> io::Result<Option<usize>> {
        // No simulated machine has a pipe.
        Err(Errno::OPNOTSUPP.into())
    }
}

#[derive(Debug)]
struct SimDir(Handle);

impl SimDir {
    fn open(&self, s: &mut State, ino: Ino) -> Handle {
        Handle::new(&self.0.disk, s, self.0.process, ino)
    }
}

impl DirOps for SimDir {
    fn stat_self(&self) -> io::Result<Stat> {
        self.0.stat()
    }

    fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        let s = self.0.begin(Op::Look)?.0;
        s.stat(s.entry(self.0.ino, name)?)
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Box<dyn DirOps>> {
        let mut s = self.0.begin(Op::Open)?.0;
        let ino = s.entry(self.0.ino, name)?;
        if s.inodes.get(&ino).map(|i| i.kind) != Some(Kind::Dir) {
            return Err(Errno::NOTDIR.into());
        }
        Ok(Box::new(Self(self.open(&mut s, ino))))
    }

    fn open_parent(&self) -> io::Result<Box<dyn DirOps>> {
        let mut s = self.0.begin(Op::Open)?.0;
        let ino = s.inodes.get(&self.0.ino).ok_or(Errno::NOENT)?.parent;
        Ok(Box::new(Self(self.open(&mut s, ino))))
    }

    fn duplicate(&self) -> io::Result<Box<dyn DirOps>> {
        let mut s = self.0.begin(Op::Open)?.0;
        Ok(Box::new(Self(self.open(&mut s, self.0.ino))))
    }

    fn open_file(&self, name: &[u8], how: How) -> io::Result<File> {
        let there = self.0.disk.state().entry(self.0.ino, name).is_ok();
        let op = if how == How::Read || there { Op::Open } else { Op::Create };
        let mut s = self.0.begin(op)?.0;
        let ino = match s.entry(self.0.ino, name) {
            Ok(_) if how == How::CreateNew => return Err(Errno::EXIST.into()),
            Ok(ino) => match s.inodes.get(&ino).map(|i| i.kind) {
                Some(Kind::Link) => return Err(Errno::LOOP.into()),
                Some(Kind::Dir) if how != How::Read => return Err(Errno::ISDIR.into()),
                _ => ino,
            },
            Err(e) if how == How::Read => return Err(e),
            Err(_) => {
                if !s.inodes.contains_key(&self.0.ino) || s.is_gone(self.0.ino) {
                    return Err(Errno::NOENT.into());
                }
                let ino = s.new_inode(Kind::File, self.0.ino, 0o600, Vec::new());
                s.change(self.0.ino, DirChange::Set(name.to_vec(), ino))?;
                ino
            }
        };
        Ok(Box::new(SimFile(self.open(&mut s, ino))))
    }

    fn make_dir(&self, name: &[u8], mode: u32) -> io::Result<()> {
        // As the kernel does: whether it is there comes before whether there is room.
        let there = self.0.disk.state().entry(self.0.ino, name).is_ok();
        let mut s = self.0.begin(if there { Op::Look } else { Op::MakeDir })?.0;
        if s.entry(self.0.ino, name).is_ok() {
            return Err(Errno::EXIST.into());
        }
        if s.is_gone(self.0.ino) {
            return Err(Errno::NOENT.into());
        }
        let ino = s.new_inode(Kind::Dir, self.0.ino, mode, Vec::new());
        s.change(self.0.ino, DirChange::Set(name.to_vec(), ino))
    }

    fn make_link(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        let mut s = self.0.begin(Op::Create)?.0;
        if s.entry(self.0.ino, name).is_ok() {
            return Err(Errno::EXIST.into());
        }
        let ino = s.new_inode(Kind::Link, self.0.ino, 0o777, target.to_vec());
        s.change(self.0.ino, DirChange::Set(name.to_vec(), ino))
    }

    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        let s = self.0.begin(Op::Look)?.0;
        let ino = s.entry(self.0.ino, name)?;
        match s.inodes.get(&ino) {
            Some(inode) if inode.kind == Kind::Link => Ok(inode.data.clone()),
            _ => Err(Errno::INVAL.into()),
        }
    }

    fn set_link_times(&self, name: &[u8], meta: &Meta) -> io::Result<()> {
        let mut s = self.0.begin(Op::SetMeta)?.0;
        let ino = s.entry(self.0.ino, name)?;
        if let Some(inode) = s.inodes.get_mut(&ino) {
            (inode.meta.mtime_s, inode.meta.mtime_ns) = (meta.mtime_s, meta.mtime_ns);
        }
        Ok(())
    }

    fn set_mode_of(&self, name: &[u8], mode: u32) -> io::Result<()> {
        let mut s = self.0.begin(Op::SetMeta)?.0;
        let ino = s.entry(self.0.ino, name)?;
        if let Some(inode) = s.inodes.get_mut(&ino) {
            inode.meta.mode = mode;
        }
        Ok(())
    }

    fn unlink(&self, name: &[u8]) -> io::Result<()> {
        let mut s = self.0.begin(Op::Remove)?.0;
        let ino = s.entry(self.0.ino, name)?;
        if s.inodes.get(&ino).is_some_and(|i| i.kind == Kind::Dir) {
            return Err(Errno::ISDIR.into());
        }
        s.change(self.0.ino, DirChange::Remove(name.to_vec()))
    }

    fn remove_dir(&self, name: &[u8]) -> io::Result<()> {
        let mut s = self.0.begin(Op::Remove)?.0;
        let ino = s.entry(self.0.ino, name)?;
        if s.inodes.get(&ino).is_some_and(|i| !i.entries.is_empty()) {
            return Err(Errno::NOTEMPTY.into());
        }
        s.change(self.0.ino, DirChange::Remove(name.to_vec()))
    }

    fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> io::Result<()> {
        let mut s = self.0.begin(Op::Rename)?.0;
        if !replace && s.quirks.no_noreplace {
            return Err(Errno::INVAL.into());
        }
        let ino = s.entry(self.0.ino, from)?;
        if let Ok(there) = s.entry(self.0.ino, to) {
            if !replace {
                return Err(Errno::EXIST.into());
            }
            if s.inodes.get(&there).is_some_and(|i| i.kind == Kind::Dir) {
                return Err(Errno::ISDIR.into());
            }
        }
        s.change(self.0.ino, DirChange::Rename(from.to_vec(), to.to_vec(), ino))
    }

    fn link(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let mut s = self.0.begin(Op::Rename)?.0;
        let ino = s.entry(self.0.ino, from)?;
        if s.entry(self.0.ino, to).is_ok() {
            return Err(Errno::EXIST.into());
        }
        s.change(self.0.ino, DirChange::Set(to.to_vec(), ino))
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync(false)
    }

    fn sync_file_system(&self) -> io::Result<()> {
        self.0.sync(true)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.0.set_mode(mode)
    }

    fn set_times(&self, meta: &Meta) -> io::Result<()> {
        self.0.set_times(meta)
    }

    fn lock(&self) -> io::Result<()> {
        self.0.lock()
    }

    fn lock_shared(&self) -> io::Result<()> {
        self.0.lock_shared()
    }

    fn list(&self) -> io::Result<Listing> {
        let s = self.0.begin(Op::Look)?.0;
        let dir = s.inodes.get(&self.0.ino).ok_or(Errno::NOENT)?;
        let kind = |ino: &Ino| match s.inodes.get(ino) {
            Some(inode) if !s.quirks.no_types => inode.kind.file_type(),
            _ => FileType::Unknown,
        };
        let found: Vec<_> = dir.entries.iter().map(|(name, ino)| Ok((name.clone(), kind(ino)))).collect();
        Ok(Listing(Box::new(found.into_iter())))
    }
}

impl State {
    /// True if a directory was removed.
    fn is_gone(&self, dir: Ino) -> bool {
        let mut at = dir;
        while at != super::ROOT {
            let Some(parent) = self.inodes.get(&at).map(|i| i.parent) else { return true };
            if !self.inodes.get(&parent).is_some_and(|p| p.entries.values().any(|ino| *ino == at)) {
                return true;
            }
            at = parent;
        }
        false
    }
}
