//! The loop that executes a restore inside the new process.
//!
//! It is position-independent, uses no stack and no memory but the program's,
//! so that it runs on while everything else of the process is unmapped and
//! replaced, in many threads at once. An instruction is 64 bytes: what to do,
//! how to check the result, a call number, six arguments, the value expected.
//! `rbx` points at the current one, `r15` at the report page.
//!
//! On a failed check it writes the result and the instruction's address to
//! the report page, unless another thread or process has, and ends the process.
//! Nothing of the program has run then.

use std::arch::{asm, global_asm};
use std::mem::size_of;

/// What an instruction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Make system call `nr` with `args`; the result is not looked at.
    Call = 0,
    /// The same; an error ends the restore.
    CallOk = 1,
    /// The same; any result but `expect` ends the restore.
    CallExpect = 2,
    /// `clone3(args[0], args[1])`, or `clone` by its number: the child goes on
    /// at `args[2]`, with its report page at `args[3]` and in the interpreter
    /// at `args[4]`, the parent here, if the result is `expect`.
    Spawn = 3,
    /// Copy `args[2]` bytes from `args[1]` to `args[0]`.
    Copy = 4,
    /// Add `args[1]` to the 32-bit word at `args[0]`, atomically.
    Add = 5,
    /// Wait on the futex at `args[0]` until it is at least `args[1]`; `args[2]`
    /// is the futex operation, `FUTEX_WAIT`, private or not.
    WaitAtLeast = 6,
    /// Compare `args[2]` bytes at `args[0]` and `args[1]`.
    Compare = 7,
    /// Set the 32-bit word at `args[0]` from 0 to 1; anything else there ends
    /// the restore.
    Commit = 8,
    /// Add 1 to the futex at `args[2]` and wake who waits there, wait until the
    /// futex at `args[1]` is not 0, then `rt_sigreturn` to the frame at
    /// `args[0]`. The program may be unmapped as soon as the 1 is added.
    Park = 9,
    /// `munmap(args[1], args[2])`, then `rt_sigreturn` to the frame at
    /// `args[0]`.
    Leave = 10,
}

/// An instruction of the interpreter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub op: Op,
    reserved: u16,
    /// The system call's number.
    pub nr: u32,
    /// The arguments.
    pub args: [u64; 6],
    /// The value expected.
    pub expect: u64,
}
const _: () = assert!(size_of::<Instruction>() == 64);

/// Where a new thread or process begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Its first instruction.
    pub program: u64,
    /// Its report page.
    pub report: u64,
    /// Its copy of the interpreter.
    pub code: u64,
}

impl Instruction {
    /// Makes an instruction that is not a system call.
    pub fn new(op: Op, args: [u64; 3]) -> Self {
        let [a, b, c] = args;
        Self { op, reserved: 0, nr: 0, args: [a, b, c, 0, 0, 0], expect: 0 }
    }

    /// Makes a system call whose result is not looked at.
    pub fn call(nr: i64, args: [u64; 6]) -> Self {
        Self { op: Op::Call, reserved: 0, nr: nr as u32, args, expect: 0 }
    }

    /// Makes a system call that must not fail.
    pub fn call_ok(nr: i64, args: [u64; 6]) -> Self {
        Self { op: Op::CallOk, reserved: 0, nr: nr as u32, args, expect: 0 }
    }

    /// Makes a system call that must return `expect`.
    pub fn call_expect(nr: i64, args: [u64; 6], expect: i64) -> Self {
        Self { op: Op::CallExpect, reserved: 0, nr: nr as u32, args, expect: expect as u64 }
    }

    /// Makes a thread, or a process, that goes on at `start`.
    pub fn spawn(clone_args: u64, len: u64, start: Start, tid: i32) -> Self {
        let Start { program, report, code } = start;
        let args = [clone_args, len, program, report, code, 0];
        let nr = libc::SYS_clone3 as u32;
        Self { op: Op::Spawn, reserved: 0, nr, args, expect: tid as u64 }
    }

    /// The same with `clone(2)` and these flags, for a tid that has been made
    /// the next one: it must be `tid`.
    pub fn spawn_next(flags: u64, start: Start, tid: i32) -> Self {
        let Start { program, report, code } = start;
        let args = [flags, 0, program, report, code, 0];
        Self { op: Op::Spawn, reserved: 0, nr: libc::SYS_clone as u32, args, expect: tid as u64 }
    }

    /// Returns the instruction as the interpreter reads it.
    pub fn to_bytes(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0..2].copy_from_slice(&(self.op as u16).to_le_bytes());
        bytes[4..8].copy_from_slice(&self.nr.to_le_bytes());
        for (place, arg) in bytes[8..56].chunks_exact_mut(8).zip(self.args) {
            place.copy_from_slice(&arg.to_le_bytes());
        }
        bytes[56..64].copy_from_slice(&self.expect.to_le_bytes());
        bytes
    }
}

