//! The heap that a restore is known to touch, made present in one call.
//!
//! A fault costs 2.3 us here; a hit had 150 of them before its `clone3`, 100
//! of these on the heap. (The same for our code did not pay: all of it takes
//! 220 us, the 30 faults that it saves take less.)

use std::ptr;

/// How much of the heap a hit touches, in bytes: the plan, the metadata, the
/// remembered digests (400 KiB for 25 threads and 300 areas).
const LEN_HEAP: usize = 416 << 10;
const LEN_PAGE: usize = 4096;

/// Lets the allocator take its memory in one piece, and makes that present.
///
/// Failing (`MADV_POPULATE_WRITE` is of Linux 5.14) costs only the faults.
pub fn prefault_heap() {
    let threshold = 4 * LEN_HEAP as libc::c_int;
    // SAFETY: mallopt, malloc and free may be called at any time; the block is
    // freed once. Populating changes no content of the range, which is heap.
    unsafe {
        // From the heap, and kept when it is free.
        libc::mallopt(libc::M_MMAP_THRESHOLD, threshold);
        libc::mallopt(libc::M_TRIM_THRESHOLD, threshold);
        let block = libc::malloc(LEN_HEAP);
        libc::free(block);
        if !block.is_null() {
            let start = block.addr().next_multiple_of(LEN_PAGE);
            let len = LEN_HEAP - LEN_PAGE;
            let place = ptr::without_provenance_mut(start);
            libc::madvise(place, len, libc::MADV_POPULATE_WRITE);
        }
    }
}
