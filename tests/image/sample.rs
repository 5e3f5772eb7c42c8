//! Sets made by hand: a small one that is also under `images/golden`, and
//! one with everything in it.

use std::fs;
use std::path::Path;

use warmstart::image::proto::*;
use warmstart::image::{
    GhostContent, GhostFile, PAGE_SIZE, Pagemap, Queued, Set, Shmem, Task, Thread, pagemap_flags,
    pages_file, vma_status,
};

/// The namespaces of the program and of whoever captured it.
const NAMESPACES: TaskKobjIdsEntry = TaskKobjIdsEntry {
    vm_id: 1,
    files_id: 1,
    fs_id: 1,
    sighand_id: 1,
    pid_ns_id: Some(1),
    net_ns_id: Some(2),
    ipc_ns_id: Some(3),
    uts_ns_id: Some(4),
    mnt_ns_id: Some(6),
    user_ns_id: Some(7),
    cgroup_ns_id: Some(8),
    time_ns_id: Some(5),
};

/// A program with two threads, a terminal, a log and a listening socket.
pub fn sample() -> Set {
    let own = TaskKobjIdsEntry { vm_id: 2, files_id: 2, fs_id: 2, sighand_id: 2, ..NAMESPACES };
    let descriptor = |fd, id, r#type: FdTypes| FdinfoEntry {
        id,
        r#type: r#type.into(),
        fd,
        ..Default::default()
    };
    Set {
        inventory: InventoryEntry {
            img_version: 2,
            fdinfo_per_id: Some(true),
            root_ids: Some(NAMESPACES),
            ns_per_id: Some(true),
            lsmtype: Some(Lsmtype::NoLsm.into()),
            ..Default::default()
        },
        pstree: vec![PstreeEntry { pid: 42, ppid: 0, pgid: 42, sid: 7, threads: vec![42, 43] }],
        tasks: vec![Task {
            pid: 42,
            ids: own,
            mm: address_space(),
            pagemap: Pagemap {
                pages_id: 1,
                entries: vec![run(0x40_2000, 1), run(0x7ffd_0001_0000, 2)],
            },
            fdinfo: vec![
                descriptor(0, 5, FdTypes::Tty),
                descriptor(1, 5, FdTypes::Tty),
                descriptor(2, 5, FdTypes::Tty),
                FdinfoEntry { flags: 1, ..descriptor(4, 3, FdTypes::Reg) },
                descriptor(5, 7, FdTypes::Inetsk),
                descriptor(6, 8, FdTypes::Eventpoll),
            ],
            fs: FsEntry { cwd_id: 4, root_id: 6, umask: Some(0o022) },
            threads: vec![leader(42), thread(43, b"worker")],
        }],
        files: vec![
            regular(1, 0, b"/usr/bin/app", 0o100_755),
            regular(2, 2, b"/dev/pts/3", 0o020_620),
            regular(3, 0o2001, b"/var/log/app.log", 0o100_644),
            regular(4, 0, b"/srv", 0o040_755),
            FileEntry {
                id: 5,
                r#type: FdTypes::Tty.into(),
                tty: Some(TtyFileEntry {
                    id: 5,
                    tty_info_id: 0,
                    flags: 2,
                    regf_id: Some(2),
                    ..Default::default()
                }),
                ..Default::default()
            },
            regular(6, 0, b"/", 0o040_755),
            listener(7),
            FileEntry {
                id: 8,
                r#type: FdTypes::Eventpoll.into(),
                epfd: Some(EventpollFileEntry {
                    id: 8,
                    flags: 2,
                    tfd: vec![EventpollTfdEntry {
                        id: 8,
                        tfd: 5,
                        events: 1,
                        data: 5,
                        ..Default::default()
                    }],
                    ..Default::default()
                }),
                ..Default::default()
            },
        ],
        tty_info: vec![TtyInfoEntry {
            id: 0,
            r#type: TtyType::Pty.into(),
            rdev: 0x8803,
            pty: Some(TtyPtyEntry { index: 3 }),
            winsize: Some(WinsizeEntry { ws_row: 24, ws_col: 80, ..Default::default() }),
            ..Default::default()
        }],
        timens: Some(TimensEntry {
            monotonic: Timespec { tv_sec: 1000, tv_nsec: 1 },
            boottime: Timespec { tv_sec: 1000, tv_nsec: 2 },
        }),
        ..Default::default()
    }
}

