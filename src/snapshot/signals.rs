//! Signals that wait to be delivered, and timers that send them.

use std::fs;

use super::Refusal;
use crate::image::Thread;
use crate::image::proto::{PosixTimerEntry, SiginfoEntry, SignalQueueEntry, TaskTimersEntry};
use crate::sys::ptrace::{LEN_SIGINFO, Queue};
use crate::trace::{Group, Remote, Scratch, Stopped};

/// Signals that tell a program to end: a restored one would come back only to
/// go on ending.
const ENDING: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
/// Who sends, in `si_code`: a POSIX timer (`sigaction(2)`).
const SI_TIMER: i32 = -2;
/// More timers than any program has: each costs a few calls at a restore.
const MAX_TIMERS: usize = 1000;

/// Reads the signals that a thread alone has blocked and pending; one that is
/// not blocked is about to be delivered.
pub fn of_thread(thread: &Stopped, mask: u64) -> Result<Option<SignalQueueEntry>, Refusal> {
    waiting(thread, Queue::Thread, mask, &format!("thread {}", thread.tid()))
}

/// Reads the signals that are pending for the process: any thread that has
/// not blocked one is about to get it.
pub fn of_process(group: &Group, threads: &[Thread]) -> Result<Option<SignalQueueEntry>, Refusal> {
    let masks = threads.iter().filter_map(|thread| thread.core.thread_core.as_ref()?.blk_sigset);
    let blocked = masks.fold(u64::MAX, |all, mask| all & mask);
    waiting(group.leader(), Queue::Process, blocked, &format!("process {}", group.pid()))
}

fn waiting(
    thread: &Stopped,
    queue: Queue,
    blocked: u64,
    whose: &str,
) -> Result<Option<SignalQueueEntry>, Refusal> {
    let mut signals = Vec::new();
    for siginfo in thread.queued(queue)? {
        let signal = number(&siginfo, 0);
        let is_blocked = (1..=64).contains(&signal) && blocked >> (signal - 1) & 1 != 0;
        if !is_blocked || ENDING.contains(&signal) {
            return Err(Refusal::passing(format!("{whose} has signal {signal} pending")));
        }
        signals.push(SiginfoEntry { siginfo: siginfo.to_vec() });
    }
    Ok((!signals.is_empty()).then_some(SignalQueueEntry { signals }))
}

/// An `int` of a siginfo: `si_signo` at 0, `si_code` at 8, the timer at 16.
fn number(siginfo: &[u8; LEN_SIGINFO], at: usize) -> i32 {
    i32::from_ne_bytes([siginfo[at], siginfo[at + 1], siginfo[at + 2], siginfo[at + 3]])
}

/// Brings timers in line with the signals that wait.
///
/// A timer that has expired between the reading of the timers and that of the
/// signals would expire twice: it is refused. A repeated `ITIMER_REAL` whose
/// signal waits is armed again by the kernel when that is delivered; a restored
/// one has to be armed by its period.
pub fn settle_timers(
    timers: &mut TaskTimersEntry,
    pending: Option<&SignalQueueEntry>,
    pid: i32,
) -> Result<(), Refusal> {
    let real = &mut timers.real;
    if (real.vsec, real.vusec) == (0, 0) {
        (real.vsec, real.vusec) = (real.isec, real.iusec);
    }
    const BY_SIGNAL: [i32; 3] = [libc::SIGALRM, libc::SIGVTALRM, libc::SIGPROF];
    let is_once = |value: (u64, u64), interval: (u64, u64)| value != (0, 0) && interval == (0, 0);
    for entry in pending.iter().flat_map(|queue| &queue.signals) {
        let Ok(siginfo) = <&[u8; LEN_SIGINFO]>::try_from(&entry.siginfo[..]) else { continue };
        let signal = number(siginfo, 0);
        let real = [&timers.real, &timers.virt, &timers.prof];
        let expired = BY_SIGNAL.iter().zip(real).any(|(by, timer)| {
            *by == signal && is_once((timer.vsec, timer.vusec), (timer.isec, timer.iusec))
        }) || number(siginfo, 8) == SI_TIMER
            && timers.posix.iter().any(|timer| {
                timer.it_id == number(siginfo, 16) as u32
                    && is_once((timer.vsec, timer.vnsec), (timer.isec, timer.insec))
            });
        if expired {
            return Err(Refusal::passing(format!("process {pid} has signal {signal} pending")));
        }
    }
    Ok(())
}

