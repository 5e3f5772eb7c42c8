//! Checks every operand of a plan that was read.
//!
//! What is allowed is what the planner writes, call by call: a table of
//! argument kinds. Addresses lie in the user half, lengths do not wrap,
//! pointers lie inside the plan's own data. No operation touches where the
//! restore itself may lie, nor the kernel's areas: overwritten, the
//! interpreter would run what a file says instead of what was checked.

use super::{Arg, Frame, KernelAreaKind, Operation, PagesFile, PlanFile};
use crate::sys::arch::TASK_SIZE;

/// Lowest address that may be mapped (`vm.mmap_min_addr` is 65536 by default;
/// the kernel has the last word).
const MIN_ADDR: u64 = 4096;
const LEN_PAGE: u64 = 4096;
/// Each is a descriptor of the launcher's.
const MAX_PAGES_FILES: usize = 1024;
const MAX_THREADS: usize = 100_000;
const MAX_OPERATIONS: usize = 4_000_000;
/// `kernel.pid_max` never exceeds this (`PID_MAX_LIMIT`).
pub const MAX_PID: i32 = 1 << 22;
/// The kernel's `NR_OPEN` default limits descriptors of any process.
pub(super) const MAX_FD: u64 = 1 << 20;
/// What the kernel writes at an address that a thread registers: the longest
/// is `struct rseq`.
const LEN_ADDRESSED: u64 = 64;
/// Signals that nothing can block.
const DEADLY: [u64; 2] = [libc::SIGKILL as u64, libc::SIGSTOP as u64];
/// What a frame of `rt_sigreturn` has at the least.
const LEN_UCONTEXT: u64 = crate::sys::arch::LEN_UCONTEXT as u64;
/// A frame of `rt_sigreturn` with everything AVX-512 has is some 3 KB.
const MAX_FRAME: u64 = 1 << 16;

