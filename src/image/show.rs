//! A set as text and as JSON.
//!
//! The text has a section for each file, titled with its name. Mappings,
//! page runs and descriptors are one to a line; everything else is the
//! message's fields that say something, addresses in hexadecimal.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use super::proto::{FdinfoEntry, VmaEntry};
use super::{GhostContent, Pagemap, Queued, Set, Task, kind, pagemap_flags, vma_status};

/// The version of what [`json`] returns.
const SCHEMA_VERSION: u32 = 1;

/// The fields that hold addresses, masks or flags.
const HEX: &[&str] = &[
    "addr",
    "ax",
    "base",
    "bp",
    "bx",
    "blk_sigset",
    "cap_amb",
    "cap_bnd",
    "cap_eff",
    "cap_inh",
    "cap_prm",
    "clear_tid_addr",
    "cs",
    "cx",
    "data",
    "di",
    "ds",
    "dx",
    "es",
    "events",
    "flags",
    "fs",
    "fs_base",
    "futex_rla",
    "gs",
    "gs_base",
    "ip",
    "mask",
    "mxcsr",
    "mxcsr_mask",
    "orig_ax",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
    "r8",
    "r9",
    "restorer",
    "rseq_abi_pointer",
    "rseq_cs_pointer",
    "seals",
    "si",
    "sigaction",
    "sigmask",
    "signature",
    "sival_ptr",
    "sp",
    "ss",
    "ss_sp",
    "xstate_bv",
    "ymmh_space",
    "zmm_upper",
    "hi16_zmm",
    "opmask_reg",
    "xmm_space",
    "st_space",
    "pkru",
    "personality",
];

/// The fields that hold permissions, printed as chmod(1) has them.
const OCTAL: &[&str] = &["mode", "umask"];

/// Returns the set as JSON: the names are those of [`Set`] and its messages.
pub fn json(set: &Set) -> Value {
    let mut value = value(set);
    if let Value::Object(fields) = &mut value {
        fields.insert("schema_version".into(), SCHEMA_VERSION.into());
    }
    value
}

/// Prints the set as text.
pub fn show(set: &Set, out: &mut dyn Write) -> io::Result<()> {
    section(out, &kind::INVENTORY.file(), &set.inventory)?;
    section(out, &kind::PSTREE.file(), &set.pstree)?;
    for task in &set.tasks {
        show_task(task, out)?;
    }
    files(out, set)?;
    section(out, &kind::TTY_INFO.file(), &set.tty_info)?;
    section(out, &kind::TIMENS.numbered(set.timens_id()), &set.timens)?;
    section(out, &kind::FILE_LOCKS.file(), &set.file_locks)?;
    section(out, &kind::MEMFD.file(), &set.memfds)?;
    for shmem in &set.shmem {
        pagemap(out, &kind::SHMEM.numbered(shmem.shmid), &shmem.pagemap)?;
    }
    queued(out, &kind::PIPES_DATA.file(), &set.pipe_data)?;
    queued(out, &kind::FIFO_DATA.file(), &set.fifo_data)?;
    queued(out, &kind::SK_QUEUES.file(), &set.sk_queues)?;
    section(out, &kind::SECCOMP.file(), &set.seccomp)?;
    section(out, &kind::REMAP_FPATH.file(), &set.remaps)?;
    for ghost in &set.ghosts {
        let name = kind::GHOST_FILE.numbered(format_args!("{:x}", ghost.id));
        section(out, &name, &ghost.entry)?;
        let len: usize = match &ghost.content {
            GhostContent::Whole(data) => data.len(),
            GhostContent::Chunks(chunks) => chunks.iter().map(|chunk| chunk.data.len()).sum(),
        };
        writeln!(out, "  content: {len} bytes")?;
    }
    set.unread.iter().try_for_each(|name| writeln!(out, "{name}\n  (not understood)"))
}

