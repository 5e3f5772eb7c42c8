//! `ptrace(2)`, one request a function.
//!
//! Every function is for a tracee of the calling thread; the kernel answers
//! ESRCH for any other, so none of them can be misused into undefined
//! behaviour: the tracee's state changes, never this process's memory, except
//! through the buffers handed over here.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::time::{Duration, Instant};

use libc::{c_void, iovec, pid_t, user_regs_struct};

const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4211;
const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;
const PTRACE_PEEKSIGINFO: libc::c_uint = 0x4209;
const PTRACE_PEEKSIGINFO_SHARED: u32 = 1;
const NT_X86_XSTATE: usize = 0x202;
/// The size of the kernel's signal set in bytes.
const LEN_SIGSET: usize = 8;

/// `struct ptrace_rseq_configuration` (Linux 5.13).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RseqConfiguration {
    /// The address of the registered `struct rseq`, 0 if there is none.
    pub rseq_abi_pointer: u64,
    /// Its registered size in bytes.
    pub rseq_abi_size: u32,
    /// The signature before each abort handler.
    pub signature: u32,
    /// The flags of the registration.
    pub flags: u32,
    pad: u32,
}
const _: () = assert!(size_of::<RseqConfiguration>() == 24);

fn request(request: libc::c_uint, tid: pid_t, addr: usize, data: usize) -> io::Result<i64> {
    // SAFETY: the callers in this file pass, for requests that write through
    // `data`, the address of a buffer that lives across the call and is as
    // long as the request writes (ptrace(2)).
    let result = unsafe { libc::ptrace(request, tid, addr as *mut c_void, data as *mut c_void) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Attaches to a thread without stopping it (`PTRACE_SEIZE`).
pub fn seize(tid: pid_t, options: i32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, tid, 0, options as usize).map(drop)
}

/// Asks a seized thread to stop (`PTRACE_INTERRUPT`).
pub fn interrupt(tid: pid_t) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// Changes the options of a stopped tracee (`PTRACE_SETOPTIONS`).
pub fn set_options(tid: pid_t, options: i32) -> io::Result<()> {
    request(libc::PTRACE_SETOPTIONS, tid, 0, options as usize).map(drop)
}

/// Detaches from a stopped thread, which runs on (`PTRACE_DETACH`).
pub fn detach(tid: pid_t) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, 0).map(drop)
}

/// Lets a stopped thread go on (`PTRACE_CONT`), delivering `signal` if it is
/// not 0.
pub fn resume(tid: pid_t, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// Lets a stopped thread execute one instruction (`PTRACE_SINGLESTEP`).
pub fn single_step(tid: pid_t) -> io::Result<()> {
    request(libc::PTRACE_SINGLESTEP, tid, 0, 0).map(drop)
}

/// Reads the general registers (`PTRACE_GETREGS`).
pub fn registers(tid: pid_t) -> io::Result<user_regs_struct> {
    let mut regs = MaybeUninit::<user_regs_struct>::uninit();
    request(libc::PTRACE_GETREGS, tid, 0, regs.as_mut_ptr() as usize)?;
    // SAFETY: PTRACE_GETREGS fills the whole structure when it succeeds.
    Ok(unsafe { regs.assume_init() })
}

/// Writes the general registers (`PTRACE_SETREGS`).
pub fn set_registers(tid: pid_t, regs: &user_regs_struct) -> io::Result<()> {
    request(libc::PTRACE_SETREGS, tid, 0, std::ptr::from_ref(regs) as usize).map(drop)
}

/// Reads the extended state in the standard (uncompacted) XSAVE format
/// (`PTRACE_GETREGSET` with `NT_X86_XSTATE`).
pub fn xstate(tid: pid_t) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; 16384];
    let mut io = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    request(libc::PTRACE_GETREGSET, tid, NT_X86_XSTATE, std::ptr::from_mut(&mut io) as usize)?;
    buffer.truncate(io.iov_len);
    Ok(buffer)
}

/// Reads the set of blocked signals (`PTRACE_GETSIGMASK`, Linux 3.11).
pub fn signal_mask(tid: pid_t) -> io::Result<u64> {
    let mut mask = 0u64;
    request(PTRACE_GETSIGMASK, tid, LEN_SIGSET, std::ptr::from_mut(&mut mask) as usize)?;
    Ok(mask)
}

/// Sets the set of blocked signals (`PTRACE_SETSIGMASK`, Linux 3.11).
pub fn set_signal_mask(tid: pid_t, mask: u64) -> io::Result<()> {
    request(PTRACE_SETSIGMASK, tid, LEN_SIGSET, std::ptr::from_ref(&mask) as usize).map(drop)
}