/// What an argument must be.
#[derive(Clone, Copy)]
enum Kind {
    /// An address of user memory; the next argument is its length.
    Range,
    /// Any number.
    Any,
    /// A number below 2^31: flags, sizes, small values.
    Small,
    /// A descriptor: a number, the pages file, or the caller's.
    Fd,
    /// A path, with its zero byte, in the data.
    Path,
    /// A name, which may be empty, with its zero byte, in the data.
    Name,
    /// A structure of this length in the data.
    Struct(u64),
    /// Bytes in the data; the next argument is their length.
    Bytes,
    /// An address of user memory, or 0.
    Address,
    /// One of a few values.
    OneOf(&'static [u64]),
    /// The program's own pid.
    Pid,
    /// That, or one of the processes of its tree.
    Relative,
    /// The id of one of its threads.
    Tid,
    /// A signal that can be blocked.
    Signal,
    /// Zero.
    Zero,
    /// Flags that must be there, flags that may be there.
    Flags(u64, u64),
}

use Kind::{
    Address, Any, Bytes, Fd, Flags, Name, OneOf, Path, Pid, Range, Relative, Signal, Small, Struct,
    Tid, Zero,
};

const MAP: u64 = libc::MAP_FIXED as u64;
const MAP_MAY: u64 = (libc::MAP_PRIVATE
    | libc::MAP_SHARED
    | libc::MAP_ANONYMOUS
    | libc::MAP_NORESERVE
    | libc::MAP_GROWSDOWN) as u64;
const PRCTLS: &[u64] = &[
    libc::PR_SET_DUMPABLE as u64,
    libc::PR_SET_NO_NEW_PRIVS as u64,
    libc::PR_SET_CHILD_SUBREAPER as u64,
    libc::PR_SET_THP_DISABLE as u64,
    libc::PR_SET_TIMERSLACK as u64,
    libc::PR_SET_TSC as u64,
    // PR_SET_MDWE, PR_SET_MEMORY_MERGE, PR_TIMER_CREATE_RESTORE_IDS.
    65,
    67,
    77,
];
/// Whether code may be run from it, sealing, close-on-exec.
const MEMFD: u64 = (libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC | libc::MFD_EXEC) as u64;
const PR_SET_PDEATHSIG: u64 = libc::PR_SET_PDEATHSIG as u64;
/// Signals that a program may ask for when its parent ends: they end it, as
/// the restore's own one does.
pub const PARENT_DEATH: [u64; 5] = [
    libc::SIGHUP as u64,
    libc::SIGINT as u64,
    libc::SIGQUIT as u64,
    libc::SIGKILL as u64,
    libc::SIGTERM as u64,
];
/// What waits in a socket is sent without waiting.
const SEND: u64 = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u64;
/// Every event, and the two settings that the kernel tells of a watch
/// (`inotify(7)`).
const WATCH: u64 = (libc::IN_ALL_EVENTS | libc::IN_EXCL_UNLINK | libc::IN_ONESHOT) as u64;
/// `INOTIFY_IOC_SETNEXTWD`: the number that the next watch gets (Linux 4.16,
/// `linux/inotify.h`).
pub const SETNEXTWD: u64 = 0x4004_4900;
const PR_MCE_KILL: u64 = libc::PR_MCE_KILL as u64;
const PR_SET_NAME: u64 = libc::PR_SET_NAME as u64;
const SETLK: u64 = libc::F_SETLK as u64;
const SETOWN: u64 = libc::F_SETOWN as u64;
const SETTERS: &[u64] = &[
    // F_SETSIG.
    10,
    libc::F_SETFL as u64,
    libc::F_SETFD as u64,
    libc::F_SETPIPE_SZ as u64,
    libc::F_ADD_SEALS as u64,
];

/// Advice that describes memory, and guard pages; what throws pages away,
/// poisons them or punches holes into files is none of a restore's.
const ADVICE: &[u64] = &[
    libc::MADV_RANDOM as u64,
    libc::MADV_SEQUENTIAL as u64,
    libc::MADV_DONTFORK as u64,
    libc::MADV_MERGEABLE as u64,
    libc::MADV_HUGEPAGE as u64,
    libc::MADV_NOHUGEPAGE as u64,
    libc::MADV_DONTDUMP as u64,
    libc::MADV_WIPEONFORK as u64,
    // MADV_GUARD_INSTALL (Linux 6.13).
    102,
];

/// `AT_FDCWD`, as an argument register holds it.
pub const AT_FDCWD: u64 = libc::AT_FDCWD as i64 as u64;

/// The calls that a plan may make.
fn signature(number: i64, selector: u64) -> Option<&'static [Kind]> {
    Some(match number {
        libc::SYS_mmap => &[Range, Any, Flags(0, 7), Flags(MAP, MAP_MAY), Fd, Any],
        libc::SYS_mprotect => &[Range, Any, Flags(0, 7)],
        libc::SYS_madvise => &[Range, Any, OneOf(ADVICE)],
        libc::SYS_mlock2 => &[Range, Any, OneOf(&[0, 1])],
        libc::SYS_pread64 => &[Fd, Range, Any, Any],
        libc::SYS_memfd_create => &[Name, Flags(0, MEMFD)],
        libc::SYS_ftruncate => &[Fd, Any],
        libc::SYS_sendfile => &[Fd, Fd, Zero, Any],
        libc::SYS_openat => &[OneOf(&[AT_FDCWD]), Path, Small, Small],
        libc::SYS_mkdirat => &[OneOf(&[AT_FDCWD]), Path, Small],
        libc::SYS_unlinkat => &[OneOf(&[AT_FDCWD]), Path, Zero],
        libc::SYS_chdir => &[Path],
        libc::SYS_close => &[Fd],
        libc::SYS_dup3 => &[Fd, Fd, OneOf(&[0, libc::O_CLOEXEC as u64])],
        libc::SYS_lseek => &[Fd, Any, OneOf(&[0, 1, 2])],
        libc::SYS_write => &[Fd, Bytes, Any],
        libc::SYS_fcntl if selector == SETLK => &[Fd, OneOf(&[SETLK]), Struct(32)],
        libc::SYS_fcntl if selector == SETOWN => &[Fd, OneOf(&[SETOWN]), Relative],
        libc::SYS_fcntl => &[Fd, OneOf(SETTERS), Small],
        libc::SYS_ioctl if selector == SETNEXTWD => &[Fd, OneOf(&[SETNEXTWD]), Small],
        libc::SYS_ioctl => &[Fd, OneOf(&[libc::FIONBIO]), Struct(4)],
        libc::SYS_setpgid => &[Zero, Zero],
        libc::SYS_setsid => &[],
        libc::SYS_sched_setaffinity => &[Zero, OneOf(&[128]), Struct(128)],
        libc::SYS_setpriority => &[Zero, Zero, Any],
        libc::SYS_ioprio_set => &[OneOf(&[1]), Zero, Small],
        libc::SYS_sched_setscheduler => &[Zero, OneOf(&[0x4000_0000]), Struct(4)],
        libc::SYS_flock | libc::SYS_fchmod | libc::SYS_listen => &[Fd, Small],
        libc::SYS_eventfd2 => &[Small, Small],
        libc::SYS_epoll_create1 | libc::SYS_umask | libc::SYS_personality => &[Small],
        libc::SYS_epoll_ctl => &[Fd, OneOf(&[1]), Fd, Struct(12)],
        libc::SYS_inotify_init1 => &[Small],
        libc::SYS_inotify_add_watch => &[Fd, Path, Flags(0, WATCH)],
        libc::SYS_timerfd_create => &[Small, Small],
        libc::SYS_timerfd_settime => &[Fd, Small, Struct(32), Zero],
        libc::SYS_signalfd4 => &[OneOf(&[u64::MAX]), Struct(8), OneOf(&[8]), Small],
        libc::SYS_socket => &[Small, Small, Small],
        libc::SYS_socketpair => &[Small, Small, Small, Struct(8)],
        libc::SYS_pipe2 => &[Struct(8), Small],
        libc::SYS_setsockopt => &[Fd, Small, Small, Bytes, Any],
        libc::SYS_bind | libc::SYS_connect => &[Fd, Bytes, Any],
        libc::SYS_getsockname => &[Fd, Struct(28), Struct(4)],
        libc::SYS_accept4 => &[Fd, Zero, Zero, OneOf(&[libc::SOCK_CLOEXEC as u64])],
        libc::SYS_sendto => &[Fd, Bytes, Any, OneOf(&[SEND]), Zero, Zero],
        libc::SYS_shutdown => &[Fd, OneOf(&[0, 1, 2])],
        libc::SYS_rt_sigaction => &[Small, Struct(32), Zero, OneOf(&[8])],
        libc::SYS_prlimit64 => &[Zero, Small, Struct(16), Zero],
        libc::SYS_membarrier => &[Small, Zero],
        libc::SYS_setitimer => &[OneOf(&[0, 1, 2]), Struct(32), Zero],
        libc::SYS_prctl if selector == PR_SET_NAME => &[OneOf(&[PR_SET_NAME]), Struct(16)],
        libc::SYS_prctl if selector == PR_MCE_KILL => {
            &[OneOf(&[PR_MCE_KILL]), OneOf(&[1]), Small, Zero, Zero]
        }
        libc::SYS_prctl if selector == PR_SET_PDEATHSIG => {
            &[OneOf(&[PR_SET_PDEATHSIG]), OneOf(&PARENT_DEATH), Zero, Zero, Zero]
        }
        libc::SYS_prctl => &[OneOf(PRCTLS), Small, Zero, Zero, Zero],
        libc::SYS_mlockall => &[OneOf(&[libc::MCL_FUTURE as u64])],
        libc::SYS_timer_create => &[Any, Struct(64), Struct(8)],
        libc::SYS_timer_settime => &[Small, Zero, Struct(32), Zero],
        libc::SYS_timer_delete => &[Small],
        libc::SYS_rt_sigqueueinfo => &[Pid, Signal, Struct(128)],
        libc::SYS_rt_tgsigqueueinfo => &[Pid, Tid, Signal, Struct(128)],
        libc::SYS_arch_prctl => &[OneOf(&[0x1001, 0x1002]), Address],
        libc::SYS_set_tid_address => &[Address],
        libc::SYS_set_robust_list => &[Address, OneOf(&[24])],
        libc::SYS_rseq => &[Address, Small, Zero, Any],
        _ => return None,
    })
}