fn show_task(task: &Task, out: &mut dyn Write) -> io::Result<()> {
    for thread in &task.threads {
        section(out, &kind::CORE.numbered(thread.tid), &thread.core)?;
    }
    if task.has_ended() {
        return Ok(());
    }
    section(out, &kind::IDS.numbered(task.pid), &task.ids)?;
    mm(out, task)?;
    pagemap(out, &kind::PAGEMAP.numbered(task.pid), &task.pagemap)?;
    descriptors(out, &kind::FDINFO.numbered(task.ids.files_id), &task.fdinfo)?;
    section(out, &kind::FS.numbered(task.pid), &task.fs)
}

fn section(out: &mut dyn Write, name: &str, content: &impl Serialize) -> io::Result<()> {
    let value = value(content);
    if says_nothing(&value) && !value.is_object() {
        return Ok(());
    }
    writeln!(out, "{name}")?;
    match &value {
        Value::Array(entries) => entries.iter().try_for_each(|entry| {
            writeln!(out, "  -")?;
            fields(out, "", entry, 2)
        }),
        one => fields(out, "", one, 1),
    }
}

fn mm(out: &mut dyn Write, task: &Task) -> io::Result<()> {
    let mut without = task.mm.clone();
    let vmas = std::mem::take(&mut without.vmas);
    section(out, &kind::MM.numbered(task.pid), &without)?;
    writeln!(out, "  mappings:")?;
    vmas.iter().try_for_each(|vma| writeln!(out, "    {}", mapping(vma)))
}

fn mapping(vma: &VmaEntry) -> String {
    let right = |bit, name| if vma.prot & bit == 0 { '-' } else { name };
    let names = vma_status::NAMES.iter().filter(|(bit, _)| vma.status & bit != 0);
    let kinds: Vec<_> = names.map(|(_, name)| *name).collect();
    let mut line = format!(
        "{:#014x}-{:#014x} {}{}{} flags {:#x} {}",
        vma.start,
        vma.end,
        right(1, 'r'),
        right(2, 'w'),
        right(4, 'x'),
        vma.flags,
        kinds.join(","),
    );
    if vma.shmid != 0 {
        line += &format!(" id {} at {:#x}", vma.shmid, vma.pgoff);
    }
    if let Some(madv) = vma.madv.filter(|&madv| madv != 0) {
        line += &format!(" madvise {madv:#x}");
    }
    line
}

fn pagemap(out: &mut dyn Write, name: &str, pagemap: &Pagemap) -> io::Result<()> {
    writeln!(out, "{name}\n  pages_id: {}", pagemap.pages_id)?;
    let names = [
        (pagemap_flags::PARENT, "parent"),
        (pagemap_flags::LAZY, "lazy"),
        (pagemap_flags::PRESENT, "present"),
    ];
    pagemap.entries.iter().try_for_each(|entry| {
        let pages = entry.nr_pages.unwrap_or(entry.compat_nr_pages.into());
        let flags = entry.flags.unwrap_or(pagemap_flags::PRESENT);
        let set: Vec<_> = names.iter().filter(|(bit, _)| flags & bit != 0).map(|n| n.1).collect();
        writeln!(out, "    {:#014x} {pages} pages {}", entry.vaddr, set.join(","))
    })
}

fn descriptors(out: &mut dyn Write, name: &str, table: &[FdinfoEntry]) -> io::Result<()> {
    writeln!(out, "{name}")?;
    table.iter().try_for_each(|entry| {
        let cloexec = if entry.flags & 1 == 0 { "" } else { " close-on-exec" };
        let kind = entry.r#type().as_str_name();
        writeln!(out, "  {} -> {kind} id {}{cloexec}", entry.fd, entry.id)
    })
}

