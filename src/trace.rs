//! Stopping another process and acting on it: typestate over `ptrace(2)`.
//!
//! A [`Group`] holds every thread of a process, each one [`Stopped`]; a
//! stopped thread's state can be read, and it can be made to issue system
//! calls through a [`Remote`]. Dropping any of them lets the process go on as
//! it was: the way out of every error.

use std::fs;
use std::io;
use std::time::Duration;

use crate::sys::arch::{self, Registers};
use crate::sys::ptrace::{self, Queue, RseqConfiguration};

mod remote;

pub use remote::{Remote, Scratch, find_gate};

const PTRACE_EVENT_STOP: i32 = 128;
/// Passes over the list of threads before giving up on a process that makes
/// threads faster than they can be stopped.
const MAX_PASSES: usize = 64;

/// How long one thread may take to stop, while others stand already.
const PATIENCE: Duration = Duration::from_millis(250);

/// What went wrong with a tracee.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The process may not be traced by us.
    #[error("process {pid} may not be traced")]
    Denied {
        /// The process.
        pid: i32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The process ended.
    #[error("process {0} ended")]
    Gone(i32),
    /// The process is stopped by job control.
    #[error("process {0} is stopped by a signal")]
    JobStopped(i32),
    /// A thread does not stop: it waits in the kernel for a child of `vfork(2)`
    /// or for a device.
    #[error("thread {0} does not stop")]
    Slow(i32),
    /// A request failed.
    #[error("{step} of thread {tid}")]
    Request {
        /// What was asked of the kernel.
        step: &'static str,
        /// The thread.
        tid: i32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The process cannot be made to issue system calls.
    #[error("process {pid}: {reason}")]
    Unfit {
        /// The process.
        pid: i32,
        /// What is missing.
        reason: String,
    },
}

impl TraceError {
    fn request(step: &'static str, tid: i32) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            if source.raw_os_error() == Some(libc::ESRCH) {
                Self::Gone(tid)
            } else {
                Self::Request { step, tid, source }
            }
        }
    }
}

/// A thread that stands still under our trace; goes on when dropped.
#[derive(Debug)]
pub struct Stopped {
    tid: i32,
}

impl Stopped {
    /// Returns the thread's id.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Reads the general registers.
    pub fn registers(&self) -> Result<Registers, TraceError> {
        ptrace::registers(self.tid).map_err(TraceError::request("reading the registers", self.tid))
    }

    /// Writes the general registers.
    pub fn set_registers(&self, regs: &Registers) -> Result<(), TraceError> {
        ptrace::set_registers(self.tid, regs)
            .map_err(TraceError::request("writing the registers", self.tid))
    }

    /// Reads the extended state, in the standard XSAVE format.
    pub fn xstate(&self) -> Result<Vec<u8>, TraceError> {
        ptrace::xstate(self.tid)
            .map_err(TraceError::request("reading the extended state", self.tid))
    }

    /// Reads the blocked signals.
    pub fn signal_mask(&self) -> Result<u64, TraceError> {
        ptrace::signal_mask(self.tid)
            .map_err(TraceError::request("reading the signal mask", self.tid))
    }

    /// Reads the rseq registration, if the kernel tells (Linux 5.13).
    pub fn rseq(&self) -> Result<RseqConfiguration, TraceError> {
        ptrace::rseq_configuration(self.tid)
            .map_err(TraceError::request("reading the rseq registration", self.tid))
    }

    /// Reads the signals queued for the thread or for its process, whole.
    pub fn queued(&self, queue: Queue) -> Result<Vec<[u8; ptrace::LEN_SIGINFO]>, TraceError> {
        ptrace::queued_signals(self.tid, queue)
            .map_err(TraceError::request("reading the pending signals", self.tid))
    }

    /// Lists the signals queued for the thread or for its process.
    pub fn pending(&self, queue: Queue) -> Result<Vec<i32>, TraceError> {
        // A `siginfo_t` begins with the signal's number.
        let number = |info: &[u8; ptrace::LEN_SIGINFO]| {
            i32::from_ne_bytes([info[0], info[1], info[2], info[3]])
        };
        Ok(self.queued(queue)?.iter().map(number).collect())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // A thread that is gone needs no detaching.
        let _ = ptrace::detach(self.tid);
    }
}

/// A process with all its threads stopped.
#[derive(Debug)]
pub struct Group {
    pid: i32,
    threads: Vec<Stopped>,
}

