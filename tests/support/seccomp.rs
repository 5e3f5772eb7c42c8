//! A seccomp filter that answers system calls with an error, as container
//! runtimes do.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `struct seccomp_data` has the call's number at offset 0.
const LOAD_NUMBER: libc::sock_filter = libc::sock_filter {
    code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
    jt: 0,
    jf: 0,
    k: 0,
};

fn answer(action: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: action }
}

/// Makes the command, and all that it starts, see these errors for these
/// calls. Anybody but root must have no_new_privs for that, which is set here.
pub fn answer_with(command: &mut Command, errors: &[(i64, i32)]) {
    let mut filter = vec![LOAD_NUMBER];
    for &(call, errno) in errors {
        // The next instruction if it is this call, else the one behind it.
        let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        filter.push(libc::sock_filter { code: equal, jt: 0, jf: 1, k: call as u32 });
        filter.push(answer(libc::SECCOMP_RET_ERRNO | errno as u32));
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let program =
            libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: the filter lives in the closure and is only read; both are
        // plain system calls.
        let result = unsafe {
            if libc::geteuid() != 0 {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1u64, 0, 0, 0);
            }
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as u64, &raw const program)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(install) };
}