fn files(out: &mut dyn Write, set: &Set) -> io::Result<()> {
    writeln!(out, "{}", kind::FILES.file())?;
    set.files.iter().try_for_each(|file| {
        writeln!(out, "  id {}: {}", file.id, file.r#type().as_str_name())?;
        let Value::Object(members) = value(file) else { return Ok(()) };
        // The member repeats the id; type and id are in the title.
        for (_, mut member) in members {
            if let Value::Object(fields_of_member) = &mut member {
                fields_of_member.remove("id");
                fields(out, "", &member, 2)?;
            }
        }
        Ok(())
    })
}

fn queued<M: Serialize>(out: &mut dyn Write, name: &str, queue: &[Queued<M>]) -> io::Result<()> {
    let entries: Vec<_> = queue.iter().map(|item| &item.entry).collect();
    section(out, name, &entries)
}

/// Prints the fields of a message, a line each; numbers of one field share
/// a line, messages in messages are indented.
fn fields(out: &mut dyn Write, name: &str, value: &Value, depth: usize) -> io::Result<()> {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter().filter(|(_, member)| !says_nothing(member)) {
                match member {
                    Value::Object(_) if is_short(member) => {
                        writeln!(out, "{indent}{name}: {}", one_line(name, member))?;
                    }
                    Value::Object(_) => {
                        writeln!(out, "{indent}{name}:")?;
                        fields(out, name, member, depth + 1)?;
                    }
                    Value::Array(entries) if entries.iter().any(Value::is_object) => {
                        writeln!(out, "{indent}{name}:")?;
                        entries.iter().enumerate().try_for_each(|(at, entry)| {
                            match title(name, at, entry) {
                                None => Ok(()),
                                Some(title) => {
                                    writeln!(out, "{indent}  {title}{}", one_line(name, entry))
                                }
                            }
                        })?;
                    }
                    plain => writeln!(out, "{indent}{name}: {}", one_line(name, plain))?,
                }
            }
            Ok(())
        }
        plain => writeln!(out, "{indent}{}", one_line(name, plain)),
    }
}

/// Returns what stands before an entry of a list; `None` leaves it out.
fn title(list: &str, at: usize, entry: &Value) -> Option<String> {
    match list {
        // A signal that nothing was done about.
        "sigactions" if entry["sigaction"] == 0 && entry["flags"] == 0 => None,
        "sigactions" => Some(format!("signal {}: ", signal(at))),
        "rlimits" => Some(format!("{at}: ")),
        _ => Some(String::new()),
    }
}

/// Returns the signal of an action: SIGKILL and SIGSTOP have none.
fn signal(at: usize) -> usize {
    let mut signal = at + 1;
    for without_action in [9, 19] {
        signal += usize::from(signal >= without_action);
    }
    signal
}

/// Whether a message fits a line: a few numbers.
fn is_short(message: &Value) -> bool {
    let scalar = |member: &Value| !member.is_object() && !member.is_array();
    message.as_object().is_some_and(|members| members.len() <= 5 && members.values().all(scalar))
}

fn one_line(name: &str, value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let shown = members.iter().filter(|(_, member)| !says_nothing(member));
            let parts: Vec<_> =
                shown.map(|(name, member)| format!("{name}={}", one_line(name, member))).collect();
            if parts.is_empty() { "-".into() } else { parts.join(" ") }
        }
        Value::Array(entries) => {
            // Registers are mostly zeros: equal neighbours are counted.
            let runs = entries.chunk_by(|left, right| left == right);
            let parts: Vec<_> = runs
                .map(|run| match run {
                    [entry, _, _, ..] => format!("{}*{}", one_line(name, entry), run.len()),
                    few => few.iter().map(|e| one_line(name, e)).collect::<Vec<_>>().join(" "),
                })
                .collect();
            format!("[{}]", parts.join(" "))
        }
        Value::String(text) => text.escape_debug().to_string(),
        Value::Number(number) => match number.as_u64() {
            Some(u64::MAX) if matches!(name, "cur" | "max") => "unlimited".into(),
            Some(number) if HEX.contains(&name) || name.starts_with("mm_") => {
                format!("{number:#x}")
            }
            Some(number) if OCTAL.contains(&name) && number > 7 => {
                format!("{number:#04o}").replacen("0o", "0", 1)
            }
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// Whether a field is absent or empty: such are left out of the text.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(entries) => entries.is_empty(),
        Value::Object(members) => members.values().all(says_nothing),
        _ => false,
    }
}

/// Converts a message; its keys are field names, so it cannot fail.
fn value(content: &impl Serialize) -> Value {
    serde_json::to_value(content).unwrap_or(Value::Null)
}