/// Reads the rseq registration (`PTRACE_GET_RSEQ_CONFIGURATION`, Linux 5.13).
pub fn rseq_configuration(tid: pid_t) -> io::Result<RseqConfiguration> {
    let mut config = RseqConfiguration::default();
    request(
        PTRACE_GET_RSEQ_CONFIGURATION,
        tid,
        size_of::<RseqConfiguration>(),
        std::ptr::from_mut(&mut config) as usize,
    )?;
    Ok(config)
}

/// Whose queue of pending signals to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// The thread's own.
    Thread,
    /// The one that the process's threads share.
    Process,
}

/// The length of a `siginfo_t` in bytes.
pub const LEN_SIGINFO: usize = 128;
const _: () = assert!(size_of::<libc::siginfo_t>() == LEN_SIGINFO);

/// Reads all queued signals without taking them (`PTRACE_PEEKSIGINFO`, Linux
/// 3.10).
pub fn queued_signals(tid: pid_t, queue: Queue) -> io::Result<Vec<[u8; LEN_SIGINFO]>> {
    /// As many as fit a few pages; a queue may be longer.
    const AT_ONCE: usize = 64;
    #[repr(C)]
    struct Args {
        off: u64,
        flags: u32,
        nr: i32,
    }
    let flags = if queue == Queue::Process { PTRACE_PEEKSIGINFO_SHARED } else { 0 };
    let mut all = Vec::new();
    loop {
        let args = Args { off: all.len() as u64, flags, nr: AT_ONCE as i32 };
        let mut infos = [[0u8; LEN_SIGINFO]; AT_ONCE];
        let count = request(
            PTRACE_PEEKSIGINFO,
            tid,
            std::ptr::from_ref(&args) as usize,
            infos.as_mut_ptr() as usize,
        )?;
        let count = usize::try_from(count).unwrap_or(0).min(AT_ONCE);
        all.extend(&infos[..count]);
        if count < AT_ONCE {
            return Ok(all);
        }
    }
}

/// Returns whether the thread's system calls are dispatched to itself: 0 for
/// no (`PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG`, Linux 6.4).
pub fn syscall_dispatch(tid: pid_t) -> io::Result<u64> {
    // mode, selector, offset, len.
    let mut config = [0u64; 4];
    request(
        PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG,
        tid,
        size_of_val(&config),
        config.as_mut_ptr() as usize,
    )?;
    Ok(config[0])
}

/// Waits for one thread, a traced one too, to change state, and returns the
/// raw wait status (`waitpid(2)` with `__WALL`).
///
/// That a process has ended is returned, but not taken: its parent, which may
/// be ourselves, still has to learn its exit status.
pub fn wait(tid: pid_t) -> io::Result<i32> {
    if let Some(status) = ended(tid)? {
        return Ok(status);
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the status.
        if unsafe { libc::waitpid(tid, &mut status, libc::__WALL) } >= 0 {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

/// Waits like [`wait`], for no longer than `patience`; `None` if nothing has
/// changed until then.
pub fn wait_for(tid: pid_t, patience: Duration) -> io::Result<Option<i32>> {
    /// A thread that is asked to stop does so in some ten microseconds.
    const PAUSE: Duration = Duration::from_micros(50);
    let until = Instant::now() + patience;
    while !has_changed(tid)? {
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(PAUSE);
    }
    wait(tid).map(Some)
}

/// Whether [`wait`] would return at once.
fn has_changed(tid: pid_t) -> io::Result<bool> {
    let options = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::WNOHANG | libc::__WALL;
    // SAFETY: siginfo is plain data, for which all zeros is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: waitid writes one siginfo to the address given.
    if unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &mut info, options) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid filled the fields of SIGCHLD, or left zeros.
    Ok(unsafe { info.si_pid() } != 0)
}

/// Waits for a change without taking it; returns the raw status if it is the
/// end of a process, and not of another of its threads.
fn ended(tid: pid_t) -> io::Result<Option<i32>> {
    let options = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::__WALL;
    // SAFETY: siginfo is plain data, for which all zeros is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: waitid writes one siginfo to the address given.
    while unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &mut info, options) } != 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
    // SAFETY: waitid filled the fields of SIGCHLD.
    let code = unsafe { info.si_status() };
    let status = match info.si_code {
        libc::CLD_EXITED => (code & 0xff) << 8,
        libc::CLD_KILLED => code,
        libc::CLD_DUMPED => code | 0x80,
        _ => return Ok(None),
    };
    // SAFETY: tgkill takes numbers; signal 0 only asks, and the answer is yes
    // if the thread leads its process.
    let leads = unsafe { libc::syscall(libc::SYS_tgkill, tid, tid, 0) } == 0;
    Ok(leads.then_some(status))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_end_of_a_process_is_left_to_its_parent() {
        for (script, status) in [("exit 7", 7 << 8), ("kill -9 $$", 9)] {
            let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
            assert_eq!(super::wait(child.id() as i32).unwrap(), status);
            assert_eq!(child.wait().unwrap(), ExitStatusExt::from_raw(status));
        }
    }
}
