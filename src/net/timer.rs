//! Role: deadlines finer than the millisecond of a poll's timeout.
//! Owns: one timerfd and the deadline it is set to.
//! Implements: docs/ARCHITECTURE.md, "Time".

use mio::unix::SourceFd;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

/// A timer that makes the poll return at a deadline.
#[derive(Debug)]
pub(super) struct Timer {
    fd: OwnedFd,
    armed: Option<Instant>,
}

impl Timer {
    /// Creates it and registers it with the poll.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub(super) fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, mio::Interest::READABLE)?;
        Ok(Self { fd, armed: None })
    }

    /// Sets the deadline, which lies ahead of `now`. A timer that is to ring earlier is left alone: one call too
    /// many costs less than setting it anew for every packet that moves an idle timeout.
    ///
    /// # Errors
    /// None that the arguments can cause.
    pub(super) fn arm(&mut self, now: Instant, deadline: Instant) -> io::Result<()> {
        if self.armed.is_some_and(|armed| armed > now && armed <= deadline) {
            return Ok(());
        }
        let after = deadline.saturating_duration_since(now);
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            // A deadline beyond the clock's range is never; zero would disarm the timer.
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX).min(1 << 40),
            tv_nsec: if after.is_zero() { 1 } else { i64::from(after.subsec_nanos()) },
        };
        let setting = Itimerspec { it_interval: zero, it_value: value };
        rustix::time::timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &setting)?;
        self.armed = Some(deadline);
        Ok(())
    }
}