global_asm!(
    r#"
    .pushsection .rodata.warmstart_interpreter, "a", @progbits
    .balign 16
    .globl warmstart_interpreter_start
    .globl warmstart_interpreter_end
    .hidden warmstart_interpreter_start
    .hidden warmstart_interpreter_end
warmstart_interpreter_start:
    cld
20: # next
    movzx eax, word ptr [rbx]
    cmp eax, 3
    ja 40f
    je 30f

    # a system call
    mov eax, dword ptr [rbx + 4]
    mov rdi, [rbx + 8]
    mov rsi, [rbx + 16]
    mov rdx, [rbx + 24]
    mov r10, [rbx + 32]
    mov r8, [rbx + 40]
    mov r9, [rbx + 48]
    syscall
    movzx ecx, word ptr [rbx]
    test ecx, ecx
    jz 21f
    cmp ecx, 1
    jne 22f
    cmp rax, -4095
    jae 99f
21: # advance
    add rbx, 64
    jmp 20b
22:
    cmp rax, [rbx + 56]
    je 21b
    jmp 99f

30: # spawn
    mov rdi, [rbx + 8]
    mov rsi, [rbx + 16]
    mov eax, dword ptr [rbx + 4]
    syscall
    test rax, rax
    jz 31f
    cmp rax, [rbx + 56]
    je 21b
    jmp 99f
31: # in the new thread
    mov r15, [rbx + 32]
    mov rax, [rbx + 40]
    mov rbx, [rbx + 24]
    jmp rax

40:
    mov rdi, [rbx + 8]
    cmp eax, 5
    je 50f
    ja 42f
    # copy
    mov rsi, [rbx + 16]
    mov rcx, [rbx + 24]
    rep movsb
    jmp 21b
42:
    cmp eax, 7
    je 70f
    ja 44f
60: # wait until at least
    mov edx, dword ptr [rdi]
    cmp edx, dword ptr [rbx + 16]
    jae 21b
    mov esi, dword ptr [rbx + 24]
    xor r10d, r10d
    mov eax, 202
    syscall
    mov rdi, [rbx + 8]
    jmp 60b
50: # add
    mov eax, dword ptr [rbx + 16]
    lock add dword ptr [rdi], eax
    jmp 21b
70: # compare
    mov rsi, [rbx + 16]
    mov rcx, [rbx + 24]
    xor eax, eax
    repe cmpsb
    je 21b
    jmp 99f
44:
    cmp eax, 9
    je 90f
    ja 95f
    # commit
    xor eax, eax
    mov ecx, 1
    lock cmpxchg dword ptr [rdi], ecx
    je 21b
    jmp 99f
90: # park
    mov r12, rdi
    mov r13, [rbx + 16]
    mov rdi, [rbx + 24]
    lock inc dword ptr [rdi]
    mov esi, 129
    mov edx, 1
    mov eax, 202
    syscall
91:
    cmp dword ptr [r13], 0
    jne 92f
    mov rdi, r13
    mov esi, 128
    xor edx, edx
    xor r10d, r10d
    mov eax, 202
    syscall
    jmp 91b
92:
    mov rsp, r12
    mov eax, 15
    syscall
    ud2
95: # leave
    mov r12, rdi
    mov rdi, [rbx + 16]
    mov rsi, [rbx + 24]
    mov eax, 11
    syscall
    jmp 92b

99: # fail: the result and the instruction, if it is the first one; the end
    mov rcx, rax
    xor eax, eax
    mov edx, 1
    lock cmpxchg dword ptr [r15 + 24], edx
    jne 98f
    mov [r15 + 16], rbx
    mov [r15 + 8], rcx
98:
    mov edi, 125
    mov eax, 231
    syscall
    ud2
warmstart_interpreter_end:
    .popsection
"#
);

unsafe extern "C" {
    static warmstart_interpreter_start: u8;
    static warmstart_interpreter_end: u8;
}

/// Returns the interpreter's code, to be placed anywhere.
pub fn interpreter_code() -> &'static [u8] {
    let start = &raw const warmstart_interpreter_start;
    let end = &raw const warmstart_interpreter_end;
    // SAFETY: both symbols are of one section of read-only data defined above,
    // the second behind the first.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Makes a child process that runs a program of the interpreter, and returns
/// its pid or the negated errno. `nr` is `clone3(2)`, whose arguments are
/// `first` and `second`, or `clone(2)`, where they are flags and stack.
///
/// # Safety
///
/// The arguments must be valid for the call and ask for a new process with a
/// copy of this memory (no CLONE_VM) and no stack of its own. In the copy, `code` must be the address
/// of [`interpreter_code`]'s bytes, executable; `program` of instructions that
/// end in one that does not go on; `report` of a writable page. The child
/// never returns from here.
pub unsafe fn clone_and_run(
    nr: i64,
    first: usize,
    second: usize,
    code: u64,
    program: u64,
    report: u64,
) -> i64 {
    let result: i64;
    // SAFETY: in the parent this is one system call that reads `clone_args`;
    // in the child control leaves for good, to code that the caller vouches
    // for: rbx and r15 are changed there only.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov rbx, r12",
            "mov r15, r13",
            "jmp r14",
            "2:",
            // By name: one that the compiler chooses may be rbx or r15.
            in("r12") program,
            in("r13") report,
            in("r14") code,
            inlateout("rax") nr => result,
            in("rdi") first,
            in("rsi") second,
            // What clone(2) has besides: nowhere to put the tid, no TLS.
            in("rdx") 0,
            in("r10") 0,
            in("r8") 0,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result
}

global_asm!(
    // Absent before glibc 2.35: the address is 0 then.
    ".weak __rseq_offset",
);

/// Returns the address where the C library has registered the calling
/// thread's `struct rseq`, if it has one (`__rseq_offset`, glibc 2.35).
pub fn own_rseq() -> Option<u64> {
    let symbol: *const i64;
    let thread: u64;
    // SAFETY: the first instruction reads this program's global offset table,
    // the second the thread pointer's own address, which the ABI keeps at its
    // beginning.
    unsafe {
        asm!(
            "mov {symbol}, qword ptr [rip + __rseq_offset@GOTPCREL]",
            "mov {thread}, qword ptr fs:[0]",
            symbol = out(reg) symbol,
            thread = out(reg) thread,
            options(nostack, pure, readonly),
        );
    }
    if symbol.is_null() {
        return None;
    }
    // SAFETY: the symbol is a constant of the C library, a ptrdiff_t.
    let offset = unsafe { symbol.read() };
    Some(thread.wrapping_add_signed(offset))
}