/// The sample and at least one of everything that a set may have.
pub fn large_sample() -> Set {
    let mut set = sample();
    let simple =
        |id, r#type: FdTypes| FileEntry { id, r#type: r#type.into(), ..Default::default() };
    let core = &mut set.tasks[0].threads[0].core;
    // A name that the kernel cut within a character.
    core.tc.as_mut().unwrap().comm = b"caf\xc3".to_vec();
    let thread = core.thread_core.as_mut().unwrap();
    thread.seccomp_mode = Some(SeccompMode::Filter.into());
    thread.seccomp_filter = Some(0);
    thread.signals_p =
        Some(SignalQueueEntry { signals: vec![SiginfoEntry { siginfo: vec![1; 128] }] });
    set.seccomp = Some(SeccompEntry {
        seccomp_filters: vec![SeccompFilter { filter: vec![6; 8], ..Default::default() }],
    });
    set.files.extend([
        FileEntry {
            pipe: Some(PipeEntry { id: 9, pipe_id: 7, flags: 0, ..Default::default() }),
            ..simple(9, FdTypes::Pipe)
        },
        FileEntry {
            memfd: Some(MemfdFileEntry { id: 10, inode_id: 1, ..Default::default() }),
            ..simple(10, FdTypes::Memfd)
        },
        FileEntry {
            efd: Some(EventfdFileEntry { id: 11, counter: u64::MAX, ..Default::default() }),
            ..simple(11, FdTypes::Eventfd)
        },
        FileEntry {
            usk: Some(UnixSkEntry {
                id: 12,
                ino: 1,
                peer: 2,
                r#type: 1,
                state: 1,
                name: b"\0abstract".to_vec(),
                ..Default::default()
            }),
            ..simple(12, FdTypes::Unixsk)
        },
        FileEntry {
            sgfd: Some(SignalfdEntry { id: 13, sigmask: 6, ..Default::default() }),
            ..simple(13, FdTypes::Signalfd)
        },
        FileEntry {
            tfd: Some(TimerfdEntry { id: 14, clockid: 1, vsec: 3, ..Default::default() }),
            ..simple(14, FdTypes::Timerfd)
        },
        FileEntry {
            fifo: Some(FifoEntry { id: 15, pipe_id: 8, regf_id: Some(3) }),
            ..simple(15, FdTypes::Fifo)
        },
        FileEntry {
            ext: Some(ExtFileEntry { id: 16, ..Default::default() }),
            ..simple(16, FdTypes::Ext)
        },
        // A type without a schema of ours.
        simple(17, FdTypes::Fanotify),
    ]);
    let fdinfo = (9..).zip(&set.files[8..]).map(|(fd, file)| FdinfoEntry {
        id: file.id,
        r#type: file.r#type,
        fd,
        ..Default::default()
    });
    set.tasks[0].fdinfo.extend(fdinfo);
    set.memfds.push(MemfdInodeEntry {
        name: b"heap".to_vec(),
        size: 3 * PAGE_SIZE,
        shmid: 900,
        inode_id: 1,
        mode: Some(0o100_777),
        ..Default::default()
    });
    set.shmem.push(Shmem {
        shmid: 900,
        pagemap: Pagemap { pages_id: 2, entries: vec![run(0, 1), run(0x2000, 1)] },
    });
    set.file_locks.push(FileLockEntry { flag: 1, r#type: 1, pid: 42, fd: 4, start: 0, len: 0 });
    let hello = |entry| Queued { entry, data: b"hello".to_vec() };
    set.pipe_data.push(hello(PipeDataEntry { pipe_id: 7, bytes: 5, size: Some(65536) }));
    set.fifo_data.push(hello(PipeDataEntry { pipe_id: 8, bytes: 5, size: None }));
    set.sk_queues.push(Queued {
        entry: SkPacketEntry { id_for: 12, length: 5, ..Default::default() },
        data: b"hello".to_vec(),
    });
    set.remaps.extend([
        RemapFilePathEntry { orig_id: 3, remap_id: 2, remap_type: Some(RemapType::Ghost.into()) },
        RemapFilePathEntry {
            orig_id: 1,
            remap_id: 0x1f,
            remap_type: Some(RemapType::Ghost.into()),
        },
    ]);
    set.ghosts.extend([
        GhostFile {
            id: 2,
            entry: GhostFileEntry { mode: 0o100_600, ..Default::default() },
            content: GhostContent::Whole(b"what was left".to_vec()),
        },
        GhostFile {
            id: 0x1f,
            entry: GhostFileEntry {
                mode: 0o100_600,
                chunks: Some(true),
                size: Some(4096),
                ..Default::default()
            },
            content: GhostContent::Chunks(vec![Queued {
                entry: GhostChunkEntry { len: 3, off: 4093 },
                data: b"end".to_vec(),
            }]),
        },
    ]);
    set
}

/// Writes a set with pages files of the right size.
pub fn write(set: &Set, dir: &Path) {
    set.write(dir).unwrap();
    for pagemap in set.pagemaps() {
        let pages: u64 = pagemap.entries.iter().filter_map(|entry| entry.nr_pages).sum();
        let content = vec![b'p'; usize::try_from(pages * PAGE_SIZE).unwrap()];
        fs::write(dir.join(pages_file(pagemap.pages_id)), content).unwrap();
    }
}

fn run(vaddr: u64, nr_pages: u32) -> PagemapEntry {
    PagemapEntry {
        vaddr,
        compat_nr_pages: nr_pages,
        nr_pages: Some(nr_pages.into()),
        flags: Some(pagemap_flags::PRESENT),
        ..Default::default()
    }
}

fn regular(id: u32, flags: u32, name: &[u8], mode: u32) -> FileEntry {
    FileEntry {
        id,
        r#type: FdTypes::Reg.into(),
        reg: Some(RegFileEntry {
            id,
            flags,
            name: name.to_vec(),
            mode: Some(mode),
            size: (mode >> 12 == 0o10).then_some(20),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn listener(id: u32) -> FileEntry {
    FileEntry {
        id,
        r#type: FdTypes::Inetsk.into(),
        isk: Some(InetSkEntry {
            id,
            ino: 4711,
            family: 10,
            r#type: 1,
            proto: 6,
            state: 10,
            src_port: 8080,
            flags: 0o2,
            backlog: 50,
            src_addr: vec![0; 4],
            dst_addr: vec![0; 4],
            opts: SkOptsEntry { so_sndbuf: 16384, so_rcvbuf: 131_072, ..Default::default() },
            v6only: Some(false),
            ns_id: Some(2),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn address_space() -> MmEntry {
    use vma_status::{ANON_PRIVATE, FILE_PRIVATE, HEAP, REGULAR, VDSO, VVAR};
    const PRIVATE: u32 = 2;
    const ANONYMOUS: u32 = 0x22;
    const STACK: u32 = 0x122;
    let vma = |start, pages, prot, flags, status| VmaEntry {
        start,
        end: start + pages * PAGE_SIZE,
        prot,
        flags,
        status: REGULAR | status,
        fd: -1,
        ..Default::default()
    };
    let of_file = |pgoff, mut vma: VmaEntry| {
        (vma.pgoff, vma.shmid, vma.fdflags) = (pgoff, 1, Some(0));
        vma
    };
    MmEntry {
        mm_start_code: 0x40_0000,
        mm_end_code: 0x40_1000,
        mm_start_data: 0x40_2000,
        mm_end_data: 0x40_2800,
        mm_start_stack: 0x7ffd_0001_1000,
        mm_start_brk: 0x50_0000,
        mm_brk: 0x50_2000,
        mm_arg_start: 0x7ffd_0001_1800,
        mm_arg_end: 0x7ffd_0001_1810,
        mm_env_start: 0x7ffd_0001_1810,
        mm_env_end: 0x7ffd_0001_1ff0,
        exe_file_id: 1,
        mm_saved_auxv: vec![33, 0x7ffd_1000_5000, 6, 4096, 0, 0],
        vmas: vec![
            of_file(0, vma(0x40_0000, 1, 5, PRIVATE, FILE_PRIVATE)),
            of_file(0x1000, vma(0x40_2000, 1, 3, PRIVATE, FILE_PRIVATE)),
            vma(0x50_0000, 2, 3, ANONYMOUS, ANON_PRIVATE | HEAP),
            VmaEntry {
                madv: Some(1 << 15),
                ..vma(0x7f00_0000_0000, 16, 3, ANONYMOUS, ANON_PRIVATE)
            },
            vma(0x7ffd_0000_0000, 18, 3, STACK, ANON_PRIVATE),
            vma(0x7ffd_1000_0000, 5, 1, ANONYMOUS, ANON_PRIVATE | VVAR),
            vma(0x7ffd_1000_5000, 2, 5, ANONYMOUS, ANON_PRIVATE | VDSO),
            VmaEntry {
                start: 0xffff_ffff_ff60_0000,
                end: 0xffff_ffff_ff60_1000,
                prot: 4,
                flags: ANONYMOUS,
                status: vma_status::VSYSCALL | ANON_PRIVATE,
                fd: -1,
                ..Default::default()
            },
        ],
        dumpable: Some(1),
        ..Default::default()
    }
}

fn leader(tid: u32) -> Thread {
    let mut leader = thread(tid, b"app");
    let limit = RlimitEntry { cur: 1024, max: u64::MAX };
    let mut sigactions = vec![SaEntry { compat_sigaction: Some(false), ..Default::default() }; 62];
    // SIGUSR1.
    sigactions[8].sigaction = 0x40_0100;
    sigactions[8].flags = 0x0400_0000;
    leader.core.tc = Some(TaskCoreEntry {
        task_state: 1,
        comm: b"app".to_vec(),
        timers: Some(TaskTimersEntry::default()),
        rlimits: Some(TaskRlimitsEntry { rlimits: vec![limit; 16] }),
        signals_s: Some(SignalQueueEntry::default()),
        oom_score_adj: Some(0),
        sigactions,
        ..Default::default()
    });
    leader
}

fn thread(tid: u32, comm: &[u8]) -> Thread {
    Thread {
        tid,
        core: CoreEntry {
            mtype: March::X8664.into(),
            thread_info: Some(ThreadInfoX86 {
                clear_tid_addr: 0x7f00_0000_02d0,
                gpregs: UserX86RegsEntry {
                    ax: u64::MAX - 3,
                    orig_ax: 202,
                    ip: 0x40_0010,
                    sp: 0x7ffd_0001_0ff0,
                    cs: 0x33,
                    ss: 0x2b,
                    flags: 0x246,
                    fs_base: 0x7f00_0000_0000,
                    mode: Some(UserX86RegsMode::Native.into()),
                    ..Default::default()
                },
                fpregs: UserX86FpregsEntry {
                    cwd: 0x37f,
                    mxcsr: 0x1f80,
                    mxcsr_mask: 0xffff,
                    st_space: vec![0; 32],
                    xmm_space: vec![0x11; 64],
                    xsave: Some(UserX86XsaveEntry {
                        xstate_bv: 7,
                        ymmh_space: vec![0x22; 64],
                        ..Default::default()
                    }),
                    ..Default::default()
                },
                tls: Vec::new(),
            }),
            thread_core: Some(ThreadCoreEntry {
                futex_rla: 0x7f00_0000_02e0,
                futex_rla_len: 24,
                sched_nice: Some(0),
                sched_policy: Some(0),
                blk_sigset: Some(0),
                sas: Some(ThreadSasEntry { ss_flags: 2, ..Default::default() }),
                signals_p: Some(SignalQueueEntry::default()),
                creds: Some(CredsEntry {
                    uid: 1000,
                    gid: 1000,
                    cap_inh: vec![0; 2],
                    cap_prm: vec![0; 2],
                    cap_eff: vec![0; 2],
                    cap_bnd: vec![u32::MAX, 0x1ff],
                    ..Default::default()
                }),
                comm: Some(comm.to_vec()),
                rseq_entry: Some(RseqEntry {
                    rseq_abi_pointer: 0x7f00_0000_09a0,
                    rseq_abi_size: 32,
                    signature: 0x5305_3053,
                    rseq_cs_pointer: None,
                }),
                ..Default::default()
            }),
            ..Default::default()
        },
    }
}
