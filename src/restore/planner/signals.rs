//! Signals that wait, and POSIX timers.

use super::{Arg, Check, Planner, PlannerError, value};
use crate::image::proto::{PosixTimerEntry, SignalQueueEntry};
use crate::restore::plan::Operation;

/// `PR_TIMER_CREATE_RESTORE_IDS` (Linux 6.15): `timer_create(2)` reads the id
/// that it is to give.
pub(in crate::restore) const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
/// Before that a new process's timers were numbered from 0 on: timers are made
/// and deleted to get past so many ids.
const MAX_GAP: u32 = 256;
const LEN_SIGINFO: usize = 128;

impl Planner<'_> {
    /// Plans the POSIX timers, each with the id that it had.
    pub(super) fn posix_timers(&mut self, timers: &[PosixTimerEntry]) {
        if timers.is_empty() {
            return;
        }
        self.restore_ids(1);
        let mut timers: Vec<&PosixTimerEntry> = timers.iter().collect();
        timers.sort_by_key(|timer| timer.it_id);
        let mut next: u32 = 0;
        for timer in timers {
            for id in next..timer.it_id.min(next.saturating_add(MAX_GAP)) {
                self.create_timer(libc::CLOCK_MONOTONIC as u32, [0, 1 << 32, 0], id);
                self.must(libc::SYS_timer_delete, &[value(id)]);
            }
            next = timer.it_id.saturating_add(1);
            let signal = u64::from(timer.si_signo) | u64::from(timer.it_sigev_notify) << 32;
            let thread = timer.notify_thread_id.unwrap_or(0) as u32;
            let event = [timer.sival_ptr, signal, u64::from(thread)];
            self.create_timer(timer.clock_id, event, timer.it_id);
            if (timer.vsec, timer.vnsec) != (0, 0) {
                let words = [timer.isec, timer.insec, timer.vsec, timer.vnsec];
                let spec = self.data.words(&words);
                let args = [value(timer.it_id), value(0), spec, value(0)];
                self.must(libc::SYS_timer_settime, &args);
            }
        }
        self.restore_ids(0);
    }

    /// An older kernel does not know it; there a wrong id shows in the call
    /// that sets the timer.
    fn restore_ids(&mut self, on: u32) {
        let option = value(PR_TIMER_CREATE_RESTORE_IDS);
        self.may(libc::SYS_prctl, &[option, value(on), value(0), value(0), value(0)]);
    }

    /// Makes a timer; `event` is the beginning of a `struct sigevent`.
    fn create_timer(&mut self, clock_id: u32, event: [u64; 3], id: u32) {
        let mut words = [0; 8];
        words[..3].copy_from_slice(&event);
        let event = self.data.words(&words);
        let id = self.data.words(&[u64::from(id)]);
        self.must(libc::SYS_timer_create, &[value(clock_id), event, id]);
    }

    /// Plans the signals that are pending for the process: sent by itself, as
    /// only a process itself may say who sent a signal (`rt_sigqueueinfo(2)`).
    pub(super) fn pending(
        &mut self,
        pid: u32,
        queue: Option<&SignalQueueEntry>,
    ) -> Result<(), PlannerError> {
        for entry in queue.iter().flat_map(|queue| &queue.signals) {
            let (signal, siginfo) = self.siginfo(&entry.siginfo)?;
            let args = [value(pid), value(signal), siginfo];
            self.must(libc::SYS_rt_sigqueueinfo, &args);
        }
        Ok(())
    }

    /// The same for one thread, which sends them to itself.
    pub(super) fn pending_of_thread(
        &mut self,
        pid: u32,
        tid: u32,
        queue: Option<&SignalQueueEntry>,
    ) -> Result<Vec<Operation>, PlannerError> {
        let mut operations = Vec::new();
        for entry in queue.iter().flat_map(|queue| &queue.signals) {
            let (signal, siginfo) = self.siginfo(&entry.siginfo)?;
            let args = [value(pid), value(tid), value(signal), siginfo];
            let call = Operation::new(libc::SYS_rt_tgsigqueueinfo, &args, Check::Ok);
            operations.push(call);
        }
        Ok(operations)
    }

    fn siginfo(&mut self, bytes: &[u8]) -> Result<(u32, Arg), PlannerError> {
        let wrong = || PlannerError::Inconsistent("a pending signal is malformed".into());
        let (number, _) = bytes.split_first_chunk::<4>().ok_or_else(wrong)?;
        if bytes.len() != LEN_SIGINFO {
            return Err(wrong());
        }
        Ok((u32::from_le_bytes(*number), Arg::Data(self.data.put(bytes))))
    }
}
