//! The state of each thread.

use std::fs;

use super::Refusal;
use crate::image::proto::{
    CoreEntry, March, RseqEntry, ThreadCoreEntry, ThreadInfoX86, ThreadSasEntry,
};
use crate::image::registers::{encode_registers, encode_xstate};
use crate::restore::planner::Setting;
use crate::sys::arch::{self, Registers};
use crate::sys::memory;
use crate::trace::{Remote, Scratch, Stopped};

/// `prctl(2)`, Linux 3.5, needs CONFIG_CHECKPOINT_RESTORE.
const PR_GET_TID_ADDRESS: u64 = 40;
/// The thread is executing on its alternate stack (`sigaltstack(2)`).
const SS_ONSTACK: u32 = 1;

/// Reads one thread into a core entry without the parts that belong to the
/// process (`tc`, `ids`) and without credentials; returns the slack of its
/// timers as well, in nanoseconds, and what it has set for itself.
pub fn read(
    thread: &Stopped,
    gate: u64,
    scratch: &Scratch,
    pid: i32,
) -> Result<(CoreEntry, u64, Vec<Setting>), Refusal> {
    let tid = thread.tid();
    let name = comm(pid, tid)?;
    let refuse = |what: String| {
        Refusal::lasting(format!("thread {tid} ({}) {what}", String::from_utf8_lossy(&name)))
    };
    let mut regs = thread.registers()?;
    if !arch::is_native(&regs) {
        return Err(refuse("runs 32-bit code".into()));
    }
    let xstate = arch::decompose(&thread.xstate()?)
        .map_err(|feature| refuse(format!("uses processor state component {feature}")))?;
    let mask = thread.signal_mask()?;
    let pending = super::signals::of_thread(thread, mask)?;
    let rseq = rseq(thread, pid, &mut regs)?;
    // What the kernel would restart once the thread runs on, the restored
    // thread has to issue again.
    if arch::interrupted(&regs) != arch::Interrupted::No {
        arch::rewind(&mut regs);
    }
    let mut remote = Remote::borrow(thread, gate)?;
    let place = scratch.addr();
    remote.call_ok(
        "reading the tid address",
        libc::SYS_prctl,
        [PR_GET_TID_ADDRESS, place, 0, 0, 0, 0],
    )?;
    let clear_tid_addr = u64::from_le_bytes(scratch.read()?);
    remote.call_ok(
        "reading the alternate signal stack",
        libc::SYS_sigaltstack,
        [0, place, 0, 0, 0, 0],
    )?;
    let slack = super::attributes::timer_slack(&mut remote)?;
    let stack: [u8; 24] = scratch.read()?;
    let settings = super::attributes::of_thread(thread, &mut remote, scratch)?;
    super::numa::check(&mut remote, scratch)?;
    drop(remote);
    let sas = ThreadSasEntry {
        ss_sp: word(&stack, 0),
        ss_flags: word(&stack, 8) as u32 & !SS_ONSTACK,
        ss_size: word(&stack, 16),
    };
    let (futex_rla, futex_rla_len) = memory::robust_list(tid)
        .map_err(|error| Refusal::passing(format!("robust list of thread {tid}: {error}")))?;
    let (nice, prio, policy) = scheduling(pid, tid)?;
    let core = CoreEntry {
        mtype: March::X8664 as i32,
        thread_info: Some(ThreadInfoX86 {
            clear_tid_addr,
            gpregs: encode_registers(&regs),
            fpregs: encode_xstate(&xstate),
            tls: Vec::new(),
        }),
        tc: None,
        ids: None,
        thread_core: Some(ThreadCoreEntry {
            futex_rla,
            futex_rla_len: futex_rla_len as u32,
            sched_nice: Some(nice),
            sched_policy: Some(policy),
            sched_prio: Some(prio),
            blk_sigset: Some(mask),
            sas: Some(sas),
            signals_p: pending,
            comm: Some(name),
            rseq_entry: rseq,
            ..Default::default()
        }),
    };
    Ok((core, slack, settings))
}

fn word(bytes: &[u8], offset: usize) -> u64 {
    bytes
        .get(offset..offset + 8)
        .and_then(|word| word.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

fn comm(pid: i32, tid: i32) -> Result<Vec<u8>, Refusal> {
    let mut name = fs::read(format!("/proc/{pid}/task/{tid}/comm"))
        .map_err(|_| Refusal::passing(format!("thread {tid} ended")))?;
    name.truncate(name.len().saturating_sub(1));
    Ok(name)
}

/// Reads nice value, real-time priority and scheduling policy: fields 19, 40
/// and 41 of `stat` (`proc(5)`).
fn scheduling(pid: i32, tid: i32) -> Result<(i32, u32, u32), Refusal> {
    let stat = super::process::Stat::read(&format!("/proc/{pid}/task/{tid}/stat"))?;
    Ok((stat.field(19) as i32, stat.field(40) as u32, stat.field(41) as u32))
}

/// Reads the rseq registration. A thread inside a restartable sequence is
/// moved to its abort handler, as the kernel does when it is preempted: the
/// handler's address is the fourth word of `struct rseq_cs`.
fn rseq(thread: &Stopped, pid: i32, regs: &mut Registers) -> Result<Option<RseqEntry>, Refusal> {
    const OFFSET_RSEQ_CS: u64 = 8;
    let config = thread.rseq()?;
    if config.rseq_abi_pointer == 0 {
        return Ok(None);
    }
    let gone = |error| Refusal::passing(format!("rseq of thread {}: {error}", thread.tid()));
    let mut pointer = [0; 8];
    memory::read_remote(pid, config.rseq_abi_pointer + OFFSET_RSEQ_CS, &mut pointer)
        .map_err(gone)?;
    let pointer = u64::from_le_bytes(pointer);
    if pointer != 0 {
        let mut sequence = [0; 32];
        memory::read_remote(pid, pointer, &mut sequence).map_err(gone)?;
        let (start, len, abort) = (word(&sequence, 8), word(&sequence, 16), word(&sequence, 24));
        if regs.rip.wrapping_sub(start) < len {
            regs.rip = abort;
        }
    }
    Ok(Some(RseqEntry {
        rseq_abi_pointer: config.rseq_abi_pointer,
        rseq_abi_size: config.rseq_abi_size,
        signature: config.signature,
        rseq_cs_pointer: None,
    }))
}
