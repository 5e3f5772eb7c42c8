//! Threads: what each does for itself, and the frame it returns through.

use std::ops::Range;

use super::{Planner, PlannerError, value};
use crate::image::registers::{decode_alt_stack, decode_registers, decode_xstate};
use crate::image::{Task, Thread};
use crate::restore::plan::{Arg, Check, Frame, Operation, ThreadPlan};
use crate::sys::arch;

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
/// `sizeof(struct robust_list_head)`: the kernel accepts no other.
const LEN_ROBUST_LIST: u32 = 24;
const LEN_NAME: usize = 16;
/// The flags that `rt_sigreturn` takes from a frame, less the trap flag.
const TRAP_FLAG: u64 = 1 << 8;

/// Returns where the longest stretch of zeros is, empty at the end if there is
/// none.
fn longest_gap(bytes: &[u8]) -> Range<usize> {
    let mut longest = bytes.len()..bytes.len();
    let mut start = 0;
    for end in (0..=bytes.len()).filter(|at| bytes.get(*at).is_none_or(|byte| *byte != 0)) {
        if end - start > longest.len() {
            longest = start..end;
        }
        start = end + 1;
    }
    longest
}

impl Planner<'_> {
    pub(super) fn threads(&mut self, task: &Task) -> Result<Vec<ThreadPlan>, PlannerError> {
        task.threads.iter().map(|thread| self.thread(task.pid, thread)).collect()
    }

    fn thread(&mut self, pid: u32, thread: &Thread) -> Result<ThreadPlan, PlannerError> {
        let tid = thread.tid;
        let wrong = |what: &str| PlannerError::Inconsistent(format!("thread {tid} has {what}"));
        let info = thread.core.thread_info.as_ref().ok_or_else(|| wrong("no registers"))?;
        let core = thread.core.thread_core.as_ref().ok_or_else(|| wrong("no core"))?;
        let mut regs = decode_registers(&info.gpregs);
        regs.eflags &= !TRAP_FLAG;
        if !arch::is_native(&regs) {
            return Err(PlannerError::Unsupported(format!("thread {tid} runs 32-bit code")));
        }
        let mut operations = self.own_operations(info.clear_tid_addr, core, &regs);
        operations.extend(self.scheduling(tid));
        operations.extend(self.pending_of_thread(pid, tid, core.signals_p.as_ref())?);
        operations.extend(self.settings(tid, pid));
        let state = decode_xstate(&info.fpregs).and_then(|state| arch::compose(&state));
        let state = state.ok_or_else(|| wrong("a malformed extended state"))?;
        let mask = core.blk_sigset.unwrap_or(0);
        let stack = decode_alt_stack(core.sas.as_ref());
        let frame = arch::signal_frame(&regs, mask, stack, &state);
        Ok(ThreadPlan {
            tid: i32::try_from(tid).map_err(|_| wrong("no possible id"))?,
            operations,
            frame: self.frame(&frame),
        })
    }

    /// Stores a frame without the longest stretch of zeros in it.
    fn frame(&mut self, frame: &[u8]) -> Frame {
        let gap = longest_gap(&frame[arch::LEN_UCONTEXT..]);
        let (head, rest) = (arch::LEN_UCONTEXT + gap.start, arch::LEN_UCONTEXT + gap.end);
        Frame {
            offset: self.data.put(&[&frame[..head], &frame[rest..]].concat()),
            len: frame.len() as u64,
            head: head as u64,
            tail: (frame.len() - rest) as u64,
        }
    }

    fn own_operations(
        &mut self,
        clear_tid_addr: u64,
        core: &crate::image::proto::ThreadCoreEntry,
        regs: &arch::Registers,
    ) -> Vec<Operation> {
        let mut operations = Vec::with_capacity(6);
        let mut must = |number: i64, args: &[Arg]| {
            operations.push(Operation::new(number, args, Check::Ok));
        };
        must(libc::SYS_arch_prctl, &[Arg::Value(ARCH_SET_FS), Arg::Value(regs.fs_base)]);
        if regs.gs_base != 0 {
            must(libc::SYS_arch_prctl, &[Arg::Value(ARCH_SET_GS), Arg::Value(regs.gs_base)]);
        }
        must(libc::SYS_set_tid_address, &[Arg::Value(clear_tid_addr)]);
        if core.futex_rla != 0 {
            let args = [Arg::Value(core.futex_rla), value(LEN_ROBUST_LIST)];
            must(libc::SYS_set_robust_list, &args);
        }
        if let Some(rseq) = core.rseq_entry.as_ref().filter(|rseq| rseq.rseq_abi_pointer != 0) {
            let args = [
                Arg::Value(rseq.rseq_abi_pointer),
                value(rseq.rseq_abi_size),
                value(0),
                value(rseq.signature),
            ];
            must(libc::SYS_rseq, &args);
        }
        if let Some(comm) = &core.comm {
            let mut name = [0; LEN_NAME];
            let len = comm.len().min(LEN_NAME - 1);
            name[..len].copy_from_slice(&comm[..len]);
            let name = Arg::Data(self.data.put(&name));
            must(libc::SYS_prctl, &[value(libc::PR_SET_NAME), name]);
        }
        operations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_found_wherever_it_is() {
        let gap = |bytes: &[u8]| longest_gap(bytes);
        assert_eq!(gap(&[1, 0, 2, 0, 0, 3]), 3..5);
        assert_eq!(gap(&[0, 0, 1, 0]), 0..2);
        assert_eq!(gap(&[1, 0, 0]), 1..3);
        assert_eq!(gap(&[0, 0]), 0..2);
        assert_eq!(gap(&[1, 2]), 2..2);
        assert_eq!(gap(&[]), 0..0);
    }
}
