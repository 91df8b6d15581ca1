//! Role: a real disk: system calls through rustix, and cap-std for paths that follow links inside the jail.
//! Owns: file descriptors.
//! Implements: docs/PROTOCOL.md, "Files" (paths).

use super::{DirOps, Disk, File, FileOps, FileType, How, Listing, Local, Stat};
use crate::store::jail::DirHandle;
use crate::transfer::job::Meta;
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{
    Advice, AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, SeekFrom, Timespec,
};
use rustix::fs::{Timestamps, fstat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

const READ_DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Bytes as a path.
fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Repeats a system call that a signal interrupted.
pub(crate) fn retry<T>(call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    rustix::io::retry_on_intr(call).map_err(io::Error::from)
}

#[expect(clippy::unnecessary_cast, reason = "the fields' types differ between architectures")]
fn stat_of(stat: &rustix::fs::Stat) -> Stat {
    let changed = Duration::new((stat.st_ctime as i64).max(0) as u64, stat.st_ctime_nsec as u32);
    Stat {
        id: (stat.st_dev as u64, stat.st_ino as u64),
        kind: FileType::from_raw_mode(stat.st_mode),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        links: stat.st_nlink as u64,
        meta: Meta {
            mode: stat.st_mode as u32 & 0o7777,
            mtime_s: stat.st_mtime as i64,
            mtime_ns: stat.st_mtime_nsec as u32,
        },
        changed: SystemTime::UNIX_EPOCH + changed,
        // 512: the unit of st_blocks (stat(2)).
        allocated_bytes: stat.st_blocks as u64 * 512,
    }
}

fn times_of(meta: &Meta) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: meta.mtime_s, tv_nsec: meta.mtime_ns.min(999_999_999).into() },
    }
}

impl FileOps for OwnedFd {
    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&fstat(self)?))
    }

    fn read_at(&self, offset: u64, buffer: &mut Vec<u8>) -> io::Result<usize> {
        retry(|| rustix::io::pread(self, spare_capacity(buffer), offset))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        retry(|| rustix::io::pwrite(self, data, offset))
    }

    fn sync(&self) -> io::Result<()> {
        retry(|| rustix::fs::fsync(self))
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        retry(|| rustix::fs::ftruncate(self, bytes))
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        retry(|| rustix::fs::fchmod(self, Mode::from_raw_mode(mode)))
    }

    fn set_times(&self, meta: &Meta) -> io::Result<()> {
        retry(|| rustix::fs::futimens(self, &times_of(meta)))
    }

    fn lock(&self) -> io::Result<()> {
        retry(|| rustix::fs::flock(self, FlockOperation::NonBlockingLockExclusive))
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(self, SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn free_bytes(&self) -> Option<u64> {
        // Some network file systems report no sizes at all.
        let stat = rustix::fs::fstatvfs(self).ok().filter(|stat| stat.f_blocks > 0)?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn push_out(&self, offset: u64, bytes: u64) {
        // The advice not to keep pages makes Linux write the dirty ones, without waiting for them.
        if let Some(bytes) = NonZeroU64::new(bytes) {
            let _ = rustix::fs::fadvise(self, offset, Some(bytes), Advice::DontNeed);
        }
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        retry(|| rustix::fs::fallocate(self, FallocateFlags::KEEP_SIZE, 0, bytes))
    }

    fn read_stream(&self, buffer: &mut Vec<u8>, wait: Duration) -> io::Result<Option<usize>> {
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let mut fds = [PollFd::new(self, PollFlags::IN)];
        if retry(|| poll(&mut fds, Some(&wait)))? == 0 {
            return Ok(None);
        }
        match rustix::io::read(self, spare_capacity(buffer)) {
            Err(Errno::INTR | Errno::AGAIN) => Ok(None),
            other => Ok(Some(other?)),
        }
    }
}

/// How long a directory's shared lock is waited for: another process that has just begun may look through the directory, which
/// takes it some 50 ms at most (`store::leftovers`). Others who lock directories are not waited for.
const SHARED_LOCK_TRIES: u32 = 40;
const SHARED_LOCK_PAUSE: Duration = Duration::from_millis(5);

/// An open directory.
#[derive(Debug)]
struct RealDir(OwnedFd);

impl DirOps for RealDir {
    fn stat_self(&self) -> io::Result<Stat> {
        Ok(stat_of(&fstat(&self.0)?))
    }

    fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        Ok(stat_of(&retry(|| rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW))?))
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Box<dyn DirOps>> {
        let flags = READ_DIR.union(OFlags::NOFOLLOW);
        Ok(Box::new(Self(retry(|| rustix::fs::openat(&self.0, name, flags, Mode::empty()))?)))
    }

    fn open_parent(&self) -> io::Result<Box<dyn DirOps>> {
        self.open_dir(b"..")
    }

    fn duplicate(&self) -> io::Result<Box<dyn DirOps>> {
        Ok(Box::new(Self(self.0.try_clone()?)))
    }

    fn open_file(&self, name: &[u8], how: How) -> io::Result<File> {
        let how = match how {
            How::Read => OFlags::RDONLY | OFlags::NOCTTY,
            How::Create => OFlags::RDWR | OFlags::CREATE,
            How::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(Box::new(retry(|| rustix::fs::openat(&self.0, name, flags, mode))?))
    }

    fn make_dir(&self, name: &[u8], mode: u32) -> io::Result<()> {
        retry(|| rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode)))
    }

    fn make_link(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        retry(|| rustix::fs::symlinkat(target, &self.0, name))
    }

    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(retry(|| rustix::fs::readlinkat(&self.0, name, Vec::new()))?.into_bytes())
    }

    fn set_link_times(&self, name: &[u8], meta: &Meta) -> io::Result<()> {
        let times = times_of(meta);
        retry(|| rustix::fs::utimensat(&self.0, name, &times, AtFlags::SYMLINK_NOFOLLOW))
    }

    fn set_mode_of(&self, name: &[u8], mode: u32) -> io::Result<()> {
        retry(|| rustix::fs::chmodat(&self.0, name, Mode::from_raw_mode(mode), AtFlags::empty()))
    }

    fn unlink(&self, name: &[u8]) -> io::Result<()> {
        retry(|| rustix::fs::unlinkat(&self.0, name, AtFlags::empty()))
    }

    fn remove_dir(&self, name: &[u8]) -> io::Result<()> {
        retry(|| rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR))
    }

    fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> io::Result<()> {
        if replace {
            return retry(|| rustix::fs::renameat(&self.0, from, &self.0, to));
        }
        retry(|| rustix::fs::renameat_with(&self.0, from, &self.0, to, RenameFlags::NOREPLACE))
    }

    fn link(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        retry(|| rustix::fs::linkat(&self.0, from, &self.0, to, AtFlags::empty()))
    }

    fn sync(&self) -> io::Result<()> {
        retry(|| rustix::fs::fsync(&self.0))
    }

    fn sync_file_system(&self) -> io::Result<()> {
        retry(|| rustix::fs::syncfs(&self.0))
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        retry(|| rustix::fs::fchmod(&self.0, Mode::from_raw_mode(mode)))
    }

    fn set_times(&self, meta: &Meta) -> io::Result<()> {
        retry(|| rustix::fs::futimens(&self.0, &times_of(meta)))
    }

    fn lock(&self) -> io::Result<()> {
        retry(|| rustix::fs::flock(&self.0, FlockOperation::NonBlockingLockExclusive))
    }

    fn lock_shared(&self) -> io::Result<()> {
        let mut tries = SHARED_LOCK_TRIES;
        loop {
            tries -= 1;
            match retry(|| rustix::fs::flock(&self.0, FlockOperation::NonBlockingLockShared)) {
                Err(e) if e.raw_os_error() == Some(Errno::WOULDBLOCK.raw_os_error()) && tries > 0 => {
                    #[allow(clippy::disallowed_methods, reason = "nobody tells when a lock is free")]
                    std::thread::sleep(SHARED_LOCK_PAUSE);
                }
                other => return other,
            }
        }
    }

    fn list(&self) -> io::Result<Listing> {
        let items = rustix::fs::Dir::read_from(&self.0)?;
        let entry = |item: rustix::io::Result<rustix::fs::DirEntry>| match item {
            Err(e) => Some(Err(e.into())),
            Ok(item) => {
                let name = item.file_name().to_bytes();
                (name != b"." && name != b"..").then(|| Ok((name.to_vec(), item.file_type())))
            }
        };
        Ok(Listing(Box::new(items.filter_map(entry))))
    }
}

