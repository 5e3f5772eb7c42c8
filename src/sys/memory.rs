//! Memory of this process and of others: `mmap(2)`, `process_vm_readv(2)`,
//! `/proc/PID/mem`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

/// The size of a page in bytes. Images from machines with other page sizes
/// are refused.
pub const LEN_PAGE: u64 = 4096;

/// Reads the memory of another process at `addr` into `buffer`, whole or not
/// at all (`process_vm_readv(2)`).
pub fn read_remote(pid: i32, addr: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        let local = libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() };
        let remote = libc::iovec { iov_base: (addr + done as u64) as *mut _, iov_len: rest.len() };
        // SAFETY: `local` describes `rest`, which is writable and outlives the
        // call; `remote` is only used in the other process.
        let read = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
        match read {
            -1 => return Err(io::Error::last_os_error()),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => done += read as usize,
        }
    }
    Ok(())
}

/// Reads the memory of another process through its `/proc/PID/mem`, also where
/// the page protection forbids reading (`proc(5)`).
pub fn read_forced(mem: &File, addr: u64, buffer: &mut [u8]) -> io::Result<()> {
    mem.read_exact_at(buffer, addr)
}

/// Writes the memory of another process (`process_vm_writev(2)`).
pub fn write_remote(pid: i32, addr: u64, buffer: &[u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: buffer.as_ptr() as *mut _, iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: addr as *mut _, iov_len: buffer.len() };
    // SAFETY: `local` describes `buffer`, which the call only reads; `remote`
    // is only used in the other process.
    let written = unsafe { libc::process_vm_writev(pid, &local, 1, &remote, 1, 0) };
    match written {
        -1 => Err(io::Error::last_os_error()),
        written if written as usize == buffer.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// A mapping of this process at an address chosen by the caller, unmapped on
/// drop.
#[derive(Debug)]
pub struct FixedMapping {
    base: NonNull<u8>,
    len: usize,
}

/// When a mapping's pages are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// All at once: each would be a fault of its own.
    AtOnce,
    /// When they are touched, and by whom.
    OnTouch,
}

/// Whether a mapping is shared with the processes cloned from this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Each process has its own copy.
    Private,
    /// All see the same bytes.
    Shared,
}

impl FixedMapping {
    /// Maps `len` bytes of zeros, readable and writable, at exactly `addr`;
    /// fails with EEXIST if something is mapped there
    /// (`MAP_FIXED_NOREPLACE`, Linux 4.17).
    pub fn new(addr: u64, len: usize, sharing: Sharing, pages: Pages) -> io::Result<Self> {
        let sharing = match sharing {
            Sharing::Private => libc::MAP_PRIVATE,
            Sharing::Shared => libc::MAP_SHARED,
        };
        let populate = match pages {
            Pages::AtOnce => libc::MAP_POPULATE,
            Pages::OnTouch => 0,
        };
        // SAFETY: MAP_FIXED_NOREPLACE never touches an existing mapping.
        let base = unsafe {
            libc::mmap(
                addr as *mut _,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                sharing | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE | populate,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::Other)?;
        let mapping = Self { base, len };
        // Before 4.17 the flag is ignored and the address is only a hint.
        if mapping.addr() == addr { Ok(mapping) } else { Err(io::ErrorKind::AlreadyExists.into()) }
    }

    /// Makes this mapping show the pages of another one, which must be shared
    /// and not shorter, at its own address (`mremap(2)` with an old size of
    /// zero).
    ///
    /// # Errors
    /// Those of `mremap(2)`; if this one is longer.
    pub fn show(&mut self, other: &Self) -> io::Result<()> {
        if self.len > other.len {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let (from, to) = (other.base.as_ptr(), self.base.as_ptr());
        // SAFETY: what is mapped over is our own mapping, `len` long, and no
        // reference into it is alive while `&mut self` is borrowed. The other
        // one stays as it is.
        let result = unsafe { libc::mremap(from.cast(), 0, self.len, flags, to) };
        if result == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Returns the address of the first byte.
    pub fn addr(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is readable, `len` long, and lives as long as
        // `self`; nothing else in this process refers to it.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// Returns the bytes for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// Makes the first `len` bytes executable and read-only.
    pub fn protect_code(&mut self, len: usize) -> io::Result<()> {
        let len = len.min(self.len);
        // SAFETY: the range is inside our own mapping, and no reference into
        // it is alive while `&mut self` is borrowed.
        let result = unsafe {
            libc::mprotect(self.base.as_ptr().cast(), len, libc::PROT_READ | libc::PROT_EXEC)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Returns the 32-bit word at `offset` as an atomic: for shared mappings
    /// that another process changes.
    pub fn word(&self, offset: usize) -> &std::sync::atomic::AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len, "word outside the mapping");
        // SAFETY: in bounds and aligned as asserted; atomics may be changed
        // through shared references and by other processes.
        unsafe { std::sync::atomic::AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }
}

impl Drop for FixedMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no reference into it can be alive.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Returns head and length of a thread's robust futex list
/// (`get_robust_list(2)`).
pub fn robust_list(tid: i32) -> io::Result<(u64, u64)> {
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: both places are valid for the call, which writes one word each.
    let result =
        unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) };
    if result == 0 { Ok((head, len)) } else { Err(io::Error::last_os_error()) }
}