impl Group {
    /// Stops every thread of the process.
    ///
    /// On an error a thread that was asked to stop may not have stopped yet,
    /// and only a stopped one can be let go by a request. The kernel lets go
    /// of the others when the tracing thread ends (`ptrace(2)`): call this on a
    /// thread that does.
    pub fn stop(pid: i32) -> Result<Self, TraceError> {
        let mut group = Self { pid, threads: Vec::new() };
        for _ in 0..MAX_PASSES {
            let new: Vec<i32> = threads_of(pid)?
                .into_iter()
                .filter(|tid| group.threads.iter().all(|thread| thread.tid != *tid))
                .collect();
            if new.is_empty() {
                group.threads.sort_by_key(|thread| (thread.tid != pid, thread.tid));
                return match group.threads.first() {
                    Some(leader) if leader.tid == pid => Ok(group),
                    _ => Err(TraceError::Gone(pid)),
                };
            }
            let mut seized = Vec::with_capacity(new.len());
            for tid in new {
                match ptrace::seize(tid, 0) {
                    Ok(()) => seized.push(tid),
                    // The thread ended between the listing and now.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(source) => {
                        group.adopt(seized)?;
                        return Err(TraceError::Denied { pid, source });
                    }
                }
            }
            group.adopt(seized)?;
        }
        Err(TraceError::Unfit { pid, reason: "it makes threads faster than they stop".into() })
    }

    /// Interrupts seized threads and waits until they stand.
    fn adopt(&mut self, seized: Vec<i32>) -> Result<(), TraceError> {
        for tid in &seized {
            // ESRCH: ended meanwhile, which the wait below finds.
            let _ = ptrace::interrupt(*tid);
        }
        let mut job_stopped = false;
        for tid in seized {
            match wait_for_stop(tid)? {
                Some(Stop::Interrupted) => self.threads.push(Stopped { tid }),
                Some(Stop::Job) => {
                    self.threads.push(Stopped { tid });
                    job_stopped = true;
                }
                None => {}
            }
        }
        if job_stopped { Err(TraceError::JobStopped(self.pid)) } else { Ok(()) }
    }

    /// Returns the process's id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns the threads, the leader first, the others by tid.
    pub fn threads(&self) -> &[Stopped] {
        &self.threads
    }

    /// Returns the leader.
    pub fn leader(&self) -> &Stopped {
        &self.threads[0]
    }

    /// Lets all threads go on.
    pub fn resume(self) {}
}

enum Stop {
    Interrupted,
    Job,
}

/// Waits until a seized, interrupted thread stands; `None` if it ended.
fn wait_for_stop(tid: i32) -> Result<Option<Stop>, TraceError> {
    loop {
        let status = match ptrace::wait_for(tid, PATIENCE) {
            Ok(Some(status)) => status,
            Ok(None) => return Err(TraceError::Slow(tid)),
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            Err(source) => return Err(TraceError::request("waiting", tid)(source)),
        };
        if !libc::WIFSTOPPED(status) {
            return Ok(None);
        }
        let signal = libc::WSTOPSIG(status);
        if status >> 16 == PTRACE_EVENT_STOP {
            let job = signal != libc::SIGTRAP;
            return Ok(Some(if job { Stop::Job } else { Stop::Interrupted }));
        }
        // A signal was about to be delivered: let it be, the interrupt's stop
        // comes next.
        ptrace::resume(tid, signal).map_err(TraceError::request("resuming", tid))?;
    }
}

/// Lists the threads of a process.
fn threads_of(pid: i32) -> Result<Vec<i32>, TraceError> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).map_err(|_| TraceError::Gone(pid))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Makes a thread that is left running issue the system call again that our
/// stop ended with EINTR, for the calls that `signal(7)` lists as interrupted
/// by a stop although no handler ran. Returns whether it did.
pub fn rewind_interrupted(thread: &Stopped, regs: &mut Registers) -> Result<bool, TraceError> {
    if arch::interrupted(regs) != arch::Interrupted::Eintr
        || !STOP_INTERRUPTS.contains(&arch::syscall_number(regs))
    {
        return Ok(false);
    }
    let mask = thread.signal_mask()?;
    let deliverable = |signals: Vec<i32>| {
        signals.into_iter().any(|signal| mask & (1u64 << (signal.clamp(1, 64) - 1)) == 0)
    };
    // A handler is about to run: then EINTR is what the program shall see.
    if deliverable(thread.pending(Queue::Thread)?) || deliverable(thread.pending(Queue::Process)?) {
        return Ok(false);
    }
    arch::rewind(regs);
    thread.set_registers(regs)?;
    Ok(true)
}

/// System calls that answer EINTR after a stop and SIGCONT, or after a tracer's
/// stop, without a handler (`signal(7)`, "Interruption of system calls and
/// library functions by stop signals"); the socket calls do with a timeout set.
const STOP_INTERRUPTS: &[i64] = &[
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
];
