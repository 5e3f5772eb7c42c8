//! Pids that are taken by nobody any more: about to be free.

use nix::sys::signal::kill;
use nix::unistd::Pid;

/// Whether a taken pid is about to be free.
///
/// Since Linux 6.15 a thread that ends gives its pid back only after its
/// process's parent may have been told of the end (`release_task` calls
/// `free_pids` outside of `tasklist_lock`). Who ends a restored program and
/// starts it again at once, on a busy machine, meets the pids of the threads
/// that were there before. Who kills a launcher leaves the program, killed with it, to
/// pid 1, which reaps it when it gets to it.
pub(super) fn is_leaving(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH) || is_unreaped(pid)
}

/// Whether a pid is that of a task that has ended and is somebody else's to
/// reap.
pub(super) fn is_unreaped(pid: i32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { return false };
    // Behind the name, which may hold anything: the state and the parent
    // (`proc_pid_stat(5)`).
    let name_end = stat.iter().rposition(|&byte| byte == b')').map_or(stat.len(), |at| at + 1);
    let rest = String::from_utf8_lossy(&stat[name_end..]);
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next(), Some("Z" | "X"));
    let parent = fields.next().and_then(|parent| parent.parse().ok());
    ended && parent.is_some_and(|parent: u32| parent != std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::{Duration, Instant};

    /// A killed launcher's program is a zombie of pid 1's for a while.
    #[test]
    fn an_ended_task_of_somebody_else_is_waited_for() {
        use std::process::{Command, Stdio};
        // The shell's child ends with its input, and `sleep`, the shell by then,
        // never reaps.
        let script = "exec 3<&0; cat <&3 >/dev/null & echo $!; exec sleep 60";
        let mut parent = Command::new("sh");
        parent.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut parent = parent.spawn().unwrap();
        let mut said = [0; 16];
        let len = parent.stdout.as_mut().unwrap().read(&mut said).unwrap();
        let child: i32 = String::from_utf8_lossy(&said[..len]).trim().parse().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let name = format!("/proc/{}/comm", parent.id());
        while std::fs::read_to_string(&name).unwrap() != "sleep\n" && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(parent.stdin.take());
        while !is_unreaped(child) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(is_unreaped(child) && is_leaving(child));
        assert!(!is_unreaped(parent.id() as i32) && !is_leaving(parent.id() as i32));
        parent.kill().unwrap();
        while !crate::sys::process::has_ended(parent.id() as i32) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Ours to reap: nobody else will.
        assert!(!is_unreaped(parent.id() as i32));
        parent.wait().unwrap();
    }
}
