//! Role: the helper thread that runs the store's jobs, so that the event loop never waits for a disk.
//! Owns: the store (inside the thread), the bounded queue of jobs, the answers not yet taken.
//! Implements: docs/ARCHITECTURE.md, "The disk thread".

use super::client::NetError;
use crate::store::{SessionKey, Store};
use crate::transfer::job::{Done, Job};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Jobs that may wait for the thread. Deep enough to keep a disk busy over one turn of the loop; what the jobs hold
/// is bounded by the endpoint's budgets, not here.
pub const QUEUE_JOBS: usize = 64;

/// Wakes the loop; a `mio::Waker` outside of tests.
pub trait Wake: Send + Sync + 'static {
    /// Makes the loop's poll return soon.
    fn wake(&self);
}

impl Wake for mio::Waker {
    fn wake(&self) {
        // It fails only when the process is out of kernel memory; the loop's own tick then takes over.
        if let Err(e) = mio::Waker::wake(self) {
            log::debug!("waking the loop: {e}");
        }
    }
}

/// What both threads see.
struct Shared {
    answers: Mutex<Vec<(SessionKey, Done)>>,
    /// The loop has been woken and has not taken the answers since.
    woken: AtomicBool,
    /// The loop found the queue full and waits for room.
    starved: AtomicBool,
    /// The thread has ended.
    ended: AtomicBool,
    waker: Arc<dyn Wake>,
}

impl Shared {
    fn answers(&self) -> MutexGuard<'_, Vec<(SessionKey, Done)>> {
        // Nothing that runs under the lock can leave the vector half changed.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the loop, once until it has reacted.
    fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}

/// Tells the loop when the thread ends, by a panic too.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.waker.wake();
    }
}

/// The loop's handle of the disk thread.
pub struct Disk {
    jobs: Option<SyncSender<(SessionKey, Job)>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("ended", &self.shared.ended).finish_non_exhaustive()
    }
}

impl Disk {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(store: Box<dyn Store>, waker: Arc<dyn Wake>) -> Result<Self, NetError> {
        let (sender, receiver) = sync_channel(QUEUE_JOBS);
        let shared = Arc::new(Shared {
            answers: Mutex::new(Vec::new()),
            woken: AtomicBool::new(false),
            starved: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            waker,
        });
        let guard = EndGuard(shared.clone());
        let thread = std::thread::Builder::new()
            .name("disk".into())
            .spawn(move || work(store, &receiver, &guard.0))
            .map_err(|e| NetError { exit_code: 1, message: format!("cannot start the disk thread: {e}") })?;
        Ok(Self { jobs: Some(sender), shared, thread: Some(thread) })
    }

    /// Queues a job, or gives it back: the queue is full. The loop is then woken when there is room.
    ///
    /// # Errors
    /// The thread is gone (it panicked).
    pub fn submit(&mut self, session: SessionKey, job: Job) -> Result<Option<(SessionKey, Job)>, NetError> {
        let Some(jobs) = &self.jobs else { return Ok(None) };
        let refused = match jobs.try_send((session, job)) {
            Ok(()) => return Ok(None),
            Err(refused) => refused,
        };
        if let TrySendError::Full(job) = refused {
            // The thread may have emptied the queue in between, before it could see the mark: so try again.
            self.shared.starved.store(true, Ordering::SeqCst);
            match jobs.try_send(job) {
                Ok(()) => return Ok(None),
                Err(TrySendError::Full(job)) => return Ok(Some(job)),
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
        Err(self.join())
    }

    /// Queues a job, waiting for room: for the last jobs, when the loop has ended.
    ///
    /// # Errors
    /// The thread is gone (it panicked).
    pub fn submit_waiting(&mut self, session: SessionKey, job: Job) -> Result<(), NetError> {
        let Some(jobs) = &self.jobs else { return Ok(()) };
        if jobs.send((session, job)).is_err() {
            return Err(self.join());
        }
        Ok(())
    }

    /// Swaps the answers that have come in into `into`, which must be empty; both vectors keep their memory.
    ///
    /// # Errors
    /// The thread is gone (it panicked).
    pub fn take_answers(&mut self, into: &mut Vec<(SessionKey, Done)>) -> Result<(), NetError> {
        debug_assert!(into.is_empty());
        self.shared.woken.store(false, Ordering::Release);
        std::mem::swap(&mut *self.shared.answers(), into);
        if self.shared.ended.load(Ordering::Acquire) && self.thread.is_some() {
            return Err(self.join());
        }
        Ok(())
    }

    /// Lets the thread finish what is queued and waits for it.
    ///
    /// # Errors
    /// It panicked.
    pub fn shut_down(mut self) -> Result<(), NetError> {
        self.jobs = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => Err(panicked(panic.as_ref())),
            _ => Ok(()),
        }
    }

    /// The thread ended while it was needed: says why.
    fn join(&mut self) -> NetError {
        self.jobs = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => panicked(panic.as_ref()),
            _ => NetError { exit_code: 1, message: "the disk thread ended unexpectedly".into() },
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported already, or the loop is ending with an error of its own.
            let _ = thread.join();
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> NetError {
    let text = panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    NetError {
        exit_code: 1,
        message: format!("the disk thread failed: {text}; this is a bug, please report it"),
    }
}

/// The thread: jobs in order; when none waits, what the store batched is finished before it sleeps.
fn work(mut store: Box<dyn Store>, jobs: &Receiver<(SessionKey, Job)>, shared: &Shared) {
    let mut done = Vec::new();
    let mut fresh = false;
    loop {
        let next = match jobs.try_recv() {
            Ok(job) => Some(job),
            Err(TryRecvError::Empty) if fresh => {
                store.idle(&mut done);
                publish(shared, &mut done);
                fresh = false;
                continue;
            }
            Err(TryRecvError::Empty) => match store.look_within() {
                None => jobs.recv().ok(),
                Some(pause) => match jobs.recv_timeout(pause) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => {
                        fresh = true;
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => None,
                },
            },
            Err(TryRecvError::Disconnected) => None,
        };
        let Some((session, job)) = next else { break };
        if shared.starved.swap(false, Ordering::SeqCst) {
            shared.wake();
        }
        store.run(session, job, &mut done);
        fresh = true;
        publish(shared, &mut done);
    }
    if fresh {
        store.idle(&mut done);
        publish(shared, &mut done);
    }
}

fn publish(shared: &Shared, done: &mut Vec<(SessionKey, Done)>) {
    if !done.is_empty() {
        shared.answers().append(done);
        shared.wake();
    }
}

#[cfg(test)]
mod tests;