/// A plan under examination.
struct Examined<'a> {
    plan: &'a PlanFile,
    /// Ranges of memory that operations must leave alone, by start; disjoint.
    reserved: Vec<(u64, u64)>,
}

/// Checks a whole plan; the error says what is wrong.
pub fn check(plan: &PlanFile) -> Result<(), String> {
    if u64::from(plan.fd_ceiling) > MAX_FD || !plan.len_pages.is_multiple_of(LEN_PAGE) {
        return Err("its sizes cannot be".into());
    }
    more_pages(plan)?;
    if plan.vdso_digest.len() != 32 || plan.exe.first() != Some(&b'/') || plan.exe.contains(&0) {
        return Err("its program or digest cannot be".into());
    }
    for given in &plan.given {
        let inside = |fd: i32| u64::try_from(fd).is_ok_and(|fd| fd < MAX_FD);
        if !inside(given.fd) || !inside(given.source) || given.fd as u32 >= plan.fd_ceiling {
            return Err(format!("descriptor {} cannot be", given.fd));
        }
    }
    if plan.closed.iter().any(|fd| !(0..3).contains(fd)) {
        return Err("its closed descriptors cannot be".into());
    }
    super::kin::check(plan)?;
    let examined = Examined { plan, reserved: areas(plan)? };
    examined.threads()?;
    in_data(plan, plan.memory_map.auxv_offset, plan.memory_map.auxv_len)?;
    for (index, operation) in plan.operations.iter().enumerate() {
        examined.operation(operation).map_err(|what| format!("operation {index}: {what}"))?;
    }
    Ok(())
}

