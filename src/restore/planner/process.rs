//! Signals, directories, limits, timers: what the threads share.

use super::{Check, Planner, PlannerError, value};
use crate::image::proto::TaskCoreEntry;
use crate::image::{SIGNALS, Task};
use crate::restore::plan::Arg;

/// The bits of a membarrier registration, with the command that makes it
/// (`membarrier(2)`): each is its own command number.
const REGISTRATIONS: [u32; 4] = [1 << 2, 1 << 4, 1 << 6, 1 << 8];

fn core(task: &Task) -> Result<&TaskCoreEntry, PlannerError> {
    let core = task.threads.first().and_then(|thread| thread.core.tc.as_ref());
    core.ok_or_else(|| PlannerError::Inconsistent("the leader has no task core".into()))
}

impl Planner<'_> {
    /// Plans the signal actions. A default one is left to the caller, who may
    /// have the signal ignored (`nohup(1)`).
    pub(super) fn signals(&mut self, task: &Task) -> Result<(), PlannerError> {
        const SIGKILL: u32 = libc::SIGKILL as u32;
        const SIGSTOP: u32 = libc::SIGSTOP as u32;
        let signals = (1..=SIGNALS).filter(|signal| ![SIGKILL, SIGSTOP].contains(signal));
        for (signal, action) in signals.zip(&core(task)?.sigactions) {
            if action.sigaction == libc::SIG_DFL as u64 {
                continue;
            }
            let words = [action.sigaction, action.flags, action.restorer, action.mask];
            let action = self.data.words(&words);
            self.must(libc::SYS_rt_sigaction, &[value(signal), action, value(0), value(8)]);
        }
        Ok(())
    }

    /// Plans the rest; returns the program's limit of descriptors if it is not
    /// the caller's.
    pub(super) fn process(&mut self, task: &Task) -> Result<Option<u64>, PlannerError> {
        let core = core(task)?;
        let cwd = self.path_of(task.fs.cwd_id)?.to_vec();
        let cwd = self.data.path(&cwd);
        self.must(libc::SYS_chdir, &[cwd]);
        if let Some(umask) = task.fs.umask {
            self.may(libc::SYS_umask, &[value(umask)]);
        }
        if core.personality != self.facts.caller_personality {
            self.must(libc::SYS_personality, &[value(core.personality)]);
        }
        self.leads();
        self.attributes(task, core);
        self.timers(core);
        self.posix_timers(core.timers.as_ref().map_or(&[][..], |timers| &timers.posix));
        self.pending(task.pid, core.signals_s.as_ref())?;
        Ok(self.limits(core))
    }

    fn attributes(&mut self, task: &Task, core: &TaskCoreEntry) {
        let no_new_privs = self.facts.no_new_privs;
        let mut prctl = |option: i32, argument: u64| {
            let args = [value(option), Arg::Value(argument), value(0), value(0), value(0)];
            self.must(libc::SYS_prctl, &args);
        };
        if core.child_subreaper == Some(true) {
            prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        }
        if task.mm.thp_disabled == Some(true) {
            prctl(libc::PR_SET_THP_DISABLE, 1);
        }
        if no_new_privs {
            prctl(libc::PR_SET_NO_NEW_PRIVS, 1);
        }
        // The restore has made the process dumpable; this one hides from
        // other processes of its user (`PR_SET_DUMPABLE`).
        if task.mm.dumpable == Some(0) {
            prctl(libc::PR_SET_DUMPABLE, 0);
        }
        for registration in REGISTRATIONS {
            if core.membarrier_registration_mask.unwrap_or(0) & registration != 0 {
                self.must(libc::SYS_membarrier, &[value(registration), value(0)]);
            }
        }
    }

    fn timers(&mut self, core: &TaskCoreEntry) {
        let Some(timers) = &core.timers else { return };
        for (which, timer) in [&timers.real, &timers.virt, &timers.prof].into_iter().enumerate() {
            if timer.vsec != 0 || timer.vusec != 0 {
                let words = [timer.isec, timer.iusec, timer.vsec, timer.vusec];
                let timer = self.data.words(&words);
                self.must(libc::SYS_setitimer, &[value(which), timer, value(0)]);
            }
        }
    }

    /// Sets the limits that the program had changed; the others are the
    /// caller's.
    fn limits(&mut self, core: &TaskCoreEntry) -> Option<u64> {
        let mut nofile = None;
        let limits = core.rlimits.as_ref().map_or(&[][..], |limits| &limits.rlimits);
        for (resource, (own, given)) in limits.iter().zip(&self.facts.caller_limits).enumerate() {
            if (own.cur, own.max) == *given {
                continue;
            }
            if resource as u32 == libc::RLIMIT_NOFILE {
                nofile = Some(own.cur);
            }
            let limit = self.data.words(&[own.cur, own.max]);
            let args = [value(0), value(resource), limit, value(0)];
            self.push(libc::SYS_prlimit64, &args, Check::Ok);
        }
        nofile
    }
}
