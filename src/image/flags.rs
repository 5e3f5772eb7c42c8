//! Numbers that CRIU gives a meaning of its own (`criu/include/image.h`,
//! `criu/include/pagemap.h`, `compel/include/uapi/task-state.h`).

/// Bits of `VmaEntry.status`: what kind of mapping it is.
pub mod vma_status {
    /// The content is part of the set; in every mapping but the vsyscall page.
    pub const REGULAR: u32 = 1 << 0;
    /// The main thread's stack, grows down.
    pub const STACK: u32 = 1 << 1;
    /// The vsyscall page; not in the program's range, never written.
    pub const VSYSCALL: u32 = 1 << 2;
    /// `[vdso]`.
    pub const VDSO: u32 = 1 << 3;
    /// `[heap]`.
    pub const HEAP: u32 = 1 << 5;
    /// A private mapping of a file; `shmid` is the id of the file.
    pub const FILE_PRIVATE: u32 = 1 << 6;
    /// A shared mapping of a file; `shmid` is the id of the file.
    pub const FILE_SHARED: u32 = 1 << 7;
    /// Shared anonymous memory; `shmid` names it.
    pub const ANON_SHARED: u32 = 1 << 8;
    /// Private anonymous memory.
    pub const ANON_PRIVATE: u32 = 1 << 9;
    /// System V shared memory.
    pub const SYSVIPC: u32 = 1 << 10;
    /// The ring of a packet socket.
    pub const SOCKET: u32 = 1 << 11;
    /// `[vvar]` and, from kernel 6.13 on, `[vvar_vclock]`.
    pub const VVAR: u32 = 1 << 12;
    /// The ring of a Linux AIO context.
    pub const AIORING: u32 = 1 << 13;
    /// A mapping of a memfd; `shmid` is the id of its `FileEntry`.
    pub const MEMFD: u32 = 1 << 14;
    /// A shadow stack.
    pub const SHSTK: u32 = 1 << 15;
    /// A range of guard pages (`MADV_GUARD_INSTALL`, kernel 6.13); not a
    /// mapping, listed behind all mappings.
    pub const GUARD: u32 = 1 << 16;
    /// `[uprobes]`, which the kernel maps itself.
    pub const UPROBES: u32 = 1 << 17;

    /// The names of the bits, for printing.
    pub const NAMES: &[(u32, &str)] = &[
        (REGULAR, "regular"),
        (STACK, "stack"),
        (VSYSCALL, "vsyscall"),
        (VDSO, "vdso"),
        (HEAP, "heap"),
        (FILE_PRIVATE, "file-private"),
        (FILE_SHARED, "file-shared"),
        (ANON_SHARED, "anon-shared"),
        (ANON_PRIVATE, "anon-private"),
        (SYSVIPC, "sysvipc"),
        (SOCKET, "socket"),
        (VVAR, "vvar"),
        (AIORING, "aio-ring"),
        (MEMFD, "memfd"),
        (SHSTK, "shadow-stack"),
        (GUARD, "guard"),
        (UPROBES, "uprobes"),
    ];
}

/// Bits of `PagemapEntry.flags`: where the content of a run is.
pub mod pagemap_flags {
    /// In the pages file of the parent set; we write none and read none.
    pub const PARENT: u32 = 1 << 0;
    /// May be restored later, on demand (`criu restore --lazy-pages`).
    pub const LAZY: u32 = 1 << 1;
    /// In the pages file of this set.
    pub const PRESENT: u32 = 1 << 2;
}

/// Values of `TaskCoreEntry.task_state`.
pub mod task_state {
    /// Runs, or waits.
    pub const ALIVE: u32 = 1;
    /// Has ended; its parent has not asked yet.
    pub const DEAD: u32 = 2;
    /// Stopped by a signal.
    pub const STOPPED: u32 = 3;
    /// Has ended and is reaped together with the set.
    pub const ZOMBIE: u32 = 6;
}