/// Checks what pages files it names: each once, none of them the first.
fn more_pages(plan: &PlanFile) -> Result<(), String> {
    let mut ids: Vec<u32> = plan.more_pages.iter().map(|pages| pages.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let is_whole = |pages: &PagesFile| pages.len.is_multiple_of(LEN_PAGE);
    if ids.len() != plan.more_pages.len()
        || ids.len() > MAX_PAGES_FILES
        || ids.first().is_some_and(|id| *id < 2)
        || !plan.more_pages.iter().all(is_whole)
    {
        return Err("its pages files cannot be".into());
    }
    Ok(())
}

/// Checks the kernel's areas and the places of the restore; returns them.
fn areas(plan: &PlanFile) -> Result<Vec<(u64, u64)>, String> {
    let mut kinds: Vec<i32> = plan.kernel_areas.iter().map(|area| area.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() != plan.kernel_areas.len() {
        return Err("a kernel area is there twice".into());
    }
    for area in &plan.kernel_areas {
        if KernelAreaKind::try_from(area.kind).is_err() || area.len > 64 * LEN_PAGE {
            return Err("a kernel area cannot be".into());
        }
    }
    let in_vvar = |len: u64| {
        let vvar = plan.kernel_areas.iter().find(|area| area.kind() == KernelAreaKind::Vvar);
        len.is_multiple_of(LEN_PAGE) && vvar.is_some_and(|vvar| len < vvar.len)
    };
    if plan.len_vclock.is_some_and(|len| !in_vvar(len)) {
        return Err("a kernel area cannot be".into());
    }
    if plan.places.is_empty() || plan.places.len() > 64 || plan.len_place > 1 << 40 {
        return Err("it leaves no place for the restore".into());
    }
    let len_place = plan.len_place.max(LEN_PAGE);
    let mut reserved = Vec::with_capacity(plan.places.len() + plan.kernel_areas.len());
    let areas = plan.kernel_areas.iter().map(|area| (area.addr, area.len));
    for (addr, len) in areas.chain(plan.places.iter().map(|place| (*place, len_place))) {
        whole_pages(addr, len)?;
        reserved.push((addr, addr + len));
    }
    reserved.sort_unstable();
    if reserved.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err("the restore's places overlap".into());
    }
    Ok(reserved)
}

fn range(addr: u64, len: u64) -> Result<(), String> {
    let end = addr.checked_add(len);
    if addr >= MIN_ADDR && end.is_some_and(|end| end <= TASK_SIZE) {
        Ok(())
    } else {
        Err(format!("{addr:#x}+{len:#x} is not user memory"))
    }
}

fn whole_pages(addr: u64, len: u64) -> Result<(), String> {
    range(addr, len)?;
    if addr.is_multiple_of(LEN_PAGE) && len.is_multiple_of(LEN_PAGE) && len > 0 {
        Ok(())
    } else {
        Err(format!("{addr:#x}+{len:#x} is not made of pages"))
    }
}

fn in_data(plan: &PlanFile, offset: u64, len: u64) -> Result<(), String> {
    let end = offset.checked_add(len);
    if end.is_some_and(|end| end <= plan.data.len() as u64) {
        Ok(())
    } else {
        Err(format!("data {offset:#x}+{len:#x} is not there"))
    }
}

impl Examined<'_> {
    fn threads(&self) -> Result<(), String> {
        let plan = self.plan;
        let mut tids: Vec<i32> = plan.threads.iter().map(|thread| thread.tid).collect();
        tids.sort_unstable();
        tids.dedup();
        let (Some(lowest), Some(highest)) = (tids.first(), tids.last()) else {
            return Err("it has no threads".into());
        };
        if tids.len() != plan.threads.len() || *lowest < 2 || *highest >= MAX_PID {
            return Err("its pids cannot be".into());
        }
        let count = plan.threads.iter().map(|thread| thread.operations.len()).sum::<usize>();
        if tids.len() > MAX_THREADS || count + plan.operations.len() > MAX_OPERATIONS {
            return Err("it is too large".into());
        }
        for thread in &plan.threads {
            for operation in &thread.operations {
                self.operation(operation)
                    .map_err(|what| format!("thread {}: {what}", thread.tid))?;
            }
            let Frame { offset, len, head, tail } = thread.frame;
            let stored = head.checked_add(tail).filter(|stored| *stored <= len);
            let stored = stored.filter(|_| head >= LEN_UCONTEXT && len <= MAX_FRAME);
            let stored =
                stored.ok_or_else(|| format!("the frame of thread {} cannot be", thread.tid))?;
            in_data(plan, offset, stored)?;
        }
        Ok(())
    }

    fn operation(&self, operation: &Operation) -> Result<(), String> {
        let number = i64::from(operation.number);
        let commanded = [libc::SYS_fcntl, libc::SYS_ioctl].contains(&number);
        let selector = if commanded { 1 } else { 0 };
        let selector = match operation.arg(selector) {
            Arg::Value(value) => value,
            _ => 0,
        };
        let signature =
            signature(number, selector).ok_or_else(|| format!("call {number} is not allowed"))?;
        if !operation.is_well_formed(signature.len()) {
            return Err(format!("call {number} is malformed"));
        }
        for (index, kind) in signature.iter().enumerate() {
            self.argument(*kind, operation, index)
                .map_err(|what| format!("argument {index} of call {number}: {what}"))?;
        }
        Ok(())
    }

    fn argument(&self, kind: Kind, operation: &Operation, index: usize) -> Result<(), String> {
        let plan = self.plan;
        let arg = operation.arg(index);
        let calls = |number: i64| i64::from(operation.number) == number;
        let no = |what: &str| Err(format!("{arg:?} {what}"));
        match (kind, arg) {
            (Range, Arg::Value(addr)) => match operation.arg(index + 1) {
                Arg::Value(len) => {
                    // Only a read need not be of whole pages.
                    let check = if calls(libc::SYS_pread64) { range } else { whole_pages };
                    check(addr, len)?;
                    self.unreserved(addr, len)
                }
                _ => no("has no length"),
            },
            (Any, Arg::Value(_)) | (Zero, Arg::Value(0)) => Ok(()),
            (Small, Arg::Value(value)) if value < 1 << 31 => Ok(()),
            (Fd, Arg::Pages) => Ok(()),
            (Fd, Arg::MorePages(id)) if self.has_pages(id) => Ok(()),
            (Fd, Arg::Caller(fd)) if plan.given.iter().any(|given| given.source as u64 == fd) => {
                Ok(())
            }
            // The ends of a pipe may pass by the two numbers above.
            (Fd, Arg::Value(fd)) if fd < (u64::from(plan.fd_ceiling) + 2).max(64) => Ok(()),
            // An anonymous mapping has no descriptor.
            (Fd, Arg::Value(u64::MAX)) if calls(libc::SYS_mmap) => Ok(()),
            (Path, Arg::Data(offset)) => {
                let rest = usize::try_from(offset).ok().and_then(|at| plan.data.get(at..));
                match rest.and_then(|rest| rest.iter().take(4097).position(|byte| *byte == 0)) {
                    Some(len) if len > 0 => Ok(()),
                    _ => no("is not a path"),
                }
            }
            (Name, Arg::Data(offset)) => {
                let rest = usize::try_from(offset).ok().and_then(|at| plan.data.get(at..));
                match rest.is_some_and(|rest| rest.iter().take(4097).any(|byte| *byte == 0)) {
                    true => Ok(()),
                    false => no("is not a name"),
                }
            }
            (Struct(len), Arg::Data(offset)) => in_data(plan, offset, len),
            (Bytes, Arg::Data(offset)) => match operation.arg(index + 1) {
                Arg::Value(len) => in_data(plan, offset, len),
                _ => no("has no length"),
            },
            (Address, Arg::Value(0)) => Ok(()),
            (Address, Arg::Value(addr)) => {
                range(addr, LEN_ADDRESSED)?;
                self.unreserved(addr, LEN_ADDRESSED)
            }
            (Pid, Arg::Value(pid)) if plan.threads.first().is_some_and(|t| t.tid as u64 == pid) => {
                Ok(())
            }
            (Relative, Arg::Value(pid))
                if plan.threads.first().is_some_and(|t| t.tid as u64 == pid)
                    || plan.tree.iter().any(|kin| kin.pid as u64 == pid) =>
            {
                Ok(())
            }
            (Tid, Arg::Value(tid)) if plan.threads.iter().any(|t| t.tid as u64 == tid) => Ok(()),
            (Signal, Arg::Value(signal))
                if (1..=64).contains(&signal) && !DEADLY.contains(&signal) =>
            {
                Ok(())
            }
            (OneOf(values), Arg::Value(value)) if values.contains(&value) => Ok(()),
            (Flags(must, may), Arg::Value(flags))
                if flags & must == must && flags & !(must | may) == 0 =>
            {
                Ok(())
            }
            _ => no("is not allowed"),
        }
    }

    fn has_pages(&self, id: u64) -> bool {
        self.plan.more_pages.iter().any(|pages| u64::from(pages.id) == id)
    }

    /// Refuses a range that the restore needs for itself.
    fn unreserved(&self, addr: u64, len: u64) -> Result<(), String> {
        let end = addr.saturating_add(len);
        let after = self.reserved.partition_point(|(start, _)| *start < end);
        match self.reserved[..after].last() {
            Some((_, reserved_end)) if *reserved_end > addr => {
                Err(format!("{addr:#x}+{len:#x} is where the restore works"))
            }
            _ => Ok(()),
        }
    }
}
