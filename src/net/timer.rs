//! Role: deadlines finer than the millisecond of a poll's timeout.
//! Owns: on Linux, one timerfd and the deadline it is set to; elsewhere nothing.
//! Implements: docs/ARCHITECTURE.md, "Time".

use std::io;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
pub(super) use self::fine::Timer;
#[cfg(not(target_os = "linux"))]
pub(super) use coarse::Timer;

#[cfg(target_os = "linux")]
mod fine {
    use super::{Duration, Instant, io};
    use mio::unix::SourceFd;
    use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
    use std::os::fd::{AsRawFd, OwnedFd};

    /// A timer that makes the poll return at a deadline.
    #[derive(Debug)]
    pub(in crate::net) struct Timer {
        fd: OwnedFd,
        armed: Option<Instant>,
    }

    impl Timer {
        /// Creates it and registers it with the poll.
        ///
        /// # Errors
        /// The system has no descriptor left.
        pub(in crate::net) fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
            registry.register(&mut SourceFd(&fd.as_raw_fd()), token, mio::Interest::READABLE)?;
            Ok(Self { fd, armed: None })
        }

        /// Sets the deadline, and returns the timeout that the poll needs besides: none. A timer that is to ring
        /// earlier is left alone: one call too many costs less than setting it anew for every packet that moves an
        /// idle timeout.
        ///
        /// # Errors
        /// None that the arguments can cause.
        pub(in crate::net) fn arm(
            &mut self,
            now: Instant,
            deadline: Instant,
        ) -> io::Result<Option<Duration>> {
            if self.armed.is_some_and(|armed| armed > now && armed <= deadline) {
                return Ok(None);
            }
            let after = deadline.saturating_duration_since(now);
            let value = Timespec {
                // Some 30,000 years stand for never.
                tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX).min(1 << 40),
                // Zero would disarm the timer.
                tv_nsec: if after.is_zero() { 1 } else { i64::from(after.subsec_nanos()) },
            };
            let setting = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
            rustix::time::timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &setting)?;
            self.armed = Some(deadline);
            Ok(None)
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod coarse {
    use super::{Duration, Instant, io};

    /// Leaves it to the poll's own timeout.
    #[derive(Debug)]
    pub(in crate::net) struct Timer;

    impl Timer {
        pub(in crate::net) fn new(_: &mio::Registry, _: mio::Token) -> io::Result<Self> {
            Ok(Self)
        }

        pub(in crate::net) fn arm(
            &mut self,
            now: Instant,
            deadline: Instant,
        ) -> io::Result<Option<Duration>> {
            Ok(Some(deadline.saturating_duration_since(now)))
        }
    }
}
