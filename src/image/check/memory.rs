//! Whether an address space makes sense.

use super::super::proto::{FdTypes, MmEntry, VmaEntry};
use super::super::{ImageError, PAGE_SIZE, PageRuns, Task, USER_END, kind, vma_status};
use super::{Checked, Files, require};

/// The page that old programs call for the time of day: above all others,
/// and not the program's to map.
const VSYSCALL_START: u64 = 0xffff_ffff_ff60_0000;

/// `PROT_READ | PROT_WRITE | PROT_EXEC`.
const PROT_ALL: u32 = 7;

/// More pairs than any kernel makes (`AT_VECTOR_SIZE` is about 50 words).
const MAX_AUXV: usize = 256;

pub(super) fn check(files: &Files<'_>, task: &Task) -> Checked {
    let name = kind::MM.numbered(task.pid);
    layout(&name, &task.mm)?;
    require(files.kind(task.mm.exe_file_id) == Some(FdTypes::Reg), &name, || {
        format!("the program has the id {}, which is no file of the set", task.mm.exe_file_id)
    })?;
    let mut free = 0;
    for vma in &task.mm.vmas {
        mapping(&name, files, vma)?;
        // Guard pages are listed behind the mappings they lie in.
        if vma.status & vma_status::GUARD == 0 {
            require(vma.start >= free, &name, || {
                format!("the mapping at {:#x} overlaps or precedes the one before it", vma.start)
            })?;
            free = vma.end;
        }
    }
    covered(task, &task.page_runs()?)
}

/// The addresses that `PR_SET_MM_MAP` takes.
fn layout(name: &str, mm: &MmEntry) -> Checked {
    for (what, start, end) in [
        ("code", mm.mm_start_code, mm.mm_end_code),
        ("data", mm.mm_start_data, mm.mm_end_data),
        ("brk", mm.mm_start_brk, mm.mm_brk),
        ("arguments", mm.mm_arg_start, mm.mm_arg_end),
        ("environment", mm.mm_env_start, mm.mm_env_end),
        ("stack", mm.mm_start_stack, USER_END),
    ] {
        require(start <= end && end <= USER_END, name, || {
            format!("the range of the {what} is impossible: {start:#x} to {end:#x}")
        })?;
    }
    let auxv = mm.mm_saved_auxv.len();
    require(auxv <= MAX_AUXV && auxv.is_multiple_of(2), name, || {
        format!("the auxiliary vector has {auxv} words")
    })?;
    require((0..=2).contains(&mm.dumpable.unwrap_or(0)), name, || "dumpable is wrong".into())
}

fn mapping(name: &str, files: &Files<'_>, vma: &VmaEntry) -> Checked {
    let at = |what: &str| format!("the mapping at {:#x} {what}", vma.start);
    let aligned =
        [vma.start, vma.end, vma.pgoff].iter().all(|value| value.is_multiple_of(PAGE_SIZE));
    require(aligned, name, || at("is not page-aligned"))?;
    require(vma.start < vma.end, name, || at("is empty"))?;
    let end = if vma.status & vma_status::VSYSCALL != 0 {
        require(vma.start == VSYSCALL_START, name, || at("is not the vsyscall page"))?;
        VSYSCALL_START + PAGE_SIZE
    } else {
        USER_END
    };
    require(vma.end <= end, name, || at("ends outside the range of addresses"))?;
    require(vma.prot & !PROT_ALL == 0, name, || at("has unknown protection bits"))?;
    let last = vma.pgoff.checked_add(vma.end - vma.start);
    require(last.is_some_and(|last| i64::try_from(last).is_ok()), name, || {
        at("lies beyond the end of any file")
    })?;
    let wanted = if vma.status & vma_status::MEMFD != 0 {
        FdTypes::Memfd
    } else if vma.status & (vma_status::FILE_PRIVATE | vma_status::FILE_SHARED) != 0 {
        FdTypes::Reg
    } else {
        return Ok(());
    };
    let id = u32::try_from(vma.shmid).ok();
    require(id.and_then(|id| files.kind(id)) == Some(wanted), name, || {
        at(&format!("is of a file with the id {}, which is not in the set", vma.shmid))
    })
}

/// Pages must lie in mappings; a run may go over the seam of two.
fn covered(task: &Task, runs: &PageRuns) -> Checked {
    let mut vmas = task.mm.vmas.iter().filter(|vma| vma.status & vma_status::GUARD == 0).peekable();
    for run in runs {
        let mut at = run.vaddr;
        while at < run.end() {
            while vmas.next_if(|vma| vma.end <= at).is_some() {}
            match vmas.peek() {
                Some(vma) if vma.start <= at => at = vma.end,
                _ => {
                    let what = format!("the run at {:#x} has no mapping at {at:#x}", run.vaddr);
                    return Err(ImageError::new(&kind::PAGEMAP.numbered(task.pid), what));
                }
            }
        }
    }
    Ok(())
}
