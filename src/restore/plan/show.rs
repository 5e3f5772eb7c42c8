//! A plan for people: one system call a line, as `strace(1)` would.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Arg, Check, Kin, Operation, Plan};

macro_rules! names {
    ($($number:ident $name:literal),* $(,)?) => {
        /// Returns the name of a call that a plan makes.
        fn name(number: u16) -> &'static str {
            match i64::from(number) {
                $(libc::$number => $name,)*
                _ => "?",
            }
        }
    };
}

names! {
    SYS_mmap "mmap", SYS_mprotect "mprotect", SYS_madvise "madvise", SYS_mlock2 "mlock2",
    SYS_pread64 "pread64", SYS_openat "openat", SYS_mkdirat "mkdirat", SYS_unlinkat "unlinkat",
    SYS_chdir "chdir", SYS_close "close", SYS_dup3 "dup3", SYS_lseek "lseek", SYS_write "write",
    SYS_fcntl "fcntl", SYS_flock "flock", SYS_fchmod "fchmod", SYS_eventfd2 "eventfd2",
    SYS_epoll_create1 "epoll_create1", SYS_epoll_ctl "epoll_ctl",
    SYS_timerfd_create "timerfd_create", SYS_timerfd_settime "timerfd_settime",
    SYS_signalfd4 "signalfd4", SYS_socket "socket", SYS_socketpair "socketpair",
    SYS_pipe2 "pipe2", SYS_setsockopt "setsockopt", SYS_bind "bind", SYS_listen "listen",
    SYS_shutdown "shutdown", SYS_rt_sigaction "rt_sigaction", SYS_prlimit64 "prlimit64",
    SYS_umask "umask", SYS_personality "personality", SYS_membarrier "membarrier",
    SYS_setitimer "setitimer", SYS_prctl "prctl", SYS_arch_prctl "arch_prctl",
    SYS_set_tid_address "set_tid_address", SYS_set_robust_list "set_robust_list",
    SYS_memfd_create "memfd_create", SYS_ftruncate "ftruncate", SYS_sendfile "sendfile",
    SYS_timer_create "timer_create", SYS_timer_settime "timer_settime",
    SYS_timer_delete "timer_delete", SYS_rt_sigqueueinfo "rt_sigqueueinfo",
    SYS_rt_tgsigqueueinfo "rt_tgsigqueueinfo", SYS_mlockall "mlockall",
    SYS_connect "connect", SYS_getsockname "getsockname", SYS_accept4 "accept4", SYS_sendto "sendto",
    SYS_rseq "rseq", SYS_ioctl "ioctl", SYS_setpgid "setpgid", SYS_setsid "setsid",
    SYS_sched_setaffinity "sched_setaffinity", SYS_setpriority "setpriority",
    SYS_ioprio_set "ioprio_set", SYS_sched_setscheduler "sched_setscheduler",
}

/// Returns which argument of a call is a path.
fn path_argument(number: u16) -> Option<usize> {
    match i64::from(number) {
        libc::SYS_openat | libc::SYS_mkdirat | libc::SYS_unlinkat => Some(1),
        libc::SYS_chdir | libc::SYS_memfd_create => Some(0),
        _ => None,
    }
}

impl Plan {
    /// Describes one operation.
    pub fn describe(&self, operation: &Operation) -> String {
        let mut text = format!("{}(", name(operation.number));
        for index in 0..usize::from(operation.count) {
            if index > 0 {
                text.push_str(", ");
            }
            let path = path_argument(operation.number) == Some(index);
            text.push_str(&match operation.arg(index) {
                Arg::Data(offset) if path => format!("{:?}", self.path(offset)),
                Arg::Data(offset) => format!("data+{offset:#x}"),
                Arg::Pages => "pages".into(),
                Arg::MorePages(id) => format!("pages-{id}"),
                Arg::Caller(fd) => format!("caller's {fd}"),
                Arg::Value(value) if (value as i64) < 0 => format!("{}", value as i64),
                Arg::Value(value) if value < 4096 => value.to_string(),
                Arg::Value(value) => format!("{value:#x}"),
            });
        }
        text.push(')');
        match operation.result() {
            Check::Any => text.push_str(" = any"),
            Check::Ok => {}
            Check::Equals(value) => text.push_str(&format!(" = {value}")),
        }
        text
    }

    fn path(&self, offset: u64) -> &Path {
        let rest = self.file().data.get(offset as usize..).unwrap_or_default();
        let path = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        Path::new(OsStr::from_bytes(path))
    }
}

/// One process of a tree, on a line.
struct Relative<'a> {
    kin: &'a Kin,
    tree: &'a [Kin],
}

impl fmt::Display for Relative<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kin = self.kin;
        write!(f, "process {}", kin.pid)?;
        let parent = self.tree.get(kin.parent as usize).filter(|parent| parent.pid != kin.pid);
        if let Some(parent) = parent {
            write!(f, " of {}", parent.pid)?;
        }
        if kin.before_session() {
            f.write_str(", from before its session")?;
        }
        if kin.leads_session() {
            f.write_str(", leads a session")?;
        }
        match kin.group {
            Some(group) if group == kin.pid => f.write_str(", leads a group")?,
            Some(group) => write!(f, ", in group {group}")?,
            None => {}
        }
        if let Some(signal) = kin.death_signal {
            write!(f, ", gets signal {signal} at its parent's death")?;
        }
        match kin.ended {
            Some(status) => write!(f, ", ended with status {status:#x}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.file();
        writeln!(f, "plan: pid {}, {} threads", self.pid(), plan.threads.len())?;
        writeln!(f, "  program {}", Path::new(OsStr::from_bytes(&plan.exe)).display())?;
        let mode = if plan.mapped { "mapped" } else { "copied" };
        writeln!(f, "  pages {} bytes, {mode}; data {} bytes", plan.len_pages, plan.data.len())?;
        writeln!(f, "  made in boot {}", plan.boot_id)?;
        if let Some(clocks) = &plan.clocks {
            let [monotonic, boottime] =
                [clocks.monotonic, clocks.boottime].map(|ns| ns as f64 / 1e9);
            writeln!(f, "  clocks: monotonic {monotonic:.3} s, boottime {boottime:.3} s")?;
        }
        for kin in &plan.tree {
            writeln!(f, "  {}", Relative { kin, tree: &plan.tree })?;
        }
        if let Some(shared) = &plan.shared {
            let (first, last) = (shared.first_fd, shared.first_fd + shared.count - 1);
            writeln!(f, "  shared: fds {first} to {last}, {} operations", shared.operations)?;
        }
        for area in &plan.kernel_areas {
            writeln!(f, "  {:?} at {:#x}+{:#x}", area.kind(), area.addr, area.len)?;
        }
        for given in &plan.given {
            writeln!(f, "  fd {} is the caller's {}", given.fd, given.source)?;
        }
        writeln!(f, "operations:")?;
        for operation in &plan.operations {
            writeln!(f, "  {}", self.describe(operation))?;
        }
        for thread in &plan.threads {
            writeln!(f, "thread {}:", thread.tid)?;
            for operation in &thread.operations {
                writeln!(f, "  {}", self.describe(operation))?;
            }
        }
        Ok(())
    }
}
