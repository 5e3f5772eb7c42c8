//! Making a stopped thread issue system calls.

use std::fs;

use super::{Group, Stopped, TraceError};
use crate::sys::arch::{self, Registers};
use crate::sys::memory::{self, LEN_PAGE};
use crate::sys::ptrace;

/// All signals blocked: nothing but SIGKILL and SIGSTOP comes in between.
const ALL_SIGNALS: u64 = u64::MAX;

/// A stopped thread whose registers and signal mask are borrowed; they are
/// put back on drop.
///
/// While they are borrowed, the death of this process kills the tracee
/// (`PTRACE_O_EXITKILL`): running on with borrowed registers would be worse.
#[derive(Debug)]
pub struct Remote<'a> {
    thread: &'a Stopped,
    saved: Registers,
    saved_mask: u64,
    gate: u64,
}

impl<'a> Remote<'a> {
    /// Borrows a thread; `gate` is the address of a `syscall` instruction
    /// ([`find_gate`]).
    pub fn borrow(thread: &'a Stopped, gate: u64) -> Result<Self, TraceError> {
        let tid = thread.tid();
        let saved = thread.registers()?;
        let saved_mask = thread.signal_mask()?;
        ptrace::set_options(tid, libc::PTRACE_O_EXITKILL)
            .map_err(TraceError::request("setting options", tid))?;
        ptrace::set_signal_mask(tid, ALL_SIGNALS)
            .map_err(TraceError::request("blocking signals", tid))?;
        Ok(Self { thread, saved, saved_mask, gate })
    }

    /// Returns the thread's own signal mask: what the kernel shows while it is
    /// borrowed is ours.
    pub fn signal_mask(&self) -> u64 {
        self.saved_mask
    }

    /// Returns the thread's id.
    pub fn tid(&self) -> i32 {
        self.thread.tid()
    }

    /// Makes the thread issue one system call and returns its result, an error
    /// as the negated errno.
    pub fn call(&mut self, nr: i64, args: [u64; 6]) -> Result<i64, TraceError> {
        let tid = self.thread.tid();
        let mut regs = self.saved;
        arch::prepare_call(&mut regs, self.gate, nr, args);
        self.thread.set_registers(&regs)?;
        loop {
            ptrace::single_step(tid).map_err(TraceError::request("stepping", tid))?;
            let status = ptrace::wait(tid).map_err(TraceError::request("waiting", tid))?;
            if !libc::WIFSTOPPED(status) {
                return Err(TraceError::Gone(tid));
            }
            let after = self.thread.registers()?;
            // A stop signal can come first; then the instruction is still ahead.
            if after.rip != self.gate {
                return Ok(arch::call_result(&after));
            }
        }
    }

    /// Makes the call and turns a negative result into an error.
    pub fn call_ok(
        &mut self,
        what: &'static str,
        nr: i64,
        args: [u64; 6],
    ) -> Result<u64, TraceError> {
        let result = self.call(nr, args)?;
        if (-4095..0).contains(&result) {
            let source = std::io::Error::from_raw_os_error(-result as i32);
            return Err(TraceError::Request { step: what, tid: self.thread.tid(), source });
        }
        Ok(result as u64)
    }
}

impl Drop for Remote<'_> {
    fn drop(&mut self) {
        // Best effort: a thread that is gone has nothing to put back.
        let tid = self.thread.tid();
        let _ = ptrace::set_registers(tid, &self.saved);
        let _ = ptrace::set_signal_mask(tid, self.saved_mask);
        let _ = ptrace::set_options(tid, 0);
    }
}

/// A page of scratch memory inside a stopped process, for results of calls.
#[derive(Debug)]
pub struct Scratch {
    pid: i32,
    addr: u64,
}

impl Scratch {
    /// Maps the page.
    pub fn map(remote: &mut Remote<'_>, pid: i32) -> Result<Self, TraceError> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let addr = remote.call_ok(
            "mapping a scratch page",
            libc::SYS_mmap,
            [0, LEN_PAGE, prot as u64, flags as u64, u64::MAX, 0],
        )?;
        Ok(Self { pid, addr })
    }

    /// Returns the address of the page.
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// Reads the beginning of the page.
    pub fn read<const N: usize>(&self) -> Result<[u8; N], TraceError> {
        let mut bytes = [0; N];
        memory::read_remote(self.pid, self.addr, &mut bytes)
            .map_err(TraceError::request("reading scratch memory", self.pid))?;
        Ok(bytes)
    }

    /// Unmaps the page.
    pub fn unmap(self, remote: &mut Remote<'_>) -> Result<(), TraceError> {
        remote
            .call_ok(
                "unmapping the scratch page",
                libc::SYS_munmap,
                [self.addr, LEN_PAGE, 0, 0, 0, 0],
            )
            .map(drop)
    }
}

/// Finds a `syscall` instruction in the process: in the vDSO, which has its
/// fall-backs, or else in any executable file mapping.
pub fn find_gate(group: &Group) -> Result<u64, TraceError> {
    let pid = group.pid();
    let unfit = |reason: &str| TraceError::Unfit { pid, reason: reason.into() };
    let maps =
        fs::read_to_string(format!("/proc/{pid}/maps")).map_err(|_| TraceError::Gone(pid))?;
    let mut candidates: Vec<(bool, u64, u64)> = maps
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let executable = fields.next()?.as_bytes().get(2) == Some(&b'x');
            let name = fields.nth(3).unwrap_or("");
            let range = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
            (executable && name != "[vsyscall]").then_some((name != "[vdso]", range.0, range.1))
        })
        .collect();
    candidates.sort_unstable();
    for (_, start, end) in candidates {
        let mut bytes = vec![0; (end - start).min(4 << 20) as usize];
        if memory::read_remote(pid, start, &mut bytes).is_err() {
            continue;
        }
        if let Some(at) = bytes.windows(arch::SYSCALL.len()).position(|code| code == arch::SYSCALL)
        {
            return Ok(start + at as u64);
        }
    }
    Err(unfit("it has no syscall instruction"))
}
