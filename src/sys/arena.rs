//! Memory for a hit: taken from one block in order, and not given back.
//!
//! A hit makes some thousand small allocations and is done with them in a
//! millisecond. glibc's allocator took a tenth of that time, and the faults of
//! the pages that it spread them over (2.3 us each here) as much again. What
//! does not fit comes from the system's allocator, so that a launcher that
//! lives on is as any other program.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{AcqRel, Acquire},
};

/// The block's length in bytes. Pages that are not used cost nothing.
const LEN_BLOCK: usize = 2 << 20;
/// How much of it a hit touches: the plan, the metadata, the remembered
/// digests (for 25 threads and 300 areas).
const LEN_HIT: usize = 208 << 10;

#[repr(C, align(4096))]
struct Block(UnsafeCell<[MaybeUninit<u8>; LEN_BLOCK]>);

// SAFETY: no part of the block is accessed here; each is handed out once, or
// once more after its owner gave it back.
unsafe impl Sync for Block {}

static BLOCK: Block = Block(UnsafeCell::new([MaybeUninit::uninit(); LEN_BLOCK]));
/// Where the free rest of the block begins.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// The allocator, for `#[global_allocator]`.
#[derive(Debug, Clone, Copy)]
pub struct Arena;

fn base() -> *mut u8 {
    BLOCK.0.get().cast()
}

/// Returns where in the block a pointer of ours points to.
fn offset_of(pointer: *mut u8) -> Option<usize> {
    pointer.addr().checked_sub(base().addr()).filter(|offset| *offset < LEN_BLOCK)
}

/// Takes a place in the block, if there is one.
fn take(layout: Layout) -> Option<*mut u8> {
    let mut next = NEXT.load(Acquire);
    loop {
        let start = next.checked_next_multiple_of(layout.align().max(16))?;
        let end = start.checked_add(layout.size()).filter(|end| *end <= LEN_BLOCK)?;
        match NEXT.compare_exchange_weak(next, end, AcqRel, Acquire) {
            // The block is aligned to a page; more than that is not in order.
            Ok(_) if layout.align() <= 4096 => return Some(base().wrapping_add(start)),
            Ok(_) => return None,
            Err(now) => next = now,
        }
    }
}

/// Moves the end of what was taken last; `false` if something else was since.
fn move_end(offset: usize, from: usize, to: usize) -> bool {
    let end = offset.checked_add(to).filter(|end| *end <= LEN_BLOCK);
    end.is_some_and(|end| NEXT.compare_exchange(offset + from, end, AcqRel, Acquire).is_ok())
}

// SAFETY: a place in the block is aligned, long enough, and nobody else's until
// it is given back: NEXT moves past it in one atomic step. Only the place that
// ends at NEXT is ever taken back or made longer. All else is the system's
// allocator's, which gets back what it gave.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on as it came.
        take(layout).unwrap_or_else(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match offset_of(pointer) {
            Some(offset) => {
                move_end(offset, layout.size(), 0);
            }
            // SAFETY: it is not in the block, so it came from there.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        let Some(offset) = offset_of(pointer) else {
            // SAFETY: it is not in the block, so it came from there.
            return unsafe { System.realloc(pointer, layout, len) };
        };
        // What a shorter one leaves is given back if it can be.
        if move_end(offset, layout.size(), len) || len <= layout.size() {
            return pointer;
        }
        // SAFETY: the caller vouches that the new length is one that a layout
        // may have.
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(len, layout.align())) };
        if !new.is_null() {
            // SAFETY: both are at least as long as the old one and apart: the
            // old one is still taken.
            unsafe { ptr::copy_nonoverlapping(pointer, new, layout.size()) };
        }
        new
    }
}

/// Makes present what a hit will touch, in one call.
///
/// Failing (`MADV_POPULATE_WRITE` is of Linux 5.14) costs only the faults.
/// (The same for our code did not pay: all of it takes 220 us, the 30 faults
/// that it saves take less.)
pub fn prefault() {
    // SAFETY: the range is ours; populating changes no content.
    unsafe { libc::madvise(base().cast(), LEN_HIT, libc::MADV_POPULATE_WRITE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One after the other, on one thread: the block is the process's.
    #[test]
    fn places_are_apart_grow_and_hold_what_was_written() {
        let layout = Layout::from_size_align(24, 8).unwrap();
        // SAFETY: each pointer is used within its layout and given back once.
        unsafe {
            let first = Arena.alloc(layout);
            first.write_bytes(1, 24);
            let second = Arena.alloc(layout);
            second.write_bytes(2, 24);
            assert!(first.addr().abs_diff(second.addr()) >= 24);
            assert!(first.addr().is_multiple_of(16) && second.addr().is_multiple_of(16));
            // The last one grows where it is; the other has to move.
            assert_eq!(Arena.realloc(second, layout, 100), second);
            let moved = Arena.realloc(first, layout, 100);
            assert_ne!(moved, first);
            assert_eq!(std::slice::from_raw_parts(moved, 24), [1; 24]);
            assert_eq!(std::slice::from_raw_parts(second, 24), [2; 24]);
            let big = Layout::from_size_align(100, 8).unwrap();
            Arena.dealloc(moved, big);
            assert_eq!(Arena.alloc(big), moved, "the last one is given back");
            // More than the block has, and more aligned than it is.
            for (len, align) in [(LEN_BLOCK + 1, 8), (64, 1 << 16)] {
                let layout = Layout::from_size_align(len, align).unwrap();
                let place = Arena.alloc(layout);
                assert!(offset_of(place).is_none() && place.addr().is_multiple_of(align));
                place.write_bytes(3, len);
                let place = Arena.realloc(place, layout, len * 2);
                assert_eq!(*place, 3);
                Arena.dealloc(place, Layout::from_size_align(len * 2, align).unwrap());
            }
        }
    }
}
