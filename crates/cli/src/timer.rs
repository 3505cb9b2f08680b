//! A timer that is exact to some microseconds, for calls that fall due at random instants. The runtime's own tick once a millisecond.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

/// A timer of the system.
#[derive(Debug)]
pub struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// One that is not set.
    ///
    /// # Errors
    /// The system's: no file descriptors are left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; this descriptor stays open for as long as it is watched"
        )]
        let watched = AsyncFd::new(timer)?;
        Ok(Self(watched))
    }

    /// Resolves after `length`.
    ///
    /// # Errors
    /// The system's.
    pub async fn sleep(&self, length: Duration) -> io::Result<()> {
        // Zero would turn it off.
        let it_value = Timespec::try_from(length.max(Duration::from_nanos(1))).map_err(io::Error::other)?;
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        rustix::time::timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut [0_u8; 8])?));
            if let Ok(read) = read {
                return read.map(drop);
            }
        }
    }
}