/// The disk below a directory.
#[derive(Debug)]
pub(crate) struct RealDisk {
    dir: Dir,
}

impl RealDisk {
    /// Opens it by the path that the local user gave.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { dir: Dir::open_ambient_dir(path, ambient_authority())? })
    }
}

/// A full handle of a directory: those of cap-std may be good for looking up names only (O_PATH).
fn readable(dir: &Dir) -> io::Result<DirHandle> {
    let fd = retry(|| rustix::fs::openat(dir, c".", READ_DIR, Mode::empty()))?;
    DirHandle::new(Box::new(RealDir(fd)))
}

impl Disk for RealDisk {
    fn top(&self) -> io::Result<DirHandle> {
        readable(&self.dir)
    }

    fn resolve(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        Ok(self.dir.canonicalize(as_path(path))?.into_os_string().into_vec())
    }

    fn open_dir(&self, path: &[u8]) -> io::Result<DirHandle> {
        readable(&self.dir.open_dir(as_path(path))?)
    }

    fn open_local(&self, path: &[u8]) -> io::Result<Local> {
        let path = as_path(path);
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_dir() {
            let fd = retry(|| rustix::fs::open(path, READ_DIR | OFlags::NONBLOCK, Mode::empty()))?;
            return Ok(Local::Dir(DirHandle::new(Box::new(RealDir(fd)))?));
        }
        if !kind.is_file() {
            return Ok(Local::Special);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(Local::File(Box::new(retry(|| rustix::fs::open(path, flags, Mode::empty()))?)))
    }

    #[allow(clippy::disallowed_methods, reason = "the age of files is told by the clock of the file system")]
    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    #[allow(clippy::disallowed_methods, reason = "the store is where the real clock is")]
    fn now(&self) -> Instant {
        Instant::now()
    }
}