/// Reads the POSIX timers: what they are from `/proc/PID/timers` (`proc(5)`,
/// Linux 3.10), how far they are from the process itself.
pub fn timers(
    pid: i32,
    remote: &mut Remote<'_>,
    scratch: &Scratch,
) -> Result<Vec<PosixTimerEntry>, Refusal> {
    let text = fs::read_to_string(format!("/proc/{pid}/timers")).unwrap_or_default();
    let mut timers = parse(&text).map_err(|line| {
        Refusal::lasting(format!("process {pid} has a POSIX timer that is not understood ({line})"))
    })?;
    if timers.len() > MAX_TIMERS {
        return Err(Refusal::lasting(format!("process {pid} has {} POSIX timers", timers.len())));
    }
    for timer in &mut timers {
        let id = u64::from(timer.it_id);
        let args = [id, scratch.addr(), 0, 0, 0, 0];
        remote.call_ok("reading a POSIX timer", libc::SYS_timer_gettime, args)?;
        let bytes: [u8; 32] = scratch.read()?;
        let (words, _) = bytes.as_chunks::<8>();
        let word = |index: usize| u64::from_le_bytes(words[index]);
        (timer.isec, timer.insec, timer.vsec, timer.vnsec) = (word(0), word(1), word(2), word(3));
        let overrun = remote.call(libc::SYS_timer_getoverrun, [id, 0, 0, 0, 0, 0])?;
        timer.overrun = u32::try_from(overrun).unwrap_or(0);
    }
    Ok(timers)
}

/// Parses what the kernel shows of each timer:
///
/// ```text
/// ID: 0
/// signal: 34/00007f0000000000
/// notify: signal/tid.1234
/// ClockID: 1
/// ```
fn parse(text: &str) -> Result<Vec<PosixTimerEntry>, &str> {
    let mut timers: Vec<PosixTimerEntry> = Vec::new();
    for line in text.lines() {
        let (key, value) = line.split_once(':').ok_or(line)?;
        let value = value.trim();
        if key == "ID" {
            let it_id = value.parse().map_err(|_| line)?;
            timers.push(PosixTimerEntry { it_id, ..Default::default() });
            continue;
        }
        let timer = timers.last_mut().ok_or(line)?;
        match key {
            "signal" => {
                let (signal, pointer) = value.split_once('/').ok_or(line)?;
                timer.si_signo = signal.parse().map_err(|_| line)?;
                let pointer = pointer.trim_start_matches("0x");
                timer.sival_ptr = u64::from_str_radix(pointer, 16).map_err(|_| line)?;
            }
            "notify" => {
                let (how, whom) = value.split_once('/').ok_or(line)?;
                timer.it_sigev_notify = match how {
                    "signal" => libc::SIGEV_SIGNAL,
                    "none" => libc::SIGEV_NONE,
                    "thread" => libc::SIGEV_THREAD,
                    _ => return Err(line),
                } as u32;
                if let Some(tid) = whom.strip_prefix("tid.") {
                    timer.it_sigev_notify |= libc::SIGEV_THREAD_ID as u32;
                    timer.notify_thread_id = Some(tid.parse().map_err(|_| line)?);
                }
            }
            "ClockID" => {
                timer.clock_id = value.parse::<i32>().map_err(|_| line)? as u32;
            }
            _ => {}
        }
    }
    Ok(timers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_read_as_the_kernel_shows_them() {
        let text = "ID: 0\nsignal: 34/00007f0000000010\nnotify: signal/tid.77\nClockID: 1\n\
                    ID: 3\nsignal: 14/0\nnotify: none/pid.70\nClockID: -6\n";
        let timers = parse(text).unwrap();
        assert_eq!((timers[0].it_id, timers[0].si_signo, timers[0].clock_id), (0, 34, 1));
        assert_eq!((timers[0].sival_ptr, timers[0].notify_thread_id), (0x7f0000000010, Some(77)));
        assert_eq!(timers[0].it_sigev_notify, 4);
        assert_eq!((timers[1].it_id, timers[1].it_sigev_notify), (3, 1));
        assert_eq!((timers[1].clock_id as i32, timers[1].notify_thread_id), (-6, None));
        for wrong in ["signal: 1/0", "ID: x", "ID: 1\nnotify: pigeon/pid.1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
